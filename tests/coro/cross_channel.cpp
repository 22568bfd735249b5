// SPDX-License-Identifier: Apache-2.0
//
// cross_channel: between loops that run on threads of their own, and threads that have none. What a stop or a
// destruction does at each step of a wait, on one thread, is in waits.cpp.
#include <cotun/coro/cross_channel.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>

#include "../support/plain_loop.hpp"
#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"
#include "../support/seed.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

using namespace cotun;
using namespace cotun::test;
using namespace std::chrono_literals;

namespace {

// Catch2's macros are for the test's own thread: the others only count.

struct parcel {
    int sender;
    int number;
};

task<> send_numbered(cross_channel<parcel>& to, int sender, int count) {
    for (int i = 0; i < count; ++i) co_await to.send(parcel{sender, i});
}

// What came from each sender, and whether in order.
struct tally {
    static constexpr std::size_t senders = 8;
    std::array<int, senders> last{-1, -1, -1, -1, -1, -1, -1, -1};
    int count = 0;
    int out_of_order = 0;
    void note(const parcel& p) {
        int& before = last[static_cast<std::size_t>(p.sender)];
        if (p.number <= before) ++out_of_order;
        before = p.number;
        ++count;
    }
};

task<> receive_all(cross_channel<parcel>& from, tally& into) {
    while (std::optional<parcel> p = co_await from.receive()) into.note(*p);
}

// Sleeps where there is nothing to do: a wake-up that is lost is seen.
void run(plain_loop& loop, scope& tasks) {
    for (loop.settle(); tasks.size() > 0; loop.settle()) loop.await_post();
}

task<> receive_values(cross_channel<int>& from, std::vector<int>& got) {
    while (std::optional<int> value = co_await from.receive()) got.push_back(*value);
}

task<> send_value(cross_channel<int>& to, int value, std::string& end) {
    try {
        co_await to.send(value);
        end = "sent";
    } catch (const std::system_error& e) {
        end = e.code() == std::errc::broken_pipe ? "refused" : "cancelled";
    }
}

} // namespace

TEST_CASE("cross_channel: on one thread, as a channel", "[coro]") {
    const std::size_t capacity = GENERATE(0U, 1U, 3U);
    CAPTURE(capacity);
    plain_loop loop;
    cross_channel<int> of(capacity);
    std::vector<int> got;
    std::string first;
    std::string second;
    scope tasks(loop);
    for (int i = 0; i < static_cast<int>(capacity); ++i) CHECK(of.try_send(int{i}));
    CHECK_FALSE(of.try_send(100));
    CHECK(of.size() == capacity);
    tasks.spawn(send_value(of, static_cast<int>(capacity), first));
    loop.settle();
    CHECK(first.empty());
    tasks.spawn(receive_values(of, got));
    loop.settle();
    CHECK(first == "sent");
    REQUIRE(got.size() == capacity + 1);
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == static_cast<int>(i));
    of.close();
    of.close();
    loop.settle();
    CHECK(tasks.size() == 0);
    loop.run(send_value(of, 1, second));
    CHECK(second == "refused");
    CHECK_FALSE(of.try_send(1));
    CHECK_FALSE(of.try_receive().has_value());
    CHECK_FALSE(of.blocking_receive().has_value());
    CHECK_THROWS_AS(of.blocking_send(1), std::system_error);
}

TEST_CASE("cross_channel: a burst wakes the receiver once", "[coro]") {
    plain_loop loop;
    cross_channel<int> of(1000);
    std::vector<int> got;
    scope tasks(loop);
    tasks.spawn(receive_values(of, got));
    loop.settle();
    for (int i = 0; i < 1000; ++i) REQUIRE(of.try_send(int{i}));
    CHECK(loop.posts() == 1);
    loop.settle();
    CHECK(got.size() == 1000);
    CHECK(loop.posts() == 1);
    of.close();
    loop.settle();
}

TEST_CASE("cross_channel: tasks of several threads, and threads, all send and receive", "[coro][threads]") {
    const std::size_t capacity = GENERATE(0U, 1U, 64U);
    CAPTURE(capacity);
    const int each = static_cast<int>(scaled(sanitized ? 2'000 : 10'000));
    cross_channel<parcel> of(capacity);
    std::array<tally, 6> tallies;
    std::vector<std::thread> senders;
    std::vector<std::thread> receivers;
    for (int t = 0; t < 2; ++t) {
        receivers.emplace_back([&, t] {
            plain_loop loop;
            scope tasks(loop);
            for (int i = 0; i < 2; ++i) tasks.spawn(receive_all(of, tallies[static_cast<std::size_t>(2 * t + i)]));
            run(loop, tasks);
        });
        receivers.emplace_back([&, t] {
            tally& into = tallies[static_cast<std::size_t>(4 + t)];
            while (std::optional<parcel> p = t == 0 ? of.blocking_receive() : of.try_receive()) into.note(*p);
        });
        senders.emplace_back([&, t] {
            plain_loop loop;
            scope tasks(loop);
            for (int i = 0; i < 3; ++i) tasks.spawn(send_numbered(of, 4 * t + i, each));
            run(loop, tasks);
        });
        senders.emplace_back([&, t] {
            for (int i = 0; i < each; ++i) {
                if (t == 0) {
                    of.blocking_send({3, i});
                } else {
                    parcel p{7, i};
                    while (!of.try_send(std::move(p))) std::this_thread::yield();
                }
            }
        });
    }
    for (std::thread& t : senders) t.join();
    of.close();
    for (std::thread& t : receivers) t.join();
    int all = 0;
    for (const tally& t : tallies) {
        CHECK(t.out_of_order == 0);
        all += t.count;
    }
    CHECK(all == 8 * each);
    CHECK(of.size() == 0);
}

// --- tasks that go while another thread hands over -------------------------------------------------------------------

namespace {

std::unique_ptr<int> boxed(int n) { return std::make_unique<int>(n); }

task<> receive_boxes(cross_channel<std::unique_ptr<int>>& from, int count, long& sum, int& received) {
    try {
        for (int i = 0; i < count; ++i) {
            const std::optional<std::unique_ptr<int>> p = co_await from.receive();
            if (!p) co_return;
            sum += **p;
            ++received;
        }
    } catch (const std::system_error&) {
        // stopped, or not in time
    }
}

task<> send_boxes(cross_channel<std::unique_ptr<int>>& to, std::atomic<int>& next, long& sum, int& sent) {
    try {
        for (;;) {
            const int n = ++next;
            std::unique_ptr<int> p = boxed(n);
            co_await to.send(std::move(p));
            sum += n;
            ++sent;
        }
    } catch (const std::system_error&) {
        // stopped: not sent
    }
}

} // namespace

TEST_CASE("cross_channel: receivers that are stopped and destroyed while another thread sends lose nothing",
          "[coro][threads][random]") {
    const std::uint64_t with = seed();
    INFO("COTUN_SEED=" << with);
    const std::size_t capacity = GENERATE(0U, 1U, 8U);
    CAPTURE(capacity);
    const int count = static_cast<int>(scaled(sanitized ? 5'000 : 20'000));
    cross_channel<std::unique_ptr<int>> of(capacity);
    std::atomic<bool> quiet{false};
    long sum = 0;
    int received = 0;
    std::thread receiver([&] {
        dice random(with);
        while (!quiet) { // a loop is made and destroyed with what waits on it, again and again
            plain_loop loop;
            std::vector<std::unique_ptr<scope>> tasks;
            for (int step = 0; step < 50; ++step) {
                switch (random(6)) {
                case 0:
                case 1:
                    tasks.push_back(std::make_unique<scope>(loop));
                    tasks.back()->spawn(receive_boxes(of, 1 + static_cast<int>(random(5)), sum, received));
                    break;
                case 2:
                    if (!tasks.empty()) tasks.erase(tasks.begin() + static_cast<std::ptrdiff_t>(random(tasks.size())));
                    break;
                case 3:
                    if (!tasks.empty()) tasks[random(tasks.size())]->request_stop();
                    break;
                case 4: loop.pass(); break;
                default: std::this_thread::yield();
                }
            }
            tasks.clear();
        }
    });
    long expected = 0;
    for (int i = 1; i <= count; ++i) {
        of.blocking_send(boxed(i));
        expected += i;
    }
    while (of.size() > 0) std::this_thread::yield();
    quiet = true;
    receiver.join();
    while (std::optional<std::unique_ptr<int>> p = of.try_receive()) {
        sum += **p;
        ++received;
    }
    CHECK(received == count);
    CHECK(sum == expected);
}

TEST_CASE("cross_channel: senders that are stopped and destroyed while another thread receives send once or not at all",
          "[coro][threads][random]") {
    const std::uint64_t with = seed();
    INFO("COTUN_SEED=" << with);
    const std::size_t capacity = GENERATE(0U, 1U, 8U);
    CAPTURE(capacity);
    const int count = static_cast<int>(scaled(sanitized ? 5'000 : 20'000));
    cross_channel<std::unique_ptr<int>> of(capacity);
    std::atomic<int> next{0};
    long sum = 0; // of what senders know to be sent; one that is destroyed may not have come to know
    int sent = 0;
    std::thread sender([&] {
        dice random(with);
        while (!of.is_closed()) {
            plain_loop loop;
            std::vector<std::unique_ptr<scope>> tasks;
            for (int step = 0; step < 50; ++step) {
                switch (random(6)) {
                case 0:
                case 1:
                    tasks.push_back(std::make_unique<scope>(loop));
                    tasks.back()->spawn(send_boxes(of, next, sum, sent));
                    break;
                case 2:
                    if (!tasks.empty()) tasks.erase(tasks.begin() + static_cast<std::ptrdiff_t>(random(tasks.size())));
                    break;
                case 3:
                    if (!tasks.empty()) tasks[random(tasks.size())]->request_stop();
                    break;
                case 4: loop.pass(); break;
                default: std::this_thread::yield();
                }
            }
        }
    });
    long got = 0;
    int received = 0;
    std::vector<bool> seen(1);
    int twice = 0;
    const auto take = [&](const std::unique_ptr<int>& p) {
        const auto n = static_cast<std::size_t>(*p);
        if (seen.size() <= n) seen.resize(2 * n);
        if (seen[n]) ++twice;
        seen[n] = true;
        got += *p;
        ++received;
    };
    while (received < count) take(*of.blocking_receive());
    of.close();
    sender.join();
    while (std::optional<std::unique_ptr<int>> p = of.try_receive()) take(*p);
    CHECK(twice == 0);
    CHECK(received >= sent);
    CHECK(got >= sum);
}

// --- what goes first -------------------------------------------------------------------------------------------------

TEST_CASE("cross_channel: a loop goes before the channel, while another thread hands over to it", "[coro][threads]") {
    const int rounds = static_cast<int>(scaled(sanitized ? 200 : 2'000));
    int got = 0;
    for (int round = 0; round < rounds; ++round) {
        cross_channel<int> of(4);
        std::atomic<bool> waiting{false};
        std::vector<int> values;
        std::thread loop_thread([&] {
            plain_loop loop;
            scope tasks(loop);
            for (int i = 0; i < 3; ++i) tasks.spawn(receive_values(of, values));
            loop.settle();
            waiting = true;
            if (round % 2 == 0) loop.settle();
        });
        while (!waiting) std::this_thread::yield();
        for (int i = 0; i < 4; ++i) of.blocking_send(i);
        loop_thread.join();
        while (std::optional<int> value = of.try_receive()) values.push_back(*value);
        got += static_cast<int>(values.size());
    }
    CHECK(got == 4 * rounds); // whoever went, and when
}

TEST_CASE("cross_channel: destroyed before the loops, on another thread", "[coro][threads]") {
    auto empty = std::make_unique<cross_channel<int>>(1);
    auto full = std::make_unique<cross_channel<int>>(1);
    REQUIRE(full->try_send(1));
    plain_loop loop;
    std::string sending;
    std::vector<int> got;
    scope tasks(loop);
    tasks.spawn(receive_values(*empty, got));
    tasks.spawn(send_value(*full, 2, sending));
    loop.settle();
    std::thread other([&] {
        empty.reset();
        full.reset();
    });
    run(loop, tasks);
    other.join();
    CHECK(sending == "cancelled");
    CHECK(got.empty());
    struct join {
        static task<> all(scope& of) { co_await of.join(); }
    };
    CHECK_THROWS_AS(loop.run(join::all(tasks)), std::system_error); // the receiver's
}

TEST_CASE("cross_channel: closed from another thread with waiters of every kind", "[coro][threads]") {
    const int rounds = static_cast<int>(scaled(sanitized ? 100 : 500));
    int refused = 0;
    int ended = 0;
    for (int round = 0; round < rounds; ++round) {
        cross_channel<int> empty(1);
        cross_channel<int> full(1);
        if (!full.try_send(0)) FAIL("full at once");
        std::thread task_thread([&] {
            plain_loop loop;
            std::vector<int> got;
            std::string end;
            scope tasks(loop);
            tasks.spawn(receive_values(empty, got));
            tasks.spawn(send_value(full, 1, end));
            run(loop, tasks);
            if (end == "refused") ++refused;
            if (got.empty()) ++ended;
        });
        std::thread thread([&] {
            try {
                full.blocking_send(1);
            } catch (const std::system_error&) {}
            (void)empty.blocking_receive();
        });
        if (round % 2 == 0) std::this_thread::yield();
        empty.close();
        full.close();
        task_thread.join();
        thread.join();
        if (full.try_receive() != 0) FAIL_CHECK("what was sent is lost");
    }
    CHECK(refused == rounds);
    CHECK(ended == rounds);
}
