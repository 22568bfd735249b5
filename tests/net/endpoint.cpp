// SPDX-License-Identifier: Apache-2.0
#include <cotun/net/endpoint.hpp>

#include <catch2/catch_test_macros.hpp>

#include <net/if.h>

#include <set>
#include <string>
#include <system_error>
#include <unordered_set>

using cotun::endpoint;
using namespace cotun::wire;

TEST_CASE("endpoints are read and shown", "[net][endpoint]") {
    for (const char* text : {"192.0.2.1:51820", "0.0.0.0:0", "255.255.255.255:65535", "[::]:0", "[2001:db8::1]:51820",
                             "[::1]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:1", "[fe80::1]:80",
                             "[fe80::1%7]:80", "[ff02::fb%4294967295]:5353"}) {
        CAPTURE(text);
        const auto e = endpoint::parse(text);
        REQUIRE(e);
        CHECK(e->to_string() == text);
        CHECK(endpoint::from_string(text) == *e);
    }
    const endpoint e = endpoint::from_string("192.0.2.1:80");
    CHECK(e.address() == ip_address(ipv4_address(192, 0, 2, 1)));
    CHECK(e.port() == 80);
    CHECK(endpoint::from_string("[2001:DB8:0::1]:5").to_string() == "[2001:db8::1]:5");
    CHECK(endpoint().to_string() == "0.0.0.0:0");
    CHECK(e.scope() == 0);
    CHECK(endpoint::from_string("[fe80::1%7]:80").scope() == 7);
    if (const unsigned index = if_nametoindex("lo"))
        CHECK(endpoint::from_string("[fe80::1%lo]:80") ==
              endpoint(ip_address(ipv6_address::parse("fe80::1").value()), 80, index));
}

TEST_CASE("what is no endpoint is refused", "[net][endpoint]") {
    for (const std::string text : {"",
                                   ":",
                                   ":80",
                                   "192.0.2.1",
                                   "192.0.2.1:",
                                   "192.0.2.1:65536",
                                   "192.0.2.1:99999999999",
                                   "192.0.2.1:-1",
                                   "192.0.2.1:+1",
                                   "192.0.2.1: 80",
                                   " 192.0.2.1:80",
                                   "192.0.2.1:80 ",
                                   "192.0.2.1:0x50",
                                   "192.0.2.1:80:80",
                                   "192.0.2:80",
                                   "[192.0.2.1]:80",
                                   "2001:db8::1:80:",
                                   "::1",
                                   "::1:80",
                                   "[::1]",
                                   "[::1]80",
                                   "[::1:80",
                                   "::1]:80",
                                   "[]:80",
                                   "[[::1]]:80",
                                   "[::1%lo]:80", // not link-local
                                   "[2001:db8::1%1]:80",
                                   "[fe80::1%]:80",
                                   "[fe80::1%0]:80",
                                   "[fe80::1%no-such-link]:80",
                                   "[fe80::1%a-name-that-is-too-long]:80",
                                   "[fe80::1%4294967296]:80",
                                   "[fe80::1%lo%lo]:80",
                                   "[%lo]:80",
                                   "192.0.2.1%lo:80",
                                   "localhost:80",
                                   "*:80",
                                   "[::1]:",
                                   "[::1]:65536"}) {
        CAPTURE(text);
        CHECK_FALSE(endpoint::parse(text));
        try {
            (void)endpoint::from_string(text);
            FAIL_CHECK("it was not refused");
        } catch (const std::system_error& refused) {
            CHECK(refused.code() == std::errc::invalid_argument);
            const std::string what = refused.what();
            CHECK(what.find('"' + text + '"') != std::string::npos);
            CHECK(what.find("192.0.2.1:51820") != std::string::npos);
        }
    }
}

TEST_CASE("endpoints compare and hash by address and port", "[net][endpoint]") {
    const endpoint a = endpoint::from_string("192.0.2.1:80");
    const endpoint other_port = endpoint::from_string("192.0.2.1:81");
    const endpoint other_address = endpoint::from_string("192.0.2.2:80");
    const endpoint v6 = endpoint::from_string("[2001:db8::1]:80");
    CHECK(a == endpoint(ipv4_address(192, 0, 2, 1), 80));
    CHECK(a < other_port);
    CHECK(other_port < other_address);
    CHECK(other_address < v6);
    CHECK(std::set<endpoint>{a, v6, other_port, a}.size() == 3);
    const endpoint here = endpoint::from_string("[fe80::1%1]:80");
    const endpoint there = endpoint::from_string("[fe80::1%2]:80");
    CHECK(here < there);
    CHECK(std::hash<endpoint>()(here) != std::hash<endpoint>()(there));
    CHECK(std::unordered_set<endpoint>{a, v6, other_port, other_address, a, v6}.size() == 4);
}
