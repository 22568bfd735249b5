// SPDX-License-Identifier: Apache-2.0
#include <cotun/net/endpoint.hpp>

#include "io/fail.hpp"
#include "net/sockaddr.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fmt/format.h>
#include <net/if.h>

namespace cotun {
namespace {

// The addresses that mean something on their own link or interface only (RFC 4291 2.5.6, 2.7).
bool has_scope(const wire::ip_address& a) noexcept {
    if (!a.is_v6()) return false;
    const unsigned multicast_scope = a.v6().bytes()[1] & 0x0fU;
    return a.v6().is_link_local() || (a.is_multicast() && (multicast_scope == 1 || multicast_scope == 2));
}

template <typename Number>
std::optional<Number> parse_number(std::string_view digits) noexcept {
    Number n = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
    if (digits.empty() || error != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
    return n;
}

// 0: there is no such interface.
std::uint32_t parse_scope(std::string_view zone) noexcept {
    if (const std::optional<std::uint32_t> index = parse_number<std::uint32_t>(zone)) return *index;
    std::array<char, IF_NAMESIZE> name{};
    if (zone.size() >= name.size()) return 0;
    std::copy(zone.begin(), zone.end(), name.begin());
    return if_nametoindex(name.data());
}

} // namespace

std::optional<endpoint> endpoint::parse(std::string_view text) noexcept {
    const std::size_t colon = text.rfind(':');
    if (colon == std::string_view::npos) return std::nullopt;
    std::string_view host = text.substr(0, colon);
    const std::string_view digits = text.substr(colon + 1);
    const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
    if (bracketed) host = host.substr(1, host.size() - 2);
    const std::size_t percent = host.find('%');
    const std::optional<wire::ip_address> address = wire::ip_address::parse(host.substr(0, percent));
    const std::optional<std::uint16_t> port = parse_number<std::uint16_t>(digits);
    if (!address || address->is_v6() != bracketed || !port) return std::nullopt;
    if (percent == std::string_view::npos) return endpoint(*address, *port);
    const std::uint32_t scope = has_scope(*address) ? parse_scope(host.substr(percent + 1)) : 0;
    return scope == 0 ? std::nullopt : std::optional(endpoint(*address, *port, scope));
}

endpoint endpoint::from_string(std::string_view text) {
    if (const std::optional<endpoint> e = parse(text)) return *e;
    detail::fail(EINVAL,
                 fmt::format("\"{}\" is not an address and a port: write 192.0.2.1:51820 or [2001:db8::1]:51820, "
                             "the port 0 to 65535; a link-local address with its interface: [fe80::1%eth0]:51820",
                             text));
}

std::string endpoint::to_string() const {
    if (!address_.is_v6()) return fmt::format("{}:{}", address_.to_string(), port_);
    return scope_ == 0 ? fmt::format("[{}]:{}", address_.to_string(), port_)
                       : fmt::format("[{}%{}]:{}", address_.to_string(), scope_, port_);
}

namespace detail {

socket_address to_sockaddr(const endpoint& e, bool as_v6) noexcept {
    socket_address out;
    const wire::ip_address address = e.address().unmapped();
    if (address.is_v6() || as_v6) {
        sockaddr_in6 a{};
        a.sin6_family = AF_INET6;
        a.sin6_port = htons(e.port());
        a.sin6_scope_id = e.scope();
        const wire::ipv6_address v6 = address.is_v6() ? address.v6() : wire::ipv6_address::mapped(address.v4());
        std::memcpy(&a.sin6_addr, v6.bytes().data(), 16);
        std::memcpy(out.bytes.data(), &a, sizeof a);
        out.size = sizeof a;
    } else {
        sockaddr_in a{};
        a.sin_family = AF_INET;
        a.sin_port = htons(e.port());
        std::memcpy(&a.sin_addr, address.v4().bytes().data(), 4);
        std::memcpy(out.bytes.data(), &a, sizeof a);
        out.size = sizeof a;
    }
    return out;
}

endpoint from_sockaddr(std::span<const std::byte> bytes) noexcept {
    sa_family_t family = AF_UNSPEC;
    if (bytes.size() >= sizeof family) std::memcpy(&family, bytes.data(), sizeof family);
    if (family == AF_INET && bytes.size() >= sizeof(sockaddr_in)) {
        sockaddr_in a{};
        std::memcpy(&a, bytes.data(), sizeof a);
        wire::ipv4_address::bytes_type v4{};
        std::memcpy(v4.data(), &a.sin_addr, v4.size());
        return {wire::ipv4_address(v4), ntohs(a.sin_port)};
    }
    if (family == AF_INET6 && bytes.size() >= sizeof(sockaddr_in6)) {
        sockaddr_in6 a{};
        std::memcpy(&a, bytes.data(), sizeof a);
        wire::ipv6_address::bytes_type v6{};
        std::memcpy(v6.data(), &a.sin6_addr, v6.size());
        return {wire::ip_address(wire::ipv6_address(v6)).unmapped(), ntohs(a.sin6_port), a.sin6_scope_id};
    }
    return {};
}

} // namespace detail
} // namespace cotun
