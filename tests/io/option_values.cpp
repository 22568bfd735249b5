// SPDX-License-Identifier: Apache-2.0
#include <cotun/io/option_values.hpp>

#include <cotun/coro/task.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/net/udp.hpp>
#include <cotun/tun/device.hpp>
#include <cotun/wire/address.hpp>

#include "../support/scripted_port.hpp"

#include <catch2/catch_test_macros.hpp>

#include <list>
#include <span>
#include <string>
#include <system_error>
#include <vector>

using cotun::option_list;
using cotun::option_text;
using cotun::wire::ip_prefix;

static_assert(std::is_trivially_destructible_v<cotun::device_options>);
static_assert(std::is_trivially_destructible_v<cotun::udp_options>);
static_assert(std::is_trivially_destructible_v<cotun::reactor_options>);

TEST_CASE("option_text: takes what reads as a string_view, up to 255 bytes") {
    CHECK(option_text().empty());
    CHECK(option_text("tun0") == "tun0");
    CHECK(option_text(std::string("a\0b", 3)).view() == std::string_view("a\0b", 3));
    CHECK(option_text(std::string_view("tun0").substr(0, 3)) == "tun");
    const std::string longest(255, 'x');
    const option_text full = longest;
    CHECK(full == longest);
    CHECK(std::string(full.c_str()) == longest);
    try {
        (void)option_text(std::string(256, 'x'));
        FAIL("taken");
    } catch (const std::system_error& e) {
        CHECK(e.code() == std::errc::filename_too_long);
        CHECK(std::string(e.what()).find("256 bytes; 255 are the most") != std::string::npos);
    }
}

TEST_CASE("option_list: takes braced values and ranges, in order, up to its capacity") {
    using prefixes = option_list<ip_prefix, 3>;
    CHECK(prefixes().empty());
    const prefixes braced = {"10.9.0.1/24", ip_prefix("fd00::1/64"), std::string("10.9.1.1/32")};
    REQUIRE(braced.size() == 3);
    CHECK(braced[1].to_string() == "fd00::1/64");
    const std::vector<ip_prefix> two{"10.9.0.1/24", "10.9.1.1/24"};
    CHECK(prefixes(two).size() == 2);
    CHECK(prefixes(std::list<ip_prefix>(two.begin(), two.end()))[1] == two[1]);
    CHECK(prefixes(std::span(two)).size() == 2);
    const prefixes copy = braced;
    CHECK(std::equal(copy.begin(), copy.end(), braced.begin(), braced.end()));
    const std::vector<ip_prefix> four(4, ip_prefix("10.9.0.1/24"));
    CHECK_THROWS_AS(prefixes(four), std::system_error);
    CHECK_THROWS_AS(prefixes({"nonsense"}), std::system_error);
}

namespace {

struct counted_device {
    explicit counted_device(const cotun::device_options& o) : name(o.name.view()), addresses(o.addresses.size()) {}
    std::string name;
    std::size_t addresses;
};

counted_device open(const cotun::device_options& o) { return counted_device(o); }
cotun::task<std::string> serve(counted_device d) { co_return d.name + "+" + std::to_string(d.addresses); }
cotun::task<std::string> all_in_one() {
    co_return co_await serve(
        open({.name = "a name of more than sixteen bytes", .addresses = {"10.9.0.1/24", "::1/64"}}));
}

} // namespace

TEST_CASE("options may be written inside a co_await expression") {
    cotun::test::rig r;
    CHECK(r.io.run(all_in_one()) == "a name of more than sixteen bytes+2");
}
