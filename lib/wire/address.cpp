// SPDX-License-Identifier: Apache-2.0
#include "cotun/wire/address.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

namespace cotun::wire {

namespace {

// Each parser below fills `out` and returns nullptr, or returns what is wrong, for the text of an error.
using complaint = const char*;

constexpr int digit_value(char c) noexcept {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

constexpr bool is_decimal(char c) noexcept { return c >= '0' && c <= '9'; }

// A whole decimal number from 0 to `limit` (below 1000), without leading zeros; -1 for anything else.
constexpr int decimal(std::string_view text, int limit) noexcept {
    if (text.empty() || text.size() > 3 || !std::all_of(text.begin(), text.end(), is_decimal)) return -1;
    if (text.size() > 1 && text[0] == '0') return -1;
    int value = 0;
    for (const char c : text) value = value * 10 + (c - '0');
    return value <= limit ? value : -1;
}

// Cuts off what stands before the first `mark`, and the mark; without one, everything.
constexpr std::string_view take_until(std::string_view& rest, char mark) noexcept {
    const std::size_t at = rest.find(mark);
    const std::string_view part = rest.substr(0, at);
    rest.remove_prefix(at == std::string_view::npos ? rest.size() : at + 1);
    return part;
}

complaint parse_v4(std::string_view text, ipv4_address::bytes_type& out) noexcept {
    if (text.empty()) return "it is empty";
    if (std::count(text.begin(), text.end(), '.') != 3)
        return "an IPv4 address has four numbers with three dots between";
    for (std::uint8_t& byte : out) {
        const int value = decimal(take_until(text, '.'), 255);
        if (value < 0) return "each of the four must be a number from 0 to 255, without leading zeros or blanks";
        byte = static_cast<std::uint8_t>(value);
    }
    return nullptr;
}

// Reads the groups of `text` (RFC 4291: up to four hexadecimal digits each, colons between; an IPv4 address may stand
// for the last two where `last_may_be_v4`) to the front of `out`, and counts the bytes in `size`.
complaint parse_groups(std::string_view text, bool last_may_be_v4, std::span<std::uint8_t> out,
                       std::size_t& size) noexcept {
    for (size = 0; !text.empty();) {
        const bool last = text.find(':') == std::string_view::npos;
        const std::string_view group = take_until(text, ':');
        if (!last && text.empty()) return "it ends with a single colon";
        if (last && last_may_be_v4 && group.find('.') != std::string_view::npos) {
            ipv4_address::bytes_type tail;
            if (const complaint wrong = parse_v4(group, tail)) return wrong;
            if (size + tail.size() > out.size()) return "it has more than 128 bits";
            std::copy(tail.begin(), tail.end(), out.begin() + static_cast<std::ptrdiff_t>(size));
            size += tail.size();
            return nullptr;
        }
        if (group.find('%') != std::string_view::npos) return "a zone (%...) cannot be part of it";
        unsigned value = 0;
        bool hexadecimal = !group.empty() && group.size() <= 4;
        for (std::size_t i = 0; hexadecimal && i < group.size(); ++i) {
            hexadecimal = digit_value(group[i]) >= 0;
            value = value << 4 | static_cast<unsigned>(digit_value(group[i]) & 0xf);
        }
        if (!hexadecimal) return "each group must be one to four hexadecimal digits";
        if (size + 2 > out.size()) return "it has more than eight groups";
        out[size++] = static_cast<std::uint8_t>(value >> 8);
        out[size++] = static_cast<std::uint8_t>(value & 0xff);
    }
    return nullptr;
}

complaint parse_v6(std::string_view text, ipv6_address::bytes_type& out) noexcept {
    if (text.empty()) return "it is empty";
    out.fill(0);
    const std::size_t gap = text.find("::");
    std::size_t head_size = 0;
    if (gap == std::string_view::npos) {
        if (const complaint wrong = parse_groups(text, true, out, head_size)) return wrong;
        return head_size == out.size() ? nullptr : "it has fewer than eight groups and no '::'";
    }
    ipv6_address::bytes_type tail{};
    std::size_t tail_size = 0;
    if (const complaint wrong = parse_groups(text.substr(0, gap), false, out, head_size)) return wrong;
    const std::string_view after = text.substr(gap + 2);
    if (after.find("::") != std::string_view::npos || after.starts_with(':')) return "it has more than one '::'";
    if (const complaint wrong = parse_groups(after, true, tail, tail_size)) return wrong;
    // RFC 4291 lets '::' stand for one group at least.
    if (head_size + tail_size > out.size() - 2) return "there is nothing left for '::' to stand for";
    std::copy_n(tail.begin(), tail_size, out.end() - static_cast<std::ptrdiff_t>(tail_size));
    return nullptr;
}

complaint parse_either(std::string_view text, ip_address& out) noexcept {
    if (text.find(':') == std::string_view::npos) {
        ipv4_address::bytes_type bytes;
        const complaint wrong = parse_v4(text, bytes);
        if (!wrong) out = ipv4_address{bytes};
        return wrong;
    }
    ipv6_address::bytes_type bytes;
    const complaint wrong = parse_v6(text, bytes);
    if (!wrong) out = ipv6_address{bytes};
    return wrong;
}

complaint parse_prefix(std::string_view text, ip_prefix& out) noexcept {
    const std::size_t slash = text.find('/');
    ip_address address;
    if (const complaint wrong = parse_either(text.substr(0, slash), address)) return wrong;
    if (slash == std::string_view::npos) {
        out = ip_prefix{address};
        return nullptr;
    }
    const int length = decimal(text.substr(slash + 1), address.bits());
    if (length < 0)
        return address.is_v4() ? "the prefix length after '/' must be a number from 0 to 32, without leading zeros"
                               : "the prefix length after '/' must be a number from 0 to 128, without leading zeros";
    out = ip_prefix{address, length};
    return nullptr;
}

complaint parse_mac(std::string_view text, mac_address::bytes_type& out) noexcept {
    if (text.empty()) return "it is empty";
    if (std::count(text.begin(), text.end(), ':') != 5) return "a MAC address has six numbers with five colons between";
    for (std::uint8_t& byte : out) {
        const std::string_view pair = take_until(text, ':');
        if (pair.size() != 2 || digit_value(pair[0]) < 0 || digit_value(pair[1]) < 0)
            return "each of the six must be two hexadecimal digits";
        byte = static_cast<std::uint8_t>(digit_value(pair[0]) << 4 | digit_value(pair[1]));
    }
    return nullptr;
}

// The text comes from outside: what cannot be printed is shown as '?', and no more than a line of it.
std::string quoted(std::string_view text) {
    constexpr std::size_t enough = 64;
    std::string shown{text.substr(0, enough)};
    std::replace_if(
        shown.begin(), shown.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
    return fmt::format("'{}{}'", shown, text.size() > enough ? "..." : "");
}

[[noreturn]] void refuse(std::string_view text, const char* what, complaint wrong, const char* example) {
    throw std::system_error(
        std::make_error_code(std::errc::invalid_argument),
        fmt::format("cotun: {} is not {}: {}; write it like {}", quoted(text), what, wrong, example));
}

// The longest run of two or more zero groups, the first of equals: what RFC 5952 section 4.2 writes as "::". Both ends
// are 8 where there is none.
struct zero_run {
    std::size_t begin = 8, end = 8;
};

zero_run longest_zero_run(const std::array<unsigned, 8>& groups) noexcept {
    zero_run best;
    for (std::size_t i = 0; i < groups.size(); ++i) {
        std::size_t end = i;
        while (end < groups.size() && groups[end] == 0) ++end;
        if (end - i >= 2 && end - i > best.end - best.begin) best = {i, end};
        i = end;
    }
    return best;
}

} // namespace

std::optional<ipv4_address> ipv4_address::parse(std::string_view text) noexcept {
    bytes_type bytes;
    return parse_v4(text, bytes) ? std::nullopt : std::optional{ipv4_address{bytes}};
}

ipv4_address ipv4_address::from_string(std::string_view text) {
    bytes_type bytes;
    if (const complaint wrong = parse_v4(text, bytes)) refuse(text, "an IPv4 address", wrong, "'192.0.2.1'");
    return ipv4_address{bytes};
}

std::string ipv4_address::to_string() const {
    return fmt::format("{}.{}.{}.{}", bytes_[0], bytes_[1], bytes_[2], bytes_[3]);
}

std::optional<ipv6_address> ipv6_address::parse(std::string_view text) noexcept {
    bytes_type bytes;
    return parse_v6(text, bytes) ? std::nullopt : std::optional{ipv6_address{bytes}};
}

ipv6_address ipv6_address::from_string(std::string_view text) {
    bytes_type bytes;
    if (const complaint wrong = parse_v6(text, bytes)) refuse(text, "an IPv6 address", wrong, "'2001:db8::1'");
    return ipv6_address{bytes};
}

std::string ipv6_address::to_string() const {
    if (const auto inner = to_ipv4()) return "::ffff:" + inner->to_string();
    std::array<unsigned, 8> groups{};
    for (std::size_t i = 0; i < groups.size(); ++i)
        groups[i] = static_cast<unsigned>(bytes_[2 * i] << 8 | bytes_[2 * i + 1]);
    const zero_run run = longest_zero_run(groups);
    std::string text;
    for (std::size_t i = 0; i < groups.size(); ++i) {
        if (i == run.begin) {
            text += "::";
            i = run.end - 1;
            continue;
        }
        if (i != 0 && i != run.end) text += ':';
        text += fmt::format("{:x}", groups[i]);
    }
    return text;
}

std::optional<ip_address> ip_address::parse(std::string_view text) noexcept {
    ip_address address;
    return parse_either(text, address) ? std::nullopt : std::optional{address};
}

ip_address ip_address::from_string(std::string_view text) {
    ip_address address;
    if (const complaint wrong = parse_either(text, address))
        refuse(text, "an IP address", wrong, "'192.0.2.1' or '2001:db8::1'");
    return address;
}

std::string ip_address::to_string() const { return is_v6_ ? v6().to_string() : v4().to_string(); }

void ip_address::throw_wrong_family() const {
    throw std::system_error(std::make_error_code(std::errc::address_family_not_supported),
                            fmt::format("cotun: {} was asked for as an {} address; ask is_v4() or is_v6() first",
                                        to_string(), is_v6_ ? "IPv4" : "IPv6"));
}

std::optional<ip_prefix> ip_prefix::parse(std::string_view text) noexcept {
    ip_prefix prefix;
    return parse_prefix(text, prefix) ? std::nullopt : std::optional{prefix};
}

ip_prefix ip_prefix::from_string(std::string_view text) {
    ip_prefix prefix;
    if (const complaint wrong = parse_prefix(text, prefix))
        refuse(text, "an address with a prefix length", wrong, "'10.9.0.1/24' or 'fd00::1/64'");
    return prefix;
}

std::string ip_prefix::to_string() const { return fmt::format("{}/{}", address_.to_string(), length_); }

void ip_prefix::throw_bad_length(const ip_address& address, int length) {
    throw std::system_error(std::make_error_code(std::errc::invalid_argument),
                            fmt::format("cotun: {} cannot have a prefix of {} bits; give 0 to {}", address.to_string(),
                                        length, address.bits()));
}

std::optional<mac_address> mac_address::parse(std::string_view text) noexcept {
    bytes_type bytes;
    return parse_mac(text, bytes) ? std::nullopt : std::optional{mac_address{bytes}};
}

mac_address mac_address::from_string(std::string_view text) {
    bytes_type bytes;
    if (const complaint wrong = parse_mac(text, bytes)) refuse(text, "a MAC address", wrong, "'02:00:5e:00:53:01'");
    return mac_address{bytes};
}

std::string mac_address::to_string() const {
    return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", bytes_[0], bytes_[1], bytes_[2], bytes_[3],
                       bytes_[4], bytes_[5]);
}

} // namespace cotun::wire
