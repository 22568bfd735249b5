// SPDX-License-Identifier: Apache-2.0
//
// The ways to add up bytes for the Internet checksum, the widest first. checksum.cpp uses the first one that works on
// the processor; tests force each.
//
// A kernel's sum is over words of the machine's own order. By RFC 1071 section 2 (B) the order does not matter until
// the end, where the two bytes of the folded sum may have to change places.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace cotun::wire {

struct checksum_kernel {
    const char* name;
    bool (*works_here)() noexcept;
    std::uint64_t (*sum)(const std::byte* from, std::size_t size) noexcept;
    std::uint64_t (*copy)(std::byte* to, const std::byte* from, std::size_t size) noexcept;
};

// Never empty; the last one works everywhere.
std::span<const checksum_kernel> checksum_kernels() noexcept;

constexpr std::uint64_t add_with_carry(std::uint64_t a, std::uint64_t b) noexcept {
    const std::uint64_t sum = a + b;
    return sum + (sum < a ? 1 : 0);
}

// Takes `Size` bytes as the first of a number, the rest of which is zero: the padding of a piece of odd length. Copies
// them if there is a place for them.
template <bool Copy, typename Number, std::size_t Size = sizeof(Number)>
inline std::uint64_t take(std::byte* to, const std::byte* from) noexcept {
    Number number = 0;
    std::memcpy(&number, from, Size);
    if constexpr (Copy) std::memcpy(to, &number, Size);
    return number;
}

template <bool Copy>
inline std::uint64_t take_scalar(std::byte* to, const std::byte* from, std::size_t left) noexcept {
    std::size_t at = 0;
    const auto place = [&](std::size_t offset) { return Copy ? to + at + offset : nullptr; };
    // Four sums that do not depend on each other keep the processor's adders busy; one sum would wait for each carry.
    std::uint64_t a = 0, b = 0, c = 0, d = 0;
    for (; left >= 32; at += 32, left -= 32) {
        a = add_with_carry(a, take<Copy, std::uint64_t>(place(0), from + at));
        b = add_with_carry(b, take<Copy, std::uint64_t>(place(8), from + at + 8));
        c = add_with_carry(c, take<Copy, std::uint64_t>(place(16), from + at + 16));
        d = add_with_carry(d, take<Copy, std::uint64_t>(place(24), from + at + 24));
    }
    std::uint64_t sum = add_with_carry(add_with_carry(a, b), add_with_carry(c, d));
    for (; left >= 8; at += 8, left -= 8) sum = add_with_carry(sum, take<Copy, std::uint64_t>(place(0), from + at));
    // In fixed sizes, because a copy of `left` bytes would be a call.
    std::uint64_t tail = 0;
    if ((left & 4) != 0) tail += take<Copy, std::uint32_t>(place(0), from + at);
    at += left & 4;
    if ((left & 2) != 0) tail += take<Copy, std::uint16_t>(place(0), from + at);
    at += left & 2;
    if ((left & 1) != 0) tail += take<Copy, std::uint16_t, 1>(place(0), from + at);
    return add_with_carry(sum, tail);
}

} // namespace cotun::wire
