// SPDX-License-Identifier: Apache-2.0
//
// channel: order, bounds, closing. What a stop or a destruction does at each step of a wait is in waits.cpp, and what
// many of them do in sync_random.cpp.
#include <cotun/coro/channel.hpp>
#include <cotun/coro/event.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_any.hpp>

#include "../support/allocation_count.hpp"
#include "../support/plain_loop.hpp"
#include "../support/sanitizers.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <chrono>
#include <cstddef>
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

using numbers = std::vector<int>;

struct stand {
    explicit stand(std::size_t capacity) : of(std::make_unique<channel<int>>(capacity)) {}
    plain_loop loop;
    std::unique_ptr<channel<int>> of;
    numbers got;
    std::vector<std::string> log;
};

task<> send_all(channel<int>& to, int from, int count) {
    for (int i = 0; i < count; ++i) co_await to.send(from + i);
}

task<> send_and_close(channel<int>& to, int count) {
    for (int i = 0; i < count; ++i) {
        co_await to.send(i);
        CHECK(to.size() <= std::max<std::size_t>(to.capacity(), 1));
    }
    to.close();
}

task<> receive_all(channel<int>& from, numbers& got) {
    while (std::optional<int> value = co_await from.receive()) got.push_back(*value);
}

// Says how each ended.
task<> send_one(stand& s, int value) {
    const std::string name = "send " + std::to_string(value);
    try {
        co_await s.of->send(value);
        s.log.push_back(name);
    } catch (const std::system_error& e) {
        s.log.push_back(name + (e.code() == std::errc::broken_pipe          ? " refused"
                                : e.code() == std::errc::operation_canceled ? " cancelled"
                                                                            : " failed"));
    }
}

task<> receive_one(stand& s, std::string name) {
    try {
        const std::optional<int> value = co_await s.of->receive();
        s.log.push_back(name + (value ? " " + std::to_string(*value) : " nothing"));
    } catch (const std::system_error& e) {
        s.log.push_back(name + (e.code() == std::errc::operation_canceled ? " cancelled" : " failed"));
    }
}

std::unique_ptr<scope> alone(plain_loop& loop, task<> body) {
    auto s = std::make_unique<scope>(loop);
    s->spawn(std::move(body));
    loop.settle();
    return s;
}

using names = std::vector<std::string>;

} // namespace

TEST_CASE("channel: values come in order, whatever the capacity", "[coro]") {
    const std::size_t capacity = GENERATE(0U, 1U, 2U, 3U, 64U);
    const bool receiver_first = GENERATE(false, true);
    CAPTURE(capacity, receiver_first);
    stand s(capacity);
    scope tasks(s.loop);
    if (receiver_first) tasks.spawn(receive_all(*s.of, s.got));
    tasks.spawn(send_and_close(*s.of, 1000));
    if (!receiver_first) tasks.spawn(receive_all(*s.of, s.got));
    s.loop.settle();
    CHECK(tasks.size() == 0);
    REQUIRE(s.got.size() == 1000);
    for (int i = 0; i < 1000; ++i) REQUIRE(s.got[static_cast<std::size_t>(i)] == i);
}

TEST_CASE("channel: many senders and receivers, each in its turn", "[coro]") {
    stand s(1);
    std::vector<std::unique_ptr<scope>> all;
    for (int i = 0; i < 4; ++i) all.push_back(alone(s.loop, send_one(s, i)));
    CHECK(s.log == names{"send 0"});
    CHECK(s.of->size() == 1);
    for (const char* name : {"a", "b", "c", "d"}) all.push_back(alone(s.loop, receive_one(s, name)));
    CHECK(s.log == names{"send 0", "a 0", "send 1", "b 1", "send 2", "c 2", "send 3", "d 3"});
    s.log.clear();
    for (const char* name : {"a", "b", "c"}) all.push_back(alone(s.loop, receive_one(s, name)));
    scope burst(s.loop);
    burst.spawn(send_all(*s.of, 10, 3));
    s.loop.settle();
    CHECK(s.log == names{"a 10", "b 11", "c 12"});
}

TEST_CASE("channel: a receiver that comes later takes nothing that is promised", "[coro]") {
    const std::size_t capacity = GENERATE(0U, 1U, 2U);
    CAPTURE(capacity);
    stand s(capacity);
    auto first = alone(s.loop, receive_one(s, "first"));
    REQUIRE(s.of->try_send(1));
    CHECK_FALSE(s.of->try_receive().has_value());
    scope late(s.loop);
    late.spawn(receive_one(s, "late"));
    s.loop.settle();
    CHECK(s.log == names{"first 1"});
    REQUIRE(s.of->try_send(2));
    s.loop.settle();
    CHECK(s.log == names{"first 1", "late 2"});
}

TEST_CASE("channel: what was handed to one that goes is the next one's, in order", "[coro]") {
    stand s(4);
    auto a = alone(s.loop, receive_one(s, "a"));
    auto b = alone(s.loop, receive_one(s, "b"));
    auto c = alone(s.loop, receive_one(s, "c"));
    for (int i = 1; i <= 2; ++i) REQUIRE(s.of->try_send(int{i}));
    a.reset(); // 1 was for it
    REQUIRE(s.of->try_send(3));
    s.loop.settle();
    CHECK(s.log == names{"b 1", "c 2"});
    auto d = alone(s.loop, receive_one(s, "d"));
    CHECK(s.log.back() == "d 3");

    // with nobody there it waits, also without capacity
    stand hand(0);
    auto only = alone(hand.loop, receive_one(hand, "only"));
    REQUIRE(hand.of->try_send(7));
    only.reset();
    CHECK(hand.of->size() == 1);
    CHECK_FALSE(hand.of->try_send(8));
    auto sender = alone(hand.loop, send_one(hand, 8));
    CHECK(hand.log.empty());
    CHECK(hand.of->try_receive() == 7);
    CHECK(hand.of->try_receive() == 8);
    hand.loop.settle();
    CHECK(hand.log == names{"send 8"});
}

namespace {

task<> either(stand& s, channel<int>& other) {
    auto first = co_await when_any(s.of->receive(), other.receive());
    const std::optional<int>& value = first.index() == 0 ? std::get<0>(first) : std::get<1>(first);
    s.log.push_back("either " + std::to_string(first.index()) + " " + std::to_string(*value));
}

task<> send_in_time(stand& s, int value) {
    try {
        co_await with_timeout(s.of->send(value), 1s);
    } catch (const std::system_error& e) {
        s.log.push_back(e.code() == std::errc::timed_out ? "timed out" : "failed");
    }
}

} // namespace

TEST_CASE("channel: when_any takes from one, and leaves the other's to it", "[coro]") {
    stand s(2);
    channel<int> other(2);
    auto any = alone(s.loop, either(s, other));
    REQUIRE(other.try_send(2));
    REQUIRE(s.of->try_send(1)); // both are there when it runs
    s.loop.settle();
    CHECK(s.log == names{"either 1 2"});
    CHECK(s.of->try_receive() == 1);
}

TEST_CASE("channel: a send that is not in time has not sent", "[coro]") {
    stand s(1);
    REQUIRE(s.of->try_send(1));
    s.loop.run(send_in_time(s, 2));
    CHECK(s.log == names{"timed out"});
    CHECK(s.of->try_receive() == 1);
    CHECK_FALSE(s.of->try_receive().has_value());
}

TEST_CASE("channel: try_send leaves alone what it does not send", "[coro]") {
    channel<std::unique_ptr<int>> of(1);
    auto value = std::make_unique<int>(1);
    CHECK(of.try_send(std::move(value)));
    CHECK(value == nullptr);
    value = std::make_unique<int>(2);
    CHECK_FALSE(of.try_send(std::move(value)));
    REQUIRE(value != nullptr);
    CHECK(*value == 2);
    std::optional<std::unique_ptr<int>> got = of.try_receive();
    REQUIRE(got);
    CHECK(**got == 1);
    of.close();
    CHECK_FALSE(of.try_send(std::move(value)));
    CHECK(value != nullptr);
    channel<int> hand(0);
    CHECK_FALSE(hand.try_send(1)); // nobody waits
}

TEST_CASE("channel: closed, what is on its way is still received", "[coro]") {
    stand s(3);
    for (int i = 0; i < 3; ++i) REQUIRE(s.of->try_send(int{i}));
    auto waiting = alone(s.loop, send_one(s, 3));
    s.of->close();
    s.of->close();
    s.loop.settle();
    CHECK(s.log == names{"send 3 refused"});
    CHECK(s.of->is_closed());
    s.loop.run(send_one(s, 4));
    CHECK(s.log.back() == "send 4 refused");
    s.loop.run(receive_all(*s.of, s.got));
    CHECK(s.got == numbers{0, 1, 2});
    s.loop.run(receive_one(s, "later"));
    CHECK(s.log.back() == "later nothing");
}

TEST_CASE("channel: the refusal of a send names the channel", "[coro]") {
    stand s(1);
    s.of->close();
    try {
        s.loop.run(send_all(*s.of, 1, 1));
        FAIL_CHECK("not refused");
    } catch (const std::system_error& e) {
        CHECK(e.code() == std::errc::broken_pipe);
        CHECK(std::string(e.what()).find("channel: send: it is closed") != std::string::npos);
    }
}

namespace {

task<> close(channel<int>& which) {
    which.close();
    co_return;
}

} // namespace

TEST_CASE("channel: closed with waiters on both sides", "[coro]") {
    const std::size_t capacity = GENERATE(0U, 1U);
    const bool destroy = GENERATE(false, true);
    CAPTURE(capacity, destroy);
    stand s(capacity);
    auto first = alone(s.loop, receive_one(s, "first"));
    auto second = alone(s.loop, receive_one(s, "second"));
    REQUIRE(s.of->try_send(1)); // the only place is taken: `first` has not run
    scope sender(s.loop);
    sender.spawn(send_one(s, 2));
    s.loop.pass(); // `first` runs, then the sender
    if (destroy) {
        // again, with one that goes before it runs
        s.loop.settle();
        s.log.clear();
        first = alone(s.loop, receive_one(s, "first"));
        second = alone(s.loop, receive_one(s, "second"));
        REQUIRE(s.of->try_send(3));
        first.reset();
        s.of->close();
        s.loop.settle();
        CHECK(s.log == names{"second 3"});
        return;
    }
    s.of->close();
    s.loop.settle();
    CHECK(s.log == names{"first 1", "send 2", "second 2"});

    stand t(capacity);
    first = alone(t.loop, receive_one(t, "first"));
    second = alone(t.loop, receive_one(t, "second"));
    auto third = alone(t.loop, receive_one(t, "third"));
    scope others(t.loop);
    others.spawn(send_one(t, 2)); // no place, though others wait
    others.spawn(close(*t.of));   // before `first` runs
    REQUIRE(t.of->try_send(1));
    CHECK_FALSE(t.of->try_send(9));
    t.loop.settle();
    CHECK(t.log == names{"first 1", "send 2 refused", "second nothing", "third nothing"});
}

TEST_CASE("channel: destroyed, what was handed over stays, and the rest is told", "[coro]") {
    stand s(2);
    auto first = alone(s.loop, receive_one(s, "first"));
    auto second = alone(s.loop, receive_one(s, "second"));
    REQUIRE(s.of->try_send(1));
    s.of.reset();
    s.loop.settle();
    CHECK(s.log == names{"first 1", "second cancelled"});

    // handed to one that goes as well: nobody has it, and nobody leaks
    channel<std::shared_ptr<int>> of(3);
    struct take {
        static task<> one(channel<std::shared_ptr<int>>& from) { co_await from.receive(); }
    };
    auto value = std::make_shared<int>(1);
    const std::weak_ptr<int> watch = value;
    auto also = std::make_unique<channel<std::shared_ptr<int>>>(3);
    auto one = alone(s.loop, take::one(*also));
    REQUIRE(also->try_send(std::move(value)));
    REQUIRE(also->try_send(std::make_shared<int>(2)));
    also.reset();
    CHECK_FALSE(watch.expired());
    one.reset();
    CHECK(watch.expired());
}

TEST_CASE("channel: no memory is taken a message", "[coro]") {
    if (sanitized) return; // they see each frame
    const std::size_t capacity = GENERATE(0U, 1U, 8U);
    CAPTURE(capacity);
    stand s(capacity);
    s.got.reserve(200'000);
    scope tasks(s.loop);
    tasks.spawn(receive_all(*s.of, s.got));
    tasks.spawn(send_all(*s.of, 0, 1000));
    s.loop.settle();
    const std::size_t before = allocations.load();
    tasks.spawn(send_all(*s.of, 0, 100'000));
    s.loop.settle();
    CHECK(allocations.load() - before < 4);
    CHECK(s.got.size() == 101'000);
    s.of->close();
    s.loop.settle();
}
