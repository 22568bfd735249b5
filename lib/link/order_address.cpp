// SPDX-License-Identifier: Apache-2.0
#include "link/order.hpp"

#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

namespace cotun::link {
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
    header.ifa_family = family_number(v6);
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
    if (a.lifetimes.valid || a.lifetimes.preferred) {
        ifa_cacheinfo life{};
        const auto seconds = [](const std::optional<std::chrono::seconds>& time, std::uint32_t otherwise) {
            constexpr std::chrono::seconds longest{0xfffffffe}; // one more is for ever
            return time ? static_cast<std::uint32_t>(std::clamp(*time, std::chrono::seconds{0}, longest).count())
                        : otherwise;
        };
        life.ifa_valid = seconds(a.lifetimes.valid, 0xffffffff);
        life.ifa_prefered = seconds(a.lifetimes.preferred, life.ifa_valid);
        req.attribute(IFA_CACHEINFO, &life, sizeof life);
    }
    return {std::move(req), fmt::format("give LINK the address {}", a.address.to_string()), index,
            [v6](int error) { return address_remedy(error, v6); }};
}

order delete_address(unsigned index, const link_address& a) {
    request req{RTM_DELADDR, NLM_F_ACK, address_header(index, a)};
    attribute(req, IFA_LOCAL, a.address.address());
    attribute(req, IFA_ADDRESS, a.peer.value_or(a.address.address()));
    return {std::move(req), fmt::format("take the address {} from LINK", a.address.to_string()), index,
            [](int error) -> std::string_view {
                return error == EADDRNOTAVAIL ? "the link has no such address, with this length and peer" : "";
            }};
}

// The kernel sends the addresses of all links, and one without IPv6 sends IPv4's in place of them.
order list_addresses(int family) {
    ifaddrmsg header{};
    header.ifa_family = static_cast<std::uint8_t>(family);
    return {request{RTM_GETADDR, NLM_F_DUMP, header}, "list the addresses"};
}

} // namespace cotun::link
