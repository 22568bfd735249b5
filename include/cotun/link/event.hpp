// SPDX-License-Identifier: Apache-2.0
//
// link_event: something that has happened to a link, or to the addresses, routes, rules and neighbours around it, as
// dev.events() and link_monitor tell it.
//
//     cotun::link_event event = co_await dev.events().next();
//     if (event.kind == cotun::link_event_kind::mtu_changed) resize(event.mtu);
//
// An event is told when the state is not what it was: the kernel sends a message for each request, changed or not, and
// those are compared with what was known. One message may hold several changes; they are told one by one, in the order
// of the enumeration. When so much happens that the kernel has to drop messages, the state is read anew, what is
// different is told as if it had just happened, and then `resynchronised`: what came and went in between is not told.
//
// It is a value, and any thread may use its own copies. Kernel: rtnetlink(7).
#pragma once

#include <cotun/link/link_name.hpp>
#include <cotun/link/route.hpp>
#include <cotun/wire/address.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>

namespace cotun {

enum class link_event_kind : std::uint8_t {
    link_added,  // it was made, or moved here from another namespace
    renamed,     // from `old_name` to `name`
    mac_changed, // to `mac`
    mtu_changed, // from `old_mtu` to `mtu`
    up,          // it was set up (IFF_UP)
    down,        // it was set down
    carrier_on,  // there is somebody at the other end: a cable, a peer that is up, a program that has the device
    carrier_off, // there is not
    moved,       // to another namespace; it is gone from this one
    deleted,
    address_added,
    address_removed,
    route_added,
    route_removed,
    rule_added,
    rule_removed,
    neighbour_added,
    neighbour_changed, // its `mac` or state
    neighbour_removed,
    offload_refused, // told of a device by dev.events(): the kernel refused superpackets of a kind that it should take,
                     // and they go as segments from now on; device::offloads() says which still go whole
    resynchronised   // messages were lost; all that is different was told
};

/// "mtu_changed".
[[nodiscard]] const char* to_string(link_event_kind kind) noexcept;

struct link_event {
    link_event_kind kind = link_event_kind::resynchronised;
    /// The link. 0: none, as of rules and of routes that have no link.
    unsigned index = 0;
    /// Its name now; of a link that is gone, its last one. Empty where it is not known.
    link_name name{};
    link_name old_name{};
    /// Of links: bytes without the link header.
    unsigned mtu = 0;
    unsigned old_mtu = 0;
    /// Of links: IFF_* of <linux/if.h>.
    unsigned flags = 0;
    std::optional<wire::mac_address> mac{};
    /// Of `moved`: the number that this namespace has for the other (`ip netns list-id`), and the link's index there.
    /// Empty and 0 where the kernel's message of it was lost, or an old kernel (before 4.15) does not tell.
    std::optional<int> new_namespace{};
    unsigned new_index = 0;
    /// Of `deleted`: messages were lost, and the link was missing when the state was read anew. It may have been moved
    /// to another namespace. A device finds out, by its descriptor: dev.events() tells of `moved` then.
    bool found_missing = false;
    /// Of addresses: the link's own, with the length of its network; the peer's where there is one; and IFA_F_* of
    /// <linux/if_addr.h>.
    wire::ip_prefix address{};
    std::optional<wire::ip_address> peer{};
    std::uint32_t address_flags = 0;
    /// Of those kinds.
    ip_route route{};
    ip_rule rule{};
    ip_neighbour neighbour{};
};
static_assert(std::is_trivially_destructible_v<link_event>); // see io/option_values.hpp

/// For people: "tun0: MTU 1500 to 1400".
[[nodiscard]] std::string describe(const link_event& event);

} // namespace cotun
