// SPDX-License-Identifier: Apache-2.0
//
// Calls from one reactor to another: results and errors come back; whoever stops or ends first, nothing hangs.
#include "cotun/io/reactor_group.hpp"

#include "cotun/coro/result.hpp"
#include "cotun/coro/scope.hpp"
#include "cotun/coro/timeout.hpp"
#include "cotun/coro/when_all.hpp"
#include "cotun/coro/when_any.hpp"

#include "../support/scale.hpp"
#include "groups.hpp"
#include "reactors.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

using namespace std::chrono_literals;
using cotun::reactor;
using cotun::reactor_group;
using cotun::task;
using namespace cotun::test;
using Catch::Matchers::ContainsSubstring;

namespace {

int twice(reactor&, int n) { return 2 * n; }
std::unique_ptr<std::string> greet(reactor&, std::string name, std::unique_ptr<std::string> greeting) {
    return std::make_unique<std::string>(*greeting + ", " + name);
}
void nothing(reactor&) {}
int refuse(reactor&) { throw std::runtime_error("refused"); }
task<int> slow_twice(reactor& io, int n) {
    co_await io.sleep_for(500us);
    co_return 2 * n;
}
task<> slow_nothing(reactor& io, std::atomic<int>& n) {
    co_await io.yield();
    ++n;
}
task<std::string> slow_refuse(reactor& io) {
    co_await io.yield();
    throw std::system_error(ENOENT, std::generic_category(), "not here");
}
task<std::thread::id> where(reactor& io) {
    co_await io.yield();
    co_return std::this_thread::get_id();
}

// Waits for ever, and counts its end.
task<int> never(reactor& io, std::atomic<int>& began, std::atomic<int>& ended) {
    const note_atomic_end end(ended);
    ++began;
    for (;;) co_await io.sleep_for(1h);
}
// Has a result although it is asked to stop.
task<int> stubborn(reactor& io, std::atomic<int>& began, std::atomic<int>& ended) {
    const note_atomic_end end(ended);
    ++began;
    try {
        for (;;) co_await io.sleep_for(1h);
    } catch (const std::system_error&) {}
    co_return 7;
}

task<> wait_for(reactor& io, const std::atomic<int>& n, int value) {
    for (;;) {
        if (n >= value) break;
        co_await io.sleep_for(100us);
    }
}

// Runs `body(io, group)` on reactor 0 and throws what fails in it.
template <class Body>
void on_first(reactor_group& group, Body body) {
    group.spawn_on(0, body, std::ref(group));
    group.run();
}

} // namespace

TEST_CASE("call_on: results, values that only move, nothing, and errors come back") {
    need_ring();
    cotun::reactor_options each;
    each.messages = GENERATE(true, false);
    const std::size_t other = GENERATE(1U, 0U); // another, or the own
    reactor_group group({.reactors = 2, .each = each});
    std::atomic<int> checked{0};
    on_first(group, [&, other](reactor&, reactor_group& g) -> task<> {
        const auto self = std::this_thread::get_id();
        const int a = co_await g.call_on(other, twice, 21);
        CHECK(a == 42);
        const int b = co_await g.call_on(other, slow_twice, 4);
        CHECK(b == 8);
        CHECK(std::this_thread::get_id() == self);
        auto greeting = std::make_unique<std::string>("hello");
        const auto c = co_await g.call_on(other, greet, std::string("world"), std::move(greeting));
        CHECK(*c == "hello, world");
        co_await g.call_on(other, nothing);
        std::atomic<int> n{0};
        co_await g.call_on(other, slow_nothing, std::ref(n));
        CHECK(n == 1);
        const auto there = co_await g[other].call(where);
        CHECK((there == self) == (other == 0));
        try {
            co_await g.call_on(other, refuse);
        } catch (const std::runtime_error& e) {
            if (std::string(e.what()) == "refused") ++checked;
        }
        const auto failed = co_await cotun::as_result(g.call_on(other, slow_refuse));
        CHECK(failed.error().value() == ENOENT);
        CHECK_THAT(failed.what(), ContainsSubstring("not here"));
        int offset = 5; // not a constant, which would need no capture
        const auto add = [&offset](reactor&, int n2) { return n2 + offset; };
        const int d = co_await g.call_on(other, add, 1);
        CHECK(d == 6);
        ++checked;
    });
    CHECK(checked == 2);
}

TEST_CASE("call_on: many at a time, from all to all") {
    need_ring();
    cotun::reactor_options each;
    each.messages = GENERATE(true, false);
    reactor_group group({.reactors = 4, .each = each});
    std::atomic<long> sum{0};
    struct caller {
        static task<> run(reactor& io, reactor_group& g, std::atomic<long>& sum, std::size_t self, int rounds) {
            cotun::scope calls(io);
            for (int i = 0; i < rounds; ++i) {
                calls.spawn(one(g, sum, (self + static_cast<std::size_t>(i)) % g.size(), i));
                if (i % 16 == 0) co_await io.yield();
            }
            co_await calls.join();
        }
        static task<> one(reactor_group& g, std::atomic<long>& sum, std::size_t to, int n) {
            const int x = co_await g.call_on(to, twice, n);
            const int y = co_await g.call_on(to, slow_twice, n);
            sum += x + y;
        }
    };
    const int rounds = static_cast<int>(scaled(2000, 10));
    for (std::size_t k = 0; k < 4; ++k) group.spawn_on(k, caller::run, std::ref(group), std::ref(sum), k, rounds);
    group.run();
    CHECK(sum == 4L * 4 * rounds * (rounds - 1) / 2);
}

TEST_CASE("call_on: a stop before, during and after") {
    need_ring();
    cotun::reactor_options each;
    each.messages = GENERATE(true, false);
    reactor_group group({.reactors = 2, .each = each});
    std::atomic<int> checked{0};
    on_first(group, [&](reactor& io, reactor_group& g) -> task<> {
        std::atomic<int> began{0};
        std::atomic<int> ended{0};
        // during: the remote side ends by its own stop, before the call does
        auto timed =
            co_await cotun::as_result(cotun::with_timeout(g.call_on(1, never, std::ref(began), std::ref(ended)), 2ms));
        CHECK(timed.error() == std::errc::timed_out);
        CHECK(ended == began);
        // one that has a result all the same
        const int n = co_await cotun::with_timeout(g.call_on(1, stubborn, std::ref(began), std::ref(ended)), 2ms);
        CHECK(n == 7);
        // before: nothing is called
        const int before = began;
        auto late =
            co_await cotun::as_result(cotun::with_timeout(g.call_on(1, never, std::ref(began), std::ref(ended)), -1ms));
        CHECK(late.error() == std::errc::timed_out);
        CHECK(began == before);
        // at every moment of a short call
        for (int i = 0; i < static_cast<int>(scaled(300)); ++i) {
            auto got = co_await cotun::as_result(
                cotun::with_timeout(g.call_on(1, slow_twice, i), std::chrono::microseconds(i * 5)));
            if (got)
                CHECK(*got == 2 * i);
            else
                CHECK(got.error() == std::errc::timed_out);
        }
        // the loser of a when_any, an operation and a task of it
        auto won = co_await cotun::when_any(g.call_on(1, never, std::ref(began), std::ref(ended)), io.sleep_for(1ms));
        CHECK(won.index() == 1);
        co_await wait_for(io, ended, began);
        CHECK(ended == began);
        ++checked;
    });
    CHECK(checked == 1);
}

TEST_CASE("call_on: destroyed while it waits: the other side is stopped, and nobody is told") {
    need_ring();
    cotun::reactor_options each;
    each.messages = GENERATE(true, false);
    reactor_group group({.reactors = 2, .each = each});
    std::atomic<int> checked{0};
    struct parts {
        static task<> call_for_ever(reactor_group& g, std::atomic<int>& began, std::atomic<int>& ended) {
            (void)co_await g.call_on(1, never, std::ref(began), std::ref(ended));
        }
        static task<> call_short(reactor_group& g) { (void)co_await g.call_on(1, slow_twice, 1); }
    };
    std::atomic<int> began{0};
    std::atomic<int> ended{0};
    on_first(group, [&](reactor& io, reactor_group& g) -> task<> {
        {
            cotun::scope left(io);
            left.spawn(parts::call_for_ever(g, began, ended));
            left.spawn(parts::call_for_ever(g, began, ended));
            co_await wait_for(io, began, 2);
        } // destroys them
        co_await wait_for(io, ended, 2);
        for (int i = 0; i < static_cast<int>(scaled(300)); ++i) {
            cotun::scope left(io);
            left.spawn(parts::call_short(g));
            co_await io.sleep_for(std::chrono::microseconds(i * 4));
        }
        ++checked;
    });
    CHECK(checked == 1);
    CHECK(ended == 2);
}

TEST_CASE("call_on: a reactor that ends first answers that it has") {
    need_ring();
    cotun::reactor_options each;
    each.messages = GENERATE(true, false);
    for (int round = 0; round < static_cast<int>(scaled(50)); ++round) {
        reactor_group group({.reactors = 3, .each = each});
        std::atomic<int> began{0};
        std::atomic<int> ended{0};
        std::atomic<int> told{0};
        group.spawn_on(
            0,
            [&](reactor&, reactor_group& g) -> task<> {
                try {
                    (void)co_await g.call_on(1, never, std::ref(began), std::ref(ended));
                } catch (const std::system_error& e) {
                    if (code_of(e) == EPIPE && std::string(e.what()).find("reactor 1 has ended") != std::string::npos)
                        ++told;
                }
                auto again = co_await cotun::as_result(g.call_on(1, twice, 1)); // refused at once
                if (again.error().value() == EPIPE) ++told;
            },
            std::ref(group));
        group.spawn_on(
            2,
            [&, round](reactor& io, reactor_group& g) -> task<> {
                if (round % 2 == 0) co_await wait_for(io, began, 1);
                g[1].stop(); // before it began, or while it runs
            },
            std::ref(group));
        group.join();
        CHECK(told == 2);
        CHECK(ended == began);
    }
}

TEST_CASE("call_on: a caller that ends first leaves nothing behind; both at once, too") {
    need_ring();
    cotun::reactor_options each;
    each.messages = GENERATE(true, false);
    for (int round = 0; round < static_cast<int>(scaled(50)); ++round) {
        std::atomic<int> began{0};
        std::atomic<int> ended{0};
        {
            reactor_group group({.reactors = 3, .each = each});
            for (int i = 0; i < 4; ++i)
                group.spawn_on(
                    0,
                    [&](reactor&, reactor_group& g) -> task<> {
                        (void)co_await g.call_on(1, never, std::ref(began), std::ref(ended));
                    },
                    std::ref(group));
            for (int i = 0; i < 4; ++i)
                group.spawn_on(
                    2,
                    [&](reactor&, reactor_group& g) -> task<> {
                        for (;;) (void)co_await g.call_on(1, slow_twice, 1);
                    },
                    std::ref(group));
            if (round % 2 == 0)
                while (began < 4) std::this_thread::yield();
            if (round % 3 == 0) {
                group[0].stop();
                std::this_thread::sleep_for(1ms);
            }
            if (round % 3 == 1) std::this_thread::sleep_for(std::chrono::microseconds(50 * round));
            group.stop();
            group.join();
            CHECK(ended == began);
        }
    }
}

TEST_CASE("call_on: from a reactor that is not of the group, which may outlive it") {
    need_ring();
    reactor io;
    std::atomic<int> began{0};
    std::atomic<int> ended{0};
    auto group = std::make_unique<reactor_group>(cotun::group_options{.reactors = 2});
    struct foreign {
        static task<int> ask(reactor_group& g) {
            const int n = co_await g.call_on(1, slow_twice, 4);
            co_return n;
        }
        static task<std::string> until_it_ends(reactor& r, std::unique_ptr<reactor_group>& g, std::atomic<int>& began,
                                               std::atomic<int>& ended) {
            cotun::scope calls(r);
            calls.spawn(call(*g, began, ended));
            co_await wait_for(r, began, 1);
            g.reset();
            try {
                co_await calls.join();
            } catch (const std::system_error& e) {
                co_return e.what();
            }
            co_return "nothing";
        }
        static task<> call(reactor_group& g, std::atomic<int>& began, std::atomic<int>& ended) {
            (void)co_await g.call_on(0, never, std::ref(began), std::ref(ended));
        }
    };
    CHECK(io.run(foreign::ask(*group)) == 8);
    SECTION("the group ends first") {
        CHECK_THAT(io.run(foreign::until_it_ends(io, group, began, ended)), ContainsSubstring("reactor 0 has ended"));
    }
    SECTION("the reactor ends first") {
        {
            reactor short_lived;
            short_lived.spawn(foreign::call(*group, began, ended));
            short_lived.run(wait_for(short_lived, began, 1));
        }
        group->run(); // ends, since the call was given up
    }
    CHECK(ended == 1);
}

TEST_CASE("call_on: arguments and results that nobody takes are destroyed") {
    need_ring();
    auto token = std::make_shared<int>(1);
    struct parts {
        static std::shared_ptr<int> pass(reactor&, std::shared_ptr<int> t) { return t; }
        static task<std::shared_ptr<int>> keep(reactor& io, std::shared_ptr<int> t) {
            co_await io.sleep_for(200us);
            co_return t;
        }
        static task<> call(reactor_group& g, std::shared_ptr<int> t) {
            (void)co_await g.call_on(1, keep, std::move(t));
        }
    };
    {
        reactor_group group({.reactors = 2});
        on_first(group, [&](reactor& io, reactor_group& g) -> task<> {
            const auto back = co_await g.call_on(1, parts::pass, token);
            CHECK(back == token);
            { auto never_awaited = g.call_on(1, parts::pass, token); }
            for (int i = 0; i < 100; ++i) {
                cotun::scope left(io);
                left.spawn(parts::call(g, token));
                co_await io.sleep_for(std::chrono::microseconds(i * 4));
            }
        });
    }
    CHECK(token.use_count() == 1);
}
