// SPDX-License-Identifier: Apache-2.0
//
// Setting options on sockets: the one home of what UDP and TCP have in common.
#pragma once

#include <cotun/net/socket_options.hpp>

#include <string_view>

namespace cotun::detail {

/// Sets what `options` ask for on a socket of `family` (AF_INET, AF_INET6: for the IPv4 that an IPv6 socket may carry,
/// too; of any other, such as AF_UNIX, what is not IP's), before it is bound. `what` is what errors begin with:
/// "open_udp". Throws std::system_error; the descriptor stays the caller's.
void set_options(int descriptor, int family, const socket_options& options, std::string_view what);

/// setsockopt(2) of an int; 0, or the errno.
int set_option(int descriptor, int level, int name, int value) noexcept;

/// The index of an interface of the socket's own network namespace, which need not be the calling thread's. Throws
/// std::system_error(no_such_device).
unsigned interface_index(int descriptor, std::string_view name, std::string_view what);

} // namespace cotun::detail
