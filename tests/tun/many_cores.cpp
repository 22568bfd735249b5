// SPDX-License-Identifier: Apache-2.0
//
// A device a reactor: each is opened, used and closed on its own thread, of a group that runs in a namespace.
#include <cotun/cotun.hpp>

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <chrono>
#include <string>

#include "../support/namespace.hpp"

using namespace test;

namespace {

cotun::task<> answer_pings(cotun::reactor& io, unsigned number, std::atomic<unsigned>& open) {
    const std::string name = "core" + std::to_string(number);
    const std::string address = "10.7." + std::to_string(number) + ".1/24";
    cotun::device_options options;
    options.name = name;
    options.addresses = {address};
    cotun::device dev = cotun::open_tun(io, options);
    ++open;
    for (;;) {
        cotun::packet pkt = co_await dev.read_packet();
        const bool echo = cotun::wire::reply_to_echo(pkt.bytes());
        if (echo) co_await dev.write_packet(std::move(pkt));
    }
}

} // namespace

TEST_CASE("tun: a device on each reactor of a group answers pings, and goes with it") {
    const tun_namespace here;
    static constexpr unsigned count = 3;
    for (int round = 0; round < 3; ++round) {
        cotun::reactor_group group({.reactors = count});
        std::atomic<unsigned> open{0};
        for (unsigned i = 0; i < count; ++i) group.spawn_on(i, answer_pings, i, std::ref(open));
        REQUIRE(wait_until([&] { return open == count; }));
        for (unsigned i = 0; i < count; ++i) {
            const outcome ping = run("ping -c 5 -i 0.01 -W 5 10.7." + std::to_string(i) + ".9");
            INFO(ping.output);
            CHECK(ping.good());
        }
        if (round == 0) group.request_stop();
        if (round == 1) group.stop();
        if (round == 2) {
            group[1].stop();
            CHECK(wait_until([] { return !has_interface("core1"); }));
            CHECK(has_interface("core0"));
            group.request_stop();
        }
        group.join(); // the tasks are destroyed by then, and their devices with them
        for (unsigned i = 0; i < count; ++i) CHECK_FALSE(has_interface("core" + std::to_string(i)));
    }
}
