// SPDX-License-Identifier: Apache-2.0
//
// The sending half of a UDP socket.
//
// Order. Sends go out unlinked and in order. The kernel takes a datagram at once as long as less than the send buffer
// is in use (sock_alloc_send_pskb), and would let a later one overtake one that has to wait; so none is submitted that
// would have to. Fragments after the first do not wait: if with them more than twice the buffer is in use, the whole
// datagram fails (__ip_append_data); so one that might is submitted only when nothing is in use, and fails then if it
// never fits. What is in use is estimated from above, and asked for (SIOCOUTQ) when the estimate says that there is no
// room.
//
// Several at once. What a pass has accepted goes out at its end. Datagrams of one size that follow each other and go
// the same way are one send (UDP_SEGMENT): up to 64 of them, and a shorter one behind them, from where they lie. So are
// the segments of a superpacket, whose headers are made for it (segment_pieces.hpp). Where the way does not take such a
// send (EIO: the link has no checksums of its own; EINVAL: a segment is larger than its MTU), the same datagrams go one
// by one, and so do those behind them for a while. A superpacket that is more than one send is sent at once, by
// sendmmsg(2), when nothing else is under way.
#pragma once

#include <cotun/coro/timer.hpp>

#include "io/outbox.hpp"
#include "io/reactor_core.hpp"
#include "net/ancillary.hpp"
#include "net/segment_pieces.hpp"
#include "ring/requests.hpp"

#include <array>
#include <chrono>
#include <cstddef>
#include <deque>
#include <sys/socket.h>
#include <vector>

namespace cotun::detail {

class udp_inbox;

class udp_outbox final : public outbox, public prepared {
public:
    udp_outbox(packet_port& port, reactor_core& core, udp_inbox& reader);

    /// Makes room for control messages, if there is none yet: before a packet is written that has some. Throws
    /// std::bad_alloc.
    void allow_ancillary() {
        if (controls_.empty()) controls_.resize(usual_window);
    }

    void prepare() noexcept override;

private:
    static constexpr std::size_t most_segments = 64;      // of a send, in all kernels (UDP_MAX_SEGMENTS)
    static constexpr std::size_t most_bytes = 65507;      // of a send's payload, over IPv4; IPv6 has room for more
    static constexpr std::size_t no_limit = most_bytes;   // of a segment
    static constexpr unsigned singles_until_trial = 4096; // datagrams that go one by one after a refusal

    // What the kernel reads when a datagram is submitted, one for each place in the window.
    struct message {
        msghdr header{};
        std::size_t charge = 0;             // what the kernel may charge for it
        segment_pieces* segments = nullptr; // of a superpacket
    };

    // A superpacket that is being sent in several steps.
    struct cutting {
        std::size_t next = 0; // segment
        std::size_t count = 0;
        std::size_t size = 0;    // of a segment, bytes
        std::size_t tried = 0;   // segments of the send that was tried last
        std::size_t waiting = 0; // segments that wait for room
        int failure = 0;         // the first of a segment
        segment_pieces segments{};
        msghdr header{};
        send_control control{};
    };

    // The wait for room in the send buffer.
    struct room_poll final : ring::request_owner {
        explicit room_poll(udp_outbox& o) noexcept : of(o) {}
        void on_completion(std::uint32_t, const ring::completion& done) override { of.polled(done.result); }
        udp_outbox& of;
        ring::token request = 0;
    };

    // The same where a poll would not wait.
    struct room_pause final : timer {
        explicit room_pause(udp_outbox& o) noexcept : of(o) {}
        void on_time() override { of.room_again(); }
        udp_outbox& of;
    };

    void submit() override;
    bool submit_next() override;
    void transmit(ring::token request, std::size_t place, packet_slot& slot) override;
    void transmit_waiting(ring::token request, std::size_t place, packet_slot& slot) override;
    bool admits(const packet_slot& slot) override { return admits(charge(slot.size)); }
    void left(std::size_t place) noexcept override;
    void misjudged() noexcept override;
    int meaning_of(int error) const noexcept override;
    bool goes_again(packet_slot& slot, std::int32_t& result) override;
    bool go_again(std::size_t place, packet_slot& slot, std::int32_t& result) override;
    std::size_t fail_together(std::size_t first, std::size_t count, int error) override;
    void went_together(std::size_t first) noexcept override;
    void closing() override;
    void cancel_own() noexcept override;

    static std::size_t charge(std::size_t size) noexcept;
    /// Of several that are one send: they are one buffer of the kernel's, of pages that are filled.
    static std::size_t charge_together(std::size_t bytes) noexcept { return bytes + bytes / 8 + 2048; }
    static bool is_bare(const packet_slot& slot) noexcept;
    void note_charge(std::size_t place, std::size_t bytes) noexcept;
    const msghdr& header_for(std::size_t place, packet_slot& slot) noexcept;
    static void address(msghdr& header, packet_slot& slot, std::span<iovec> pieces) noexcept;
    void add_control(send_control& control, const packet_slot& slot, std::size_t segment_size) noexcept;
    static void attach(msghdr& header, send_control& control) noexcept;

    // several at once
    std::size_t count_alike();
    bool goes_with(const packet_slot& first, const packet_slot& next) noexcept;
    bool submit_alike(std::size_t count);
    bool takes_segments(std::size_t size) noexcept;
    bool step_down(int error, std::size_t segment_size) noexcept;

    // superpackets
    bool submit_superpacket();
    segment_pieces* take_pieces() noexcept;
    void give_pieces(segment_pieces* pieces) noexcept;
    bool cut(std::size_t place, packet_slot& slot, std::int32_t& result);
    int send_segments(const offload::segmenter& plan, packet_slot& slot, std::size_t each);
    void await_turn(std::size_t place, const packet_slot& slot);
    bool segments_ended(const packet_slot& slot, std::int32_t& result) noexcept;
    std::int32_t end_cutting(const packet_slot& slot) noexcept;

    // room in the send buffer
    bool admits(std::size_t needed);
    void learn_limit() noexcept;
    bool has_room_for(std::size_t needed) const noexcept;
    std::size_t limit() const noexcept { return static_cast<std::size_t>(send_buffer_); }
    void ask();
    void await_send_buffer();
    void pause();
    void polled(std::int32_t events);
    void room_again();

    udp_inbox& reader_;
    int send_buffer_ = 0;
    std::size_t in_use_ = 0;           // estimate, not below the truth
    std::size_t submitted_charge_ = 0; // of what is with the kernel and not completed
    std::vector<message> messages_;
    std::vector<iovec> payloads_;        // of each place
    std::vector<send_control> controls_; // empty until they are needed
    std::size_t largest_segment_ = no_limit;
    std::size_t proven_segment_ = 0; // that the way has taken
    unsigned singles_ = 0;           // since largest_segment_ was made less
    bool alone_ = false;             // what comes next waits until nothing is under way
    bool in_turn_ = false;           // those that go again were refused as several at once, not for want of room
    std::deque<segment_pieces> pieces_;
    segment_pieces* free_pieces_ = nullptr;
    cutting cutting_;
    room_poll poll_;
    room_pause pause_;
};

} // namespace cotun::detail
