// SPDX-License-Identifier: Apache-2.0
//
// Addresses as values: IPv4, IPv6, either of the two, an address with its prefix length, and Ethernet's MAC.
//
// All of them are small, trivially copyable, totally ordered and hashable, hold their bytes in network order, and
// own nothing; any thread may use its own copies, and none of them touches the kernel.
//
// Text goes in through two doors. `parse` answers with an empty optional and never throws: for input that may well be
// wrong. `from_string` throws std::system_error(std::errc::invalid_argument) whose text says what is wrong with the
// input and shows a right one: for configuration. Both are strict: the whole text must be the address, without blanks,
// port, zone ("%eth0") or trailing bytes, and decimal numbers have no leading zeros, which some programs take for
// octal.
#pragma once

#include <array>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace cotun::wire {

// An IPv4 address. The default is 0.0.0.0.
class ipv4_address {
public:
    using bytes_type = std::array<std::uint8_t, 4>;
    static constexpr int bits = 32;

    constexpr ipv4_address() noexcept = default;
    constexpr explicit ipv4_address(const bytes_type& network_order) noexcept : bytes_(network_order) {}
    constexpr ipv4_address(std::uint8_t a, std::uint8_t b, std::uint8_t c, std::uint8_t d) noexcept
        : bytes_{a, b, c, d} {}

    // Four decimal numbers from 0 to 255 with dots between: "192.0.2.1".
    [[nodiscard]] static std::optional<ipv4_address> parse(std::string_view text) noexcept;
    [[nodiscard]] static ipv4_address from_string(std::string_view text);
    [[nodiscard]] std::string to_string() const;

    [[nodiscard]] constexpr const bytes_type& bytes() const noexcept { return bytes_; }

    // The address as a number in the machine's own order: 127.0.0.1 is 0x7f000001.
    [[nodiscard]] constexpr std::uint32_t to_number() const noexcept {
        return std::uint32_t{bytes_[0]} << 24 | std::uint32_t{bytes_[1]} << 16 | std::uint32_t{bytes_[2]} << 8 |
               std::uint32_t{bytes_[3]};
    }
    [[nodiscard]] static constexpr ipv4_address from_number(std::uint32_t number) noexcept {
        return {static_cast<std::uint8_t>(number >> 24), static_cast<std::uint8_t>(number >> 16),
                static_cast<std::uint8_t>(number >> 8), static_cast<std::uint8_t>(number)};
    }

    [[nodiscard]] static constexpr ipv4_address any() noexcept { return {}; }
    [[nodiscard]] static constexpr ipv4_address loopback() noexcept { return {127, 0, 0, 1}; }
    [[nodiscard]] static constexpr ipv4_address broadcast() noexcept { return {255, 255, 255, 255}; }

    [[nodiscard]] constexpr bool is_unspecified() const noexcept { return to_number() == 0; }
    [[nodiscard]] constexpr bool is_loopback() const noexcept { return bytes_[0] == 127; }
    [[nodiscard]] constexpr bool is_multicast() const noexcept { return (bytes_[0] & 0xf0) == 0xe0; }
    [[nodiscard]] constexpr bool is_broadcast() const noexcept { return to_number() == 0xffffffff; }
    [[nodiscard]] constexpr bool is_link_local() const noexcept { return bytes_[0] == 169 && bytes_[1] == 254; }

    friend constexpr auto operator<=>(const ipv4_address&, const ipv4_address&) noexcept = default;

private:
    bytes_type bytes_{};
};

// An IPv6 address, without a zone. The default is "::".
class ipv6_address {
public:
    using bytes_type = std::array<std::uint8_t, 16>;
    static constexpr int bits = 128;

    constexpr ipv6_address() noexcept = default;
    constexpr explicit ipv6_address(const bytes_type& network_order) noexcept : bytes_(network_order) {}

    // Every form of RFC 4291 section 2.2, in either case: "2001:db8::1", "::", "::ffff:192.0.2.1".
    [[nodiscard]] static std::optional<ipv6_address> parse(std::string_view text) noexcept;
    [[nodiscard]] static ipv6_address from_string(std::string_view text);
    // The one canonical form of RFC 5952; only IPv4-mapped addresses are written with dots.
    [[nodiscard]] std::string to_string() const;

    [[nodiscard]] constexpr const bytes_type& bytes() const noexcept { return bytes_; }

    [[nodiscard]] static constexpr ipv6_address any() noexcept { return {}; }
    [[nodiscard]] static constexpr ipv6_address loopback() noexcept {
        bytes_type b{};
        b[15] = 1;
        return ipv6_address{b};
    }
    // ::ffff:a.b.c.d, as a socket that serves both families shows an IPv4 peer (RFC 4291 section 2.5.5.2).
    [[nodiscard]] static constexpr ipv6_address mapped(ipv4_address v4) noexcept {
        bytes_type b{};
        b[10] = b[11] = 0xff;
        for (std::size_t i = 0; i < 4; ++i) b[12 + i] = v4.bytes()[i];
        return ipv6_address{b};
    }

    [[nodiscard]] constexpr bool is_unspecified() const noexcept { return *this == any(); }
    [[nodiscard]] constexpr bool is_loopback() const noexcept { return *this == loopback(); }
    [[nodiscard]] constexpr bool is_multicast() const noexcept { return bytes_[0] == 0xff; }
    [[nodiscard]] constexpr bool is_link_local() const noexcept {
        return bytes_[0] == 0xfe && (bytes_[1] & 0xc0) == 0x80;
    }
    // The IPv4 address inside an IPv4-mapped one, else empty.
    [[nodiscard]] constexpr std::optional<ipv4_address> to_ipv4() const noexcept {
        const ipv4_address inner{bytes_[12], bytes_[13], bytes_[14], bytes_[15]};
        return *this == mapped(inner) ? std::optional{inner} : std::nullopt;
    }

    friend constexpr auto operator<=>(const ipv6_address&, const ipv6_address&) noexcept = default;

private:
    bytes_type bytes_{};
};

// An address of either family. The default is IPv4's 0.0.0.0. IPv4 orders before IPv6, and an IPv4 address never
// equals its IPv4-mapped form: use unmapped() where the two mean the same peer.
class ip_address {
public:
    constexpr ip_address() noexcept = default;
    constexpr ip_address(const ipv4_address& v4) noexcept { // NOLINT: implicit, every IPv4 address is an IP address
        for (std::size_t i = 0; i < 4; ++i) bytes_[i] = v4.bytes()[i];
    }
    constexpr ip_address(const ipv6_address& v6) noexcept // NOLINT: implicit, as above
        : is_v6_(true), bytes_(v6.bytes()) {}

    // Either form above; a text with a colon is taken for IPv6.
    [[nodiscard]] static std::optional<ip_address> parse(std::string_view text) noexcept;
    [[nodiscard]] static ip_address from_string(std::string_view text);
    [[nodiscard]] std::string to_string() const;

    [[nodiscard]] constexpr bool is_v4() const noexcept { return !is_v6_; }
    [[nodiscard]] constexpr bool is_v6() const noexcept { return is_v6_; }
    // Throw std::system_error(std::errc::address_family_not_supported) for an address of the other family.
    [[nodiscard]] constexpr ipv4_address v4() const {
        if (is_v6_) throw_wrong_family();
        return {bytes_[0], bytes_[1], bytes_[2], bytes_[3]};
    }
    [[nodiscard]] constexpr ipv6_address v6() const {
        if (!is_v6_) throw_wrong_family();
        return ipv6_address{bytes_};
    }

    // 32 or 128.
    [[nodiscard]] constexpr int bits() const noexcept { return is_v6_ ? ipv6_address::bits : ipv4_address::bits; }
    // The 4 or 16 bytes in network order, valid as long as this object.
    [[nodiscard]] constexpr std::span<const std::uint8_t> bytes() const& noexcept {
        return {bytes_.data(), is_v6_ ? std::size_t{16} : std::size_t{4}};
    }
    void bytes() const&& = delete;

    [[nodiscard]] constexpr ip_address unmapped() const noexcept {
        if (is_v6_)
            if (const auto inner = ipv6_address{bytes_}.to_ipv4()) return *inner;
        return *this;
    }

    [[nodiscard]] constexpr bool is_unspecified() const noexcept { return *this == ip_address{} || *this == any_v6(); }
    [[nodiscard]] constexpr bool is_loopback() const noexcept { return is_v6_ ? v6().is_loopback() : bytes_[0] == 127; }
    [[nodiscard]] constexpr bool is_multicast() const noexcept {
        return is_v6_ ? bytes_[0] == 0xff : (bytes_[0] & 0xf0) == 0xe0;
    }

    friend constexpr auto operator<=>(const ip_address&, const ip_address&) noexcept = default;

private:
    static constexpr ip_address any_v6() noexcept { return ipv6_address::any(); }
    [[noreturn]] void throw_wrong_family() const;

    bool is_v6_ = false;
    std::array<std::uint8_t, 16> bytes_{}; // an IPv4 address fills the first four, the others are zero
};

// An address with a prefix length. The bits after the prefix are kept, so the same type says both "this interface is
// 10.9.0.1 in 10.9.0.0/24" and "the network 10.9.0.0/24"; network() turns the first into the second. The default is
// 0.0.0.0/0. Two prefixes are equal when address and length both are.
//
// It is built implicitly from text, so that options can be written `{.addresses = {"10.9.0.1/24", "fd00::1/64"}}`.
// That conversion throws as from_string does.
class ip_prefix {
public:
    constexpr ip_prefix() noexcept = default;
    // The address alone: /32 or /128.
    constexpr explicit ip_prefix(const ip_address& address) noexcept
        : address_(address), length_(static_cast<std::uint8_t>(address.bits())) {}
    // Throws std::system_error(std::errc::invalid_argument) unless 0 <= length <= address.bits().
    constexpr ip_prefix(const ip_address& address, int length)
        : address_(address), length_(static_cast<std::uint8_t>(length)) {
        if (length < 0 || length > address.bits()) throw_bad_length(address, length);
    }
    // From anything that reads as a std::string_view: a literal, a std::string, a view.
    template <typename Text>
    requires std::convertible_to<const Text&, std::string_view> ip_prefix(const Text& text)
        : ip_prefix(from_string(text)) {} // NOLINT: implicit by design

    // "ADDRESS/LENGTH" with a decimal length, or an address alone, which means /32 or /128.
    [[nodiscard]] static std::optional<ip_prefix> parse(std::string_view text) noexcept;
    [[nodiscard]] static ip_prefix from_string(std::string_view text);
    // Always with the length: "10.9.0.1/24".
    [[nodiscard]] std::string to_string() const;

    [[nodiscard]] constexpr const ip_address& address() const& noexcept { return address_; }
    [[nodiscard]] constexpr ip_address address() && noexcept { return address_; }
    [[nodiscard]] constexpr int length() const noexcept { return length_; }
    [[nodiscard]] constexpr bool is_v4() const noexcept { return address_.is_v4(); }
    [[nodiscard]] constexpr bool is_v6() const noexcept { return address_.is_v6(); }

    // The same prefix with every bit after it cleared: 10.9.0.1/24 gives 10.9.0.0/24.
    [[nodiscard]] constexpr ip_prefix network() const noexcept { return with_host_bits(0); }
    // The last address of the prefix, every bit after it set: 10.9.0.255 of 10.9.0.1/24.
    [[nodiscard]] constexpr ip_address last_address() const noexcept { return with_host_bits(0xff).address_; }

    // Whether the address is in the network. One of the other family never is.
    [[nodiscard]] constexpr bool contains(const ip_address& other) const noexcept {
        ip_prefix same = *this;
        same.address_ = other;
        return other.is_v6() == is_v6() && same.network().address_ == network().address_;
    }

    friend constexpr auto operator<=>(const ip_prefix&, const ip_prefix&) noexcept = default;

private:
    [[noreturn]] static void throw_bad_length(const ip_address& address, int length);

    constexpr ip_prefix with_host_bits(std::uint8_t fill) const noexcept {
        std::array<std::uint8_t, 16> b{};
        const std::span<const std::uint8_t> own = address_.bytes();
        for (std::size_t i = 0; i < own.size(); ++i) {
            const int kept = length_ - static_cast<int>(i) * 8; // bits of this byte that belong to the prefix
            const unsigned mask = kept >= 8 ? 0xffU : kept <= 0 ? 0U : 0xff00U >> kept & 0xffU;
            b[i] = static_cast<std::uint8_t>((own[i] & mask) | (fill & ~mask & 0xffU));
        }
        ip_prefix result = *this;
        result.address_ = is_v6() ? ip_address{ipv6_address{b}} : ip_address{ipv4_address{b[0], b[1], b[2], b[3]}};
        return result;
    }

    ip_address address_;
    std::uint8_t length_ = 0;
};

// An Ethernet address (EUI-48). The default is 00:00:00:00:00:00.
class mac_address {
public:
    using bytes_type = std::array<std::uint8_t, 6>;

    constexpr mac_address() noexcept = default;
    constexpr explicit mac_address(const bytes_type& bytes) noexcept : bytes_(bytes) {}
    // From anything that reads as a std::string_view: a literal, a std::string, a view.
    template <typename Text>
    requires std::convertible_to<const Text&, std::string_view> mac_address(const Text& text)
        : mac_address(from_string(text)) {} // NOLINT: implicit by design

    // Six numbers of two hexadecimal digits, in either case, with colons between: "02:00:5e:00:53:01".
    [[nodiscard]] static std::optional<mac_address> parse(std::string_view text) noexcept;
    [[nodiscard]] static mac_address from_string(std::string_view text);
    [[nodiscard]] std::string to_string() const; // in lower case

    [[nodiscard]] constexpr const bytes_type& bytes() const noexcept { return bytes_; }

    [[nodiscard]] static constexpr mac_address broadcast() noexcept {
        return mac_address{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
    }
    [[nodiscard]] constexpr bool is_zero() const noexcept { return *this == mac_address{}; }
    [[nodiscard]] constexpr bool is_broadcast() const noexcept { return *this == broadcast(); }
    [[nodiscard]] constexpr bool is_multicast() const noexcept { return (bytes_[0] & 1) != 0; } // broadcast too
    [[nodiscard]] constexpr bool is_locally_administered() const noexcept { return (bytes_[0] & 2) != 0; }

    friend constexpr auto operator<=>(const mac_address&, const mac_address&) noexcept = default;

private:
    bytes_type bytes_{};
};

namespace detail {
// FNV-1a with a final mix, so that tables which use only the low bits spread too. Not for keys that an enemy chooses.
[[nodiscard]] constexpr std::size_t hash_bytes(std::span<const std::uint8_t> bytes, std::uint64_t seed = 0) noexcept {
    std::uint64_t h = 0xcbf29ce484222325U ^ seed;
    for (const std::uint8_t b : bytes) h = (h ^ b) * 0x100000001b3U;
    return static_cast<std::size_t>(h ^ h >> 32);
}
} // namespace detail

} // namespace cotun::wire

template <>
struct std::hash<cotun::wire::ipv4_address> {
    std::size_t operator()(const cotun::wire::ipv4_address& a) const noexcept {
        return cotun::wire::detail::hash_bytes(a.bytes());
    }
};
template <>
struct std::hash<cotun::wire::ipv6_address> {
    std::size_t operator()(const cotun::wire::ipv6_address& a) const noexcept {
        return cotun::wire::detail::hash_bytes(a.bytes());
    }
};
template <>
struct std::hash<cotun::wire::ip_address> {
    std::size_t operator()(const cotun::wire::ip_address& a) const noexcept {
        return cotun::wire::detail::hash_bytes(a.bytes());
    }
};
template <>
struct std::hash<cotun::wire::ip_prefix> {
    std::size_t operator()(const cotun::wire::ip_prefix& p) const noexcept {
        return cotun::wire::detail::hash_bytes(p.address().bytes(), static_cast<std::uint64_t>(p.length()) + 1);
    }
};
template <>
struct std::hash<cotun::wire::mac_address> {
    std::size_t operator()(const cotun::wire::mac_address& m) const noexcept {
        return cotun::wire::detail::hash_bytes(m.bytes());
    }
};
