// SPDX-License-Identifier: Apache-2.0
//
// event, mutex, semaphore: who goes on, in which order, and what is refused. What a stop or a destruction does at each
// step of a wait is in waits.cpp.
#include <cotun/coro/event.hpp>
#include <cotun/coro/mutex.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/semaphore.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_any.hpp>

#include "../support/plain_loop.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

using namespace cotun;
using namespace cotun::test;
using namespace std::chrono_literals;

namespace {

using names = std::vector<std::string>;

template <class Function>
std::error_code refusal(Function function, const char* words) {
    try {
        function();
    } catch (const std::system_error& e) {
        CAPTURE(e.what());
        CHECK(std::string(e.what()).find(words) != std::string::npos);
        return e.code();
    }
    return {};
}

// A task that can be stopped or destroyed by itself.
std::unique_ptr<scope> alone(plain_loop& loop, task<> body) {
    auto s = std::make_unique<scope>(loop);
    s->spawn(std::move(body));
    loop.settle();
    return s;
}

} // namespace

// --- event ---------------------------------------------------------------------------------------------------------

namespace {

task<> note(event& e, names& log, std::string name) {
    co_await e.wait();
    log.push_back(name);
}

} // namespace

TEST_CASE("event: set lets all go on, in order; it stays set until it is reset", "[coro]") {
    plain_loop loop;
    event e;
    names log;
    scope tasks(loop);
    for (const char* name : {"a", "b", "c"}) tasks.spawn(note(e, log, name));
    loop.settle();
    CHECK(log.empty());
    e.set();
    e.set();
    CHECK(e.is_set());
    e.reset(); // what has ended stays ended
    tasks.spawn(note(e, log, "late"));
    loop.settle();
    CHECK(log == names{"a", "b", "c"});
    e.set();
    loop.settle();
    CHECK(log.back() == "late");
    loop.run(note(e, log, "at once"));
    CHECK(log.back() == "at once");
    event made_set(true);
    loop.run(note(made_set, log, "made set"));
    CHECK(log.back() == "made set");
}

// --- mutex ---------------------------------------------------------------------------------------------------------

namespace {

// Holds the mutex until `go`.
task<> hold_until(mutex& m, event& go, names& log, std::string name) {
    const mutex_guard guard = co_await m.lock();
    log.push_back(name);
    co_await go.wait();
    log.push_back(name + " ends");
}

task<> let_go(mutex& m, event& other, names& log) {
    auto first = co_await when_any(m.lock(), other.wait());
    log.push_back("any " + std::to_string(first.index()));
}

task<> lock_in_time(mutex& m, plain_loop::clock::duration time) {
    const mutex_guard guard = co_await with_timeout(m.lock(), time);
    CHECK(m.is_locked());
}

} // namespace

TEST_CASE("mutex: one at a time, who waits longest next", "[coro]") {
    plain_loop loop;
    mutex m;
    event go(true);
    names log;
    scope tasks(loop);
    for (const char* name : {"a", "b", "c"}) tasks.spawn(hold_until(m, go, log, name));
    loop.settle();
    CHECK(log == names{"a", "a ends", "b", "b ends", "c", "c ends"});
    CHECK_FALSE(m.is_locked());
    go.reset();
    log.clear();
    for (const char* name : {"a", "b"}) tasks.spawn(hold_until(m, go, log, name));
    loop.settle();
    CHECK(log == names{"a"});
    CHECK_FALSE(m.try_lock());
    go.set();
    loop.settle();
    CHECK(log == names{"a", "a ends", "b", "b ends"});
}

TEST_CASE("mutex: nobody comes in between an unlock and the one that is next", "[coro]") {
    plain_loop loop;
    mutex m;
    event go(true);
    names log;
    mutex_guard held = m.try_lock();
    REQUIRE(held);
    scope tasks(loop);
    tasks.spawn(hold_until(m, go, log, "a"));
    loop.settle();
    held.unlock();
    CHECK(m.is_locked());
    CHECK_FALSE(m.try_lock());
    held.unlock(); // holds nothing: unlocks nothing
    CHECK(m.is_locked());
    loop.settle();
    CHECK(log == names{"a", "a ends"});
    CHECK_FALSE(m.is_locked());
}

TEST_CASE("mutex: one that was handed the lock and goes before it runs hands it on, to who waits", "[coro]") {
    plain_loop loop;
    mutex m;
    event go(true);
    names log;
    mutex_guard held = m.try_lock();
    auto first = alone(loop, hold_until(m, go, log, "first"));
    auto second = alone(loop, hold_until(m, go, log, "second"));
    auto third = alone(loop, hold_until(m, go, log, "third"));
    held.unlock();
    first.reset(); // had it
    CHECK(m.is_locked());
    second.reset();        // has it now
    third->request_stop(); // has it, and keeps it
    loop.settle();
    CHECK(log == names{"third", "third ends"});
    CHECK_FALSE(m.is_locked());
}

TEST_CASE("mutex: a wait that is let go, or not in time, leaves the lock to the others", "[coro]") {
    plain_loop loop;
    mutex m;
    event other;
    event go(true);
    names log;
    mutex_guard held = m.try_lock();
    auto any = alone(loop, let_go(m, other, log));
    auto next = alone(loop, hold_until(m, go, log, "next"));
    other.set();
    held.unlock(); // for `any`, which is told of the event first
    loop.settle();
    CHECK(log == names{"next", "next ends", "any 1"}); // when_any goes on a pass later
    held = m.try_lock();
    CHECK(refusal([&] { loop.run(lock_in_time(m, 1s)); }, "time was up") == std::errc::timed_out);
    held.unlock();
    loop.run(lock_in_time(m, 1s));
    CHECK_FALSE(m.is_locked());
}

TEST_CASE("mutex: guards move, and may outlive the mutex", "[coro]") {
    auto m = std::make_unique<mutex>();
    auto other = std::make_unique<mutex>();
    mutex_guard a = m->try_lock();
    mutex_guard b = std::move(a);
    CHECK_FALSE(a);
    CHECK(b);
    CHECK(m->is_locked());
    mutex_guard c = other->try_lock();
    c = std::move(b); // unlocks the other
    CHECK_FALSE(other->is_locked());
    CHECK(m->is_locked());
    auto& same = c;
    c = std::move(same);
    CHECK(m->is_locked());
    b = other->try_lock();
    m.reset();
    CHECK_FALSE(c);
    c.unlock();
    other.reset();
    CHECK_FALSE(b);
}

// --- semaphore -----------------------------------------------------------------------------------------------------

namespace {

task<> take(semaphore& s, std::size_t units, names& log, std::string name) {
    co_await s.acquire(units);
    log.push_back(name);
}

} // namespace

TEST_CASE("semaphore: nobody overtakes who waits, also not with a smaller wish", "[coro]") {
    plain_loop loop;
    semaphore s(2);
    names log;
    auto large = alone(loop, take(s, 3, log, "large"));
    auto small = alone(loop, take(s, 1, log, "small"));
    CHECK(log.empty());
    CHECK_FALSE(s.try_acquire());
    s.release();
    loop.settle();
    CHECK(log == names{"large"});
    CHECK(s.available() == 0);
    s.release(2);
    loop.settle();
    CHECK(log == names{"large", "small"});
    CHECK(s.available() == 1);
    CHECK(s.try_acquire());
    CHECK_FALSE(s.try_acquire());
}

TEST_CASE("semaphore: those behind one that gives up are served", "[coro]") {
    plain_loop loop;
    names log;
    for (const bool destroy : {false, true}) {
        CAPTURE(destroy);
        semaphore s(2);
        log.clear();
        auto large = alone(loop, take(s, 3, log, "large"));
        auto small = alone(loop, take(s, 1, log, "small"));
        auto next = alone(loop, take(s, 1, log, "next"));
        if (destroy)
            large.reset();
        else
            large->request_stop();
        loop.settle();
        CHECK(log == names{"small", "next"});
        CHECK(s.available() == 0);
    }
    // units that were handed over, and not taken
    semaphore s(0);
    log.clear();
    auto first = alone(loop, take(s, 2, log, "first"));
    auto second = alone(loop, take(s, 1, log, "second"));
    auto third = alone(loop, take(s, 1, log, "third"));
    s.release(2);
    first.reset();
    CHECK(s.available() == 0);
    loop.settle();
    CHECK(log == names{"second", "third"});
}

TEST_CASE("semaphore: what is out of its bounds is refused", "[coro]") {
    semaphore s(1, 2);
    CHECK(refusal([&] { s.release(2); }, "release of 2 units where 1 of at most 2") == std::errc::value_too_large);
    CHECK(s.available() == 1);
    s.release();
    CHECK(refusal([&] { s.release(); }, "not acquired") == std::errc::value_too_large);
    CHECK(refusal([&] { (void)s.acquire(3); }, "1 to 2") == std::errc::invalid_argument);
    CHECK(refusal([&] { (void)s.acquire(0); }, "acquire of 0") == std::errc::invalid_argument);
    CHECK(refusal([&] { (void)s.try_acquire(3); }, "1 to 2") == std::errc::invalid_argument);
    CHECK(refusal([&] { semaphore(3, 2); }, "3 units of at most 2") == std::errc::invalid_argument);
    CHECK(refusal([&] { semaphore(0, 0); }, "0 units") == std::errc::invalid_argument);
    semaphore wide(semaphore::unbounded);
    CHECK(refusal([&] { wide.release(); }, "release") == std::errc::value_too_large);
    CHECK(wide.try_acquire(semaphore::unbounded));
    wide.release(semaphore::unbounded);
}
