// SPDX-License-Identifier: Apache-2.0
//
// endpoint: an IP address and a UDP or TCP port; for link-local IPv6 addresses also the interface that they hold on,
// which is their scope (RFC 4007).
#pragma once

#include <cotun/wire/address.hpp>

#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace cotun {

class endpoint {
public:
    constexpr endpoint() noexcept = default;
    constexpr endpoint(const wire::ip_address& address, std::uint16_t port, std::uint32_t scope = 0) noexcept
        : address_(address), port_(port), scope_(scope) {}

    /// "192.0.2.1:51820" or "[2001:db8::1]:51820"; port 0 to 65535. A link-local IPv6 address may name its interface,
    /// or give its index: "[fe80::1%eth0]:51820"; the name is looked up in the calling thread's network namespace.
    [[nodiscard]] static std::optional<endpoint> parse(std::string_view text) noexcept;
    /// The same; throws std::system_error(invalid_argument) that shows a right example.
    [[nodiscard]] static endpoint from_string(std::string_view text);
    [[nodiscard]] std::string to_string() const;

    [[nodiscard]] constexpr const wire::ip_address& address() const noexcept { return address_; }
    [[nodiscard]] constexpr std::uint16_t port() const noexcept { return port_; }
    /// The index of the interface; 0: none.
    [[nodiscard]] constexpr std::uint32_t scope() const noexcept { return scope_; }

    friend constexpr auto operator<=>(const endpoint&, const endpoint&) noexcept = default;

private:
    wire::ip_address address_;
    std::uint16_t port_ = 0;
    std::uint32_t scope_ = 0;
};

} // namespace cotun

template <>
struct std::hash<cotun::endpoint> {
    std::size_t operator()(const cotun::endpoint& e) const noexcept {
        return cotun::wire::detail::hash_bytes(e.address().bytes(), std::uint64_t{e.scope()} << 16 | e.port());
    }
};
