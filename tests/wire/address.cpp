// SPDX-License-Identifier: Apache-2.0
#include "cotun/wire/address.hpp"

#include <arpa/inet.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <map>
#include <random>
#include <system_error>
#include <unordered_set>
#include <vector>

using namespace cotun::wire;
using Catch::Matchers::ContainsSubstring;

namespace {

// The text of the error that from_string throws; its code must be invalid_argument.
template <typename Address>
std::string complaint_about(std::string_view text) {
    try {
        (void)Address::from_string(text);
    } catch (const std::system_error& error) {
        CHECK(error.code() == std::errc::invalid_argument);
        return error.what();
    }
    return "no error";
}

static_assert(std::is_trivially_copyable_v<ip_prefix> && std::regular<ip_prefix>);
static_assert(std::regular<ipv4_address> && std::regular<ipv6_address> && std::regular<ip_address>);
static_assert(std::regular<mac_address> && std::is_trivially_copyable_v<mac_address>);
static_assert(ip_prefix{ipv4_address{10, 9, 0, 1}, 24}.contains(ipv4_address{10, 9, 0, 77}));
static_assert(ip_prefix{ipv4_address{10, 9, 0, 1}, 25}.last_address() == ip_address{ipv4_address{10, 9, 0, 127}});
static_assert(ipv4_address{127, 0, 0, 1}.to_number() == 0x7f000001);
static_assert(ipv4_address::from_number(0x7f000001) == ipv4_address::loopback());
static_assert(!std::is_convertible_v<ip_address, ip_prefix>); // would make an address equal to its /32 by accident

} // namespace

TEST_CASE("IPv4 addresses are read strictly and written back", "[wire][address]") {
    for (const char* text : {"0.0.0.0", "10.9.0.1", "192.0.2.255", "255.255.255.255"}) {
        REQUIRE(ipv4_address::parse(text));
        CHECK(ipv4_address::from_string(text).to_string() == text);
    }
    for (const char* text :
         {"",         " ",        "1",          "1.2.3",        "1.2.3.4.5",  "1.2.3.256", "1.2.3.1000", "01.2.3.4",
          "1.2.3.00", "1.2.3.",   ".1.2.3",     "1..2.3",       " 1.2.3.4",   "1.2.3.4 ",  "1.2.3.4\n",  "0x1.2.3.4",
          "+1.2.3.4", "1.2.3.-4", "1.2.3.4/24", "1.2.3.4%eth0", "1.2.3.4:80", "1,2,3,4",   "::1"}) {
        CAPTURE(text);
        CHECK_FALSE(ipv4_address::parse(text));
    }
    CHECK_FALSE(ipv4_address::parse(std::string_view{"1.2.3.4\0", 8}));
}

TEST_CASE("IPv6 addresses are written as RFC 5952 says", "[wire][address]") {
    const std::map<std::string, std::string> canonical = {
        {"::", "::"},
        {"::1", "::1"},
        {"1::", "1::"},
        {"0:0:0:0:0:0:0:0", "::"},
        {"2001:0db8::0001", "2001:db8::1"},
        {"2001:DB8::ABCD", "2001:db8::abcd"},
        {"2001:db8:0:0:0:0:2:1", "2001:db8::2:1"},
        {"2001:db8::1:1:1:1:1", "2001:db8:0:1:1:1:1:1"}, // one group is not shortened
        {"2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"},   // the first of two equal runs
        {"2001:0:0:1:0:0:0:1", "2001:0:0:1::1"},         // the longer run
        {"1:2:3:4:5:6:0:0", "1:2:3:4:5:6::"},
        {"0:0:3:4:5:6:7:8", "::3:4:5:6:7:8"},
        {"1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"},
        {"::ffff:192.0.2.1", "::ffff:192.0.2.1"},
        {"::ffff:c000:201", "::ffff:192.0.2.1"},
        {"::192.0.2.1", "::c000:201"}, // the deprecated form means nothing any more
        {"64:ff9b::192.0.2.33", "64:ff9b::c000:221"},
        {"1:2:3:4:5:6:192.0.2.1", "1:2:3:4:5:6:c000:201"},
    };
    for (const auto& [text, wanted] : canonical) {
        CAPTURE(text);
        REQUIRE(ipv6_address::parse(text));
        CHECK(ipv6_address::from_string(text).to_string() == wanted);
        CHECK(ipv6_address::from_string(wanted) == ipv6_address::from_string(text));
    }
    for (const char* text : {"",
                             ":",
                             ":::",
                             "1",
                             "1:2:3:4:5:6:7",
                             "1:2:3:4:5:6:7:8:9",
                             "1:2:3:4:5:6:7:8::",
                             "::1:2:3:4:5:6:7:8",
                             "1::2::3",
                             ":1::2",
                             "1::2:",
                             ":1:2:3:4:5:6:7:8",
                             "1:2:3:4:5:6:7:8:",
                             "12345::",
                             "::g",
                             "fe80::1%eth0",
                             "::1/64",
                             "[::1]",
                             " ::1",
                             "::1 ",
                             "::1.2.3",
                             "::1.2.3.256",
                             "::01.2.3.4",
                             "1.2.3.4::",
                             "1:2:3:4:5:6:7:1.2.3.4",
                             "::1.2.3.4:5",
                             "1.2.3.4",
                             "::-1",
                             "::0x1"}) {
        CAPTURE(text);
        CHECK_FALSE(ipv6_address::parse(text));
    }
}

TEST_CASE("the C library reads the same addresses", "[wire][address]") {
    std::mt19937 random{1};
    constexpr std::string_view letters = "0123456789abcF::::....";
    unsigned good = 0;
    for (int i = 0; i < 300000; ++i) {
        std::string text(random() % 14 + 1, ' ');
        for (char& c : text) c = letters[random() % letters.size()];
        ipv4_address::bytes_type four{};
        ipv6_address::bytes_type sixteen{};
        const bool is_four = inet_pton(AF_INET, text.c_str(), four.data()) == 1;
        const bool is_sixteen = inet_pton(AF_INET6, text.c_str(), sixteen.data()) == 1;
        CAPTURE(text);
        const auto v4 = ipv4_address::parse(text);
        const auto v6 = ipv6_address::parse(text);
        if (is_four != v4.has_value() || is_sixteen != v6.has_value()) FAIL("one reads it, the other does not");
        if ((v4 && v4->bytes() != four) || (v6 && v6->bytes() != sixteen)) FAIL("read as different addresses");
        good += is_four + is_sixteen;
    }
    CHECK(good > 100);
    for (int i = 0; i < 20000; ++i) {
        ipv6_address::bytes_type bytes;
        for (std::uint8_t& b : bytes) b = static_cast<std::uint8_t>(random() % 3 == 0 ? random() : 0);
        const ipv6_address address{bytes};
        if (ipv6_address::parse(address.to_string()) != address) FAIL("does not come back: " << address.to_string());
    }
}

TEST_CASE("an IP address knows its family", "[wire][address]") {
    const ip_address v4 = ip_address::from_string("10.9.0.1");
    const ip_address v6 = ip_address::from_string("fd00::1");
    CHECK(v4.is_v4());
    CHECK(v6.is_v6());
    CHECK(v4.v4() == ipv4_address{10, 9, 0, 1});
    CHECK(v6.v6().to_string() == "fd00::1");
    CHECK_THROWS_AS(v4.v6(), std::system_error);
    CHECK_THROWS_AS(v6.v4(), std::system_error);
    CHECK(v4.bytes().size() == 4);
    CHECK(v6.bytes().size() == 16);
    CHECK(v4 < v6);
    CHECK(ip_address{} == ip_address{ipv4_address::any()});
    CHECK(ip_address{} != ip_address{ipv6_address::any()});
    CHECK(ip_address::from_string("::ffff:10.9.0.1") != v4);
    CHECK(ip_address::from_string("::ffff:10.9.0.1").unmapped() == v4);
    CHECK(v6.unmapped() == v6);
    CHECK(v4.unmapped() == v4);
    CHECK(ip_address::from_string("::").is_unspecified());
    CHECK(ip_address::from_string("0.0.0.0").is_unspecified());
    CHECK_FALSE(v4.is_unspecified());
    CHECK(ip_address::from_string("ff02::1").is_multicast());
    CHECK(ip_address::from_string("239.1.1.1").is_multicast());
    CHECK_FALSE(v4.is_multicast());
    CHECK(ip_address::from_string("::1").is_loopback());
    CHECK(ip_address::from_string("127.8.0.1").is_loopback());
    CHECK(ipv6_address::from_string("fe80::1").is_link_local());
    CHECK_FALSE(ip_address::parse("fe80::1%eth0"));
}

TEST_CASE("a prefix keeps the host's bits and knows its network", "[wire][address]") {
    const ip_prefix prefix = "10.9.0.1/24";
    CHECK(prefix.address() == ip_address::from_string("10.9.0.1"));
    CHECK(prefix.length() == 24);
    CHECK(prefix.to_string() == "10.9.0.1/24");
    CHECK(prefix.network() == ip_prefix{"10.9.0.0/24"});
    CHECK(prefix != prefix.network());
    CHECK(prefix.last_address() == ip_address::from_string("10.9.0.255"));
    CHECK(prefix.contains(ip_address::from_string("10.9.0.255")));
    CHECK_FALSE(prefix.contains(ip_address::from_string("10.9.1.0")));
    CHECK_FALSE(prefix.contains(ip_address::from_string("::ffff:10.9.0.1")));

    CHECK(ip_prefix{"10.9.0.1"}.to_string() == "10.9.0.1/32");
    CHECK(ip_prefix{"fd00::1"}.to_string() == "fd00::1/128");
    CHECK(ip_prefix{"0.0.0.0/0"}.contains(ip_address::from_string("255.1.2.3")));
    CHECK(ip_prefix{"::/0"}.contains(ip_address::from_string("ff::")));
    CHECK_FALSE(ip_prefix{"::/0"}.contains(ip_address::from_string("1.2.3.4")));
    CHECK(ip_prefix{"fd00:1:2:3:4::1/61"}.network().to_string() == "fd00:1:2::/61");
    CHECK(ip_prefix{"fd00::1/128"}.contains(ip_address::from_string("fd00::1")));
    CHECK_FALSE(ip_prefix{"fd00::1/128"}.contains(ip_address::from_string("fd00::2")));

    // Against arithmetic on numbers, for every length.
    std::mt19937 random{2};
    for (int length = 0; length <= 32; ++length) {
        const std::uint32_t mask = length == 0 ? 0 : ~std::uint32_t{0} << (32 - length);
        const auto a = static_cast<std::uint32_t>(random());
        const auto b = static_cast<std::uint32_t>(a ^ (std::uint32_t{1} << (random() % 32)));
        const ip_prefix p{ipv4_address::from_number(a), length};
        CHECK(p.network().address().v4().to_number() == (a & mask));
        CHECK(p.last_address().v4().to_number() == (a | ~mask));
        CHECK(p.contains(ipv4_address::from_number(b)) == ((a & mask) == (b & mask)));
    }
}

TEST_CASE("prefixes are strict, too", "[wire][address]") {
    for (const char* text : {"", "/", "/24", "10.9.0.1/", "10.9.0.1/33", "10.9.0.1/-1", "10.9.0.1/024", "10.9.0.1/ 24",
                             "10.9.0.1/24 ", "10.9.0.1/24/8", "10.9.0.1/255.255.255.0", "fd00::1/129", "fd00::1/1e",
                             "10.9.0/24", "fe80::1%eth0/64", "10.9.0.1 /24", "10.9.0.1/+8"}) {
        CAPTURE(text);
        CHECK_FALSE(ip_prefix::parse(text));
        CHECK_THROWS_AS(ip_prefix{text}, std::system_error);
    }
    CHECK(ip_prefix::parse("10.9.0.1/0"));
    CHECK(ip_prefix::parse("fd00::1/128"));
    CHECK_THROWS_AS((ip_prefix{ipv4_address{}, 33}), std::system_error);
    CHECK_THROWS_AS((ip_prefix{ipv4_address{}, -1}), std::system_error);
    CHECK_THROWS_AS((ip_prefix{ipv4_address{}, 256 + 24}), std::system_error);
}

TEST_CASE("options can be written with prefixes as text", "[wire][address]") {
    struct options {
        std::vector<ip_prefix> addresses = {};
        int mtu = 1500;
    };
    const options two = {.addresses = {"10.9.0.1/24", "fd00::1/64"}, .mtu = 1400};
    REQUIRE(two.addresses.size() == 2);
    CHECK(two.addresses[1].to_string() == "fd00::1/64");
    const std::string text = "10.9.0.2/16";
    const options one = {.addresses = {text}};
    REQUIRE(one.addresses.size() == 1);
    CHECK(one.addresses[0].length() == 16);
    CHECK(ip_prefix{std::string_view{text}} == one.addresses[0]);
}

TEST_CASE("MAC addresses", "[wire][address]") {
    const mac_address mac = mac_address::from_string("02:00:5E:00:53:01");
    CHECK(mac.to_string() == "02:00:5e:00:53:01");
    CHECK(mac.is_locally_administered());
    CHECK_FALSE(mac.is_multicast());
    CHECK(mac_address{}.is_zero());
    CHECK(mac_address::from_string("ff:ff:ff:ff:ff:ff") == mac_address::broadcast());
    CHECK(mac_address::broadcast().is_multicast());
    for (const char* text : {"", "02:00:5e:00:53", "02:00:5e:00:53:01:02", "2:0:5e:0:53:1", "02-00-5e-00-53-01",
                             "02:00:5e:00:53:0g", "02:00:5e:00:53:01 ", " 02:00:5e:00:53:01", "02:00:5e:00:53:"}) {
        CAPTURE(text);
        CHECK_FALSE(mac_address::parse(text));
    }
}

TEST_CASE("addresses can be keys", "[wire][address]") {
    std::unordered_set<ip_address> addresses;
    std::unordered_set<ip_prefix> prefixes;
    std::unordered_set<mac_address> macs;
    for (std::uint32_t i = 0; i < 1000; ++i) {
        addresses.insert(ipv4_address::from_number(i));
        prefixes.insert(ip_prefix{ipv4_address::from_number(i / 33), static_cast<int>(i % 33)});
        macs.insert(mac_address{{2, 0, 0, 0, static_cast<std::uint8_t>(i >> 8), static_cast<std::uint8_t>(i)}});
    }
    CHECK(addresses.size() == 1000);
    CHECK(prefixes.size() == 1000);
    CHECK(macs.size() == 1000);
    CHECK(std::hash<ip_prefix>{}("10.0.0.0/8") != std::hash<ip_prefix>{}("10.0.0.0/9"));
    CHECK(std::hash<ip_address>{}(ipv4_address{}) != std::hash<ip_address>{}(ipv6_address{}));
}

TEST_CASE("an error says what is wrong and shows a right one", "[wire][address]") {
    CHECK_THAT(complaint_about<ip_prefix>("10.9.0.1/33"),
               ContainsSubstring("'10.9.0.1/33'") && ContainsSubstring("0 to 32") && ContainsSubstring("10.9.0.1/24"));
    CHECK_THAT(complaint_about<ipv4_address>("10.9.0.256"),
               ContainsSubstring("0 to 255") && ContainsSubstring("192.0.2.1"));
    CHECK_THAT(complaint_about<ipv6_address>("fe80::1%eth0"), ContainsSubstring("zone"));
    CHECK_THAT(complaint_about<ipv6_address>("1::2::3"), ContainsSubstring("more than one '::'"));
    CHECK_THAT(complaint_about<ip_address>(""), ContainsSubstring("empty"));
    CHECK_THAT(complaint_about<mac_address>("zz"), ContainsSubstring("02:00:5e:00:53:01"));
    CHECK_THAT(complaint_about<ip_address>("a\x1b[31m\nb"), ContainsSubstring("'a?[31m?b'"));
    CHECK(complaint_about<ip_address>(std::string(10000, 'x')).size() < 400);
}
