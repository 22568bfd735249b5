// SPDX-License-Identifier: Apache-2.0
//
// socket_options: what can be asked of any IP socket, whatever it carries. udp_options and its like have one as their
// member `socket`:
//
//     cotun::udp_socket s = cotun::open_udp(io, {.local = endpoint::from_string("0.0.0.0:5000"),
//                                                .socket = {.device = "eth0", .receive_buffer = 4 << 20, .mark = 7}});
//
// They are set before the socket is bound or connected. What is not given stays as the system has it.
//
// Errors: std::system_error of the call that opens the socket, saying which option was refused and what to do.
// Kernel: socket(7), ip(7), ipv6(7).
#pragma once

#include <cotun/io/option_values.hpp>

#include <cstdint>
#include <optional>
#include <type_traits>

namespace cotun {

/// Whether packets may be fragmented on their way, and what becomes of those that are larger than the path's MTU
/// (IP_MTU_DISCOVER, IPV6_MTU_DISCOVER).
enum class path_mtu_discovery : std::uint8_t {
    system,   // as the system has it: net.ipv4.ip_no_pmtu_disc; usually `discover`
    fragment, // DONT: no don't-fragment bit; larger ones are fragmented, here or by routers
    discover, // WANT: the bit is set as long as the packet fits the path's MTU as far as it is known, else as
              // `fragment`
    keep,     // DO: the bit is always set; a datagram larger than the path's known MTU fails with EMSGSIZE
    probe,    // PROBE: as `keep`, but only the interface's MTU bounds the size: for those who find the MTU themselves
    omit,     // OMIT: as `fragment`, but by the interface's MTU: ICMP, which may be forged, is not believed
};

struct socket_options {
    /// Only what comes over this interface is received, and all is sent over it (SO_BINDTODEVICE). An interface of the
    /// calling thread's network namespace.
    option_text device{};
    /// Lets the address be bound although other sockets have it, or had it a moment ago (SO_REUSEADDR).
    bool reuse_address = false;
    /// Lets several sockets of one user that all set this have the same address, what comes being spread over them by
    /// flow (SO_REUSEPORT): one socket a thread.
    bool reuse_port = false;
    /// The kernel's buffers, bytes (SO_RCVBUF, SO_SNDBUF; beyond the system's bounds, net.core.rmem_max and wmem_max,
    /// where the privilege allows, else as much as they allow). The kernel doubles them for its own needs. 0: as they
    /// are.
    unsigned receive_buffer = 0;
    unsigned send_buffer = 0;
    /// The mark of all that is sent, for `ip rule` and nftables (SO_MARK): so a tunnel's own packets are kept from
    /// being routed into the tunnel. Needs CAP_NET_ADMIN (from Linux 5.17 on, CAP_NET_RAW does).
    std::optional<std::uint32_t> mark{};
    /// For the queueing discipline of the interface (SO_PRIORITY): 0 to 6, beyond that with CAP_NET_ADMIN.
    std::optional<std::uint32_t> priority{};
    /// Time to live, or hop limit, of what is sent: 1 to 255 (IP_TTL, IPV6_UNICAST_HOPS).
    std::optional<unsigned> ttl{};
    /// Type of service, or traffic class: 0 to 255, of which the upper six bits are the DSCP and the lower two the ECN
    /// field, that TCP keeps to itself (IP_TOS, IPV6_TCLASS).
    std::optional<unsigned> tos{};
    path_mtu_discovery mtu_discovery = path_mtu_discovery::system;
};
static_assert(std::is_trivially_destructible_v<socket_options>); // see io/option_values.hpp

} // namespace cotun
