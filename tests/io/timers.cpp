// SPDX-License-Identifier: Apache-2.0
#include "cotun/io/reactor.hpp"

#include "../support/held_task.hpp"
#include "reactors.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using cotun::reactor;
using cotun::task;
using namespace cotun::test;

namespace {

task<> count_turns(reactor& io, unsigned& count, const bool& enough) {
    for (;;) {
        if (enough) break;
        ++count;
        co_await io.yield();
    }
}

} // namespace

TEST_CASE("reactor: timers go off in order, and virtual time costs none") {
    const auto io = over_script();
    std::vector<int> order;
    static constexpr auto body = [](reactor& r, std::vector<int>& into, int ms) -> task<> {
        co_await r.sleep_for(std::chrono::milliseconds(ms));
        into.push_back(ms);
    };
    std::vector<int> delays(10'000);
    for (std::size_t i = 0; i < delays.size(); ++i) delays[i] = static_cast<int>(i) * 1000 + 1;
    std::shuffle(delays.begin(), delays.end(), std::minstd_rand(7));
    for (const int ms : delays) io->spawn(body(*io, order, ms));
    const auto before = std::chrono::steady_clock::now();
    io->run();
    CHECK(std::chrono::steady_clock::now() - before < 60s); // ten million seconds have passed
    std::sort(delays.begin(), delays.end());
    CHECK(order == delays);
}

TEST_CASE("reactor: ten thousand timers over the ring") {
    const auto io = over_ring();
    int ended = 0;
    static constexpr auto body = [](reactor& r, int& n, int us) -> task<> {
        const auto begun = reactor::clock::now();
        co_await r.sleep_for(std::chrono::microseconds(us));
        if (reactor::clock::now() - begun >= std::chrono::microseconds(us)) ++n;
    };
    for (int i = 0; i < 10'000; ++i) io->spawn(body(*io, ended, (i * 7919) % 50'000));
    io->run();
    CHECK(ended == 10'000); // none early
}

TEST_CASE("reactor: a sleeping task that is destroyed takes its timer along") {
    const auto io = either();
    int destroyed = 0;
    for (int round = 0; round < 3; ++round) {
        io->post([&] { io->stop(); });
        io->run(for_ever(*io, destroyed));
    }
    CHECK(destroyed == 3);
    // Of a thousand, some are cancelled while they sleep: the others go off all the same.
    static constexpr auto many = [](reactor& r, int& n) -> task<> {
        {
            std::vector<cotun::test::held_task> asleep;
            for (int i = 0; i < 1000; ++i)
                asleep.push_back(cotun::test::hold(sleep(r, std::chrono::milliseconds((i * 37) % 500 + 1))));
            for (std::size_t i = 0; i < asleep.size(); i += 3) asleep[i].destroy();
        }
        co_await r.sleep_for(2ms);
        ++n;
    };
    int ended = 0;
    io->run(many(*io, ended));
    CHECK(ended == 1);
}

TEST_CASE("reactor: sleeps of zero, less than zero, and of all time") {
    const auto io = either();
    static constexpr auto now = [](reactor& r) -> task<> {
        co_await r.sleep_for(0ns);
        co_await r.sleep_for(-1h);
        co_await r.sleep_for(reactor::clock::duration::min());
        co_await r.sleep_until(reactor::clock::time_point::min());
        co_await r.sleep_until(reactor::clock::time_point{});
    };
    io->run(now(*io));

    static constexpr auto huge = [](reactor& r, bool& woken, bool until) -> task<> {
        if (until)
            co_await r.sleep_until(reactor::clock::time_point::max());
        else
            co_await r.sleep_for(reactor::clock::duration::max());
        woken = true;
    };
    bool woken = false;
    io->spawn(huge(*io, woken, true));
    io->spawn(huge(*io, woken, false));
    io->spawn(huge(*io, woken, false));
    const auto enters = io->statistics().enters;
    io->run(sleep(*io, 20ms));
    CHECK_FALSE(woken);
    CHECK(io->statistics().enters - enters < 100); // it waits, and does not spin
}

TEST_CASE("reactor: with nothing but a sleep of all time it waits, and does not spin") {
    const auto io = over_ring();
    int destroyed = 0;
    static constexpr auto huge = [](reactor& r, int& n) -> task<> {
        const note_end end(n);
        co_await r.sleep_for(reactor::clock::duration::max());
    };
    std::thread other([&] {
        std::this_thread::sleep_for(50ms);
        io->stop();
    });
    io->run(huge(*io, destroyed));
    other.join();
    CHECK(destroyed == 1);
    CHECK(io->statistics().passes < 100);
}

TEST_CASE("reactor: two loops that yield have the same number of turns") {
    const auto io = either();
    unsigned a = 0;
    unsigned b = 0;
    bool enough = false;
    io->spawn(count_turns(*io, a, enough));
    io->spawn(count_turns(*io, b, enough));
    static constexpr auto wait = [](reactor& r, bool& stop_them) -> task<> {
        for (int i = 0; i < 1000; ++i) co_await r.yield();
        stop_them = true;
    };
    io->run(wait(*io, enough));
    io->run();
    CHECK(a >= 999);
    CHECK(std::max(a, b) - std::min(a, b) <= 1);
}

TEST_CASE("reactor: a loop that yields keeps neither timers nor posts from their turn") {
    const auto io = over_ring();
    unsigned turns = 0;
    bool enough = false;
    bool posted = false;
    io->spawn(count_turns(*io, turns, enough));
    std::thread other([&] { io->post([&] { posted = true; }); });
    static constexpr auto wait = [](reactor& r, const bool& p) -> task<> {
        co_await r.sleep_for(1ms);
        for (;;) {
            if (p) break;
            co_await r.yield();
        }
    };
    io->run(wait(*io, posted));
    other.join();
    enough = true;
    io->run();
    CHECK(turns > 0);
}
