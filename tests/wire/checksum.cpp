// SPDX-License-Identifier: Apache-2.0
#include "cotun/wire/checksum.hpp"

#include <catch2/catch_test_macros.hpp>

#include <array>
#include <random>
#include <vector>

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
