// SPDX-License-Identifier: Apache-2.0
#include "link/netns_scope.hpp"
#include "link/order.hpp"
#include "link/refusal.hpp"

#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

namespace cotun::link {
namespace {

// The header of a request about a link; of its flags, only those in `changed` are set to what `flags` says.
ifinfomsg about(unsigned index, unsigned flags = 0, unsigned changed = 0) noexcept {
    ifinfomsg header{};
    header.ifi_index = static_cast<int>(index);
    header.ifi_flags = flags;
    header.ifi_change = changed;
    return header;
}

} // namespace

order find_link(std::string_view name) {
    std::string shown{name.substr(0, 64)}; // it may come from anywhere
    std::replace_if(
        shown.begin(), shown.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
    const std::string intent = fmt::format("find link '{}'", shown);
    check_link_name(name, intent);
    request req{RTM_GETLINK, NLM_F_ACK, ifinfomsg{}};
    req.text(IFLA_IFNAME, name);
    return {std::move(req), intent};
}

order find_link(unsigned index) {
    return {request{RTM_GETLINK, NLM_F_ACK, about(index)}, fmt::format("find the link of index {}", index)};
}

order list_links() { return {request{RTM_GETLINK, NLM_F_DUMP, ifinfomsg{}}, "list the links"}; }

order set_up(unsigned index) {
    return {request{RTM_SETLINK, NLM_F_ACK, about(index, IFF_UP, IFF_UP)}, "set LINK up", index};
}

order set_down(unsigned index) {
    return std::move(
        order{request{RTM_SETLINK, NLM_F_ACK, about(index, 0, IFF_UP)}, "set LINK down", index}.takes_a_while());
}

order set_mtu(unsigned index, unsigned mtu) {
    request req{RTM_SETLINK, NLM_F_ACK, about(index)};
    req.attribute(IFLA_MTU, std::uint32_t{mtu});
    return std::move(order{std::move(req), fmt::format("set the MTU of LINK to {}", mtu), index}.about_mtu());
}

order set_mac(unsigned index, const wire::mac_address& mac) {
    request req{RTM_SETLINK, NLM_F_ACK, about(index)};
    req.attribute(IFLA_ADDRESS, mac.bytes());
    return {std::move(req), fmt::format("give LINK the MAC address {}", mac.to_string()), index,
            [](int error) -> std::string_view {
                switch (error) {
                case EADDRNOTAVAIL:
                case EINVAL: return "it must be unicast and not zero, like 02:00:5e:00:53:01";
                case EOPNOTSUPP: return "links of this kind, such as TUN devices, have no Ethernet address";
                case EBUSY: return "links of this kind must be down while their address changes";
                default: return {};
                }
            }};
}

order delete_link(unsigned index) {
    const auto help = [](int error) -> std::string_view {
        return error == EOPNOTSUPP ? "links of this kind (lo, hardware) cannot be deleted" : "";
    };
    return std::move(order{request{RTM_DELLINK, NLM_F_ACK, about(index)}, "delete LINK", index, help}.takes_a_while());
}

order rename_link(unsigned index, std::string_view name) {
    const std::string intent = fmt::format("rename LINK to '{}'", name.substr(0, 64));
    check_link_name(name, intent);
    request req{RTM_SETLINK, NLM_F_ACK, about(index)};
    req.text(IFLA_IFNAME, name);
    return {std::move(req), intent, index, [](int error) -> std::string_view {
                if (error == EEXIST) return "another link has this name";
                return error == EBUSY ? "this kernel renames only links that are down: set it down first" : "";
            }};
}

order set_transmit_queue_length(unsigned index, unsigned packets) {
    request req{RTM_SETLINK, NLM_F_ACK, about(index)};
    req.attribute(IFLA_TXQLEN, std::uint32_t{packets});
    return {std::move(req), fmt::format("set the transmit queue of LINK to {} packets", packets), index};
}

order set_gso_max_size(unsigned index, unsigned bytes) {
    request req{RTM_SETLINK, NLM_F_ACK, about(index)};
    req.attribute(IFLA_GSO_MAX_SIZE, std::uint32_t{bytes});
    return {std::move(req), fmt::format("set the largest superpacket of LINK to {} bytes", bytes), index,
            [](int error) -> std::string_view {
                return error == EINVAL ? "it is more than the device (tso_max_size of `ip -d link`) can have" : "";
            }};
}

order set_master(unsigned index, unsigned master) {
    request req{RTM_SETLINK, NLM_F_ACK, about(index)};
    req.attribute(IFLA_MASTER, std::uint32_t{master});
    const std::string intent =
        master == 0 ? "take LINK out of its master" : fmt::format("put LINK under the link of index {}", master);
    return {std::move(req), intent, index, [](int error) -> std::string_view {
                switch (error) {
                case EOPNOTSUPP: return "the master must be a bridge, bond, team or VRF";
                case EINVAL:
                    return "links of this kind cannot belong to it; a bridge takes Ethernet only: TAP, not TUN";
                case ELOOP: return "a bridge cannot be part of a bridge";
                case EBUSY: return "it belongs to another already";
                default: return {};
                }
            }};
}

namespace {

std::shared_ptr<const unique_fd> open_for(const netns_reference& there, std::string_view intent) {
    return std::make_shared<const unique_fd>(open_namespace(there, fmt::format("cotun: cannot {}", intent)));
}

void netns_attribute(request& req, const unique_fd& there) {
    req.attribute(IFLA_NET_NS_FD, static_cast<std::uint32_t>(there.get()));
}

std::string_view creation_remedy(int error) noexcept {
    switch (error) {
    case EEXIST: return "another link has this name: choose another, or delete that one first";
    case EOPNOTSUPP: return "the kernel has no links of this kind: load its module (modprobe)";
    case EADDRNOTAVAIL: return "a MAC address must be unicast and not zero, like 02:00:5e:00:53:01";
    default: return {};
    }
}

request creation_of(std::string_view name, std::string_view intent, unsigned mtu,
                    const std::optional<wire::mac_address>& mac) {
    check_link_name(name, intent);
    if (name.find('%') != std::string_view::npos)
        refuse(intent, EINVAL, {}, "a name with a '%' stands for many; give the one that it is to have");
    request req{RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, ifinfomsg{}};
    req.text(IFLA_IFNAME, name);
    if (mtu != 0) req.attribute(IFLA_MTU, std::uint32_t{mtu});
    if (mac) req.attribute(IFLA_ADDRESS, mac->bytes());
    return req;
}

} // namespace

order move_link(unsigned index, std::string_view name, const netns_reference& there) {
    const std::string intent = fmt::format("move LINK to {}", there.describe());
    if (!name.empty()) check_link_name(name, intent);
    const auto held = open_for(there, fmt::format("move a link to {}", there.describe()));
    request req{RTM_SETLINK, NLM_F_ACK, about(index)};
    netns_attribute(req, *held);
    if (!name.empty()) req.text(IFLA_IFNAME, name);
    const auto help = [](int error) -> std::string_view {
        if (error == EEXIST) return "a link there has this name: give another for it to have there";
        return error == EINVAL ? "links of this kind (lo, and some others) stay where they are" : "";
    };
    return std::move(order{std::move(req), intent, index, help}.takes_a_while().holds(held));
}

order create_veth(const veth_options& o) {
    const std::string intent = fmt::format("create the veth pair {} and {}", o.name.view(), o.peer_name.view());
    check_link_name(o.peer_name, intent);
    request req = creation_of(o.name, intent, o.mtu, o.mac);
    std::shared_ptr<const unique_fd> held;
    const std::size_t info = req.nest(IFLA_LINKINFO);
    req.text(IFLA_INFO_KIND, "veth");
    const std::size_t data = req.nest(IFLA_INFO_DATA);
    const std::size_t peer = req.begin(1); // VETH_INFO_PEER of <linux/veth.h>: a message within the message
    req.raw(ifinfomsg{});
    req.text(IFLA_IFNAME, o.peer_name);
    if (o.mtu != 0) req.attribute(IFLA_MTU, std::uint32_t{o.mtu});
    if (o.peer_mac) req.attribute(IFLA_ADDRESS, o.peer_mac->bytes());
    if (!o.peer_netns.is_here()) {
        held = open_for(o.peer_netns, intent);
        netns_attribute(req, *held);
    }
    req.end(peer);
    req.end(data);
    req.end(info);
    return std::move(order{std::move(req), intent, 0, creation_remedy}.about_mtu().holds(held));
}

order create_bridge(const bridge_options& o) {
    const std::string intent = fmt::format("create the bridge {}", o.name.view());
    request req = creation_of(o.name, intent, o.mtu, o.mac);
    const std::size_t info = req.nest(IFLA_LINKINFO);
    req.text(IFLA_INFO_KIND, "bridge");
    const std::size_t data = req.nest(IFLA_INFO_DATA);
    if (o.spanning_tree) req.attribute(IFLA_BR_STP_STATE, std::uint32_t{1});
    if (o.vlan_filtering) req.attribute(IFLA_BR_VLAN_FILTERING, std::uint8_t{1});
    req.end(data);
    req.end(info);
    return {std::move(req), intent, 0, [vlans = o.vlan_filtering](int error) -> std::string_view {
                if (error == EOPNOTSUPP && vlans)
                    return "the kernel has no bridges (modprobe bridge), or none that know VLANs "
                           "(CONFIG_BRIDGE_VLAN_FILTERING)";
                return creation_remedy(error);
            }};
}

order create_dummy(const dummy_options& o) {
    const std::string intent = fmt::format("create the dummy link {}", o.name.view());
    request req = creation_of(o.name, intent, o.mtu, o.mac);
    const std::size_t info = req.nest(IFLA_LINKINFO);
    req.text(IFLA_INFO_KIND, "dummy");
    req.end(info);
    return {std::move(req), intent, 0, creation_remedy};
}

} // namespace cotun::link
