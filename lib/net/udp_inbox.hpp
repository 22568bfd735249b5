// SPDX-License-Identifier: Apache-2.0
//
// The receiving half of a UDP socket.
#pragma once

#include "io/inbox.hpp"
#include "net/ancillary.hpp"
#include "ring/kernel.hpp"

#include <cstddef>
#include <netinet/in.h>
#include <sys/socket.h>

namespace cotun::detail {

// A filled buffer holds, each at a fixed place,
//
//     | recvmsg_out | the sender's address | control messages | payload |
//
// as a multishot lays it out; reading without one lays it out alike. There is no room for control messages unless they
// are wanted. What stands before the payload is headroom once the packet is placed.
class udp_inbox final : public inbox {
public:
    static constexpr std::size_t name_offset = sizeof(ring::kernel::recvmsg_out);
    static constexpr std::size_t name_size = sizeof(sockaddr_in6);
    static constexpr std::size_t control_offset = name_offset + name_size;

    /// What control messages are wanted: there is always room for all of them.
    struct wanted {
        bool packet_info = false;
        bool merged = false; // datagrams of one sender that came as one (UDP_GRO)

        std::size_t control_size() const noexcept {
            return (packet_info ? received_control_size : 0) + (merged ? merged_control_size : 0);
        }
        /// What a buffer needs beyond the payload.
        std::size_t payload_offset() const noexcept { return control_offset + control_size(); }
    };

    /// With `packet_info` the pool must keep ancillary data, with `merged` views.
    udp_inbox(packet_port& port, reactor_core& core, size_class c, read_mode mode, wanted what);

    /// A refusal that was found otherwise than by a read.
    void count_refusal() noexcept { ++statistics_.refused; }

private:
    void arm(ring::token request, std::uint16_t group) override;
    bool place(packet_slot& slot, std::int32_t result) override;
    ssize_t read_now(packet_slot& slot) override;

    const wanted wanted_;
    const std::size_t payload_offset_;
    msghdr shape_{}; // the sizes of name and control messages
};

} // namespace cotun::detail
