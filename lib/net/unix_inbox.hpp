// SPDX-License-Identifier: Apache-2.0
//
// The receiving half of a Unix datagram or seqpacket socket.
#pragma once

#include <cotun/io/unique_fd.hpp>

#include "io/inbox.hpp"
#include "ring/kernel.hpp"

#include <cstddef>
#include <deque>
#include <span>
#include <string>
#include <sys/socket.h>
#include <vector>

namespace cotun::detail {

/// What a Unix socket that carries packets is.
struct unix_kind {
    bool connected;       // seqpacket: no names, but an end
    unsigned descriptors; // that a message may bring
};

// A filled buffer is laid out as a UDP socket's (net/udp_inbox.hpp):
//
//     | recvmsg_out | the sender's address | control messages | payload |
//
// The address stays there until the packet is taken. Descriptors are taken out at once, and kept in order beside the
// queue, for the few packets that brought some.
class unix_inbox final : public inbox {
public:
    /// What a buffer needs beyond the payload.
    static std::size_t payload_offset(const unix_kind& kind) noexcept;

    unix_inbox(packet_port& port, reactor_core& core, size_class c, read_mode mode, const unix_kind& kind);

    /// Of a packet that was just taken, and not changed yet.
    std::string sender_of(const packet& taken) const;
    /// Those that came with a packet that was just taken.
    std::vector<unique_fd> take_descriptors(const packet& taken) noexcept;

private:
    struct brought {
        const packet_slot* slot;
        std::vector<unique_fd> descriptors;
    };

    void arm(ring::token request, std::uint16_t group) override;
    bool place(packet_slot& slot, std::int32_t result) override;
    void discard(packet_slot& slot, std::int32_t result) noexcept override;
    void dropped(packet_slot& slot) noexcept override;
    void failed(int error) noexcept override;
    ssize_t read_now(packet_slot& slot) override;

    ring::kernel::recvmsg_out head_of(const packet_slot& slot) const noexcept;
    std::span<const std::byte> control_of(const packet_slot& slot) const noexcept;

    unix_kind kind_;
    std::size_t payload_offset_;
    std::size_t control_offset_;
    msghdr shape_{};
    bool reset_ = false; // the peer has closed with records unread
    std::deque<brought> brought_;
};

} // namespace cotun::detail
