// SPDX-License-Identifier: Apache-2.0
#include "cotun/wire/checksum.hpp"

#include <bit>
#include <cstring>

namespace cotun::wire {

namespace {

constexpr std::uint64_t add_with_carry(std::uint64_t a, std::uint64_t b) noexcept {
    const std::uint64_t sum = a + b;
    return sum + (sum < a ? 1 : 0);
}

// The first `Size` bytes as a number, the rest of which is zero: the padding of a piece of odd length.
template <typename Number, std::size_t Size = sizeof(Number)>
std::uint64_t load(const std::byte* from) noexcept {
    Number number = 0;
    std::memcpy(&number, from, Size);
    return number;
}

// The sum over `bytes` read as words of the machine's own order. By RFC 1071 section 2 (B) the order does not matter
// until the end, where the two bytes of the folded sum may have to change places.
std::uint64_t native_sum(std::span<const std::byte> bytes) noexcept {
    const std::byte* at = bytes.data();
    std::size_t left = bytes.size();
    // Four sums that do not depend on each other keep the processor's adders busy; one sum would wait for each carry.
    std::uint64_t a = 0, b = 0, c = 0, d = 0;
    for (; left >= 32; at += 32, left -= 32) {
        a = add_with_carry(a, load<std::uint64_t>(at));
        b = add_with_carry(b, load<std::uint64_t>(at + 8));
        c = add_with_carry(c, load<std::uint64_t>(at + 16));
        d = add_with_carry(d, load<std::uint64_t>(at + 24));
    }
    std::uint64_t sum = add_with_carry(add_with_carry(a, b), add_with_carry(c, d));
    for (; left >= 8; at += 8, left -= 8) sum = add_with_carry(sum, load<std::uint64_t>(at));
    // In fixed sizes, because a copy of `left` bytes would be a call.
    std::uint64_t tail = 0;
    if ((left & 4) != 0) tail += load<std::uint32_t>(at);
    at += left & 4;
    if ((left & 2) != 0) tail += load<std::uint16_t>(at);
    at += left & 2;
    if ((left & 1) != 0) tail += load<std::uint16_t, 1>(at);
    return add_with_carry(sum, tail);
}

constexpr std::uint16_t swap_bytes(std::uint16_t word) noexcept {
    return static_cast<std::uint16_t>(word << 8 | word >> 8);
}

} // namespace

partial_sum add_to_sum(std::span<const std::byte> bytes, partial_sum sum) noexcept {
    std::uint16_t folded = fold_sum(native_sum(bytes));
    if constexpr (std::endian::native == std::endian::little) folded = swap_bytes(folded);
    return add_to_sum(folded, sum);
}

} // namespace cotun::wire
