// SPDX-License-Identifier: Apache-2.0
#include "net/socket_options.hpp"

#include "io/fail.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <string>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace cotun::detail {
namespace {

// Setting options on one socket, and the words for what is refused.
class setter {
public:
    setter(int descriptor, int family, std::string_view what) noexcept
        : descriptor_(descriptor), family_(family), what_(what) {}

    bool is_v6() const noexcept { return family_ == AF_INET6; }
    bool is_ip() const noexcept { return is_v6() || family_ == AF_INET; }

    int set(int level, int name, int value) const noexcept { return set_option(descriptor_, level, name, value); }

    // An option that IPv4 and IPv6 name differently. An IPv6 socket takes IPv4's as well, for the IPv4 that it carries.
    int set_ip(int v4_name, int v6_name, int value) const noexcept {
        const int error = set(IPPROTO_IP, v4_name, value);
        return is_v6() && error == 0 ? set(IPPROTO_IPV6, v6_name, value) : error;
    }

    // The privileged form goes beyond the system's bounds; the other is cut to them.
    void set_buffer(int forced, int bounded, unsigned bytes) const noexcept {
        const int value = static_cast<int>(std::min(bytes, 1U << 30));
        if (bytes != 0 && set(SOL_SOCKET, forced, value) != 0) set(SOL_SOCKET, bounded, value);
    }

    void bind_device(std::string_view name) const {
        if (name.size() >= IF_NAMESIZE)
            refuse(ENAMETOOLONG, fmt::format("device \"{}\"", name), "names of interfaces have 15 characters at most");
        if (setsockopt(descriptor_, SOL_SOCKET, SO_BINDTODEVICE, name.data(), static_cast<socklen_t>(name.size())) == 0)
            return;
        const int error = errno;
        refuse(error, fmt::format("device \"{}\"", name),
               error == ENODEV  ? "this network namespace has no such interface; `ip link` shows those that it has"
               : error == EPERM ? "before Linux 5.7 it needs CAP_NET_RAW"
                                : "the kernel refused");
    }

    void check(std::string_view option, std::optional<unsigned> value, unsigned least) const {
        if (value && (*value < least || *value > 255))
            fail(EINVAL, fmt::format("{}: {} is {}; it must be {} to 255", what_, option, *value, least));
    }

    void need(int error, std::string_view option, std::string_view remedy = "the kernel refused") const {
        if (error != 0) refuse(error, option, remedy);
    }

    [[noreturn]] void refuse(int error, std::string_view option, std::string_view remedy) const {
        fail(error, fmt::format("{}: {}: {}", what_, option, remedy));
    }

private:
    int descriptor_;
    int family_;
    std::string_view what_;
};

int kernel_value(path_mtu_discovery mode) noexcept {
    switch (mode) {
    case path_mtu_discovery::fragment: return IP_PMTUDISC_DONT;
    case path_mtu_discovery::keep: return IP_PMTUDISC_DO;
    case path_mtu_discovery::probe: return IP_PMTUDISC_PROBE;
    case path_mtu_discovery::omit: return IP_PMTUDISC_OMIT;
    default: return IP_PMTUDISC_WANT;
    }
}

constexpr const char* needs_privilege =
    "needs CAP_NET_ADMIN in the network namespace: run as root, or `setcap cap_net_admin+ep` the program";

void set_ip_options(const setter& s, const socket_options& options) {
    if (options.ttl)
        s.need(s.set_ip(IP_TTL, IPV6_UNICAST_HOPS, static_cast<int>(*options.ttl)),
               fmt::format("ttl {}", *options.ttl));
    if (options.tos)
        s.need(s.set_ip(IP_TOS, IPV6_TCLASS, static_cast<int>(*options.tos)), fmt::format("tos {}", *options.tos),
               "before Linux 5.9 some values need CAP_NET_ADMIN");
    if (options.mtu_discovery != path_mtu_discovery::system)
        s.need(s.set_ip(IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, kernel_value(options.mtu_discovery)), "mtu_discovery");
}

} // namespace

int set_option(int descriptor, int level, int name, int value) noexcept {
    return setsockopt(descriptor, level, name, &value, sizeof value) == 0 ? 0 : errno;
}

unsigned interface_index(int descriptor, std::string_view name, std::string_view what) {
    ifreq request{};
    const bool fits = name.size() < sizeof request.ifr_name;
    if (fits) std::copy(name.begin(), name.end(), request.ifr_name);
    if (!fits || name.empty() || ioctl(descriptor, SIOCGIFINDEX, &request) != 0)
        fail(ENODEV,
             fmt::format("{}: the socket's network namespace has no interface \"{}\"; `ip link` shows those that "
                         "it has",
                         what, name));
    return static_cast<unsigned>(request.ifr_ifindex);
}

void set_options(int descriptor, int family, const socket_options& options, std::string_view what) {
    const setter s(descriptor, family, what);
    s.check("ttl", options.ttl, 1);
    s.check("tos", options.tos, 0);
    if (!options.device.empty()) s.bind_device(options.device);
    if (options.reuse_address) s.need(s.set(SOL_SOCKET, SO_REUSEADDR, 1), "reuse_address");
    if (options.reuse_port) s.need(s.set(SOL_SOCKET, SO_REUSEPORT, 1), "reuse_port");
    s.set_buffer(SO_RCVBUFFORCE, SO_RCVBUF, options.receive_buffer);
    s.set_buffer(SO_SNDBUFFORCE, SO_SNDBUF, options.send_buffer);
    if (options.mark)
        s.need(s.set(SOL_SOCKET, SO_MARK, static_cast<int>(*options.mark)), fmt::format("mark {}", *options.mark),
               needs_privilege);
    // After tos, which sets a priority of its own.
    if (s.is_ip()) set_ip_options(s, options);
    if (options.priority)
        s.need(s.set(SOL_SOCKET, SO_PRIORITY, static_cast<int>(*options.priority)),
               fmt::format("priority {}: a value beyond 6", *options.priority), needs_privilege);
}

} // namespace cotun::detail
