// SPDX-License-Identifier: Apache-2.0
#include "link/parse.hpp"

#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <array>
#include <utility>

namespace cotun::link {
namespace {

using v4_bytes = wire::ipv4_address::bytes_type;
using v6_bytes = wire::ipv6_address::bytes_type;

std::optional<wire::mac_address> mac_of(byte_view value) noexcept {
    using bytes = wire::mac_address::bytes_type;
    if (value.size() != sizeof(bytes)) return std::nullopt;
    return wire::mac_address{load<bytes>(value)};
}

bool is_ip(int family) noexcept { return family == AF_INET || family == AF_INET6; }

wire::ip_address any_of(int family) noexcept {
    return family == AF_INET6 ? wire::ip_address{wire::ipv6_address::any()}
                              : wire::ip_address{wire::ipv4_address::any()};
}

std::optional<wire::ip_prefix> prefix_of(byte_view value, int family, unsigned length) {
    const auto address = value.empty() ? any_of(family) : address_of(value);
    if (!address || address->is_v6() != (family == AF_INET6) || static_cast<int>(length) > address->bits())
        return std::nullopt;
    return wire::ip_prefix{*address, static_cast<int>(length)};
}

std::uint64_t counter(byte_view all, std::size_t at) noexcept { return load<std::uint64_t>(skip(all, at)); }

link_statistics read_statistics(byte_view s) noexcept {
    using raw = rtnl_link_stats64;
    link_statistics all;
    all.received_packets = counter(s, offsetof(raw, rx_packets));
    all.received_bytes = counter(s, offsetof(raw, rx_bytes));
    all.receive_errors = counter(s, offsetof(raw, rx_errors));
    all.receive_drops = counter(s, offsetof(raw, rx_dropped));
    all.sent_packets = counter(s, offsetof(raw, tx_packets));
    all.sent_bytes = counter(s, offsetof(raw, tx_bytes));
    all.send_errors = counter(s, offsetof(raw, tx_errors));
    all.send_drops = counter(s, offsetof(raw, tx_dropped));
    all.multicast = counter(s, offsetof(raw, multicast));
    all.collisions = counter(s, offsetof(raw, collisions));
    return all;
}

tun_info read_tun(byte_view data) {
    constexpr std::uint8_t type_tap = 2; // IFF_TAP
    tun_info tun;
    for_each_attribute(data, [&](int type, byte_view value) {
        const bool set = number_of<std::uint8_t>(value) != 0;
        switch (type) {
        case IFLA_TUN_TYPE: tun.tap = number_of<std::uint8_t>(value) == type_tap; break;
        case IFLA_TUN_PERSIST: tun.persistent = set; break;
        case IFLA_TUN_PI: tun.packet_information = set; break;
        case IFLA_TUN_VNET_HDR: tun.vnet_header = set; break;
        case IFLA_TUN_MULTI_QUEUE: tun.multi_queue = set; break;
        case IFLA_TUN_NUM_QUEUES: tun.queues = number_of<std::uint32_t>(value); break;
        case IFLA_TUN_NUM_DISABLED_QUEUES: tun.disabled_queues = number_of<std::uint32_t>(value); break;
        case IFLA_TUN_OWNER: tun.owner = number_of<std::uint32_t>(value); break;
        case IFLA_TUN_GROUP: tun.group = number_of<std::uint32_t>(value); break;
        default: break;
        }
    });
    return tun;
}

void read_kind(byte_view info, link_info& link) {
    byte_view data;
    for_each_attribute(info, [&](int type, byte_view value) {
        if (type == IFLA_INFO_KIND) link.kind = name_of(value);
        if (type == IFLA_INFO_DATA) data = value;
    });
    if (link.kind == "tun" && !data.empty()) link.tun = read_tun(data);
}

void read_gateway(byte_view attributes, std::optional<wire::ip_address>& gateway) {
    for_each_attribute(attributes, [&](int type, byte_view value) {
        if (type == RTA_GATEWAY) gateway = address_of(value);
        if (type == RTA_VIA && value.size() > sizeof(std::uint16_t)) // a family, and the address
            gateway = address_of(skip(value, sizeof(std::uint16_t)));
    });
}

template <typename Visit>
void for_each_hop(byte_view hops, Visit visit) {
    while (hops.size() >= sizeof(rtnexthop)) {
        const auto header = load<rtnexthop>(hops);
        if (header.rtnh_len < sizeof header || header.rtnh_len > hops.size()) return;
        ip_next_hop hop;
        hop.index = static_cast<unsigned>(header.rtnh_ifindex);
        hop.weight = static_cast<std::uint16_t>(header.rtnh_hops + 1);
        hop.on_link = (header.rtnh_flags & RTNH_F_ONLINK) != 0;
        read_gateway(hops.subspan(sizeof header, header.rtnh_len - sizeof header), hop.gateway);
        visit(hop);
        hops = skip(hops, aligned(header.rtnh_len));
    }
}

// The first of several next hops; the others are counted.
void read_hops(byte_view hops, ip_route& route) {
    bool first = true;
    for_each_hop(hops, [&](const ip_next_hop& hop) {
        if (!std::exchange(first, false)) {
            ++route.more_hops;
            return;
        }
        route.index = hop.index;
        route.on_link = hop.on_link;
        route.gateway = hop.gateway;
    });
}

std::optional<std::chrono::seconds> lifetime_of(std::uint32_t seconds) noexcept {
    if (seconds == 0xffffffff) return std::nullopt;
    return std::chrono::seconds{seconds};
}

} // namespace

link_name name_of(byte_view value) noexcept { return text_of(value).substr(0, link_name::capacity); }

std::optional<wire::ip_address> address_of(byte_view value) noexcept {
    if (value.size() == sizeof(v4_bytes)) return wire::ip_address{wire::ipv4_address{load<v4_bytes>(value)}};
    if (value.size() == sizeof(v6_bytes)) return wire::ip_address{wire::ipv6_address{load<v6_bytes>(value)}};
    return std::nullopt;
}

std::optional<link_info> read_link(byte_view payload) {
    const auto header = load<ifinfomsg>(payload);
    if (header.ifi_family != AF_UNSPEC || header.ifi_index <= 0) return std::nullopt;
    link_info link;
    link.index = static_cast<unsigned>(header.ifi_index);
    link.flags = header.ifi_flags;
    link.carrier = (header.ifi_flags & 0x10000U) != 0; // IFF_LOWER_UP, which <net/if.h> does not have
    for_each_attribute(skip(payload, sizeof header), [&](int type, byte_view value) {
        const auto number = number_of<std::uint32_t>(value);
        switch (type) {
        case IFLA_IFNAME: link.name = name_of(value); break;
        case IFLA_MTU: link.mtu = number; break;
        case IFLA_MIN_MTU: link.mtu_min = number; break;
        case IFLA_MAX_MTU: link.mtu_max = number; break;
        case IFLA_ADDRESS:
            if (header.ifi_type == ARPHRD_ETHER || header.ifi_type == ARPHRD_LOOPBACK) link.mac = mac_of(value);
            break;
        case IFLA_OPERSTATE: link.state = static_cast<operational_state>(number_of<std::uint8_t>(value)); break;
        case IFLA_CARRIER: link.carrier = number_of<std::uint8_t>(value) != 0; break;
        case IFLA_MASTER: link.master = number; break;
        case IFLA_LINK: link.peer = number; break;
        case IFLA_LINK_NETNSID: link.peer_namespace = number_of<std::int32_t>(value); break;
        case IFLA_TXQLEN: link.transmit_queue_length = number; break;
        case IFLA_GSO_MAX_SIZE: link.gso_max_size = number; break;
        case IFLA_NUM_TX_QUEUES: link.transmit_queues = number; break;
        case IFLA_NUM_RX_QUEUES: link.receive_queues = number; break;
        case IFLA_STATS64: link.statistics = read_statistics(value); break;
        case IFLA_LINKINFO: read_kind(value, link); break;
        default: break;
        }
    });
    return link;
}

// IFA_LOCAL is the link's own, and IFA_ADDRESS then the peer's; where there is no IFA_LOCAL, IFA_ADDRESS is the
// link's own.
std::optional<link_address> read_address(byte_view payload) {
    const auto header = load<ifaddrmsg>(payload);
    if (!is_ip(header.ifa_family)) return std::nullopt;
    link_address row;
    row.index = header.ifa_index;
    row.flags = header.ifa_flags;
    row.scope = header.ifa_scope;
    std::optional<wire::ip_address> local, other;
    for_each_attribute(skip(payload, sizeof header), [&](int type, byte_view value) {
        switch (type) {
        case IFA_LOCAL: local = address_of(value); break;
        case IFA_ADDRESS: other = address_of(value); break;
        case IFA_BROADCAST: row.broadcast = address_of(value); break;
        case IFA_FLAGS: row.flags = number_of<std::uint32_t>(value); break;
        case IFA_CACHEINFO: {
            const auto life = load<ifa_cacheinfo>(value);
            if (value.size() < sizeof life) break;
            row.lifetimes.valid = lifetime_of(life.ifa_valid);
            row.lifetimes.preferred = lifetime_of(life.ifa_prefered);
            break;
        }
        default: break;
        }
    });
    const auto own = local ? local : other;
    if (!own || own->is_v6() != (header.ifa_family == AF_INET6) || header.ifa_prefixlen > own->bits())
        return std::nullopt;
    row.address = wire::ip_prefix{*own, header.ifa_prefixlen};
    if (local && other && *local != *other && local->is_v6() == other->is_v6()) row.peer = other;
    row.no_dad = (row.flags & IFA_F_NODAD) != 0;
    return row;
}

std::optional<ip_route> read_route(byte_view payload) {
    if ((load<rtmsg>(payload).rtm_flags & RTM_F_CLONED) != 0) return std::nullopt;
    return read_found_route(payload);
}

std::optional<ip_route> read_found_route(byte_view payload) {
    const auto header = load<rtmsg>(payload);
    if (!is_ip(header.rtm_family)) return std::nullopt;
    ip_route route;
    route.table = header.rtm_table;
    route.scope = header.rtm_scope;
    route.type = static_cast<route_type>(header.rtm_type);
    route.protocol = header.rtm_protocol;
    route.tos = header.rtm_tos;
    route.on_link = (header.rtm_flags & RTNH_F_ONLINK) != 0;
    byte_view destination;
    const byte_view attributes = skip(payload, sizeof header);
    for_each_attribute(attributes, [&](int type, byte_view value) {
        switch (type) {
        case RTA_DST: destination = value; break;
        case RTA_OIF: route.index = number_of<std::uint32_t>(value); break;
        case RTA_PRIORITY: route.metric = number_of<std::uint32_t>(value); break;
        case RTA_TABLE: route.table = number_of<std::uint32_t>(value); break;
        case RTA_PREFSRC: route.preferred_source = address_of(value); break;
        case RTA_MULTIPATH: read_hops(value, route); break;
        case RTA_METRICS:
            for_each_attribute(value, [&](int metric, byte_view number) {
                if (metric == RTAX_MTU) route.mtu = number_of<std::uint32_t>(number);
            });
            break;
        default: break;
        }
    });
    read_gateway(attributes, route.gateway);
    const auto prefix = prefix_of(destination, header.rtm_family, header.rtm_dst_len);
    if (!prefix) return std::nullopt;
    route.destination = *prefix;
    return route;
}

std::optional<route_with_hops> read_route_with_hops(byte_view payload) {
    const auto route = read_route(payload);
    if (!route) return std::nullopt;
    route_with_hops row{*route, {}};
    for_each_attribute(skip(payload, sizeof(rtmsg)), [&](int type, byte_view value) {
        if (type == RTA_MULTIPATH) for_each_hop(value, [&](const ip_next_hop& hop) { row.hops.push_back(hop); });
    });
    if (row.hops.empty() && (route->gateway || route->index != 0)) {
        ip_next_hop only;
        only.gateway = route->gateway;
        only.index = route->index;
        only.on_link = route->on_link;
        row.hops.push_back(only);
    }
    return row;
}

std::optional<ip_rule> read_rule(byte_view payload) {
    const auto header = load<fib_rule_hdr>(payload);
    if (!is_ip(header.family)) return std::nullopt;
    ip_rule rule;
    rule.v6 = header.family == AF_INET6;
    rule.table = header.table;
    rule.action = static_cast<rule_action>(header.action);
    rule.invert = (header.flags & FIB_RULE_INVERT) != 0;
    rule.priority = 0; // the kernel leaves 0 out
    byte_view from, to;
    for_each_attribute(skip(payload, sizeof header), [&](int type, byte_view value) {
        switch (type) {
        case FRA_SRC: from = value; break;
        case FRA_DST: to = value; break;
        case FRA_PRIORITY: rule.priority = number_of<std::uint32_t>(value); break;
        case FRA_TABLE: rule.table = number_of<std::uint32_t>(value); break;
        case FRA_FWMARK: rule.mark = number_of<std::uint32_t>(value); break;
        case FRA_FWMASK: rule.mark_mask = number_of<std::uint32_t>(value); break;
        case FRA_IIFNAME: rule.input_device = name_of(value); break;
        case FRA_OIFNAME: rule.output_device = name_of(value); break;
        case FRA_SUPPRESS_PREFIXLEN:
            if (number_of<std::uint32_t>(value) != 0xffffffff)
                rule.suppress_prefix_length = number_of<std::uint32_t>(value);
            break;
        default: break;
        }
    });
    if (!from.empty() && !(rule.from = prefix_of(from, header.family, header.src_len))) return std::nullopt;
    if (!to.empty() && !(rule.to = prefix_of(to, header.family, header.dst_len))) return std::nullopt;
    if (!rule.mark) rule.mark_mask = 0xffffffff;
    return rule;
}

std::optional<ip_neighbour> read_neighbour(byte_view payload) {
    const auto header = load<ndmsg>(payload);
    if (!is_ip(header.ndm_family)) return std::nullopt;
    ip_neighbour row;
    row.index = static_cast<unsigned>(header.ndm_ifindex);
    row.state = static_cast<neighbour_state>(header.ndm_state);
    row.proxy = (header.ndm_flags & NTF_PROXY) != 0;
    row.router = (header.ndm_flags & NTF_ROUTER) != 0;
    std::optional<wire::ip_address> address;
    for_each_attribute(skip(payload, sizeof header), [&](int type, byte_view value) {
        if (type == NDA_DST) address = address_of(value);
        if (type == NDA_LLADDR) row.mac = mac_of(value);
    });
    if (!address || address->is_v6() != (header.ndm_family == AF_INET6)) return std::nullopt;
    row.address = *address;
    return row;
}

} // namespace cotun::link
