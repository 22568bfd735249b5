// SPDX-License-Identifier: Apache-2.0
//
// What UDP sockets say of the datagrams that they receive, and can be told of those that they send.
//
//     cotun::datagram d = co_await s.receive();
//     if (d.info) fmt::print("{} asks {}\n", d.sender.to_string(), d.info->local.to_string());
//
// Thread: the reactor's, for what takes a packet.
#pragma once

#include <cotun/io/packet.hpp>
#include <cotun/net/endpoint.hpp>

#include <cstdint>
#include <optional>
#include <type_traits>
#include <utility>

namespace cotun {

/// How a datagram came, as sockets with udp_options::packet_info are told by the kernel (IP_PKTINFO and its like).
struct packet_info {
    /// Where it was sent to: an address of this host, or a multicast group or broadcast address. IPv4 is shown as IPv4,
    /// on sockets of both families too.
    wire::ip_address local{};
    /// The address of this host to answer from: `local`, or where that is a group or a broadcast address, the one that
    /// it was received by; :: if IPv6 has to choose.
    wire::ip_address answer_from{};
    /// The index of the interface that it came over.
    std::uint32_t interface = 0;
    /// The time to live, or hop limit, that it had left.
    std::uint8_t ttl = 0;
    /// Type of service, or traffic class: the DSCP in the upper six bits, the ECN field in the lower two.
    std::uint8_t tos = 0;
};
static_assert(std::is_trivially_destructible_v<packet_info>);

/// How one datagram, or a batch of them, is sent, where it is to differ from what the socket does.
struct datagram_options {
    /// The address to send from, one of this host's. 0.0.0.0 or ::, as the socket is bound, or as the kernel chooses.
    wire::ip_address from{};
    /// The index of the interface to send over; 0: as the routes have it.
    std::uint32_t interface = 0;
    /// Time to live, or hop limit: 1 to 255.
    std::optional<unsigned> ttl{};
    /// Type of service, or traffic class, the ECN field in the lower two bits: 0 to 255.
    std::optional<unsigned> tos{};
};
static_assert(std::is_trivially_destructible_v<datagram_options>); // see io/option_values.hpp

/// Where a packet that a UDP socket received came from; 0.0.0.0:0 for any other packet.
[[nodiscard]] endpoint sender(const packet& received) noexcept;

/// How it came; nothing if the socket had not udp_options::packet_info, and for any other packet.
[[nodiscard]] std::optional<packet_info> info_of(const packet& received) noexcept;

struct datagram {
    datagram() noexcept = default;
    explicit datagram(packet&& received) noexcept;
    packet payload;
    endpoint sender;
    std::optional<packet_info> info;
};

} // namespace cotun
