// SPDX-License-Identifier: Apache-2.0
//
// Between endpoint and the kernel's struct sockaddr_in and sockaddr_in6.
#pragma once

#include <cotun/net/endpoint.hpp>

#include <array>
#include <cstddef>
#include <netinet/in.h>
#include <span>

namespace cotun::detail {

struct socket_address {
    std::array<std::byte, sizeof(sockaddr_in6)> bytes{};
    socklen_t size = 0;
    const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(bytes.data()); }
};

/// `as_v6`: an IPv4 address becomes the IPv4-mapped IPv6 address, as dual-stack sockets want it; without, that one
/// becomes IPv4.
socket_address to_sockaddr(const endpoint& e, bool as_v6 = false) noexcept;
/// IPv4-mapped addresses become IPv4; anything but IP becomes 0.0.0.0:0.
endpoint from_sockaddr(std::span<const std::byte> bytes) noexcept;

} // namespace cotun::detail
