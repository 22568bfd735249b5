// SPDX-License-Identifier: Apache-2.0
//
// `cotun tun show`: what the kernel tells of TUN and TAP interfaces.
#include "command.hpp"
#include "elsewhere.hpp"
#include "json.hpp"
#include "netdev_features.hpp"
#include "tun.hpp"

#include "link/netlink.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <getopt.h>
#include <net/if.h>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace cotun::command {
namespace {

struct shown_link {
    link_info link;
    std::vector<wire::ip_prefix> addresses;
    std::vector<std::string> offloads;
};

// A link that goes while it is looked at is left out.
std::vector<shown_link> all_tun_links(link::netlink_socket& netlink) {
    std::vector<shown_link> found;
    struct if_nameindex* const names = ::if_nameindex();
    if (names == nullptr) throw std::system_error(errno, std::generic_category(), "cotun: listing the links");
    std::vector<unsigned> indexes;
    for (const struct if_nameindex* each = names; each->if_index != 0; ++each) indexes.push_back(each->if_index);
    ::if_freenameindex(names);
    for (const unsigned index : indexes) {
        try {
            const link_info link = netlink.get_link(index);
            if (link.kind != "tun") continue;
            found.push_back({link, netlink.addresses(index), active_offloads(std::string(link.name))});
        } catch (const std::system_error& e) {
            if (e.code().value() != ENODEV) throw;
        }
    }
    return found;
}

std::vector<shown_link> one_tun_link(link::netlink_socket& netlink, const char* name) {
    const link_info link = netlink.get_link(name);
    if (link.kind != "tun")
        throw std::system_error(EOPNOTSUPP, std::generic_category(),
                                fmt::format("cotun: {} is no TUN or TAP device; `ip link show` shows others", name));
    return {{link, netlink.addresses(link.index), active_offloads(std::string(link.name))}};
}

std::vector<std::string> flags_of(const link_info& link) {
    std::vector<std::string> names;
    for (const auto& [flag, name] :
         {std::pair{unsigned{IFF_UP}, "up"}, std::pair{unsigned{IFF_RUNNING}, "running"},
          std::pair{unsigned{IFF_POINTOPOINT}, "point-to-point"}, std::pair{unsigned{IFF_BROADCAST}, "broadcast"},
          std::pair{unsigned{IFF_MULTICAST}, "multicast"}, std::pair{unsigned{IFF_NOARP}, "no-arp"},
          std::pair{unsigned{IFF_PROMISC}, "promiscuous"}})
        if ((link.flags & flag) != 0) names.emplace_back(name);
    if (link.carrier) names.emplace_back("carrier");
    const tun_info kind = link.tun.value_or(tun_info{});
    for (const auto& [set, name] :
         {std::pair{kind.persistent, "persistent"}, std::pair{kind.multi_queue, "multi-queue"},
          std::pair{kind.vnet_header, "vnet-header"}, std::pair{kind.packet_information, "packet-information"}})
        if (set) names.emplace_back(name);
    return names;
}

std::string joined(const std::vector<std::string>& words) { return fmt::format("{}", fmt::join(words, " ")); }

std::string text_of(const shown_link& shown) {
    const link_info& link = shown.link;
    const tun_info kind = link.tun.value_or(tun_info{});
    std::string out = fmt::format("{}: {}, index {}, mtu {}, txqueuelen {}\n", link.name.view(),
                                  kind.tap ? "tap" : "tun", link.index, link.mtu, link.transmit_queue_length);
    out += fmt::format("    flags {}\n", joined(flags_of(link)));
    if (link.mac) out += fmt::format("    mac {}\n", link.mac->to_string());
    for (const wire::ip_prefix& address : shown.addresses) out += fmt::format("    address {}\n", address.to_string());
    if (kind.multi_queue)
        out += fmt::format("    queues {} attached, {} detached\n", kind.queues, kind.disabled_queues);
    if (kind.owner) out += fmt::format("    owner {}\n", *kind.owner);
    if (kind.group) out += fmt::format("    group {}\n", *kind.group);
    if (!shown.offloads.empty()) out += fmt::format("    offloads {}\n", joined(shown.offloads));
    const link_statistics& s = link.statistics;
    // A program reads what the kernel sends, and the other way around: said from the kernel's side, as ip(8) does.
    out += fmt::format("    received {} packets, {} bytes, {} errors, {} dropped\n", s.received_packets,
                       s.received_bytes, s.receive_errors, s.receive_drops);
    out += fmt::format("    sent     {} packets, {} bytes, {} errors, {} dropped\n", s.sent_packets, s.sent_bytes,
                       s.send_errors, s.send_drops);
    return out;
}

void put_list(json_writer& out, const char* name, const std::vector<std::string>& words) {
    out.key(name);
    out.begin_array();
    for (const std::string& word : words) out.value(word);
    out.end_array();
}

void put_statistics(json_writer& out, const link_statistics& s) {
    out.key("statistics");
    out.begin_object();
    out.member("received_packets", s.received_packets);
    out.member("received_bytes", s.received_bytes);
    out.member("receive_errors", s.receive_errors);
    out.member("receive_drops", s.receive_drops);
    out.member("sent_packets", s.sent_packets);
    out.member("sent_bytes", s.sent_bytes);
    out.member("send_errors", s.send_errors);
    out.member("send_drops", s.send_drops);
    out.end_object();
}

void put_link(json_writer& out, const shown_link& shown) {
    const link_info& link = shown.link;
    const tun_info kind = link.tun.value_or(tun_info{});
    out.begin_object();
    out.member("name", link.name.view());
    out.member("index", link.index);
    out.member("kind", kind.tap ? "tap" : "tun");
    out.member("mtu", link.mtu);
    out.member("txqueuelen", link.transmit_queue_length);
    put_list(out, "flags", flags_of(link));
    out.member("up", link.is_up());
    out.member("carrier", link.carrier);
    out.member("persistent", kind.persistent);
    out.member("multi_queue", kind.multi_queue);
    out.member("vnet_header", kind.vnet_header);
    out.member("packet_information", kind.packet_information);
    if (link.mac) out.member("mac", link.mac->to_string());
    std::vector<std::string> addresses;
    for (const wire::ip_prefix& address : shown.addresses) addresses.push_back(address.to_string());
    put_list(out, "addresses", addresses);
    out.member("queues", kind.queues);
    out.member("disabled_queues", kind.disabled_queues);
    if (kind.owner) out.member("owner", *kind.owner);
    if (kind.group) out.member("group", *kind.group);
    put_list(out, "offloads", shown.offloads);
    put_statistics(out, link.statistics);
    out.end_object();
}

std::string json_of(const std::vector<shown_link>& all) {
    json_writer out;
    out.begin_array();
    for (const shown_link& each : all) put_link(out, each);
    out.end_array();
    return std::move(out).text() + '\n';
}

} // namespace

int tun_show(int argc, char** argv) {
    enum { json = 256, netns };
    static const option options[]{
        {"json", no_argument, nullptr, json}, {"netns", required_argument, nullptr, netns}, {}};
    bool as_json = false;
    std::string there;
    for (int c = 0; (c = ::getopt_long(argc, argv, ":", options, nullptr)) != -1;) {
        if (c == json)
            as_json = true;
        else if (c == netns)
            there = ::optarg;
        else
            return refuse_option("tun", c, argv);
    }
    const char* const name = ::optind < argc ? argv[::optind++] : nullptr;
    if (::optind < argc) return refuse_usage("tun", fmt::format("unexpected '{}'", argv[::optind]));
    enter_namespace(there);
    link::netlink_socket netlink;
    const auto found = name != nullptr ? one_tun_link(netlink, name) : all_tun_links(netlink);
    if (as_json) return print(json_of(found));
    std::string text;
    for (const shown_link& each : found) text += text_of(each);
    return print(text);
}

} // namespace cotun::command
