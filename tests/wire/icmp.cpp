// SPDX-License-Identifier: Apache-2.0
#include "cotun/wire/icmp.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

#include "cotun/wire/checksum.hpp"

using namespace cotun::wire;

namespace {

using bytes = std::vector<std::byte>;

bytes make(std::initializer_list<int> values) {
    bytes result;
    for (const int value : values) result.push_back(static_cast<std::byte>(value));
    return result;
}

void put(bytes& packet, std::size_t at, std::uint16_t word) {
    packet.at(at) = static_cast<std::byte>(word >> 8);
    packet.at(at + 1) = static_cast<std::byte>(word);
}

// Header checksum and length from what the packet now holds, so that a test changes one thing and not two.
void finish_v4_header(bytes& packet) {
    const std::size_t header = std::to_integer<std::size_t>(packet[0] & std::byte{15}) * 4;
    put(packet, 2, static_cast<std::uint16_t>(packet.size()));
    put(packet, 10, 0);
    put(packet, 10, checksum(std::span{packet}.first(header)));
}

bytes v4_request(const bytes& options = {}, const bytes& data = make({1, 2, 3, 4, 5})) {
    bytes packet = make({0x45, 0xb8, 0, 0, 0x12, 0x34, 0x40, 0, 17, 1, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1});
    packet[0] = static_cast<std::byte>(0x45 + options.size() / 4);
    packet.insert(packet.end(), options.begin(), options.end());
    const std::size_t header = packet.size();
    for (const std::byte b : make({8, 0, 0, 0, 0xab, 0xcd, 0, 7})) packet.push_back(b);
    packet.insert(packet.end(), data.begin(), data.end());
    put(packet, header + 2, checksum(std::span{packet}.subspan(header)));
    finish_v4_header(packet);
    return packet;
}

std::uint16_t v6_checksum(std::span<const std::byte> packet) {
    const auto message = packet.subspan(40);
    return finish_checksum(add_to_sum(message, add_to_sum(packet.subspan(8, 32), partial_sum{message.size()} + 58)));
}

bytes v6_request(const bytes& data = make({9, 8, 7})) {
    bytes packet = make({0x6a, 0xb1, 0x23, 0x45, 0, 0, 58, 255});
    const auto source = make({0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2});
    const auto destination = make({0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1});
    packet.insert(packet.end(), source.begin(), source.end());
    packet.insert(packet.end(), destination.begin(), destination.end());
    for (const std::byte b : make({128, 0, 0, 0, 0xab, 0xcd, 0, 7})) packet.push_back(b);
    packet.insert(packet.end(), data.begin(), data.end());
    put(packet, 4, static_cast<std::uint16_t>(packet.size() - 40));
    put(packet, 42, v6_checksum(packet));
    return packet;
}

// False, and not a byte changed. The copy of exactly this size lets the sanitizer see a read past its end.
bool refused(const bytes& packet) {
    bytes copy{packet.begin(), packet.end()};
    copy.shrink_to_fit();
    return !reply_to_echo(copy) && copy == packet;
}

} // namespace

TEST_CASE("an IPv4 echo request becomes its reply", "[wire][icmp]") {
    for (const bytes& options : {bytes{}, make({1, 1, 1, 0}), bytes(40, std::byte{1})})
        for (const std::size_t size : {0U, 1U, 5U, 56U, 1472U}) {
            const bytes request = v4_request(options, bytes(size, std::byte{0x5a}));
            bytes reply = request;
            REQUIRE(reply_to_echo(reply));
            const std::size_t header = 20 + options.size();
            CHECK(checksum(std::span{reply}.first(header)) == 0);
            CHECK(checksum(std::span{reply}.subspan(header)) == 0);

            bytes wanted = request;
            std::swap_ranges(wanted.begin() + 12, wanted.begin() + 16, wanted.begin() + 16);
            wanted[8] = std::byte{64};
            wanted[header] = std::byte{0};
            finish_v4_header(wanted);
            put(wanted, header + 2, 0);
            put(wanted, header + 2, checksum(std::span{wanted}.subspan(header)));
            CHECK(reply == wanted);
        }
}

TEST_CASE("an IPv6 echo request becomes its reply", "[wire][icmp]") {
    for (const std::size_t size : {0U, 1U, 5U, 56U, 1452U}) {
        const bytes request = v6_request(bytes(size, std::byte{0xc3}));
        bytes reply = request;
        REQUIRE(reply_to_echo(reply));
        CHECK(v6_checksum(reply) == 0);

        bytes wanted = request;
        std::swap_ranges(wanted.begin() + 8, wanted.begin() + 24, wanted.begin() + 24);
        wanted[7] = std::byte{64};
        wanted[40] = std::byte{129};
        put(wanted, 42, 0);
        put(wanted, 42, v6_checksum(wanted));
        CHECK(reply == wanted);
    }
}

TEST_CASE("the reply's checksum is right whatever the data and the TTL", "[wire][icmp]") {
    std::mt19937 random{1};
    for (int round = 0; round < 20000; ++round) {
        bytes data(random() % 64);
        for (std::byte& b : data) b = static_cast<std::byte>(random() % 4 == 0 ? random() : 0);
        bytes packet = v4_request({}, data);
        packet[8] = static_cast<std::byte>(random());
        finish_v4_header(packet);
        bytes six = v6_request(data);
        if (!reply_to_echo(packet) || !reply_to_echo(six)) FAIL("a good request is refused");
        if (checksum(std::span{packet}.first(20)) != 0 || checksum(std::span{packet}.subspan(20)) != 0 ||
            v6_checksum(six) != 0)
            FAIL("a wrong checksum");
    }
}

TEST_CASE("a reply of nothing but zeros has the checksum 0xffff", "[wire][icmp]") {
    bytes packet = v4_request({}, bytes(32, std::byte{0}));
    put(packet, 24, 0);
    put(packet, 26, 0);
    put(packet, 22, 0);
    put(packet, 22, checksum(std::span{packet}.subspan(20)));
    REQUIRE(reply_to_echo(packet));
    CHECK(checksum(std::span{packet}.subspan(20)) == 0);
    CHECK(packet[22] == std::byte{0xff});
    CHECK(packet[23] == std::byte{0xff});
}

TEST_CASE("damage is passed on, not repaired", "[wire][icmp]") {
    bytes four = v4_request();
    four.back() ^= std::byte{0x10};
    REQUIRE(reply_to_echo(four));
    CHECK(checksum(std::span{four}.subspan(20)) != 0);
    bytes six = v6_request();
    six.back() ^= std::byte{0x10};
    REQUIRE(reply_to_echo(six));
    CHECK(v6_checksum(six) != 0);
}

TEST_CASE("everything else is refused and left alone", "[wire][icmp]") {
    const auto four = [](std::size_t at, int value) {
        bytes packet = v4_request();
        packet[at] = static_cast<std::byte>(value);
        finish_v4_header(packet);
        return packet;
    };
    CHECK_FALSE(refused(four(1, 0))); // what the helper makes is good
    CHECK(refused(four(6, 0x20)));    // more fragments
    CHECK(refused(four(7, 0x01)));    // a later fragment
    CHECK(refused(four(9, 17)));      // UDP
    CHECK(refused(four(16, 224)));    // multicast
    CHECK(refused(four(16, 0)));      // this network
    CHECK(refused(four(12, 239)));    // from a multicast address
    CHECK(refused(four(20, 0)));      // an echo reply
    CHECK(refused(four(20, 13)));     // a timestamp request
    CHECK(refused(four(21, 1)));      // a code that RFC 792 does not know
    bytes broadcast = v4_request();
    std::fill_n(broadcast.begin() + 16, 4, std::byte{255});
    finish_v4_header(broadcast);
    CHECK(refused(broadcast));
    bytes damaged = v4_request();
    damaged[1] ^= std::byte{1};
    CHECK(refused(damaged));
    bytes short_header = v4_request();
    short_header[0] = std::byte{0x44};
    CHECK(refused(short_header));
    bytes long_header = v4_request();
    long_header[0] = std::byte{0x4f};
    CHECK(refused(long_header));
    bytes padded = v4_request();
    padded.push_back(std::byte{0});
    CHECK(refused(padded));
    bytes version_five = v4_request();
    version_five[0] = std::byte{0x55};
    CHECK(refused(version_five));

    const auto six = [](std::size_t at, int value) {
        bytes packet = v6_request();
        packet[at] = static_cast<std::byte>(value);
        return packet;
    };
    CHECK_FALSE(refused(six(7, 3)));
    CHECK(refused(six(6, 0)));     // hop-by-hop options
    CHECK(refused(six(6, 44)));    // a fragment
    CHECK(refused(six(6, 17)));    // UDP
    CHECK(refused(six(24, 0xff))); // multicast
    CHECK(refused(six(8, 0xff)));  // from a multicast address
    CHECK(refused(six(40, 129)));  // an echo reply
    CHECK(refused(six(41, 1)));
    CHECK(refused(six(5, 12))); // a byte too many for the header
    CHECK(refused(six(5, 10)));
    bytes nobody = v6_request();
    std::fill_n(nobody.begin() + 8, 16, std::byte{0});
    CHECK(refused(nobody));
    bytes jumbo = v6_request();
    put(jumbo, 4, 0);
    CHECK(refused(jumbo));
}

TEST_CASE("every truncation is refused", "[wire][icmp]") {
    for (const bytes& whole : {v4_request(), v4_request(bytes(40, std::byte{1})), v6_request()})
        for (std::size_t size = 0; size < whole.size(); ++size) {
            bytes part{whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)};
            if (!refused(part)) FAIL("size " << size);
            // And with a length that says so, as long as what is needed is not there.
            const bool v4 = (whole[0] >> 4) == std::byte{4};
            const std::size_t needed = v4 ? std::to_integer<std::size_t>(whole[0] & std::byte{15}) * 4 + 8 : 48;
            if (size < (v4 ? std::size_t{20} : std::size_t{40}) || size >= needed) continue;
            put(part, v4 ? 2 : 4, static_cast<std::uint16_t>(v4 ? size : size - 40));
            if (!refused(part)) FAIL("size " << size << ", with its length");
        }
}

TEST_CASE("garbage never faults, and is never changed when refused", "[wire][icmp]") {
    std::mt19937 random{4};
    unsigned answered = 0;
    for (int round = 0; round < 100000; ++round) {
        // Half of them are good requests with a few bytes changed, which come further than noise does.
        bytes packet;
        if (round % 2 == 0) {
            packet.resize(random() % 100);
            for (std::byte& b : packet) b = static_cast<std::byte>(random());
        } else {
            packet = round % 4 == 1 ? v4_request(bytes(4 * (random() % 3), std::byte{1})) : v6_request();
            for (auto changes = random() % 3; changes > 0; --changes)
                packet[random() % packet.size()] = static_cast<std::byte>(random());
            packet.resize(random() % 8 == 0 ? random() % packet.size() : packet.size());
        }
        bytes copy{packet.begin(), packet.end()};
        if (reply_to_echo(copy))
            ++answered;
        else if (copy != packet)
            FAIL("refused, but changed");
        if (copy.size() != packet.size()) FAIL("the size changed");
    }
    CHECK(answered > 10000);
}
