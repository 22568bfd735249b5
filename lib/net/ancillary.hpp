// SPDX-License-Identifier: Apache-2.0
//
// Control messages of UDP sockets (cmsg(3)): which address a datagram was sent to and over which interface it came, its
// TTL and TOS; and the same for what is sent.
//
// An IPv6 socket that carries IPv4 too is told of an IPv4 datagram in both families' terms: its address once as
// IPv4-mapped IPv6, once as IPv4, its TTL and TOS as IPv4 only. It sends IPv4 with IPv4's messages, as an IPv4 socket
// does.
#pragma once

#include "io/packet_pool.hpp"

#include <cstddef>
#include <netinet/in.h>
#include <span>
#include <sys/socket.h>

namespace cotun::detail {

/// Room for all that can come: both addresses, TTL and TOS.
inline constexpr std::size_t received_control_size =
    2 * CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(in6_pktinfo)) + CMSG_SPACE(sizeof(in_pktinfo));

/// And for the size of the datagrams that came as one (UDP_GRO).
inline constexpr std::size_t merged_control_size = CMSG_SPACE(sizeof(int));

/// The size of each datagram of those that came as one, but for the last; 0: it is one datagram.
std::uint32_t size_of_merged(std::span<const std::byte> control) noexcept;

/// Has the kernel send the messages with every datagram. 0, or an errno.
int ask_for_ancillary(int descriptor, int family) noexcept;

/// Reads what the kernel sent, which need not be aligned and may be cut off anywhere: what is not whole is left out.
/// False: the address that the datagram was sent to is not there.
bool read_control(std::span<const std::byte> control, ancillary& into) noexcept;

/// The messages that go out with one datagram.
class send_control {
public:
    void clear() noexcept;
    /// Both add messages to those that are there.
    void write(const ancillary& from) noexcept;
    /// The datagram is several, of that many bytes each but for the last (UDP_SEGMENT).
    void add_segment_size(std::uint16_t bytes) noexcept;
    std::byte* data() noexcept { return bytes_.data(); }
    std::size_t size() const noexcept { return size_; }

private:
    template <class Value>
    void add(int level, int type, const Value& value) noexcept;
    void write_v4(const ancillary& from) noexcept;
    void write_v6(const ancillary& from) noexcept;

    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(in6_pktinfo)) + 2 * CMSG_SPACE(sizeof(int)) +
                                               CMSG_SPACE(sizeof(std::uint16_t))> bytes_;
    std::size_t size_ = 0;
};

} // namespace cotun::detail
