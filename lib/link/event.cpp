// SPDX-License-Identifier: Apache-2.0
#include "link/event.hpp"

#include "io/fail.hpp"
#include "link/parse.hpp"

#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>

#include <cerrno>
#include <utility>

namespace cotun {

void detail::refuse_link_name(std::string_view text) {
    fail(ENAMETOOLONG, fmt::format("cotun: '{}' has {} bytes; a link's name has {} at most", text.substr(0, 64),
                                   text.size(), link_name::capacity));
}

const char* to_string(link_event_kind kind) noexcept {
    switch (kind) {
    case link_event_kind::link_added: return "link_added";
    case link_event_kind::renamed: return "renamed";
    case link_event_kind::mac_changed: return "mac_changed";
    case link_event_kind::mtu_changed: return "mtu_changed";
    case link_event_kind::up: return "up";
    case link_event_kind::down: return "down";
    case link_event_kind::carrier_on: return "carrier_on";
    case link_event_kind::carrier_off: return "carrier_off";
    case link_event_kind::moved: return "moved";
    case link_event_kind::deleted: return "deleted";
    case link_event_kind::address_added: return "address_added";
    case link_event_kind::address_removed: return "address_removed";
    case link_event_kind::route_added: return "route_added";
    case link_event_kind::route_removed: return "route_removed";
    case link_event_kind::rule_added: return "rule_added";
    case link_event_kind::rule_removed: return "rule_removed";
    case link_event_kind::neighbour_added: return "neighbour_added";
    case link_event_kind::neighbour_changed: return "neighbour_changed";
    case link_event_kind::neighbour_removed: return "neighbour_removed";
    case link_event_kind::offload_refused: return "offload_refused";
    case link_event_kind::resynchronised: return "resynchronised";
    }
    return "unknown";
}

namespace {

std::string describe_route(const ip_route& r) {
    std::string text = r.destination.to_string();
    if (r.gateway) text += fmt::format(" via {}", r.gateway->to_string());
    if (r.metric != 0) text += fmt::format(" metric {}", r.metric);
    if (r.table != main_table) text += fmt::format(" table {}", r.table);
    return text;
}

} // namespace

std::string describe(const link_event& e) {
    const std::string link = e.name.empty() ? fmt::format("link {}", e.index) : std::string(e.name.view());
    const std::string_view mark = std::string_view(to_string(e.kind)).ends_with("removed") ? "-" : "+";
    switch (e.kind) {
    case link_event_kind::link_added: return fmt::format("{}: a new link, MTU {}", link, e.mtu);
    case link_event_kind::renamed: return fmt::format("{}: renamed to {}", e.old_name.view(), link);
    case link_event_kind::mac_changed: return fmt::format("{}: MAC {}", link, e.mac ? e.mac->to_string() : "none");
    case link_event_kind::mtu_changed: return fmt::format("{}: MTU {} to {}", link, e.old_mtu, e.mtu);
    case link_event_kind::up: return fmt::format("{}: up", link);
    case link_event_kind::down: return fmt::format("{}: down", link);
    case link_event_kind::carrier_on: return fmt::format("{}: carrier", link);
    case link_event_kind::carrier_off: return fmt::format("{}: no carrier", link);
    case link_event_kind::moved:
        if (!e.new_namespace) return fmt::format("{}: moved to another namespace", link);
        return fmt::format("{}: moved to namespace {}, index {}", link, *e.new_namespace, e.new_index);
    case link_event_kind::deleted: return fmt::format("{}: deleted", link);
    case link_event_kind::address_added:
    case link_event_kind::address_removed: return fmt::format("{}: {} {}", link, mark, e.address.to_string());
    case link_event_kind::route_added:
    case link_event_kind::route_removed: return fmt::format("{}: {} route {}", link, mark, describe_route(e.route));
    case link_event_kind::rule_added:
    case link_event_kind::rule_removed:
        return fmt::format("{} rule {}: table {}", mark, e.rule.priority.value_or(0), e.rule.table);
    case link_event_kind::neighbour_added:
    case link_event_kind::neighbour_changed:
    case link_event_kind::neighbour_removed:
        return fmt::format("{}: {} neighbour {} {}", link, mark, e.neighbour.address.to_string(),
                           e.neighbour.mac ? e.neighbour.mac->to_string() : "");
    case link_event_kind::resynchronised: return "messages were lost; the state was read anew";
    case link_event_kind::offload_refused: return fmt::format("{}: superpackets refused", link);
    }
    return {};
}

} // namespace cotun

namespace cotun::link {

bool link_state_tracker::wants(tracked kind, unsigned index) const noexcept {
    return (kinds_ & kind) != 0 && (only_ == 0 || index == only_);
}

const link_info* link_state_tracker::find(unsigned index) const noexcept {
    const auto known = links_.find(index);
    return known == links_.end() ? nullptr : &known->second.link;
}

bool link_state_tracker::take_doubt_of_routes() noexcept { return std::exchange(doubt_of_routes_, false); }

link_event link_state_tracker::event_of(link_event_kind kind, unsigned index) const {
    link_event event;
    event.kind = kind;
    event.index = index;
    if (const link_info* const link = find(index)) {
        event.name = link->name;
        event.mtu = event.old_mtu = link->mtu;
        event.flags = link->flags;
        event.mac = link->mac;
    }
    return event;
}

void link_state_tracker::take(byte_view datagram, events& out) {
    (void)for_each_message(datagram, [&](const nlmsghdr& header, byte_view payload) { take(header, payload, out); });
}

void link_state_tracker::take(const nlmsghdr& header, byte_view payload, events& out) {
    const unsigned type = header.nlmsg_type;
    switch (type) {
    case RTM_NEWLINK:
    case RTM_DELLINK:
        if (const auto link = read_link(payload); link && wants(track_links, link->index))
            type == RTM_NEWLINK ? link_is(*link, out) : link_is_gone(link->index, payload, out);
        return;
    case RTM_NEWADDR:
    case RTM_DELADDR:
        if (const auto row = read_address(payload); row && wants(track_addresses, row->index))
            type == RTM_NEWADDR ? address_is(*row, out) : address_is_gone(*row, out);
        return;
    case RTM_NEWROUTE:
    case RTM_DELROUTE:
        if (const auto row = read_route(payload);
            row && wants(row->destination.is_v6() ? track_v6_routes : track_v4_routes, row->index))
            type == RTM_NEWROUTE ? route_is(*row, (header.nlmsg_flags & NLM_F_REPLACE) != 0, out)
                                 : route_is_gone(*row, out);
        return;
    case RTM_NEWRULE:
    case RTM_DELRULE:
        if (const auto row = read_rule(payload); row && wants(track_rules, 0)) rule_is(*row, type == RTM_DELRULE, out);
        return;
    case RTM_NEWNEIGH:
    case RTM_DELNEIGH:
        if (const auto row = read_neighbour(payload); row && wants(track_neighbours, row->index))
            neighbour_is(*row, type == RTM_DELNEIGH, out);
        return;
    default: return;
    }
}

// --- links ---------------------------------------------------------------------------------------------------------

void link_state_tracker::link_is(const link_info& now, events& out) {
    const auto [place, is_new] = links_.try_emplace(now.index, known_link{now, reading_});
    if (is_new) {
        out.push_back(event_of(link_event_kind::link_added, now.index));
        return;
    }
    const link_info before = std::exchange(place->second.link, now);
    place->second.seen = reading_;
    link_info& kept = place->second.link;
    if (kept.name.empty()) kept.name = before.name; // a message without them says nothing of them
    if (kept.mtu == 0) kept.mtu = before.mtu;
    const auto tell = [&](link_event_kind kind) {
        link_event event = event_of(kind, kept.index);
        event.old_name = before.name;
        event.old_mtu = before.mtu;
        out.push_back(event);
    };
    if (kept.name != before.name) tell(link_event_kind::renamed);
    if (kept.mac != before.mac) tell(link_event_kind::mac_changed);
    if (kept.mtu != before.mtu) tell(link_event_kind::mtu_changed);
    if (kept.is_up() != before.is_up()) {
        tell(kept.is_up() ? link_event_kind::up : link_event_kind::down);
        doubt_of_routes_ = doubt_of_routes_ || !kept.is_up();
    }
    if (kept.carrier != before.carrier) tell(kept.carrier ? link_event_kind::carrier_on : link_event_kind::carrier_off);
}

// A link that goes to another namespace is told with that one's number (IFLA_NEW_NETNSID, Linux 4.15).
void link_state_tracker::link_is_gone(unsigned index, byte_view payload, events& out) {
    if (find(index) == nullptr) return;
    doubt_of_routes_ = true;
    link_event event = event_of(link_event_kind::deleted, index);
    for_each_attribute(skip(payload, sizeof(ifinfomsg)), [&](int type, byte_view value) {
        if (type == IFLA_NEW_NETNSID) event.new_namespace = number_of<std::int32_t>(value);
        if (type == IFLA_NEW_IFINDEX) event.new_index = number_of<std::uint32_t>(value);
    });
    if (event.new_namespace) event.kind = link_event_kind::moved;
    event.found_missing = payload.empty();
    for (auto i = addresses_.begin(); i != addresses_.end();) {
        if (std::get<0>(i->first) != index) {
            ++i;
            continue;
        }
        out.push_back(address_event(link_event_kind::address_removed, i->first, i->second.flags));
        i = addresses_.erase(i);
    }
    links_.erase(index);
    out.push_back(event);
}

// --- addresses -----------------------------------------------------------------------------------------------------

link_event link_state_tracker::address_event(link_event_kind kind, const address_key& key, std::uint32_t flags) const {
    link_event event = event_of(kind, std::get<0>(key));
    event.address = std::get<1>(key);
    event.peer = std::get<2>(key);
    event.address_flags = flags;
    return event;
}

void link_state_tracker::address_is(const link_address& row, events& out) {
    const auto [place, is_new] =
        addresses_.try_emplace({row.index, row.address, row.peer}, known_address{row.flags, reading_});
    place->second = {row.flags, reading_};
    if (is_new) out.push_back(address_event(link_event_kind::address_added, place->first, row.flags));
}

void link_state_tracker::address_is_gone(const link_address& row, events& out) {
    const auto place = addresses_.find({row.index, row.address, row.peer});
    if (place == addresses_.end()) return;
    out.push_back(address_event(link_event_kind::address_removed, place->first, row.flags));
    addresses_.erase(place);
    doubt_of_routes_ = doubt_of_routes_ || row.address.is_v4();
}

// --- routes, rules, neighbours -------------------------------------------------------------------------------------

link_event link_state_tracker::route_event(link_event_kind kind, const ip_route& route) const {
    link_event event = event_of(kind, route.index);
    event.route = route;
    event.route.device = event.name;
    return event;
}

void link_state_tracker::route_is(ip_route row, bool replaces, events& out) {
    row.device = {}; // names change
    if (const auto place = routes_.find(row); place != routes_.end()) {
        place->second = reading_;
        return;
    }
    if (replaces) {
        // The kernel puts a route in the place of the one with the same destination, type of service and metric.
        const auto same = [&](const ip_route& r) {
            return r.destination == row.destination && r.table == row.table && r.metric == row.metric &&
                   r.tos == row.tos;
        };
        ip_route lowest;
        lowest.destination = row.destination;
        lowest.table = 0;
        for (auto i = routes_.lower_bound(lowest); i != routes_.end() && i->first.destination == row.destination; ++i) {
            if (!same(i->first)) continue;
            out.push_back(route_event(link_event_kind::route_removed, i->first));
            routes_.erase(i);
            break;
        }
    }
    routes_.emplace(row, reading_);
    out.push_back(route_event(link_event_kind::route_added, row));
}

void link_state_tracker::route_is_gone(ip_route row, events& out) {
    row.device = {};
    if (routes_.erase(row) != 0) out.push_back(route_event(link_event_kind::route_removed, row));
}

void link_state_tracker::rule_is(const ip_rule& row, bool gone, events& out) {
    if (gone ? rules_.erase(row) == 0 : !rules_.insert_or_assign(row, reading_).second) return;
    link_event event;
    event.kind = gone ? link_event_kind::rule_removed : link_event_kind::rule_added;
    event.rule = row;
    out.push_back(event);
}

link_event link_state_tracker::neighbour_event(link_event_kind kind, const ip_neighbour& row) const {
    link_event event = event_of(kind, row.index);
    event.neighbour = row;
    event.neighbour.device = event.name;
    event.mac = row.mac;
    return event;
}

void link_state_tracker::neighbour_is(ip_neighbour row, bool gone, events& out) {
    const neighbour_key key{row.index, row.address, row.proxy};
    if (gone) {
        if (neighbours_.erase(key) != 0) out.push_back(neighbour_event(link_event_kind::neighbour_removed, row));
        return;
    }
    const auto [place, is_new] = neighbours_.try_emplace(key, known_neighbour{row, reading_});
    const ip_neighbour before = std::exchange(place->second.row, row);
    place->second.seen = reading_;
    if (is_new)
        out.push_back(neighbour_event(link_event_kind::neighbour_added, row));
    else if (row != before)
        out.push_back(neighbour_event(link_event_kind::neighbour_changed, row));
}

// --- reading anew --------------------------------------------------------------------------------------------------

void link_state_tracker::end_reading(tracked kinds, events& out) {
    // The end of what goes is told before the end of what it belonged to.
    const auto forget = [](auto& all, auto is_gone, auto tell) {
        for (auto i = all.begin(); i != all.end();) {
            if (!is_gone(*i)) {
                ++i;
                continue;
            }
            tell(*i);
            i = all.erase(i);
        }
    };
    if ((kinds & track_neighbours) != 0)
        forget(
            neighbours_, [&](const auto& n) { return n.second.seen != reading_; },
            [&](const auto& n) { out.push_back(neighbour_event(link_event_kind::neighbour_removed, n.second.row)); });
    if ((kinds & track_rules) != 0)
        forget(
            rules_, [&](const auto& r) { return r.second != reading_; },
            [&](const auto& r) {
                link_event event;
                event.kind = link_event_kind::rule_removed;
                event.rule = r.first;
                out.push_back(event);
            });
    if ((kinds & track_routes) != 0)
        forget(
            routes_,
            [&](const auto& r) {
                const tracked kind = r.first.destination.is_v6() ? track_v6_routes : track_v4_routes;
                return (kinds & kind) != 0 && r.second != reading_;
            },
            [&](const auto& r) { out.push_back(route_event(link_event_kind::route_removed, r.first)); });
    if ((kinds & track_addresses) != 0)
        forget(
            addresses_, [&](const auto& a) { return a.second.seen != reading_; },
            [&](const auto& a) {
                out.push_back(address_event(link_event_kind::address_removed, a.first, a.second.flags));
            });
    if ((kinds & track_links) != 0) {
        std::vector<unsigned> gone;
        for (const auto& [index, known] : links_)
            if (known.seen != reading_) gone.push_back(index);
        for (const unsigned index : gone) link_is_gone(index, {}, out);
    }
}

} // namespace cotun::link
