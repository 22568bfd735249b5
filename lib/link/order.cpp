// SPDX-License-Identifier: Apache-2.0
#include "link/order.hpp"

#include "link/refusal.hpp"

#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

namespace cotun::link {

// --- refusals ------------------------------------------------------------------------------------------------------

bool order::wants_range(int error) const noexcept { return mtu_ && (error == EINVAL || error == ERANGE); }

void order::refuse(const outcome& why, std::string_view link, std::string_view range) const {
    constexpr std::string_view placeholder = "LINK";
    std::string text = intent_;
    if (const std::size_t at = text.find(placeholder); !link.empty() && at != std::string::npos)
        text.replace(at, placeholder.size(), link);
    std::string_view help = range;
    if (help.empty() && helps_) help = helps_(why.error);
    if (help.empty()) help = general_remedy(why.error);
    link::refuse(text, why.error, why.text, help);
}

std::string describe_range(const link_info& link) {
    if (link.mtu_max != 0) return fmt::format("it can be {} to {} bytes", link.mtu_min, link.mtu_max);
    if (link.mtu_min != 0) return fmt::format("it must be {} bytes at least", link.mtu_min);
    return {};
}

std::string describe_link(const link_info* link, unsigned index) {
    return link != nullptr ? fmt::format("link {}", link->name.view()) : fmt::format("the link of index {}", index);
}

namespace {

bool is_link_name(std::string_view name) noexcept {
    constexpr std::string_view forbidden{"/: \t\n\v\f\r\0", 9};
    return !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
           name.find_first_of(forbidden) == std::string_view::npos;
}

// The header of a request about a link; of its flags, only those in `changed` are set to what `flags` says.
ifinfomsg about(unsigned index, unsigned flags = 0, unsigned changed = 0) noexcept {
    ifinfomsg header{};
    header.ifi_index = static_cast<int>(index);
    header.ifi_flags = flags;
    header.ifi_change = changed;
    return header;
}

std::uint8_t family_of(bool v6) noexcept { return static_cast<std::uint8_t>(v6 ? AF_INET6 : AF_INET); }

void attribute(request& req, std::uint16_t type, const wire::ip_address& address) {
    req.attribute(type, address.bytes());
}

} // namespace

void check_link_name(std::string_view name, std::string_view intent) {
    if (!is_link_name(name))
        refuse(intent, EINVAL, {}, "a link's name has 1 to 15 bytes, without '/', ':' or blanks, like tun0");
}

// --- links ---------------------------------------------------------------------------------------------------------

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
    return {request{RTM_SETLINK, NLM_F_ACK, about(index, 0, IFF_UP)}, "set LINK down", index};
}

order set_mtu(unsigned index, unsigned mtu) {
    request req{RTM_SETLINK, NLM_F_ACK, about(index)};
    req.attribute(IFLA_MTU, std::uint32_t{mtu});
    order made{std::move(req), fmt::format("set the MTU of LINK to {}", mtu), index};
    made.about_mtu();
    return made;
}

order set_transmit_queue_length(unsigned index, unsigned packets) {
    request req{RTM_SETLINK, NLM_F_ACK, about(index)};
    req.attribute(IFLA_TXQLEN, std::uint32_t{packets});
    return {std::move(req), fmt::format("set the transmit queue of LINK to {} packets", packets), index};
}

order set_gso_max_size(unsigned index, unsigned bytes) {
    request req{RTM_SETLINK, NLM_F_ACK, about(index)};
    req.attribute(IFLA_GSO_MAX_SIZE, std::uint32_t{bytes});
    return {std::move(req), fmt::format("set the largest superpacket of LINK to {} bytes", bytes), index};
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
    return {request{RTM_DELLINK, NLM_F_ACK, about(index)}, "delete LINK", index, [](int error) -> std::string_view {
                return error == EOPNOTSUPP ? "links of this kind (lo, hardware) cannot be deleted" : "";
            }};
}

// --- addresses -----------------------------------------------------------------------------------------------------

namespace {

std::string_view address_remedy(int error, bool v6) noexcept {
    if (v6 && (error == EACCES || error == EOPNOTSUPP || error == EAFNOSUPPORT))
        return "IPv6 is switched off here: see the sysctl net.ipv6.conf.*.disable_ipv6 and the kernel's command line";
    if (v6 && (error == ENOBUFS || error == EINVAL))
        return "IPv6 needs a link with an MTU of 1280 at least, and an address that is not multicast or unspecified";
    if (error == EEXIST) return "it has this address already; leave it out, or delete it first";
    if (error == EADDRNOTAVAIL || error == EINVAL)
        return "it must be the address of one host, like 10.9.0.1/24 or fd00::1/64, and not multicast";
    return {};
}

ifaddrmsg address_header(unsigned index, const link_address& a) noexcept {
    const bool v6 = a.address.is_v6();
    ifaddrmsg header{};
    header.ifa_family = family_of(v6);
    header.ifa_prefixlen = static_cast<std::uint8_t>(a.address.length());
    header.ifa_index = index;
    header.ifa_scope = a.scope.value_or(!v6 && a.address.address().is_loopback() ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE);
    header.ifa_flags = v6 && a.no_dad ? IFA_F_NODAD : 0;
    return header;
}

} // namespace

order add_address(unsigned index, const link_address& a, creation how) {
    const bool v6 = a.address.is_v6();
    const unsigned mode = how == creation::add ? NLM_F_EXCL : NLM_F_REPLACE;
    request req{RTM_NEWADDR, NLM_F_CREATE | mode | NLM_F_ACK, address_header(index, a)};
    attribute(req, IFA_LOCAL, a.address.address());
    attribute(req, IFA_ADDRESS, a.peer.value_or(a.address.address()));
    if (a.broadcast) attribute(req, IFA_BROADCAST, *a.broadcast);
    if (a.lifetimes != address_lifetimes{}) {
        ifa_cacheinfo life{};
        const auto seconds = [](const std::optional<std::chrono::seconds>& time, std::uint32_t otherwise) {
            return time ? static_cast<std::uint32_t>(time->count()) : otherwise;
        };
        life.ifa_valid = seconds(a.lifetimes.valid, 0xffffffff);
        life.ifa_prefered = seconds(a.lifetimes.preferred, life.ifa_valid);
        req.attribute(IFA_CACHEINFO, &life, sizeof life);
    }
    return {std::move(req), fmt::format("give LINK the address {}", a.address.to_string()), index,
            [v6](int error) { return address_remedy(error, v6); }};
}

// The kernel sends the addresses of all links, and one without IPv6 sends IPv4's in place of them.
order list_addresses(int family) {
    ifaddrmsg header{};
    header.ifa_family = static_cast<std::uint8_t>(family);
    return {request{RTM_GETADDR, NLM_F_DUMP, header}, "list the addresses"};
}

// --- routes --------------------------------------------------------------------------------------------------------

order find_route(const wire::ip_address& destination) {
    rtmsg header{};
    header.rtm_family = family_of(destination.is_v6());
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

} // namespace cotun::link
