// SPDX-License-Identifier: Apache-2.0
#include "cotun/wire/checksum.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <random>
#include <vector>

#include "wire/checksum_kernels.hpp"

using namespace cotun::wire;

namespace {

// RFC 1071 word by word, as plainly as it can be written.
std::uint16_t naive_checksum(std::span<const std::byte> bytes) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i)
        sum += std::to_integer<std::uint64_t>(bytes[i]) << (i % 2 == 0 ? 8 : 0);
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(~sum);
}

std::vector<std::byte> random_bytes(std::mt19937& random, std::size_t size) {
    std::vector<std::byte> bytes(size);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    return bytes;
}

} // namespace

TEST_CASE("the checksum of RFC 1071's example", "[wire][checksum]") {
    constexpr std::array bytes{std::byte{0x00}, std::byte{0x01}, std::byte{0xf2}, std::byte{0x03},
                               std::byte{0xf4}, std::byte{0xf5}, std::byte{0xf6}, std::byte{0xf7}};
    CHECK(fold_sum(add_to_sum(bytes)) == 0xddf2);
    CHECK(checksum(bytes) == 0x220d);
    CHECK(checksum({}) == 0xffff);
}

TEST_CASE("every length at every alignment, against a naive sum", "[wire][checksum]") {
    std::mt19937 random{1};
    // Random bytes, the bytes with the most carries, and zeros, whose checksum alone is 0xffff.
    for (auto buffer : {random_bytes(random, 400), std::vector(400, std::byte{0xff}), std::vector(400, std::byte{0})})
        for (std::size_t at = 0; at < 16; ++at)
            for (std::size_t size = 0; size <= 300; ++size) {
                // A copy of exactly this size lets the sanitizer see a read past its end.
                const auto piece = std::span<const std::byte>{buffer}.subspan(at, size);
                const std::vector<std::byte> exact{piece.begin(), piece.end()};
                if (checksum(piece) != naive_checksum(piece) || checksum(exact) != naive_checksum(piece))
                    FAIL("offset " << at << ", size " << size);
            }
    const auto large = random_bytes(random, 65535);
    CHECK(checksum(large) == naive_checksum(large));
    const std::vector<std::byte> ones(1 << 20, std::byte{0xff});
    CHECK(checksum(ones) == naive_checksum(ones));
}

TEST_CASE("each kernel over every length from 0 to 9001 at every alignment, summed and copied", "[wire][checksum]") {
    constexpr std::size_t longest = 9001, alignments = 64;
    std::mt19937 random{4};
    bool last_works = false;
    for (const checksum_kernel& kernel : checksum_kernels()) {
        last_works = kernel.works_here();
        if (!last_works) continue;
        INFO(kernel.name);
        const auto buffer = random_bytes(random, longest + 2 * alignments);
        std::vector<std::byte> copy(longest + 2 * alignments);
        const std::size_t base = alignments - reinterpret_cast<std::uintptr_t>(buffer.data()) % alignments;
        for (std::size_t at = 0; at < alignments; ++at) {
            const std::byte* from = buffer.data() + base + at;
            std::uint64_t even_words = 0; // the plain sum of RFC 1071, one byte longer each time
            for (std::size_t size = 0; size <= longest; ++size) {
                if (size > 0) even_words += std::to_integer<std::uint64_t>(from[size - 1]) << (size % 2 == 1 ? 8 : 0);
                const auto in_wire_order = [](std::uint64_t sum) {
                    const std::uint16_t word = fold_sum(sum);
                    return std::endian::native == std::endian::little
                               ? static_cast<std::uint16_t>(word << 8 | word >> 8)
                               : word;
                };
                const std::uint16_t expected = fold_sum(even_words);
                std::byte* to = copy.data() + (size * 7 + at * 3) % alignments;
                to[size] = std::byte{0x5a};
                if (in_wire_order(kernel.sum(from, size)) != expected ||
                    in_wire_order(kernel.copy(to, from, size)) != expected || std::memcmp(to, from, size) != 0 ||
                    to[size] != std::byte{0x5a})
                    FAIL(kernel.name << ": alignment " << at << ", size " << size);
            }
        }
    }
    CHECK(last_works);
}

TEST_CASE("each kernel keeps to its bytes, and loses no carry", "[wire][checksum]") {
    std::mt19937 random{5};
    for (const checksum_kernel& kernel : checksum_kernels()) {
        if (!kernel.works_here()) continue;
        INFO(kernel.name);
        for (std::size_t size = 0; size <= 520; ++size) { // allocations of this very size, for the sanitizer
            const auto from = random_bytes(random, size);
            std::vector<std::byte> to(size);
            if (kernel.sum(from.data(), size) % 0xffff != kernel.copy(to.data(), from.data(), size) % 0xffff ||
                to != from)
                FAIL("size " << size);
        }
        const std::vector<std::byte> ones((1 << 20) + 2, std::byte{0xff});
        CHECK(fold_sum(kernel.sum(ones.data(), ones.size())) == 0xffff);
        const std::vector<std::byte> zeros(4096);
        CHECK(kernel.sum(zeros.data(), zeros.size()) == 0);
        std::vector<std::byte> one(4096); // a word alone must not become the other zero
        one[4094] = one[4095] = std::byte{0xff};
        CHECK(fold_sum(kernel.sum(one.data(), one.size())) == 0xffff);
    }
}

TEST_CASE("the sum is the same with a copy", "[wire][checksum]") {
    std::mt19937 random{6};
    for (std::size_t size = 0; size <= 3000; ++size) {
        const auto from = random_bytes(random, size);
        std::vector<std::byte> to(size);
        if (finish_checksum(checksum_copy(to.data(), from, 7)) != finish_checksum(add_to_sum(from, 7)) || to != from)
            FAIL("size " << size);
    }
}

TEST_CASE("pseudo headers of both families", "[wire][checksum]") {
    // 192.0.2.1 to 198.51.100.7, TCP, 20 bytes: c000 + 0201 + c633 + 6407 + 0006 + 0014 = 1 ec55, folded ec56.
    const auto v4 =
        pseudo_header_sum(ip_address::from_string("192.0.2.1"), ip_address::from_string("198.51.100.7"), 6, 20);
    CHECK(fold_sum(v4) == 0xec56);
    const std::array bytes{std::byte{192}, std::byte{0},  std::byte{2},   std::byte{1},
                           std::byte{198}, std::byte{51}, std::byte{100}, std::byte{7}};
    CHECK(fold_sum(pseudo_header_sum(bytes, 6, 20)) == 0xec56);
    // 2001:db8::1 to 2001:db8::2, UDP, 65575 bytes, a length of 17 bits: 2 * (2001 + 0db8) + 1 + 2 + 1 0027 + 0011.
    const auto v6 =
        pseudo_header_sum(ip_address::from_string("2001:db8::1"), ip_address::from_string("2001:db8::2"), 17, 65575);
    CHECK(fold_sum(v6) == 0x5bae);
}

TEST_CASE("an address that changes, as a NAT does it", "[wire][checksum]") {
    std::mt19937 random{7};
    for (int round = 0; round < 20000; ++round) {
        auto bytes = random_bytes(random, 40);
        bytes[0] |= std::byte{1};
        const std::uint16_t before = checksum(bytes);
        const std::size_t size = round % 2 == 0 ? 4 : 16;
        const auto old_address =
            std::vector(bytes.begin() + 12, bytes.begin() + 12 + static_cast<std::ptrdiff_t>(size));
        const auto new_address = random_bytes(random, size);
        std::copy(new_address.begin(), new_address.end(), bytes.begin() + 12);
        if (update_checksum(before, old_address, new_address) != naive_checksum(bytes)) FAIL("round " << round);
    }
}

TEST_CASE("pieces can be summed one after another", "[wire][checksum]") {
    std::mt19937 random{2};
    for (int round = 0; round < 2000; ++round) {
        const auto bytes = random_bytes(random, 1 + random() % 200);
        const std::span<const std::byte> all{bytes};
        const std::size_t cut = (random() % (bytes.size() + 1)) & ~std::size_t{1};
        if (finish_checksum(add_to_sum(all.subspan(cut), add_to_sum(all.first(cut)))) != naive_checksum(all))
            FAIL("size " << bytes.size() << ", cut at " << cut);
    }
    CHECK(fold_sum(add_to_sum(std::uint16_t{0x1234}, add_to_sum(std::uint16_t{0xffff}, 0))) == 0x1234);
    CHECK(fold_sum(add_to_sum(std::uint16_t{2}, ~partial_sum{0})) == 2); // the carry out of 64 bits is not lost
    CHECK(fold_sum(~partial_sum{0}) == 0xffff);
    CHECK(fold_sum(0) == 0);
}

TEST_CASE("an updated checksum is the recomputed one", "[wire][checksum]") {
    std::mt19937 random{3};
    for (int round = 0; round < 50000; ++round) {
        auto bytes = random_bytes(random, 2 + 2 * (random() % 20));
        bytes[0] |= std::byte{1}; // one word that stays and is not zero
        const std::uint16_t before = checksum(bytes);
        const std::size_t at = bytes.size() == 2 ? 0 : 2 + 2 * (random() % (bytes.size() / 2 - 1));
        const auto word = [&] {
            return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[at]) << 8 |
                                              std::to_integer<unsigned>(bytes[at + 1]));
        };
        const std::uint16_t old_word = word();
        // 0 and 0xffff, where one's complement arithmetic has its two zeros, are frequent.
        const std::uint16_t choices[] = {0, 0xffff, static_cast<std::uint16_t>(random()), old_word};
        const std::uint16_t new_word = at == 0 ? std::uint16_t{0x0100} : choices[random() % 4];
        bytes[at] = static_cast<std::byte>(new_word >> 8);
        bytes[at + 1] = static_cast<std::byte>(new_word);
        if (update_checksum(before, old_word, new_word) != naive_checksum(bytes))
            FAIL("size " << bytes.size() << ", " << old_word << " became " << new_word);
    }
    // The example of RFC 1624 section 4, which the older equation got wrong.
    CHECK(update_checksum(0xdd2f, 0x5555, 0x3285) == 0x0000);
}
