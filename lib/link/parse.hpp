// SPDX-License-Identifier: Apache-2.0
//
// From the kernel's messages to values. Each takes the payload of a message of its type (RTM_NEW* or RTM_DEL*), whoever
// wrote it: what is missing, cut or of a wrong size is left out, and a message without what it is about gives nothing.
#pragma once

#include <cotun/link/link_info.hpp>
#include <cotun/link/route.hpp>

#include "link/message.hpp"

#include <optional>
#include <vector>

namespace cotun::link {

// A name from the kernel; cut where it is longer than a name can be.
[[nodiscard]] link_name name_of(byte_view value) noexcept;

// An address of 4 or 16 bytes.
[[nodiscard]] std::optional<wire::ip_address> address_of(byte_view value) noexcept;

// Nothing for messages that are not about links as such: a bridge tells of its ports by the same types.
[[nodiscard]] std::optional<link_info> read_link(byte_view payload);
[[nodiscard]] std::optional<link_address> read_address(byte_view payload);
// Nothing for other families' routes, cloned ones (caches), and multicast's own.
[[nodiscard]] std::optional<ip_route> read_route(byte_view payload);
// The answer to a question for one route is a cloned one.
[[nodiscard]] std::optional<ip_route> read_found_route(byte_view payload);
// A route and all its ways: of one without any (blackhole), none.
struct route_with_hops {
    ip_route route;
    std::vector<ip_next_hop> hops;
};
[[nodiscard]] std::optional<route_with_hops> read_route_with_hops(byte_view payload);
[[nodiscard]] std::optional<ip_rule> read_rule(byte_view payload);
// Nothing for what is not IP's, such as a bridge's forwarding entries.
[[nodiscard]] std::optional<ip_neighbour> read_neighbour(byte_view payload);

} // namespace cotun::link
