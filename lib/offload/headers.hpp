// SPDX-License-Identifier: Apache-2.0
//
// Where the headers of a packet lie, found once and checked, so that what comes after needs no more checks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "cotun/offload/refusal.hpp"

namespace cotun::offload {

namespace ipv4 {
constexpr std::size_t header_size = 20;
constexpr std::size_t total_length = 2, id = 4, fragment = 6, ttl = 8, protocol = 9, checksum = 10, addresses = 12;
constexpr std::size_t addresses_size = 8;
constexpr std::uint16_t dont_fragment = 0x4000, fragmented = 0x3fff; // more fragments, or an offset
} // namespace ipv4

namespace ipv6 {
constexpr std::size_t header_size = 40;
constexpr std::size_t payload_length = 4, next_header = 6, hop_limit = 7, addresses = 8;
constexpr std::size_t addresses_size = 32;
constexpr std::uint8_t hop_by_hop = 0, routing = 43, fragment = 44, destination_options = 60;
} // namespace ipv6

namespace tcp {
constexpr std::uint8_t protocol = 6;
constexpr std::size_t header_size = 20;
constexpr std::size_t sequence = 4, acknowledgement = 8, offset = 12, flags = 13, window = 14, checksum = 16;
constexpr std::uint8_t fin = 0x01, syn = 0x02, rst = 0x04, psh = 0x08, ack = 0x10, urg = 0x20, cwr = 0x80;
} // namespace tcp

namespace udp {
constexpr std::uint8_t protocol = 17;
constexpr std::size_t header_size = 8;
constexpr std::size_t length = 4, checksum = 6;
} // namespace udp

inline std::uint8_t get_byte(const std::byte* at) noexcept { return std::to_integer<std::uint8_t>(*at); }
inline std::uint16_t get_word(const std::byte* at) noexcept {
    return static_cast<std::uint16_t>(get_byte(at) << 8 | get_byte(at + 1));
}
inline std::uint32_t get_long(const std::byte* at) noexcept {
    return std::uint32_t{get_word(at)} << 16 | get_word(at + 2);
}
inline void put_byte(std::byte* at, std::uint8_t value) noexcept { *at = std::byte{value}; }
inline void put_word(std::byte* at, std::uint16_t value) noexcept {
    at[0] = static_cast<std::byte>(value >> 8);
    at[1] = static_cast<std::byte>(value & 0xff);
}
inline void put_long(std::byte* at, std::uint32_t value) noexcept {
    put_word(at, static_cast<std::uint16_t>(value >> 16));
    put_word(at + 2, static_cast<std::uint16_t>(value));
}

// Offsets from the packet's first byte; transport and payload never exceed longest_headers, nor the packet.
struct headers {
    std::uint16_t network = 0;
    std::uint16_t transport = 0;
    std::uint16_t payload = 0;
    bool v6 = false;
    bool tcp = false;
    bool options = false; // of IPv4, or extension headers of IPv6

    std::size_t addresses() const noexcept { return network + (v6 ? ipv6::addresses : ipv4::addresses); }
    std::size_t addresses_size() const noexcept { return v6 ? ipv6::addresses_size : ipv4::addresses_size; }
    std::uint8_t protocol() const noexcept { return tcp ? tcp::protocol : udp::protocol; }
    std::size_t checksum() const noexcept { return transport + (tcp ? tcp::checksum : udp::checksum); }
};

// Finds the headers of an unfragmented TCP or UDP packet whose IP header begins at `network`. The length of the IP
// header must be that of the packet; that of a UDP header is not looked at.
refusal find_headers(std::span<const std::byte> packet, std::size_t network, headers& found) noexcept;

} // namespace cotun::offload
