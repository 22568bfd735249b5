// SPDX-License-Identifier: Apache-2.0
#include "net/multicast.hpp"

#include "io/fail.hpp"
#include "net/sockaddr.hpp"
#include "net/socket_options.hpp"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#if !defined(IPV6_MULTICAST_ALL)
#define IPV6_MULTICAST_ALL 29 // Linux 4.20
#endif

namespace cotun::detail {
namespace {

std::string why_not(membership change, int error, std::uint32_t interface) {
    switch (error) {
    case EADDRINUSE: return "the socket is a member already";
    case EADDRNOTAVAIL:
        return change == membership::leave ? "the socket is not a member on that interface"
                                           : "the interface cannot have members";
    case ENODEV:
        return interface != 0 ? fmt::format("there is no interface with the index {}", interface)
                              : "no route leads to the group: name the interface";
    case ENOBUFS: return "too many groups: raise net.ipv4.igmp_max_memberships";
    case ENOMEM: return "too many groups: raise net.core.optmem_max";
    default: return "the kernel refused";
    }
}

} // namespace

void change_membership(int descriptor, int family, membership change, const wire::ip_address& group,
                       std::uint32_t interface, const std::string& who) {
    const wire::ip_address address = group.unmapped();
    const std::string tried =
        fmt::format("{}: {} {}", who, change == membership::join ? "joining" : "leaving", address.to_string());
    if (!address.is_multicast()) fail(EINVAL, tried + ": it is not a multicast group (224.0.0.0/4, ff00::/8)");
    if (address.is_v6() && family != AF_INET6)
        fail(EAFNOSUPPORT, tried + ": an IPv4 socket has no IPv6 groups: bind it to [::], which has both");
    group_req request{};
    request.gr_interface = interface;
    const socket_address to = to_sockaddr(endpoint(address, 0));
    std::memcpy(&request.gr_group, to.bytes.data(), to.size);
    const int level = address.is_v6() ? IPPROTO_IPV6 : IPPROTO_IP;
    const int name = change == membership::join ? MCAST_JOIN_GROUP : MCAST_LEAVE_GROUP;
    if (setsockopt(descriptor, level, name, &request, sizeof request) == 0) return;
    const int error = errno;
    fail(error, fmt::format("{}: {}", tried, why_not(change, error, interface)));
}

void set_multicast_options(int descriptor, int family, const udp_options& options) {
    const bool v6 = family == AF_INET6;
    const auto set = [descriptor, v6](int v4_name, int v6_name, int value) {
        set_option(descriptor, IPPROTO_IP, v4_name, value);
        if (v6) set_option(descriptor, IPPROTO_IPV6, v6_name, value);
    };
    set(IP_MULTICAST_ALL, IPV6_MULTICAST_ALL, 0);
    if (options.multicast_ttl && *options.multicast_ttl > 255)
        fail(EINVAL, fmt::format("open_udp: multicast_ttl is {}; it must be 0 to 255", *options.multicast_ttl));
    if (options.multicast_ttl) set(IP_MULTICAST_TTL, IPV6_MULTICAST_HOPS, static_cast<int>(*options.multicast_ttl));
    if (!options.multicast_loop) set(IP_MULTICAST_LOOP, IPV6_MULTICAST_LOOP, 0);
    if (options.multicast_interface.empty()) return;
    ip_mreqn out{};
    out.imr_ifindex =
        static_cast<int>(interface_index(descriptor, options.multicast_interface, "open_udp: multicast_interface"));
    int error = setsockopt(descriptor, IPPROTO_IP, IP_MULTICAST_IF, &out, sizeof out) == 0 ? 0 : errno;
    if (error == 0 && v6) error = set_option(descriptor, IPPROTO_IPV6, IPV6_MULTICAST_IF, out.imr_ifindex);
    if (error != 0)
        fail(error,
             fmt::format("open_udp: multicast_interface \"{}\": it must be socket_options::device, where that is "
                         "given",
                         options.multicast_interface.view()));
}

} // namespace cotun::detail
