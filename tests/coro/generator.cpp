// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/channel.hpp>
#include <cotun/coro/event.hpp>
#include <cotun/coro/generator.hpp>
#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_any.hpp>
#include <cotun/coro/with_stop.hpp>

#include "../support/allocation_count.hpp"
#include "../support/plain_loop.hpp"
#include "../support/sanitizers.hpp"
#include "parts.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

using namespace cotun;
using namespace cotun::test;
using namespace std::chrono_literals;

namespace {

using numbers = std::vector<int>;

generator<int> count_to(int end) {
    for (int i = 0; i < end; ++i) co_yield i;
}

generator<int> from(source<int>& s) {
    for (;;) co_yield co_await s.next();
}

template <class T>
task<> collect(generator<T>& all, std::vector<T>& into) {
    while (std::optional<T> value = co_await all.next()) into.push_back(std::move(*value));
}

task<> take(generator<int>& all, std::optional<int>& into) { into = co_await all.next(); }

task<int> doubled(source<int>& s) {
    const int value = co_await s.next();
    co_return 2 * value;
}

std::unique_ptr<scope> alone(plain_loop& loop, task<> body) {
    auto s = std::make_unique<scope>(loop);
    s->spawn(std::move(body));
    loop.settle();
    return s;
}

} // namespace

TEST_CASE("generator: yields, ends, and stays ended", "[coro]") {
    plain_loop loop;
    generator<int> all = count_to(5);
    numbers got;
    loop.run(collect(all, got));
    CHECK(got == numbers{0, 1, 2, 3, 4});
    std::optional<int> more = 1;
    loop.run(take(all, more));
    CHECK_FALSE(more.has_value());
    generator<int> none = count_to(0);
    loop.run(collect(none, got));
    CHECK(got.size() == 5);
}

TEST_CASE("generator: runs only while it is awaited", "[coro]") {
    static constexpr auto noting = [](numbers& seen) -> generator<int> {
        for (int i = 0; i < 3; ++i) {
            seen.push_back(i);
            co_yield i;
        }
        seen.push_back(9);
    };
    plain_loop loop;
    numbers seen;
    generator<int> all = noting(seen);
    CHECK(seen.empty());
    std::optional<int> value;
    loop.run(take(all, value));
    CHECK(seen == numbers{0});
    loop.run(take(all, value));
    CHECK(seen == numbers{0, 1});
    loop.run(take(all, value));
    CHECK(value == 2);
    CHECK(seen == numbers{0, 1, 2});
    loop.run(take(all, value));
    CHECK_FALSE(value);
    CHECK(seen == numbers{0, 1, 2, 9});
}

TEST_CASE("generator: move-only values, references, and values that convert", "[coro]") {
    static constexpr auto owned = []() -> generator<std::unique_ptr<int>> {
        for (int i = 0; i < 3; ++i) co_yield std::make_unique<int>(i);
        auto named = std::make_unique<int>(3);
        co_yield std::move(named);
    };
    static constexpr auto refer = [](numbers& to) -> generator<int&> {
        for (int& i : to) co_yield i;
    };
    static constexpr auto texts = []() -> generator<std::string> {
        co_yield "a text that is longer than the small one, from a literal";
        const std::string named = "named";
        co_yield named; // copied
        CHECK(named == "named");
    };
    static constexpr auto all = [](plain_loop&) -> task<> {
        generator<std::unique_ptr<int>> pointers = owned();
        int expected = 0;
        while (std::optional<std::unique_ptr<int>> p = co_await pointers.next()) CHECK(**p == expected++);
        CHECK(expected == 4);
        numbers cells{1, 2, 3};
        generator<int&> places = refer(cells);
        while (std::optional<std::reference_wrapper<int>> place = co_await places.next()) place->get() *= 10;
        CHECK(cells == numbers{10, 20, 30});
        generator<std::string> words = texts();
        std::optional<std::string> word = co_await words.next();
        CHECK(word->ends_with("literal"));
        word = co_await words.next();
        CHECK(word == "named");
    };
    plain_loop loop;
    loop.run(all(loop));
}

TEST_CASE("generator: each value is made and destroyed once", "[coro]") {
    static constexpr auto make = [](source<int>& s) -> generator<counted> {
        static constexpr auto one = [](source<int>& of) -> task<counted> {
            const int n = co_await of.next();
            co_return counted(n);
        };
        co_yield counted(1);
        counted named(2);
        co_yield std::move(named);
        co_yield co_await one(s);
        counted kept(4);
        co_yield kept;
        CHECK(kept.number == 4);
    };
    static constexpr auto use = [](source<int>& s, numbers& got) -> task<> {
        generator<counted> all = make(s);
        while (std::optional<counted> c = co_await all.next()) got.push_back(c->number);
    };
    plain_loop loop;
    source<int> s(loop);
    numbers got;
    s.give(3);
    loop.run(use(s, got));
    CHECK(got == numbers{1, 2, 3, 4});
    got.clear();
    auto waiting = alone(loop, use(s, got)); // it waits for the third
    CHECK(counted::alive > 0);
    waiting.reset();
    CHECK(got == numbers{1, 2});
    CHECK(counted::alive == 0);
}

TEST_CASE("generator: an exception comes once, after what was yielded before it", "[coro]") {
    static constexpr auto failing = [](int after) -> generator<int> {
        for (int i = 0; i < after; ++i) co_yield i;
        throw std::runtime_error("no more");
    };
    for (const int after : {0, 2}) {
        plain_loop loop;
        generator<int> all = failing(after);
        numbers got;
        CHECK_THROWS_AS(loop.run(collect(all, got)), std::runtime_error);
        CHECK(got.size() == static_cast<std::size_t>(after));
        loop.run(collect(all, got));
        CHECK(got.size() == static_cast<std::size_t>(after));
    }
}

TEST_CASE("generator: awaits between its values, tasks and operations", "[coro]") {
    static constexpr auto doubles = [](source<int>& s) -> generator<int> {
        for (int i = 0; i < 3; ++i) {
            const int value = co_await doubled(s);
            co_yield value;
            co_yield value + 1;
        }
    };
    plain_loop loop;
    source<int> s(loop);
    generator<int> all = doubles(s);
    numbers got;
    auto task = alone(loop, collect(all, got));
    CHECK(s.awaited());
    s.give(10);
    loop.settle();
    CHECK(got == numbers{20, 21});
    s.give(20);
    s.give(30);
    loop.settle();
    CHECK(got == numbers{20, 21, 40, 41, 60, 61});
    CHECK(task->size() == 0);
}

TEST_CASE("generator: one over another", "[coro]") {
    static constexpr auto odd = [](generator<int> of) -> generator<int> {
        while (std::optional<int> value = co_await of.next())
            if (*value % 2 != 0) co_yield *value;
    };
    plain_loop loop;
    generator<int> all = odd(odd(count_to(10)));
    numbers got;
    loop.run(collect(all, got));
    CHECK(got == numbers{1, 3, 5, 7, 9});
    source<int> s(loop);
    generator<int> later = odd(odd(from(s)));
    got.clear();
    auto task = alone(loop, collect(later, got));
    for (int i = 0; i < 10; ++i) {
        s.give(i);
        loop.settle();
    }
    CHECK(got == numbers{1, 3, 5, 7, 9});
    task->request_stop();
    loop.settle();
    CHECK(task->size() == 0);
}

// --- stops, and waits that go ----------------------------------------------------------------------------------------

namespace {

task<> in_time(generator<int>& all, numbers& got, int rounds) {
    for (int i = 0; i < rounds; ++i) {
        result<std::optional<int>> next = co_await as_result(with_timeout(all.next(), 1s));
        got.push_back(!next ? (next.error() == std::errc::timed_out ? -1 : -2) : *next ? **next : -3);
    }
}

// Goes on when it is asked to stop.
generator<int> stubborn(source<int>& s) {
    for (;;) {
        result<int> value = co_await as_result(s.next());
        co_yield value ? *value : 100;
    }
}

task<> until(generator<int>& all, event& other, numbers& got) {
    auto first = co_await when_any(all.next(), other.wait());
    got.push_back(first.index() == 0 ? std::get<0>(first).value_or(-3) : -1);
}

} // namespace

TEST_CASE("generator: a request to stop reaches what it awaits, and the next wait is another", "[coro]") {
    plain_loop loop;
    source<int> s(loop);
    numbers got;
    generator<int> all = from(s);
    loop.run(in_time(all, got, 2));
    CHECK(got == numbers{-1, -3}); // the exception passed, and it has ended
    got.clear();
    generator<int> on = stubborn(s);
    s.give(1);
    s.give(2);
    loop.run(in_time(on, got, 4));
    CHECK(got == numbers{1, 2, 100, 100}); // stopped each time, and not before
    s.give(3);
    loop.run(in_time(on, got, 1));
    CHECK(got.back() == 3);
    std::optional<int> value;
    auto task = alone(loop, take(on, value));
    CHECK(s.awaited());
    s.give(4); // arrives first: it wins
    task->request_stop();
    loop.settle();
    CHECK(value == 4);
    task = alone(loop, take(on, value));
    task->request_stop();
    s.give(5);
    loop.settle();
    CHECK(value == 100);
    CHECK(s.kept() == 1);
}

TEST_CASE("generator: a wait that is let go loses no value", "[coro]") {
    plain_loop loop;
    source<int> s(loop);
    event other;
    numbers got;
    generator<int> all = from(s);
    auto task = alone(loop, until(all, other, got));
    other.set();
    loop.settle();
    CHECK(got == numbers{-1});
    CHECK(s.awaited()); // it goes on
    s.give(7);
    loop.settle();
    s.give(8); // nobody has asked for it
    CHECK(s.kept() == 1);
    std::optional<int> value;
    loop.run(take(all, value));
    CHECK(value == 7);
    loop.run(take(all, value));
    CHECK(value == 8);

    // or asked for again before it has come: then for the new one, and by its request
    other.reset();
    task = alone(loop, until(all, other, got));
    task.reset();
    task = alone(loop, take(all, value));
    s.give(9);
    loop.settle();
    CHECK(value == 9);
    task = alone(loop, until(all, other, got));
    task.reset();
    task = alone(loop, until(all, other, got));
    task->request_stop();
    loop.settle();
    CHECK(task->size() == 0);
    CHECK_FALSE(s.awaited());
}

TEST_CASE("generator: an end, or a failure, while nobody waits is kept", "[coro]") {
    static constexpr auto once = [](source<int>& s, bool fails) -> generator<int> {
        co_await s.next();
        if (fails) throw std::runtime_error("kept");
    };
    for (const bool fails : {false, true}) {
        plain_loop loop;
        source<int> s(loop);
        generator<int> all = once(s, fails);
        std::optional<int> value = 1;
        auto task = alone(loop, take(all, value));
        task.reset();
        s.give(1);
        loop.settle();
        if (fails)
            CHECK_THROWS_AS(loop.run(take(all, value)), std::runtime_error);
        else
            loop.run(take(all, value));
        CHECK(value.has_value() == fails); // untouched, or empty
        value = 1;
        loop.run(take(all, value));
        CHECK_FALSE(value);
    }
}

TEST_CASE("generator: another next() while one waits is refused by name", "[coro]") {
    plain_loop loop;
    source<int> s(loop);
    generator<int> all = from(s);
    std::optional<int> first;
    std::optional<int> second;
    auto task = alone(loop, take(all, first));
    try {
        loop.run(take(all, second));
        FAIL_CHECK("not refused");
    } catch (const std::system_error& e) {
        CHECK(e.code() == std::errc::device_or_resource_busy);
        CHECK(std::string(e.what()).find("generator: next()") != std::string::npos);
    }
    s.give(1);
    loop.settle();
    CHECK(first == 1);

    static constexpr auto itself = [](generator<int>& self) -> generator<int> {
        co_yield 1;
        const std::optional<int> mine = co_await self.next();
        co_yield *mine;
    };
    generator<int> bad;
    try {
        (void)bad.next();
        FAIL_CHECK("not refused");
    } catch (const std::system_error& e) {
        CHECK(e.code() == std::errc::invalid_argument);
    }
    bad = itself(bad);
    loop.run(take(bad, first));
    CHECK(first == 1);
    CHECK_THROWS_AS(loop.run(take(bad, first)), std::system_error);
    loop.run(take(bad, first));
    CHECK_FALSE(first);
}

TEST_CASE("generator: moved, while its next value is awaited too", "[coro]") {
    plain_loop loop;
    source<int> s(loop);
    generator<int> all = from(s);
    std::optional<int> value;
    auto task = alone(loop, take(all, value));
    generator<int> moved = std::move(all);
    CHECK_FALSE(all);
    CHECK(moved);
    s.give(1);
    loop.settle();
    CHECK(value == 1);
    task = alone(loop, take(moved, value));
    moved = count_to(3); // the old one goes, and who waits is told
    loop.settle();
    CHECK(task->size() == 0);
    CHECK_FALSE(s.awaited());
    loop.run(take(moved, value));
    CHECK(value == 0);
}

TEST_CASE("generator: destroyed by the task that it has just resumed", "[coro]") {
    static constexpr auto first_only = [](source<int>& s, numbers& got) -> task<> {
        generator<int> all = from(s);
        const std::optional<int> value = co_await all.next();
        got.push_back(*value);
    };
    plain_loop loop;
    source<int> s(loop);
    numbers got;
    auto task = alone(loop, first_only(s, got));
    s.give(1);
    loop.settle();
    CHECK(got == numbers{1});
    CHECK(task->size() == 0);
}

// --- bounds --------------------------------------------------------------------------------------------------------

namespace {

struct extent {
    void note() noexcept {
        const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
        lowest = std::min(lowest, here);
        highest = std::max(highest, here);
    }
    std::uintptr_t lowest = ~std::uintptr_t{0};
    std::uintptr_t highest = 0;
};
extent stack;

[[gnu::noinline]] unsigned noted(unsigned i) {
    stack.note();
    return i;
}

generator<unsigned> many(source<int>& s, unsigned count, unsigned wait_every) {
    for (unsigned i = 0; i < count; ++i) {
        if (wait_every != 0 && i % wait_every == 0) co_await s.next();
        co_yield noted(i);
    }
}

task<unsigned> sum(generator<unsigned> all) {
    unsigned total = 0;
    while (std::optional<unsigned> value = co_await all.next()) total += noted(*value) & 1U;
    co_return total;
}

task<> feed(source<int>& s, event& turn, unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
        s.give(0);
        const result<> later = co_await as_result(with_timeout(turn.wait(), 1us));
        CHECK_FALSE(later);
    }
}

} // namespace

TEST_CASE("generator: ten million ready values grow neither the stack nor the heap", "[coro]") {
    constexpr unsigned count = sanitized ? 1'000'000 : 10'000'000;
    plain_loop loop;
    source<int> s(loop);
    stack = {};
    CHECK(loop.run(sum(many(s, 100, 0))) == 50);
    const std::size_t before = allocations.load();
    CHECK(loop.run(sum(many(s, count, 0))) == count / 2);
    CHECK(stack.highest - stack.lowest < 64 * 1024);
    if (!sanitized) CHECK(allocations.load() - before < 16);
}

TEST_CASE("generator: nor do values that were waited for, among others", "[coro]") {
    constexpr unsigned count = 200'000;
    for (const unsigned every : {1U, 2U, 7U}) {
        plain_loop loop;
        source<int> s(loop);
        event turn;
        stack = {};
        scope tasks(loop);
        tasks.spawn(feed(s, turn, count / every + 1));
        CHECK(loop.run(sum(many(s, count, every))) == count / 2);
        CHECK(stack.highest - stack.lowest < 64 * 1024);
        tasks.request_stop();
        loop.settle();
    }
}
