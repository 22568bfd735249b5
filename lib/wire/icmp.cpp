// SPDX-License-Identifier: Apache-2.0
#include "cotun/wire/icmp.hpp"

#include <algorithm>
#include <cstdint>

#include "cotun/wire/checksum.hpp"

namespace cotun::wire {

namespace {

constexpr std::uint8_t reply_hop_limit = 64; // the default TTL of RFC 1700, and what Linux uses
constexpr std::size_t icmp_echo_size = 8;    // type, code, checksum, identifier, sequence number

namespace ipv4 {
constexpr std::size_t header_size = 20;
constexpr std::size_t total_length = 2, fragment = 6, ttl = 8, protocol = 9, header_checksum = 10, source = 12,
                      destination = 16;
constexpr std::uint16_t more_fragments_or_offset = 0x3fff;
constexpr std::uint8_t icmp = 1, echo_request = 8, echo_reply = 0;
} // namespace ipv4

namespace ipv6 {
constexpr std::size_t header_size = 40;
constexpr std::size_t payload_length = 4, next_header = 6, hop_limit = 7, source = 8, destination = 24;
constexpr std::uint8_t icmp = 58, echo_request = 128, echo_reply = 129;
} // namespace ipv6

// Every offset given to these is below a size that the caller has checked.
std::uint8_t byte_at(std::span<const std::byte> bytes, std::size_t at) noexcept {
    return std::to_integer<std::uint8_t>(bytes[at]);
}

std::uint16_t word_at(std::span<const std::byte> bytes, std::size_t at) noexcept {
    return static_cast<std::uint16_t>(byte_at(bytes, at) << 8 | byte_at(bytes, at + 1));
}

void put_word(std::span<std::byte> bytes, std::size_t at, std::uint16_t word) noexcept {
    bytes[at] = static_cast<std::byte>(word >> 8);
    bytes[at + 1] = static_cast<std::byte>(word & 0xff);
}

// Changes the byte at an even offset, and the checksum that covers it.
void replace_even_byte(std::span<std::byte> bytes, std::size_t at, std::uint8_t value, std::size_t sum_at) noexcept {
    const std::uint16_t before = word_at(bytes, at);
    bytes[at] = std::byte{value};
    put_word(bytes, sum_at, update_checksum(word_at(bytes, sum_at), before, word_at(bytes, at)));
}

void swap_ranges(std::span<std::byte> bytes, std::size_t a, std::size_t b, std::size_t size) noexcept {
    std::swap_ranges(bytes.begin() + static_cast<std::ptrdiff_t>(a),
                     bytes.begin() + static_cast<std::ptrdiff_t>(a + size),
                     bytes.begin() + static_cast<std::ptrdiff_t>(b));
}

// 0.0.0.0/8 is "this network", 224/4 multicast, 255.255.255.255 the limited broadcast; none of them is one host.
bool is_one_ipv4_host(std::span<const std::byte> packet, std::size_t at) noexcept {
    const std::uint8_t first = byte_at(packet, at);
    const bool limited_broadcast = word_at(packet, at) == 0xffff && word_at(packet, at + 2) == 0xffff;
    return first != 0 && (first & 0xf0) != 0xe0 && !limited_broadcast;
}

bool is_one_ipv6_host(std::span<const std::byte> packet, std::size_t at) noexcept {
    const auto address = packet.subspan(at, 16);
    const bool unspecified = std::all_of(address.begin(), address.end(), [](std::byte b) { return b == std::byte{0}; });
    return !unspecified && byte_at(packet, at) != 0xff;
}

bool reply_v4(std::span<std::byte> packet) noexcept {
    using namespace ipv4;
    if (packet.size() < ipv4::header_size + icmp_echo_size || word_at(packet, total_length) != packet.size())
        return false;
    const std::size_t header = std::size_t{4} * (byte_at(packet, 0) & 0x0fU);
    if (header < ipv4::header_size || packet.size() < header + icmp_echo_size) return false;
    if (byte_at(packet, protocol) != ipv4::icmp || (word_at(packet, fragment) & more_fragments_or_offset) != 0)
        return false;
    if (!is_one_ipv4_host(packet, ipv4::source) || !is_one_ipv4_host(packet, ipv4::destination)) return false;
    if (byte_at(packet, header) != ipv4::echo_request || byte_at(packet, header + 1) != 0) return false;
    if (checksum(packet.first(header)) != 0) return false;

    // Swapping the addresses leaves the sum as it is; so only the two bytes below need the checksums changed.
    swap_ranges(packet, ipv4::source, ipv4::destination, 4);
    replace_even_byte(packet, ttl, reply_hop_limit, header_checksum);
    replace_even_byte(packet, header, ipv4::echo_reply, header + 2);
    // The one sum that an update cannot get right is that of nothing but zeros, where RFC 1071 gives 0xffff and every
    // other message of the same sum gives 0 (RFC 1624 section 3). A reply is all zeros where the data was.
    const std::span<std::byte> message = packet.subspan(header);
    if (std::all_of(message.begin(), message.end(), [](std::byte b) { return b == std::byte{0}; }))
        put_word(packet, header + 2, 0xffff);
    return true;
}

bool reply_v6(std::span<std::byte> packet) noexcept {
    using namespace ipv6;
    if (packet.size() < ipv6::header_size + icmp_echo_size ||
        word_at(packet, payload_length) != packet.size() - ipv6::header_size)
        return false;
    if (byte_at(packet, next_header) != ipv6::icmp) return false;
    if (!is_one_ipv6_host(packet, ipv6::source) || !is_one_ipv6_host(packet, ipv6::destination)) return false;
    if (byte_at(packet, ipv6::header_size) != ipv6::echo_request || byte_at(packet, ipv6::header_size + 1) != 0)
        return false;

    // The pseudo header covers the addresses, whose sum stays; IPv6's own header has no checksum.
    swap_ranges(packet, ipv6::source, ipv6::destination, 16);
    packet[hop_limit] = std::byte{reply_hop_limit};
    replace_even_byte(packet, ipv6::header_size, ipv6::echo_reply, ipv6::header_size + 2);
    return true;
}

} // namespace

bool reply_to_echo(std::span<std::byte> packet) noexcept {
    if (packet.empty()) return false;
    switch (byte_at(packet, 0) >> 4) {
    case 4: return reply_v4(packet);
    case 6: return reply_v6(packet);
    default: return false;
    }
}

} // namespace cotun::wire
