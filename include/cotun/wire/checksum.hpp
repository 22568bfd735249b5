// SPDX-License-Identifier: Apache-2.0
//
// The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//
// Pure functions over bytes: any length, any alignment, any thread, no allocation, no failure. They use the widest
// instructions that the processor has (AVX-512, AVX2), found at the first call.
//
// A checksum is a number in the machine's own order whose high byte comes first on the wire, like every other 16-bit
// field once it has been read. A *partial sum* is what has been added up so far, before folding; it is a plain number
// of 64 bits, so partial sums of pieces (pseudo header, header, payload) can be given on from one call to the next.
// A piece of odd length must be the last one: it counts as if a zero byte followed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <cotun/wire/address.hpp>

namespace cotun::wire {

// A partial sum: congruent modulo 0xffff to the sum of the 16-bit words, and zero only if all words were zero.
using partial_sum = std::uint64_t;

// Adds the big-endian 16-bit words of `bytes` to `sum`.
[[nodiscard]] partial_sum add_to_sum(std::span<const std::byte> bytes, partial_sum sum = 0) noexcept;

// The same, and copies the bytes to `to`, where there is room for them and which does not overlap them: what goes to
// another place anyway is read from memory once.
[[nodiscard]] partial_sum checksum_copy(std::byte* to, std::span<const std::byte> bytes, partial_sum sum = 0) noexcept;

// Adds one 16-bit word, such as a length or a protocol of a pseudo header.
[[nodiscard]] constexpr partial_sum add_to_sum(std::uint16_t word, partial_sum sum) noexcept {
    const partial_sum total = sum + word;
    return total + (total < sum ? 1 : 0);
}

// Folds a partial sum to 16 bits with end-around carry. Not complemented.
[[nodiscard]] constexpr std::uint16_t fold_sum(partial_sum sum) noexcept {
    sum = (sum >> 32) + (sum & 0xffffffff);
    sum = (sum >> 32) + (sum & 0xffffffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    return static_cast<std::uint16_t>((sum >> 16) + (sum & 0xffff));
}

// The checksum of the words summed so far: what goes into the header when the checksum field itself was summed as
// zero, and 0 when a correct checksum was summed with the rest.
[[nodiscard]] constexpr std::uint16_t finish_checksum(partial_sum sum) noexcept {
    return static_cast<std::uint16_t>(~fold_sum(sum));
}

// RFC 1071 over one piece.
[[nodiscard]] inline std::uint16_t checksum(std::span<const std::byte> bytes) noexcept {
    return finish_checksum(add_to_sum(bytes));
}

// The checksum after one 16-bit word that it covers changes from `before` to `after`: RFC 1624, equation 3,
// HC' = ~(~HC + ~m + m'). A checksum that was wrong stays wrong by as much. Two zeros are the caller's business: where
// all covered words are zero after the change, the right checksum is 0xffff and this gives 0 (an IP header or a pseudo
// header is never all zero, an ICMP message can be); and UDP writes a result of 0 as 0xffff, and has no checksum at all
// where the field is 0.
[[nodiscard]] constexpr std::uint16_t update_checksum(std::uint16_t checksum, std::uint16_t before,
                                                      std::uint16_t after) noexcept {
    return finish_checksum(partial_sum{static_cast<std::uint16_t>(~checksum)} + static_cast<std::uint16_t>(~before) +
                           after);
}

// The same for a piece that changes as a whole, such as an address: an even number of bytes at an even offset of what
// the checksum covers, as many after as before.
[[nodiscard]] inline std::uint16_t update_checksum(std::uint16_t checksum, std::span<const std::byte> before,
                                                   std::span<const std::byte> after) noexcept {
    const std::uint16_t out = static_cast<std::uint16_t>(~fold_sum(add_to_sum(before)));
    return finish_checksum(add_to_sum(out, add_to_sum(after, partial_sum{static_cast<std::uint16_t>(~checksum)})));
}

// The pseudo header that the checksums of TCP, UDP and ICMPv6 cover besides the message: both addresses, the protocol,
// and the length of the message with its header, in bytes. For IPv4 RFC 9293 section 3.1, for IPv6 RFC 8200
// section 8.1; the two add up alike. With a routing header the destination is the last one of the route.
//
// `addresses` are source and destination as they lie one after the other in an IP header: 8 bytes or 32.
[[nodiscard]] inline partial_sum pseudo_header_sum(std::span<const std::byte> addresses, std::uint8_t protocol,
                                                   std::uint32_t length) noexcept {
    return add_to_sum(addresses, partial_sum{length} + protocol);
}
[[nodiscard]] inline partial_sum pseudo_header_sum(const ip_address& source, const ip_address& destination,
                                                   std::uint8_t protocol, std::uint32_t length) noexcept {
    const partial_sum sum = add_to_sum(std::as_bytes(source.bytes()), partial_sum{length} + protocol);
    return add_to_sum(std::as_bytes(destination.bytes()), sum);
}

} // namespace cotun::wire
