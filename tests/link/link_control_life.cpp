// SPDX-License-Identifier: Apache-2.0
//
// Many requests at a time, requests that are given up, the end of a link_control, and the thread that sends.
#include "control_support.hpp"

#include <atomic>
#include <catch2/generators/catch_generators.hpp>
#include <optional>
#include <thread>

using namespace test;
using namespace std::chrono_literals;
using cotun::link_control;
using cotun::link_sending;
using cotun::task;

namespace {

task<> add_and_list(link_control& links, unsigned number, unsigned& done) {
    const auto address = ip_prefix(cotun::wire::ipv4_address::from_number(0x0a090000 + number), 32);
    co_await links.add_address("a0", address);
    auto listed = links.addresses("a0");
    const auto all = co_await std::move(listed);
    if (std::any_of(all.begin(), all.end(), [&](const auto& a) { return a.address == address; })) ++done;
}

task<> all_at_once(cotun::reactor& io, link_control& links, unsigned count, unsigned& done) {
    cotun::scope tasks(io);
    for (unsigned i = 1; i <= count; ++i) tasks.spawn(add_and_list(links, i, done));
    co_await tasks.join();
}

task<> wait_for_link(link_control& links, std::string& ended) {
    try {
        co_await links.delete_link("a0");
        ended = "deleted";
    } catch (const std::system_error& e) {
        ended = e.code() == std::errc::operation_canceled ? "cancelled" : e.what();
    }
}

task<> close_while_it_waits(cotun::reactor& io, link_control& links, std::string& ended) {
    cotun::scope tasks(io);
    tasks.spawn(wait_for_link(links, ended));
    co_await io.yield();
    links.close();
    co_await tasks.join();
}

// Whether the reactor had turns while the request was under way.
task<> count_turns(cotun::reactor& io, int& turns) {
    for (;;) {
        ++turns;
        co_await io.yield();
    }
}

task<> stop_early(cotun::reactor& io, link_control& links) {
    for (unsigned i = 0; i < 200; ++i) {
        try {
            auto listed = links.links();
            const auto all = co_await cotun::with_timeout(std::move(listed), std::chrono::microseconds(i % 20));
            CHECK(all.size() >= 5);
        } catch (const std::system_error& e) {
            CHECK(e.code() == std::errc::timed_out);
        }
        auto found = links.get_link("a0");
        const auto link = co_await std::move(found);
        CHECK(link.name == "a0");
    }
    co_await io.yield();
}

} // namespace

TEST_CASE("many tasks use one link_control, each gets its own answer", "[link][control]") {
    paired_namespace here;
    const auto sending = GENERATE(link_sending::automatic, link_sending::aside);
    cotun::reactor io;
    link_control links(io, {.sending = sending});
    unsigned done = 0;
    io.run(all_at_once(io, links, 60, done));
    CHECK(done == 60);
    CHECK(io.run(links.addresses("a0")).size() == 60);
}

TEST_CASE("a table longer than one answer is whole, also while it changes", "[link][control]") {
    paired_namespace here;
    cotun::reactor io;
    link_control links(io);
    ip("link set b0 up");
    ip("link set a0 up");
    ip("addr add 10.9.0.1/16 dev a0");
    constexpr std::uint32_t count = 3000; // some 60 bytes each
    const auto add_all = [](link_control& l) -> task<> {
        for (std::uint32_t i = 0; i < count; ++i)
            co_await l.add_route(
                {.destination = ip_prefix(cotun::wire::ipv4_address::from_number(0x0b000000 + i * 256), 24),
                 .device = "a0",
                 .table = 500});
    };
    io.run(add_all(links));
    CHECK(io.run(links.routes({.table = 500})).size() == count);
    CHECK(output_of("ip route show table 500 | wc -l") == std::to_string(count) + "\n");

    std::atomic<bool> stop = false;
    std::jthread busy([&] {
        cotun::reactor other;
        link_control changes(other);
        const auto change = [](link_control& l) -> task<> {
            co_await l.add_route({.destination = "10.77.0.0/16", .device = "a0"});
            co_await l.delete_route({.destination = "10.77.0.0/16"});
        };
        while (!stop) {
            other.run(change(changes));
            std::this_thread::sleep_for(20ms);
        }
    });
    for (int i = 0; i < 10; ++i) CHECK(io.run(links.routes({.table = 500})).size() == count);
    stop = true;
}

TEST_CASE("a request that is given up takes nothing from the next", "[link][control]") {
    paired_namespace here;
    const auto sending = GENERATE(link_sending::automatic, link_sending::aside);
    cotun::reactor io;
    link_control links(io, {.sending = sending});
    io.run(stop_early(io, links));
}

TEST_CASE("close ends what waits; what was sent is done", "[link][control]") {
    paired_namespace here;
    cotun::reactor io;
    link_control links(io, {.sending = link_sending::aside});
    std::string ended;
    io.run(close_while_it_waits(io, links, ended));
    CHECK(ended == "cancelled");
    link_control other(io);
    {
        link_control gone(io);
        gone.close();
        gone.close();
    }
    CHECK(io.run(other.get_link("c0")).name == "c0");
}

TEST_CASE("the reactor goes on while a link is deleted", "[link][control]") {
    paired_namespace here;
    cotun::reactor io;
    link_control links(io);
    int turns = 0;
    auto both = [](cotun::reactor& r, link_control& l, int& n) -> task<> {
        co_await cotun::when_any(l.delete_link("a0"), count_turns(r, n));
    };
    io.run(both(io, links, turns));
    CHECK(turns > 1);
    CHECK_FALSE(has_interface("a0"));
}

namespace {

task<> close_one(cotun::device& dev, unsigned& closed) {
    co_await dev.close();
    ++closed;
}

// How many have closed when an order that was given after them has been carried out.
task<> order_behind(cotun::reactor& io, link_control& links, std::vector<cotun::device>& devices, unsigned& before) {
    unsigned closed = 0;
    cotun::scope tasks(io);
    for (cotun::device& dev : devices) tasks.spawn(close_one(dev, closed));
    for (int pass = 0; pass < 20; ++pass) co_await io.yield(); // all stand in line
    co_await links.set_mtu("a0", 1300);
    before = closed;
    co_await tasks.join();
}

} // namespace

TEST_CASE("an order to a link does not wait until a hundred devices have closed", "[link][control]") {
    paired_namespace here;
    need_tun();
    cotun::reactor io;
    link_control links(io, {.sending = link_sending::aside});
    std::vector<cotun::device> devices;
    for (int i = 0; i < 100; ++i) devices.push_back(cotun::open_tun(io, {.name = "many%d"}));
    unsigned before = 0;
    io.run(order_behind(io, links, devices, before));
    CHECK(before < 70); // two threads' turns of 16 or so; behind all of them it would be 84 at the least
    CHECK_THAT(ip("-j link show a0"), ContainsSubstring(R"("mtu":1300)"));
}

TEST_CASE("a link_control that goes with tasks that wait, and a reactor that goes with both, leave nothing",
          "[link][control]") {
    paired_namespace here;
    const auto before = open_files();
    for (int i = 0; i < 20; ++i) {
        std::string ended;
        auto links = std::optional<link_control>();
        cotun::reactor io;
        links.emplace(io, cotun::link_control_options{.sending = link_sending::aside});
        io.spawn(wait_for_link(*links, ended));
        if (i % 2 == 0) io.run(io.yield());
        if (i % 4 == 0) links.reset();
    }
    CHECK(open_files() == before);
}
