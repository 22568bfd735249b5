// SPDX-License-Identifier: Apache-2.0
#include "link/order.hpp"
#include "link/refusal.hpp"

#include <linux/fib_rules.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <fmt/format.h>

#include <cerrno>
#include <cstddef>

namespace cotun::link {
namespace {

std::string describe_route(const ip_route& r) {
    std::string text = fmt::format("the route to {}", r.destination.to_string());
    if (r.gateway) text += fmt::format(" by {}", r.gateway->to_string());
    if (r.index != 0 || !r.device.empty()) text += " on LINK";
    if (r.metric != 0) text += fmt::format(" with metric {}", r.metric);
    if (r.table != main_table) text += fmt::format(" in table {}", r.table);
    return text;
}

// As ip(8) chooses: what has no gateway is on the link, what is this machine's own is of the host.
std::uint8_t scope_of(const ip_route& r) noexcept {
    if (r.scope) return *r.scope;
    if (r.destination.is_v6()) return RT_SCOPE_UNIVERSE;
    switch (r.type) {
    case route_type::local: return RT_SCOPE_HOST;
    case route_type::broadcast:
    case route_type::multicast:
    case route_type::anycast: return RT_SCOPE_LINK;
    case route_type::unicast: return r.gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
    default: return RT_SCOPE_UNIVERSE;
    }
}

void put_gateway(request& req, const wire::ip_address& gateway, bool v6) {
    if (gateway.is_v6() == v6) return attribute(req, RTA_GATEWAY, gateway);
    const std::size_t via = req.begin(RTA_VIA); // a family, and the address
    req.raw(std::uint16_t{family_number(gateway.is_v6())});
    req.append_bytes(gateway.bytes());
    req.end(via);
}

void put_hops(request& req, std::span<const ip_next_hop> hops, bool v6) {
    const std::size_t all = req.begin(RTA_MULTIPATH);
    for (const ip_next_hop& hop : hops) {
        rtnexthop header{};
        header.rtnh_flags = hop.on_link ? RTNH_F_ONLINK : 0;
        header.rtnh_hops = static_cast<std::uint8_t>(hop.weight - 1);
        header.rtnh_ifindex = static_cast<int>(hop.index);
        const std::size_t at = req.raw(header);
        if (hop.gateway) put_gateway(req, *hop.gateway, v6);
        req.end(at); // its length is where an attribute has it
    }
    req.end(all);
}
static_assert(offsetof(rtnexthop, rtnh_len) == offsetof(nlattr, nla_len));

void check_hops(const std::string& intent, const ip_route& r, std::span<const ip_next_hop> hops) {
    const auto refused = [&](std::string_view why) { refuse(intent, EINVAL, {}, why); };
    if (hops.empty()) refused("a route needs a next hop at least");
    if (r.gateway || r.index != 0 || !r.device.empty())
        refused("a route has a gateway and device, or several next hops that have their own: not both");
    for (const ip_next_hop& hop : hops) {
        if (hop.weight < 1 || hop.weight > 256) refused("a weight is 1 to 256");
        if (!hop.gateway && hop.index == 0) refused("a next hop needs a gateway or a device");
    }
}

request route_message(std::uint16_t message, unsigned flags, rtmsg header, unsigned index, const ip_route& r) {
    header.rtm_family = family_number(r.destination.is_v6());
    header.rtm_dst_len = static_cast<std::uint8_t>(r.destination.length());
    header.rtm_table = static_cast<std::uint8_t>(r.table < 256 ? r.table : std::uint32_t{RT_TABLE_COMPAT});
    header.rtm_type = static_cast<std::uint8_t>(r.type);
    header.rtm_tos = r.tos;
    header.rtm_flags = r.on_link ? RTNH_F_ONLINK : 0;
    request req{message, flags | NLM_F_ACK, header};
    req.attribute(RTA_TABLE, r.table);
    if (r.destination.length() != 0) attribute(req, RTA_DST, r.destination.address());
    if (r.gateway) put_gateway(req, *r.gateway, r.destination.is_v6());
    if (index != 0) req.attribute(RTA_OIF, std::uint32_t{index});
    if (r.metric != 0) req.attribute(RTA_PRIORITY, r.metric);
    if (r.preferred_source) attribute(req, RTA_PREFSRC, *r.preferred_source);
    if (r.mtu != 0) {
        const std::size_t metrics = req.nest(RTA_METRICS);
        req.attribute(RTAX_MTU, r.mtu);
        req.end(metrics);
    }
    return req;
}

std::string_view route_remedy(int error) noexcept {
    switch (error) {
    case EEXIST: return "there is such a route already: replace it, or give another metric";
    case ENETUNREACH:
        return "no address of a link is in the gateway's network: give the link one first, or set on_link and the "
               "device";
    case EHOSTUNREACH: return "the gateway cannot be reached by that link";
    case ENETDOWN: return "the link is down: set it up first";
    case EINVAL:
        return "the destination must be a network, with zeros behind its prefix, the preferred source an address of "
               "this machine, and a route other than blackhole and its like needs a gateway or a device";
    case ESRCH: return "there is no such route in this table (`ip route show table all`)";
    default: return {};
    }
}

} // namespace

order add_route(unsigned index, const ip_route& r, creation how) {
    rtmsg header{};
    header.rtm_scope = scope_of(r);
    header.rtm_protocol = r.protocol;
    const unsigned mode = how == creation::add ? NLM_F_EXCL : NLM_F_REPLACE;
    return {route_message(RTM_NEWROUTE, NLM_F_CREATE | mode, header, index, r),
            fmt::format("{} {}", how == creation::add ? "add" : "put in place", describe_route(r)), index,
            route_remedy};
}

order add_route(const ip_route& r, std::span<const ip_next_hop> hops, creation how) {
    std::string intent = fmt::format("{} {}", how == creation::add ? "add" : "put in place", describe_route(r));
    for (const ip_next_hop& hop : hops) {
        intent += &hop == hops.data() ? " by " : ", ";
        intent += hop.gateway ? hop.gateway->to_string() : fmt::format("the link of index {}", hop.index);
        if (hop.weight != 1) intent += fmt::format(" (weight {})", hop.weight);
    }
    check_hops(intent, r, hops);
    rtmsg header{};
    header.rtm_scope = r.scope.value_or(RT_SCOPE_UNIVERSE);
    header.rtm_protocol = r.protocol;
    const unsigned mode = how == creation::add ? NLM_F_EXCL : NLM_F_REPLACE;
    request req = route_message(RTM_NEWROUTE, NLM_F_CREATE | mode, header, 0, r);
    put_hops(req, hops, r.destination.is_v6());
    return {std::move(req), std::move(intent), 0, route_remedy};
}

// What is not given does not matter.
order delete_route(unsigned index, const ip_route& r) {
    rtmsg header{};
    header.rtm_scope = r.scope.value_or(RT_SCOPE_NOWHERE);
    return {route_message(RTM_DELROUTE, 0, header, index, r), fmt::format("delete {}", describe_route(r)), index,
            route_remedy};
}

order list_routes(int family) {
    rtmsg header{};
    header.rtm_family = static_cast<std::uint8_t>(family);
    return {request{RTM_GETROUTE, NLM_F_DUMP, header}, "list the routes"};
}

order find_route(const wire::ip_address& destination) {
    rtmsg header{};
    header.rtm_family = family_number(destination.is_v6());
    header.rtm_dst_len = static_cast<std::uint8_t>(destination.bits());
    request req{RTM_GETROUTE, NLM_F_ACK, header};
    attribute(req, RTA_DST, destination);
    return {std::move(req), fmt::format("find a route to {}", destination.to_string()), 0,
            [](int error) -> std::string_view {
                return error == ENETUNREACH || error == EHOSTUNREACH
                           ? "no route leads there: add one, or a default route"
                           : "";
            }};
}

// --- rules ---------------------------------------------------------------------------------------------------------

namespace {

std::string describe_rule(const ip_rule& r) {
    std::string text = "the rule";
    if (r.priority) text += fmt::format(" {}", *r.priority);
    if (r.from) text += fmt::format(" from {}", r.from->to_string());
    if (r.to) text += fmt::format(" to {}", r.to->to_string());
    if (r.mark) text += fmt::format(" of mark {:#x}", *r.mark);
    return text + fmt::format(" for table {}", r.table);
}

order rule_order(std::uint16_t message, unsigned flags, const ip_rule& r, std::string_view verb) {
    const std::string intent = fmt::format("{} {}", verb, describe_rule(r));
    const bool v6 = r.from ? r.from->is_v6() : r.to ? r.to->is_v6() : r.v6;
    if ((r.to && r.to->is_v6() != v6) || (r.v6 && !v6))
        refuse(intent, EINVAL, {}, "a rule is of one family: IPv4 and IPv6 need one each");
    fib_rule_hdr header{};
    header.family = family_number(v6);
    header.src_len = static_cast<std::uint8_t>(r.from ? r.from->length() : 0);
    header.dst_len = static_cast<std::uint8_t>(r.to ? r.to->length() : 0);
    header.table = static_cast<std::uint8_t>(r.table < 256 ? r.table : std::uint32_t{RT_TABLE_COMPAT});
    header.action = static_cast<std::uint8_t>(r.action);
    header.flags = r.invert ? FIB_RULE_INVERT : 0;
    request req{message, flags | NLM_F_ACK, header};
    if (r.from) attribute(req, FRA_SRC, r.from->address());
    if (r.to) attribute(req, FRA_DST, r.to->address());
    if (r.priority) req.attribute(FRA_PRIORITY, *r.priority);
    if (r.mark) {
        req.attribute(FRA_FWMARK, *r.mark);
        req.attribute(FRA_FWMASK, r.mark_mask);
    }
    if (!r.input_device.empty()) req.text(FRA_IIFNAME, r.input_device);
    if (!r.output_device.empty()) req.text(FRA_OIFNAME, r.output_device);
    if (r.action == rule_action::lookup) req.attribute(FRA_TABLE, r.table);
    if (r.suppress_prefix_length) req.attribute(FRA_SUPPRESS_PREFIXLEN, *r.suppress_prefix_length);
    return {std::move(req), intent, 0, [](int error) -> std::string_view {
                if (error == EEXIST) return "there is such a rule already";
                return error == ENOENT ? "there is no such rule (`ip rule`, `ip -6 rule`)" : "";
            }};
}

} // namespace

order add_rule(const ip_rule& rule) { return rule_order(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule, "add"); }
order delete_rule(const ip_rule& rule) { return rule_order(RTM_DELRULE, 0, rule, "delete"); }

order list_rules() { return {request{RTM_GETRULE, NLM_F_DUMP, fib_rule_hdr{}}, "list the rules"}; }

// --- neighbours ----------------------------------------------------------------------------------------------------

namespace {

ndmsg neighbour_header(unsigned index, const ip_neighbour& n) noexcept {
    ndmsg header{};
    header.ndm_family = family_number(n.address.is_v6());
    header.ndm_ifindex = static_cast<int>(index);
    header.ndm_state = static_cast<std::uint16_t>(n.state);
    header.ndm_flags = static_cast<std::uint8_t>((n.proxy ? NTF_PROXY : 0) | (n.router ? NTF_ROUTER : 0));
    return header;
}

} // namespace

order add_neighbour(unsigned index, const ip_neighbour& n, creation how) {
    const unsigned mode = how == creation::add ? NLM_F_EXCL : NLM_F_REPLACE;
    request req{RTM_NEWNEIGH, NLM_F_CREATE | mode | NLM_F_ACK, neighbour_header(index, n)};
    attribute(req, NDA_DST, n.address);
    if (n.mac) req.attribute(NDA_LLADDR, n.mac->bytes());
    return {std::move(req), fmt::format("add the neighbour {} on LINK", n.address.to_string()), index,
            [](int error) -> std::string_view {
                if (error == EEXIST) return "it is known already: replace it";
                return error == EINVAL ? "a permanent neighbour needs a MAC address, on a link that has those" : "";
            }};
}

order delete_neighbour(unsigned index, const ip_neighbour& n) {
    request req{RTM_DELNEIGH, NLM_F_ACK, neighbour_header(index, n)};
    attribute(req, NDA_DST, n.address);
    return {
        std::move(req), fmt::format("delete the neighbour {} on LINK", n.address.to_string()), index,
        [](int error) -> std::string_view { return error == ENOENT ? "there is no such neighbour (`ip neigh`)" : ""; }};
}

order list_neighbours() { return {request{RTM_GETNEIGH, NLM_F_DUMP, ndmsg{}}, "list the neighbours"}; }

} // namespace cotun::link
