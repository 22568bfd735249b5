// SPDX-License-Identifier: Apache-2.0
//
// What stands in front of a packet on a device's descriptor: packet information (struct tun_pi) where it was asked for,
// and a virtio-net header where there are superpackets, in this order.
#pragma once

#include <cotun/offload/virtio_header.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <span>

namespace cotun::detail {

struct front_shape {
    bool information = false;
    bool virtio = false;
    bool ethernet = false; // frames: a TAP device's

    std::size_t size() const noexcept {
        return (information ? sizeof(tun_pi) : 0) + (virtio ? offload::virtio_header_size : 0);
    }
};

/// The most that it takes, bytes.
inline constexpr std::size_t longest_front = sizeof(tun_pi) + offload::virtio_header_size;

/// The EtherType of a frame; 0 if it is none.
inline std::uint16_t ether_type(std::span<const std::byte> frame) noexcept {
    if (frame.size() < ETH_HLEN) return 0;
    return static_cast<std::uint16_t>(std::to_integer<unsigned>(frame[12]) << 8 | std::to_integer<unsigned>(frame[13]));
}

/// Where the IP header of a packet is: behind the Ethernet header and its VLAN tags, if it is a frame.
inline std::size_t network_offset(const front_shape& shape, std::span<const std::byte> packet) noexcept {
    if (!shape.ethernet) return 0;
    std::size_t at = ETH_HLEN;
    for (; at + 4 <= packet.size(); at += 4) {
        const auto type = static_cast<unsigned>(packet[at - 2]) << 8 | static_cast<unsigned>(packet[at - 1]);
        if (type != ETH_P_8021Q && type != ETH_P_8021AD) break;
    }
    return at;
}

} // namespace cotun::detail
