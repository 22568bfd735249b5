// SPDX-License-Identifier: Apache-2.0
//
// Tasks beside each other, and requests to stop: scope, when_all, when_any, with_timeout, with_stop, shield, as_result.
#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_all.hpp>
#include <cotun/coro/when_any.hpp>
#include <cotun/coro/with_stop.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "../support/held_task.hpp"
#include "../support/plain_loop.hpp"

using namespace cotun;
using namespace cotun::test;
using namespace std::chrono_literals;

namespace {

struct stand {
    plain_loop loop;
    source<int> a{loop};
    source<int> b{loop};
    std::vector<std::string> log;
};

task<int> take(source<int>& from) { co_return co_await from.next(); }

task<int> give_back(int value) { co_return value; }

task<> nothing() { co_return; }

task<int> fail_with(const char* what) {
    throw std::runtime_error(what);
    co_return 0;
}

// Says how it ended.
task<> logged(source<int>& from, std::vector<std::string>& log, std::string name) {
    try {
        const int value = co_await from.next();
        log.push_back(name + " " + std::to_string(value));
    } catch (const std::system_error& e) {
        log.push_back(name + (e.code() == std::errc::operation_canceled ? " stopped" : " failed"));
        throw;
    }
}

template <class T>
std::error_code code_of(plain_loop& loop, task<T> body) {
    try {
        loop.run(std::move(body));
    } catch (const std::system_error& e) {
        return e.code();
    }
    return {};
}

} // namespace

// --- when_all ------------------------------------------------------------------------------------------------------

namespace {

task<int> sum_of_both(stand& s) {
    auto [x, y] = co_await when_all(take(s.a), s.b.next());
    co_return x * 100 + y;
}

task<> all_kinds(stand& s, std::vector<int>& seen) {
    int place = 7;
    struct refer {
        static task<int&> to(int& what) { co_return what; }
    };
    auto all = co_await when_all(nothing(), give_back(1), refer::to(place), s.a.next());
    static_assert(std::is_same_v<decltype(all), std::tuple<std::monostate, int, std::reference_wrapper<int>, int>>);
    std::get<2>(all).get() = 8;
    seen = {std::get<1>(all), place, std::get<3>(all)};
}

task<int> all_of_vector(std::vector<task<int>> bodies) {
    const std::vector<int> values = co_await when_all(std::move(bodies));
    int sum = 0;
    for (const int v : values) sum = sum * 10 + v;
    co_return sum;
}

task<> one_fails(stand& s) { co_await when_all(logged(s.a, s.log, "a"), fail_with("no"), logged(s.b, s.log, "b")); }

} // namespace

TEST_CASE("when_all: values in the order of the tasks, whichever ends first", "[coro]") {
    stand s;
    s.a.give(1);
    s.b.give(2);
    CHECK(s.loop.run(sum_of_both(s)) == 102);

    scope root(s.loop);
    int sum = 0;
    struct into {
        static task<> run(stand& of, int& value) { value = co_await sum_of_both(of); }
    };
    root.spawn(into::run(s, sum));
    s.loop.settle();
    s.b.give(4);
    s.loop.settle();
    CHECK(sum == 0);
    s.a.give(3);
    s.loop.settle();
    CHECK(sum == 304);
}

TEST_CASE("when_all: nothing, objects, references, operations", "[coro]") {
    stand s;
    std::vector<int> seen;
    s.a.give(9);
    s.loop.run(all_kinds(s, seen));
    CHECK(seen == std::vector{1, 8, 9});
}

TEST_CASE("when_all: of a vector", "[coro]") {
    stand s;
    std::vector<task<int>> bodies;
    for (int i = 1; i <= 5; ++i) bodies.push_back(give_back(i));
    CHECK(s.loop.run(all_of_vector(std::move(bodies))) == 12345);
    CHECK(s.loop.run(all_of_vector({})) == 0);
}

TEST_CASE("when_all: the first failure stops the others, and is thrown when they have ended", "[coro]") {
    stand s;
    CHECK_THROWS_AS(s.loop.run(one_fails(s)), std::runtime_error);
    CHECK(s.log == std::vector<std::string>{"a stopped"}); // "b" has not begun
    CHECK_FALSE(s.a.awaited());
    CHECK_FALSE(s.b.awaited());
}

// --- when_any ------------------------------------------------------------------------------------------------------

namespace {

task<std::string> first_of_both(stand& s) {
    auto first = co_await when_any(take(s.a), s.b.next());
    if (first.index() == 0) co_return "a " + std::to_string(std::get<0>(first));
    co_return "b " + std::to_string(std::get<1>(first));
}

task<> any_with_loser(stand& s) {
    auto first = co_await when_any(s.a.next(), logged(s.b, s.log, "b"));
    s.log.push_back("any " + std::to_string(first.index()));
}

task<> stubborn(stand& s, int turns) {
    for (int i = 0; i < turns; ++i) {
        try {
            co_await s.b.next();
        } catch (const std::system_error&) {}
        co_await shield(s.a.next());
    }
    s.log.push_back("stubborn ended");
}

task<> any_with_stubborn(stand& s) {
    auto first = co_await when_any(give_back(1), stubborn(s, 1));
    s.log.push_back("any " + std::to_string(first.index()));
}

task<> any_with_late_stubborn(stand& s) {
    auto first = co_await when_any(stubborn(s, 1), s.b.next());
    s.log.push_back("any " + std::to_string(first.index()));
}

task<std::size_t> any_of_vector(std::vector<task<int>> bodies) {
    const indexed<int> first = co_await when_any(std::move(bodies));
    co_return first.index * 100 + static_cast<std::size_t>(first.value);
}

} // namespace

TEST_CASE("when_any: the first decides, and the other is let go", "[coro]") {
    stand s;
    s.b.give(5);
    CHECK(s.loop.run(first_of_both(s)) == "b 5");
    CHECK_FALSE(s.a.awaited());
    s.a.give(6);
    CHECK(s.loop.run(first_of_both(s)) == "a 6");
    s.a.give(6);
    s.b.give(7); // an operation decides before a task begins
    CHECK(s.loop.run(first_of_both(s)) == "b 7");
    CHECK(s.a.kept() == 1);
}

TEST_CASE("when_any: a losing task is stopped and awaited", "[coro]") {
    stand s;
    scope root(s.loop);
    root.spawn(any_with_loser(s));
    s.loop.settle();
    s.a.give(1);
    s.loop.settle();
    CHECK(s.log == std::vector<std::string>{"b stopped", "any 0"});

    s.log.clear();
    root.spawn(any_with_late_stubborn(s));
    s.loop.settle();
    s.b.give(1);
    s.loop.settle();
    CHECK(s.log.empty()); // it was not the first, and goes on
    s.b.give(2);
    s.loop.settle();
    s.a.give(3);
    s.loop.settle();
    CHECK(root.size() == 0);
    CHECK(s.log.size() == 2);
}

TEST_CASE("when_any: what came for a losing operation in the same pass is not lost", "[coro]") {
    stand s;
    scope root(s.loop);
    struct both {
        static task<> run(stand& of) {
            auto first = co_await when_any(of.a.next(), of.b.next());
            of.log.push_back("any " + std::to_string(first.index()));
        }
    };
    root.spawn(both::run(s));
    s.loop.settle();
    s.b.give(2);
    s.a.give(1);
    s.loop.settle();
    CHECK(s.log == std::vector<std::string>{"any 1"});
    CHECK(s.a.kept() == 1);
}

TEST_CASE("when_any: destroyed when it is decided, it has taken nothing", "[coro]") {
    stand s;
    struct both {
        static task<> run(stand& of) {
            co_await when_any(of.a.next(), logged(of.b, of.log, "b"));
            of.log.push_back("resumed");
        }
    };
    auto root = std::make_unique<scope>(s.loop);
    root->spawn(both::run(s));
    s.loop.settle();
    s.a.give(1);
    s.loop.pass(); // the operation has its packet, and the task was stopped
    root.reset();
    s.loop.settle();
    CHECK(s.a.kept() == 1);
    CHECK(s.log == std::vector<std::string>{});
}

TEST_CASE("when_any: a request from outside; who has a value all the same decides", "[coro]") {
    stand s;
    struct both {
        static task<> run(stand& of) {
            auto first = co_await when_any(logged(of.b, of.log, "b"), of.a.next());
            of.log.push_back("any " + std::to_string(first.index()));
        }
    };
    for (const bool in_time : {false, true}) {
        scope root(s.loop);
        root.spawn(both::run(s));
        s.loop.settle();
        if (in_time) s.a.give(1);
        root.request_stop();
        s.loop.settle();
        CHECK(root.size() == 0);
        CHECK(s.log.back() == (in_time ? "any 1" : "b stopped"));
    }
}

TEST_CASE("when_any: one that ends at once decides before the next starts", "[coro]") {
    stand s;
    s.loop.run(any_with_stubborn(s));
    CHECK(s.log == std::vector<std::string>{"any 0"});
    CHECK(s.b.waits == 0);
}

TEST_CASE("when_any: of a vector, and of none", "[coro]") {
    stand s;
    std::vector<task<int>> bodies;
    bodies.push_back(take(s.a));
    bodies.push_back(give_back(7));
    CHECK(s.loop.run(any_of_vector(std::move(bodies))) == 107);
    CHECK(code_of(s.loop, any_of_vector({})) == std::errc::invalid_argument);
}

TEST_CASE("when_any: an exception decides, too", "[coro]") {
    stand s;
    struct any {
        static task<> run(stand& of) { co_await when_any(logged(of.a, of.log, "a"), fail_with("no")); }
    };
    CHECK_THROWS_AS(s.loop.run(any::run(s)), std::runtime_error);
    CHECK(s.log == std::vector<std::string>{"a stopped"});
}

// --- with_timeout, with_deadline -----------------------------------------------------------------------------------

namespace {

task<int> within(stand& s, plain_loop::clock::duration time) { co_return co_await with_timeout(s.a.next(), time); }

task<int> task_within(stand& s, plain_loop::clock::duration time) { co_return co_await with_timeout(take(s.a), time); }

task<int> nested(stand& s, plain_loop::clock::duration inner, plain_loop::clock::duration outer) {
    co_return co_await with_timeout(within(s, inner), outer);
}

task<int> by_deadline(stand& s, plain_loop::clock::time_point deadline) {
    co_return co_await with_deadline(s.a.next(), deadline);
}

} // namespace

TEST_CASE("with_timeout: in time, and too late", "[coro]") {
    stand s;
    const auto before = s.loop.now();
    CHECK(code_of(s.loop, within(s, 2s)) == std::errc::timed_out);
    CHECK(s.loop.now() == before + 2s);
    CHECK(code_of(s.loop, task_within(s, 2s)) == std::errc::timed_out);
    s.a.give(3);
    CHECK(s.loop.run(within(s, 2s)) == 3);
    s.a.give(4);
    CHECK(s.loop.run(task_within(s, 2s)) == 4);
    CHECK(s.loop.timers() == 0);
    CHECK(s.loop.now() == before + 4s);
}

TEST_CASE("with_deadline: one in the past leaves what can be answered at once", "[coro]") {
    stand s;
    CHECK(code_of(s.loop, by_deadline(s, s.loop.now() - 1s)) == std::errc::timed_out);
    CHECK(code_of(s.loop, by_deadline(s, plain_loop::clock::time_point::min())) == std::errc::timed_out);
    s.a.give(1);
    CHECK(s.loop.run(by_deadline(s, s.loop.now() - 1s)) == 1);
    s.a.give(2);
    CHECK(s.loop.run(within(s, plain_loop::clock::duration::max())) == 2);
    CHECK(code_of(s.loop, within(s, -1s)) == std::errc::timed_out);
}

TEST_CASE("with_timeout: a result that has arrived wins over the time", "[coro]") {
    stand s;
    scope root(s.loop);
    int value = 0;
    struct into {
        static task<> run(stand& of, int& to) { to = co_await within(of, 1s); }
    };
    root.spawn(into::run(s, value));
    s.loop.settle();
    s.a.give(5); // ready, not yet resumed
    s.loop.advance(1s);
    CHECK(value == 5);
}

TEST_CASE("with_timeout: the inner and the outer one", "[coro]") {
    stand s;
    const auto before = s.loop.now();
    CHECK(code_of(s.loop, nested(s, 1s, 5s)) == std::errc::timed_out);
    CHECK(s.loop.now() == before + 1s);
    CHECK(code_of(s.loop, nested(s, 5s, 1s)) == std::errc::timed_out);
    CHECK(s.loop.now() == before + 2s);
}

// --- with_stop, shield, this_stop_token, as_result -----------------------------------------------------------------

namespace {

task<> stoppable(stand& s, std::stop_token token) { co_await with_stop(std::move(token), logged(s.a, s.log, "a")); }

task<> see_token(stand& s, std::stop_token& seen) {
    seen = co_await this_stop_token();
    co_await s.a.next();
}

} // namespace

TEST_CASE("with_stop: before, during, after, twice, and from another thread", "[coro]") {
    stand s;
    std::stop_source source;
    scope root(s.loop);
    root.spawn(stoppable(s, source.get_token()));
    s.loop.settle();
    CHECK(s.a.awaited());
    std::thread other([&] { source.request_stop(); });
    other.join();
    source.request_stop();
    CHECK(s.log.empty());
    s.loop.settle();
    CHECK(s.log == std::vector<std::string>{"a stopped"});
    CHECK(code_of(s.loop, stoppable(s, source.get_token())) == std::errc::operation_canceled); // before
    s.a.give(1);
    s.log.clear();
    s.loop.run(stoppable(s, source.get_token())); // what can be answered at once is
    CHECK(s.log == std::vector<std::string>{"a 1"});

    std::stop_source late;
    s.a.give(2);
    s.loop.run(stoppable(s, late.get_token()));
    late.request_stop(); // nobody there any more
    s.loop.settle();
    s.a.give(3);
    s.loop.run(stoppable(s, std::stop_token())); // one that can never be
}

TEST_CASE("with_stop: a request that is on its way when the wait is gone", "[coro]") {
    stand s;
    std::stop_source source;
    {
        scope root(s.loop);
        root.spawn(stoppable(s, source.get_token()));
        s.loop.settle();
        source.request_stop();
    } // destroyed
    s.loop.settle();
    CHECK_FALSE(s.a.awaited());
    CHECK(s.log.empty());
}

TEST_CASE("this_stop_token: requested with the task; none where nobody can", "[coro]") {
    stand s;
    std::stop_token seen;
    scope root(s.loop);
    root.spawn(see_token(s, seen));
    s.loop.settle();
    CHECK(seen.stop_possible());
    CHECK_FALSE(seen.stop_requested());
    root.request_stop();
    CHECK(seen.stop_requested());
    s.loop.settle();
    CHECK(root.size() == 0);
}

namespace {

task<> shielded(stand& s) {
    const int value = co_await shield(take(s.a));
    s.log.push_back("shielded " + std::to_string(value));
    co_await s.b.next();
}

task<std::unique_ptr<int>> make() { co_return std::make_unique<int>(3); }

task<> results(stand& s) {
    result<int> good = co_await as_result(give_back(1));
    CHECK(good);
    CHECK(*good == 1);
    CHECK(good.value() == 1);
    CHECK_FALSE(good.error());
    const result<int> late = co_await as_result(with_timeout(s.a.next(), 1s));
    CHECK_FALSE(late);
    CHECK(late.error() == std::errc::timed_out);
    CHECK(std::string(late.what()).find("time was up") != std::string::npos);
    const result<> none = co_await as_result(nothing());
    CHECK(none.has_value());
    result<std::unique_ptr<int>> moved = co_await as_result(make());
    CHECK(**moved == 3);
    const std::unique_ptr<int> taken = std::move(moved).value();
    CHECK(*taken == 3);
}

task<> result_of_fault() { (void)co_await as_result(fail_with("a fault")); }

} // namespace

TEST_CASE("shield: a request waits outside", "[coro]") {
    stand s;
    scope root(s.loop);
    root.spawn(shielded(s));
    s.loop.settle();
    root.request_stop();
    s.loop.settle();
    CHECK(s.log.empty());
    s.a.give(1);
    s.loop.settle();
    CHECK(s.log == std::vector<std::string>{"shielded 1"});
    CHECK(root.size() == 0);
}

TEST_CASE("as_result: values, errors, and faults", "[coro]") {
    stand s;
    s.loop.run(results(s));
    CHECK_THROWS_AS(s.loop.run(result_of_fault()), std::runtime_error);
}

// --- scope ---------------------------------------------------------------------------------------------------------

namespace {

task<> join_three(stand& s) {
    scope tasks(s.loop);
    tasks.spawn(logged(s.a, s.log, "1"));
    tasks.spawn(logged(s.a, s.log, "2"));
    tasks.spawn(logged(s.b, s.log, "3"));
    CHECK(tasks.size() == 3);
    co_await tasks.join();
    s.log.push_back("joined");
    co_await tasks.join(); // nothing to wait for
}

task<> fail_beside(stand& s) {
    scope tasks(s.loop);
    struct fail {
        static task<> now() {
            throw std::runtime_error("no");
            co_return;
        }
    };
    tasks.spawn(logged(s.a, s.log, "1"));
    tasks.spawn(fail::now());
    tasks.spawn(logged(s.b, s.log, "2"));
    co_await tasks.join();
}

task<> leave_by_exception(stand& s) {
    scope tasks(s.loop);
    tasks.spawn(logged(s.a, s.log, "1"));
    co_await s.b.next();
    throw std::runtime_error("left");
}

task<> spawn_from_within(scope& tasks, stand& s, int depth) {
    s.log.push_back(std::to_string(depth));
    if (depth < 3) tasks.spawn(spawn_from_within(tasks, s, depth + 1));
    co_return;
}

task<> grow(stand& s) {
    scope tasks(s.loop);
    tasks.spawn(spawn_from_within(tasks, s, 0));
    co_await tasks.join();
    s.log.push_back("joined");
}

task<> bounded(stand& s) {
    scope tasks(s.loop, {.tasks = 2});
    for (int i = 0; i < 4; ++i) {
        co_await tasks.room();
        tasks.spawn(logged(s.a, s.log, std::to_string(i)));
        CHECK(tasks.size() <= 2);
    }
    co_await tasks.join();
}

} // namespace

TEST_CASE("scope: join waits for all", "[coro]") {
    stand s;
    scope root(s.loop);
    root.spawn(join_three(s));
    s.loop.settle();
    s.b.give(30);
    s.a.give(10);
    s.loop.settle();
    CHECK(s.log == std::vector<std::string>{"3 30", "1 10"});
    s.a.give(20);
    s.loop.settle();
    CHECK(s.log.back() == "joined");
    CHECK(root.size() == 0);
}

TEST_CASE("scope: the first failure stops the rest, and is thrown by join", "[coro]") {
    stand s;
    CHECK_THROWS_AS(s.loop.run(fail_beside(s)), std::runtime_error);
    CHECK(s.log == std::vector<std::string>{"2 stopped", "1 stopped"}); // "2" began after the request
}

TEST_CASE("scope: left by an exception, it takes its tasks along", "[coro]") {
    stand s;
    s.b.give(1);
    CHECK_THROWS_AS(s.loop.run(leave_by_exception(s)), std::runtime_error);
    CHECK_FALSE(s.a.awaited());
    CHECK(s.log.empty()); // destroyed where it stood
}

TEST_CASE("scope: a request of who joins reaches all", "[coro]") {
    stand s;
    scope root(s.loop);
    root.spawn(join_three(s));
    s.loop.settle();
    root.request_stop();
    root.request_stop();
    s.loop.settle();
    CHECK(s.log == std::vector<std::string>{"1 stopped", "2 stopped", "3 stopped"});
    CHECK(root.size() == 0);
}

TEST_CASE("scope: request_stop before the first turn, and spawn after it", "[coro]") {
    stand s;
    scope tasks(s.loop);
    tasks.spawn(logged(s.a, s.log, "1"));
    tasks.request_stop();
    tasks.spawn(logged(s.a, s.log, "2"));
    s.loop.settle();
    CHECK(s.log == std::vector<std::string>{"1 stopped", "2 stopped"});
    CHECK(tasks.size() == 0);
    struct join {
        static task<> all(scope& of) { co_await of.join(); }
    };
    s.loop.run(join::all(tasks)); // asked for: no failure
}

TEST_CASE("scope: tasks that spawn", "[coro]") {
    stand s;
    s.loop.run(grow(s));
    CHECK(s.log == std::vector<std::string>{"0", "1", "2", "3", "joined"});
}

TEST_CASE("scope: its bound, with and without waiting", "[coro]") {
    stand s;
    scope root(s.loop);
    root.spawn(bounded(s));
    for (int i = 0; i < 4; ++i) {
        s.loop.settle();
        s.a.give(i);
    }
    s.loop.settle();
    CHECK(s.log.size() == 4);
    CHECK(root.size() == 0);

    scope small(s.loop, {.tasks = 1});
    small.spawn(logged(s.a, s.log, "x"));
    try {
        small.spawn(nothing());
        FAIL_CHECK("not refused");
    } catch (const std::system_error& e) {
        CHECK(e.code() == std::errc::resource_unavailable_try_again);
        CHECK(std::string(e.what()).find("room()") != std::string::npos);
    }
    CHECK_THROWS_AS(small.spawn(task<>()), std::system_error);
    CHECK_THROWS_AS(scope(s.loop, scope_options{.tasks = 0}), std::system_error);
}

namespace {

task<> join_it(scope& of, std::vector<std::string>& log) {
    try {
        co_await of.join();
        log.emplace_back("joined");
    } catch (const std::system_error& e) {
        log.emplace_back(e.code() == std::errc::operation_canceled ? "no scope" : "failed");
    }
}

task<> room_in_it(scope& of, std::vector<std::string>& log) {
    try {
        co_await of.room();
        log.emplace_back("room");
    } catch (const std::system_error& e) {
        log.emplace_back(e.code() == std::errc::operation_canceled ? "no scope" : "failed");
    }
}

} // namespace

TEST_CASE("scope: destroyed while others wait for it, which are told", "[coro]") {
    // When: as they wait; when what they wait for has happened, before they resume; and as they are asked to stop.
    const int moment = GENERATE(0, 1, 2, 3);
    CAPTURE(moment);
    stand s;
    scope outer(s.loop);
    auto inner = std::make_unique<scope>(s.loop, scope_options{.tasks = 1});
    inner->spawn(logged(s.a, s.log, "1"));
    outer.spawn(join_it(*inner, s.log));
    outer.spawn(room_in_it(*inner, s.log));
    outer.spawn(room_in_it(*inner, s.log));
    s.loop.settle();
    CHECK(s.log.empty());
    if (moment == 1) {
        s.a.give(7);
        while (s.log.empty()) s.loop.pass();
    }
    if (moment == 2) outer.request_stop();
    inner.reset();
    if (moment == 3) outer.request_stop();
    s.loop.settle();
    CHECK(outer.size() == 0);
    if (moment == 1) s.log.erase(s.log.begin());
    CHECK(s.log == std::vector<std::string>(3, "no scope"));
}

TEST_CASE("scope: those that wait for it may go first, or with it", "[coro]") {
    stand s;
    scope inner(s.loop, {.tasks = 1});
    inner.spawn(logged(s.a, s.log, "1"));
    {
        const held_task joins = hold(join_it(inner, s.log));
        const held_task waits = hold(room_in_it(inner, s.log));
        s.loop.settle();
    }
    s.a.give(7);
    s.loop.settle();
    CHECK(s.log == std::vector<std::string>{"1 7"});
}

namespace {

task<> within_foreign(stand& s) { co_await with_timeout(s.b.next(), 1s); }

} // namespace

TEST_CASE("a coroutine that is not cotun's is refused by name where it cannot serve", "[coro]") {
    stand s;
    s.a.give(1);
    held_task foreign = hold(within_foreign(s));
    CHECK(foreign.ended());
    CHECK_THROWS_AS(foreign.rethrow(), std::system_error);
}
