// SPDX-License-Identifier: Apache-2.0
//
// Routes, rules and neighbours as values: what is given to link_control to make them, and what it and link_monitor tell
// of. They own nothing; any thread may use its own copies.
//
// Kernel: rtnetlink(7). Numbers are the kernel's (<linux/rtnetlink.h>) where no name is given here, so that what the
// kernel has is never hidden.
#pragma once

#include <cotun/io/option_values.hpp>
#include <cotun/link/link_name.hpp>
#include <cotun/wire/address.hpp>

#include <compare>
#include <cstdint>
#include <optional>
#include <type_traits>

namespace cotun {

/// What is done with packets that a route is for (RTN_*).
enum class route_type : std::uint8_t {
    unspecified = 0,
    unicast = 1,     // goes out by the link, or to the gateway
    local = 2,       // is for this machine
    broadcast = 3,   // goes out as a broadcast
    anycast = 4,     // is for this machine, among others
    multicast = 5,   // IPv4 multicast
    blackhole = 6,   // dropped in silence
    unreachable = 7, // dropped, and the sender told (ICMP host unreachable)
    prohibit = 8,    // dropped, and the sender told (ICMP administratively prohibited)
    throws = 9,      // as if the table had no route: the next rule decides
};

/// The main table, where routes go unless another is named; the local one is the kernel's own. (RT_TABLE_*)
inline constexpr std::uint32_t main_table = 254;
inline constexpr std::uint32_t local_table = 255;

/// One of several ways of a route (multipath): flows are shared out between them.
struct ip_next_hop {
    /// The router; empty: what is sent is for the link itself.
    std::optional<wire::ip_address> gateway{};
    /// The link that packets leave by. Of `device` and `index`, one is enough; with a gateway, none.
    link_name device{};
    unsigned index = 0;
    /// Its share, beside the others' weights: 1 to 256.
    std::uint16_t weight = 1;
    /// Whether the gateway is taken to be on the link although no address of the link says so (RTNH_F_ONLINK).
    bool on_link = false;

    friend auto operator<=>(const ip_next_hop&, const ip_next_hop&) noexcept = default;
};

/// As co_await links.add_route({.destination = "10.8.0.0/16"}, {first, second}) takes them.
using ip_next_hops = option_list<ip_next_hop, 32>;
static_assert(std::is_trivially_destructible_v<ip_next_hops>);

struct ip_route {
    /// The packets that it is for. Its bits after the prefix must be zero for IPv4. For a default route: 0.0.0.0/0,
    /// ::/0.
    wire::ip_prefix destination{};
    /// The router; of the same family as the destination, or IPv6 for an IPv4 destination (Linux 5.2).
    std::optional<wire::ip_address> gateway{};
    /// The link that packets leave by. Of `device` and `index`, one is enough; listed routes have both, where the link
    /// is known.
    link_name device{};
    unsigned index = 0;
    /// The smaller is preferred (RTA_PRIORITY). 0: none for IPv4; for IPv6 the kernel takes 1024.
    std::uint32_t metric = 0;
    std::uint32_t table = main_table;
    /// The source address of packets of this machine's own that do not choose one.
    std::optional<wire::ip_address> preferred_source{};
    /// RT_SCOPE_*: 0 universe, 253 link, 254 host. Empty: as ip(8) chooses, link where there is no gateway.
    std::optional<std::uint8_t> scope{};
    route_type type = route_type::unicast;
    /// RTPROT_*: who made it. 2 kernel, 3 boot, 4 static.
    std::uint8_t protocol = 4;
    std::uint8_t tos = 0; // IPv4 only
    /// The largest packet of the route, bytes; 0: the link's.
    std::uint32_t mtu = 0;
    /// Whether the gateway is taken to be on the link although no address of the link says so (RTNH_F_ONLINK).
    bool on_link = false;
    /// Of a listed route with several next hops: how many there are besides the one that gateway and device tell;
    /// link_control::next_hops() gives all.
    std::uint16_t more_hops = 0;

    friend auto operator<=>(const ip_route&, const ip_route&) noexcept = default;
};
static_assert(std::is_trivially_destructible_v<ip_route>);

/// What becomes of packets that a rule is for (FR_ACT_*).
enum class rule_action : std::uint8_t { lookup = 1, blackhole = 6, unreachable = 7, prohibit = 8 };

struct ip_rule {
    /// The smaller is asked first. Empty: the kernel's choice, before all there are.
    std::optional<std::uint32_t> priority{};
    /// Packets from and to these; where both are empty, `v6` says of which family the rule is.
    std::optional<wire::ip_prefix> from{};
    std::optional<wire::ip_prefix> to{};
    bool v6 = false;
    /// Packets with this mark, of the bits in the mask (SO_MARK, nftables).
    std::optional<std::uint32_t> mark{};
    std::uint32_t mark_mask = 0xffffffff;
    /// Packets that came in by this link; "lo" means those of this machine's own. And those bound to leave by that one.
    link_name input_device{};
    link_name output_device{};
    /// The table to look in.
    std::uint32_t table = main_table;
    rule_action action = rule_action::lookup;
    /// Ignores routes of the table with a prefix this short or shorter: 0 ignores its default route.
    std::optional<std::uint32_t> suppress_prefix_length{};
    /// Turns the rule around: packets that it is not for.
    bool invert = false;

    friend auto operator<=>(const ip_rule&, const ip_rule&) noexcept = default;
};
static_assert(std::is_trivially_destructible_v<ip_rule>);

/// How far the kernel knows a neighbour (NUD_*).
enum class neighbour_state : std::uint16_t {
    none = 0,
    incomplete = 0x01,
    reachable = 0x02,
    stale = 0x04,
    delay = 0x08,
    probe = 0x10,
    failed = 0x20,
    no_arp = 0x40,
    permanent = 0x80,
};

struct ip_neighbour {
    wire::ip_address address{};
    /// Empty: not known (yet), or none.
    std::optional<wire::mac_address> mac{};
    /// Of `device` and `index`, one is enough.
    link_name device{};
    unsigned index = 0;
    neighbour_state state = neighbour_state::permanent;
    /// Whether it is an address that this machine answers for (NTF_PROXY), and a router (NTF_ROUTER).
    bool proxy = false;
    bool router = false;

    friend auto operator<=>(const ip_neighbour&, const ip_neighbour&) noexcept = default;
};
static_assert(std::is_trivially_destructible_v<ip_neighbour>);

} // namespace cotun
