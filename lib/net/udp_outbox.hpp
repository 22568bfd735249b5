// SPDX-License-Identifier: Apache-2.0
//
// The sending half of a UDP socket.
#pragma once

#include <cotun/coro/timer.hpp>

#include "io/outbox.hpp"
#include "net/ancillary.hpp"
#include "ring/requests.hpp"

#include <chrono>
#include <cstddef>
#include <sys/socket.h>
#include <vector>

namespace cotun::detail {

class udp_inbox;

// Sends go out unlinked and in order. The kernel takes a datagram at once as long as less than the send buffer is in
// use (sock_alloc_send_pskb), and would let a later one overtake one that has to wait; so none is submitted that would
// have to. Fragments after the first do not wait: if with them more than twice the buffer is in use, the whole datagram
// fails (__ip_append_data); so one that might is submitted only when nothing is in use, and fails then if it never
// fits. What is in use is estimated from above, and asked for (SIOCOUTQ) when the estimate says that there is no room.
class udp_outbox final : public outbox {
public:
    udp_outbox(packet_port& port, reactor_core& core, udp_inbox& reader);

    /// Makes room for control messages, if there is none yet: before a packet is written that has some. Throws
    /// std::bad_alloc.
    void allow_ancillary() {
        if (controls_.empty()) controls_.resize(usual_window);
    }

private:
    // What the kernel reads when a datagram is submitted, one for each place in the window.
    struct message {
        msghdr header{};
        iovec payload{};
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

    void transmit(ring::token request, std::size_t place, packet_slot& slot) override;
    void transmit_waiting(ring::token request, std::size_t place, packet_slot& slot) override;
    static bool is_bare(const packet_slot& slot) noexcept;
    const msghdr& header_for(std::size_t place, packet_slot& slot);
    bool admits(const packet_slot& slot) override;
    void left(std::size_t size) noexcept override;
    void misjudged() noexcept override;
    int meaning_of(int error) const noexcept override;
    void cancel_own() noexcept override;

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
    std::vector<send_control> controls_; // empty until they are needed
    room_poll poll_;
    room_pause pause_;
};

} // namespace cotun::detail
