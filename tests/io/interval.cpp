// SPDX-License-Identifier: Apache-2.0
#include "cotun/io/interval.hpp"

#include "cotun/coro/result.hpp"
#include "cotun/coro/scope.hpp"
#include "cotun/coro/timeout.hpp"
#include "cotun/coro/when_any.hpp"

#include "../support/held_task.hpp"
#include "reactors.hpp"

#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

using namespace std::chrono_literals;
using cotun::interval;
using cotun::reactor;
using cotun::task;
using namespace cotun::test;

namespace {

using clock_type = reactor::clock;

struct beat {
    std::uint64_t periods;
    clock_type::duration at; // since the start
};

// The scripted clock stands still but for waits: `work` is how long each turn takes.
task<> keep_time(reactor& io, std::vector<beat>& beats, std::vector<clock_type::duration> work) {
    const auto start = io.core().now();
    interval tick(io, 10ms);
    for (const clock_type::duration w : work) {
        const std::uint64_t periods = co_await tick.next();
        beats.push_back({periods, io.core().now() - start});
        if (w > 0ns) co_await io.sleep_for(w);
    }
}

} // namespace

TEST_CASE("interval: turns that take time do not shift it") {
    const auto io = over_script();
    std::vector<beat> beats;
    io->run(keep_time(*io, beats, {3ms, 9ms, 0ns, 9999us, 1ns, 0ns}));
    REQUIRE(beats.size() == 6);
    for (std::size_t i = 0; i < beats.size(); ++i) {
        CHECK(beats[i].periods == 1);
        CHECK(beats[i].at == (i + 1) * 10ms);
    }
}

TEST_CASE("interval: one that is late is told of all that it missed, at once, and the beat stays") {
    const auto io = over_script();
    std::vector<beat> beats;
    io->run(keep_time(*io, beats, {35ms, 0ns, 10ms, 0ns}));
    REQUIRE(beats.size() == 4);
    CHECK((beats[0].periods == 1 && beats[0].at == 10ms));
    CHECK((beats[1].periods == 3 && beats[1].at == 45ms)); // those of 20, 30 and 40 ms
    CHECK((beats[2].periods == 1 && beats[2].at == 50ms));
    CHECK((beats[3].periods == 1 && beats[3].at == 60ms)); // exactly at its end: not late
}

TEST_CASE("interval: periods that nobody was told of are told to the next") {
    const auto io = over_script();
    static constexpr auto body = [](reactor& r) -> task<> {
        interval tick(r, 10ms);
        {
            // Destroyed while it waits, and when it was ready.
            auto waits = hold([](interval& t) -> task<> { (void)co_await t.next(); }(tick));
            co_await r.sleep_for(5ms);
            CHECK_FALSE(waits.ended());
        }
        {
            auto first = cotun::when_any(tick.next(), r.sleep_for(2ms)); // stopped
            const auto which = co_await std::move(first);
            CHECK(which.index() == 1);
        }
        bool timed_out = false;
        try {
            (void)co_await cotun::with_timeout(tick.next(), 1ms);
        } catch (const std::system_error& e) {
            timed_out = e.code() == std::errc::timed_out;
        }
        CHECK(timed_out);
        co_await r.sleep_for(15ms); // 23 ms
        const auto periods = co_await cotun::with_timeout(tick.next(), 0ms);
        CHECK(periods == 2);
        const auto next = co_await tick.next();
        CHECK(next == 1);
        CHECK(tick.due() - r.core().now() == 10ms);
    };
    io->run(body(*io));
    CHECK(io->statistics().timers == 0);
}

TEST_CASE("interval: of two tasks that wait for one, the second is refused") {
    const auto io = either();
    static constexpr auto body = [](reactor& r) -> task<> {
        interval tick(r, 1h); // never due, however slow the machine is
        cotun::scope both(r);
        static constexpr auto waits = [](interval& t) -> task<> { (void)co_await t.next(); };
        both.spawn(waits(tick));
        both.spawn(waits(tick));
        const auto end = co_await cotun::as_result(both.join());
        CHECK(end.error() == std::errc::device_or_resource_busy);
        const auto later = co_await cotun::as_result(cotun::with_timeout(tick.next(), 1ms)); // and goes on
        CHECK(later.error() == std::errc::timed_out);
    };
    io->run(body(*io));
}

TEST_CASE("interval: refuses a period that is none; a start in the past or to come, and a period without end") {
    const auto io = over_script();
    for (const auto period : {clock_type::duration(0), clock_type::duration(-1), clock_type::duration::min()}) {
        try {
            const interval none(*io, period);
            FAIL("refused");
        } catch (const std::system_error& e) {
            CHECK(e.code() == std::errc::invalid_argument);
            CHECK(std::string(e.what()).find("10ms") != std::string::npos);
        }
    }
    static constexpr auto body = [](reactor& r) -> task<> {
        const auto now = r.core().now();
        interval past(r, 10ms, now - 25ms);
        auto periods = co_await past.next();
        CHECK(periods == 2);
        periods = co_await past.next();
        CHECK(periods == 1);
        CHECK(r.core().now() == now + 5ms);
        interval future(r, 10ms, now + 100ms);
        (void)co_await future.next();
        CHECK(r.core().now() == now + 110ms);
        interval first(r, 1ms, clock_type::time_point::min());
        periods = co_await first.next();
        CHECK(periods > 1);
        interval never(r, clock_type::duration::max());
        CHECK(never.due() == clock_type::time_point::max());
        const auto end = co_await cotun::as_result(cotun::with_timeout(never.next(), 24h));
        CHECK(end.error() == std::errc::timed_out);
    };
    io->run(body(*io));
}

TEST_CASE("interval: over the ring, a hundred beats are not one early, and none is lost") {
    const auto io = over_ring();
    static constexpr auto body = [](reactor& r) -> task<> {
        const auto start = clock_type::now();
        interval tick(r, 1ms, start);
        std::uint64_t beats = 0;
        for (;;) {
            if (beats >= 100) break;
            const std::uint64_t periods = co_await tick.next();
            beats += periods;
            CHECK(clock_type::now() >= start + beats * 1ms);
            CHECK(tick.due() == start + (beats + 1) * 1ms);
        }
    };
    io->run(body(*io));
}
