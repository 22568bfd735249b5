// SPDX-License-Identifier: Apache-2.0
//
// The sending half of a Unix datagram or seqpacket socket.
//
// Requests of one socket may overtake each other when one of them finds no room and the next one does, and whether
// there is room depends on other programs. So what a pass has accepted goes out by one sendmmsg(2) before the kernel is
// entered: it stops at the first that has no room, and goes on there.
#pragma once

#include <cotun/coro/timer.hpp>
#include <cotun/io/unique_fd.hpp>

#include "io/outbox.hpp"
#include "io/passed_descriptors.hpp"
#include "io/reactor_core.hpp"
#include "net/segment_pieces.hpp"
#include "net/unix_address.hpp"

#include <cstddef>
#include <deque>
#include <memory>
#include <string_view>
#include <sys/socket.h>
#include <vector>

namespace cotun::detail {

/// What goes with one message. The packet's slot names it, in place of its origin.
struct unix_attachment {
    unix_address to; // size 0: the connected peer
    descriptors_to_send descriptors;
    unix_attachment* next_free = nullptr;
};

class unix_outbox final : public outbox, public prepared {
public:
    unix_outbox(packet_port& port, reactor_core& core, bool connected);

    /// An attachment for a message; `to` empty: to the connected peer. nullptr: it needs none. Throws for names and
    /// descriptors that cannot be.
    unix_attachment* attach(const packet& p, std::string_view to, std::vector<unique_fd> descriptors);
    /// The message goes to the connected peer, and brings nothing.
    static void address_to_peer(const packet& p) noexcept;
    /// It has what attach() answered.
    static void address(const packet& p, unix_attachment* attached) noexcept;
    /// The message was not accepted.
    void withdraw(const packet& p) noexcept;

    /// Once all that was accepted has been sent. Later writes are refused.
    void shut_down();

    void prepare() noexcept override { write_out(); }

private:
    static constexpr std::size_t at_once = 64;

    struct room_poll final : ring::request_owner {
        explicit room_poll(unix_outbox& o) noexcept : of(o) {}
        void on_completion(std::uint32_t, const ring::completion&) override { of.polled(); }
        unix_outbox& of;
        ring::token request = 0;
    };

    struct room_pause final : timer {
        explicit room_pause(unix_outbox& o) noexcept : of(o) {}
        void on_time() override { of.retry(); }
        unix_outbox& of;
    };

    void transmit(ring::token, std::size_t, packet_slot&) override {}
    bool admits(const packet_slot&) override { return false; }
    void submit() override;
    void closing() override;
    void dropped(packet_slot& slot) noexcept override { detach(slot); }
    int meaning_of(int error) const noexcept override;
    void cancel_own() noexcept override;

    static unix_attachment* attachment_of(const packet_slot& slot) noexcept;
    void detach(packet_slot& slot) noexcept;
    bool awaits_room() const noexcept { return poll_.request != 0 || pause_.armed(); }
    void write_out();
    int write_some();
    int write_segments();
    static msghdr header_of(const packet_slot& slot, std::span<iovec> pieces, bool brings_descriptors) noexcept;
    void await_room();
    bool send_buffer_is_full();
    void pause();
    void poll(int descriptor);
    void polled();

    bool connected_;
    enum class shutting : std::uint8_t { no, asked, done } shutting_ = shutting::no;
    std::deque<unix_attachment> attachments_;
    unix_attachment* free_ = nullptr;
    segment_pieces segments_;      // of a superpacket that is being sent
    std::size_t next_segment_ = 0; // of it
    unique_fd probe_;
    room_poll poll_;
    room_pause pause_;
};

} // namespace cotun::detail
