// SPDX-License-Identifier: Apache-2.0
//
// Multicast on UDP sockets: which groups are received, and how is sent to them.
#pragma once

#include <cotun/net/udp.hpp>

#include <cstdint>
#include <string>

namespace cotun::detail {

enum class membership : std::uint8_t { join, leave };

/// Joins or leaves on a socket of `family`, which may be an IPv6 one for an IPv4 group. Throws std::system_error that
/// begins with `who`.
void change_membership(int descriptor, int family, membership change, const wire::ip_address& group,
                       std::uint32_t interface, const std::string& who);

/// What a new socket is told: no groups but its own, and what the options say. Throws std::system_error.
void set_multicast_options(int descriptor, int family, const udp_options& options);

} // namespace cotun::detail
