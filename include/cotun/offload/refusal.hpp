// SPDX-License-Identifier: Apache-2.0
//
// Why a packet with offloads cannot be taken as what its virtio-net header says that it is.
//
// A packet that is refused is not what it claims to be: a program's or a peer's fault, sometimes a kernel's. What to do
// with it (drop and count it) is the caller's business; nothing of it has been changed or read out of bounds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace cotun::offload {

enum class refusal : std::uint8_t {
    none,
    // of the virtio-net header itself
    unknown_flag,         // a flag that this library has not asked the kernel for
    receive_coalescing,   // RSC_INFO: the checksum fields hold counts of something else
    fragmentation,        // the legacy GSO_UDP: to be cut into IP fragments, not into datagrams
    udp_tunnel,           // segments inside of a UDP tunnel
    unknown_type,         // another type of segments
    ecn_without_tcp,      // the ECN bit on anything but TCP segments
    zero_segment_size,    // segments are asked for, of no bytes
    checksum_not_partial, // segments are asked for, but the checksum is not to be completed
    checksum_place,       // the checksum's place is not inside of the packet, or not where the headers say that it is
    // of the packet
    truncated,           // it ends before its headers do
    not_ip,              // neither IPv4 nor IPv6
    wrong_version,       // IPv4 where the header says IPv6, or the other way round
    ip_header_length,    // IHL below 5
    ip_length,           // the length in the IP header is not the packet's
    fragment,            // a fragment of a datagram
    extension_header,    // an IPv6 hop-by-hop header that is not the first
    headers_too_long,    // longest_headers
    other_protocol,      // neither TCP nor UDP
    wrong_protocol,      // UDP where the header says TCP, or the other way round
    tcp_header_length,   // data offset below 5
    tcp_flags,           // SYN or RST, which no segment repeats
    udp_length,          // the length in the UDP header is not the datagram's
    segment_beyond_data, // a segment is larger than all that is there
    too_many_segments,   // of UDP, more than most_datagrams
    is_superpacket,      // it has no checksum of its own to complete
};

/// A short text for logs and counters, such as "a fragment". Valid for ever.
[[nodiscard]] std::string_view text(refusal) noexcept;

/// IP and transport headers, with what lies before them, in bytes; more are refused. Enough for all options of IPv4 and
/// TCP, and for any extension headers of IPv6 that are in use.
inline constexpr std::size_t longest_headers = 512;

/// Datagrams in one superpacket, as in the kernel (UDP_MAX_SEGMENTS).
inline constexpr std::size_t most_datagrams = 128;

} // namespace cotun::offload
