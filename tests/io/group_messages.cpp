// SPDX-License-Identifier: Apache-2.0
//
// What reactors send each other: whole, in order, and with as few wake-ups as may be, by messages from ring to ring and
// without.
#include "cotun/io/reactor_group.hpp"

#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"
#include "groups.hpp"
#include "reactors.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using cotun::group_options;
using cotun::reactor;
using cotun::reactor_group;
using cotun::task;
using namespace cotun::test;

namespace {

cotun::reactor_options each(bool messages, cotun::ring_mode mode = cotun::ring_mode::automatic) {
    cotun::reactor_options o;
    o.messages = messages;
    o.ring = mode;
    return o;
}

bool kernel_has_messages() { return cotun::ring::make_uring({})->supports(cotun::ring::feature::message_ring); }

constexpr std::size_t reactors = 4;

// What each reactor has of each other; touched on its own thread alone.
struct alignas(64) mailbox {
    std::array<unsigned, reactors> next{};
    unsigned out_of_order = 0;
    unsigned received = 0;
};

struct all_pairs {
    std::array<mailbox, reactors> boxes;
    unsigned count = 0; // from each to each

    static void deliver(reactor&, mailbox& box, std::size_t from, unsigned number) {
        if (box.next[from]++ != number) ++box.out_of_order;
        ++box.received;
    }
    static task<> send(reactor& io, reactor_group& group, all_pairs& of, std::size_t from) {
        for (unsigned n = 0; n < of.count;) {
            for (unsigned burst = 0; burst < 1 + n % 50 && n < of.count; ++burst, ++n)
                for (std::size_t to = 0; to < reactors; ++to) group.post(to, deliver, std::ref(of.boxes[to]), from, n);
            if (n % 3 == 0)
                co_await io.yield();
            else
                co_await io.sleep_for(10us);
        }
    }
};

} // namespace

TEST_CASE("group: a hundred thousand messages between all pairs: none is lost, and each pair's are in order") {
    need_ring();
    const bool messages = GENERATE(true, false);
    const auto mode = GENERATE(cotun::ring_mode::automatic, cotun::ring_mode::cooperative, cotun::ring_mode::plain);
    CAPTURE(messages, static_cast<int>(mode));
    all_pairs pairs;
    pairs.count = static_cast<unsigned>(scaled(100'000 / reactors / reactors, 100));
    reactor_group group({.reactors = reactors, .each = each(messages, mode)});
    for (std::size_t k = 0; k < reactors; ++k) group.spawn_on(k, all_pairs::send, std::ref(group), std::ref(pairs), k);
    group.run();
    for (const mailbox& box : pairs.boxes) {
        CHECK(box.received == pairs.count * reactors);
        CHECK(box.out_of_order == 0);
    }
}

TEST_CASE("group: stopped while messages fly, over and over") {
    need_ring();
    const bool messages = GENERATE(true, false);
    for (int round = 0; round < static_cast<int>(scaled(30)); ++round) {
        all_pairs pairs;
        pairs.count = 1'000'000'000;
        reactor_group group({.reactors = reactors, .each = each(messages)});
        struct sender {
            static task<> run(reactor& io, reactor_group& g, all_pairs& of, std::size_t from) {
                try {
                    co_await all_pairs::send(io, g, of, from);
                } catch (const std::system_error& e) {
                    if (code_of(e) != EPIPE) throw; // some are stopped before others
                }
            }
        };
        for (std::size_t k = 0; k < reactors; ++k) group.spawn_on(k, sender::run, std::ref(group), std::ref(pairs), k);
        std::this_thread::sleep_for(std::chrono::microseconds(100 * round));
        if (round % 3 == 0) group.request_stop();
        if (round % 3 == 1) group.stop();
        if (round % 3 == 2) continue; // the destructor
        group.join();
        for (const mailbox& box : pairs.boxes) CHECK(box.out_of_order == 0);
    }
}

namespace {

// Two reactors that send each other one message, and wait for it to come back.
struct ping_pong {
    static void hop(reactor&, reactor_group& group, ping_pong& of, std::size_t at) {
        if (of.left-- == 0) return;
        group.post(1 - at, hop, std::ref(group), std::ref(of), 1 - at);
    }
    std::atomic<int> left;
};

cotun::reactor_statistics statistics_of(reactor_group& group, std::size_t index) {
    cotun::reactor_statistics s;
    std::atomic<bool> there{false};
    group.post(index, [&](reactor& io) {
        s = io.statistics();
        there = true;
    });
    while (!there) std::this_thread::yield();
    return s;
}

} // namespace

TEST_CASE("group: a message wakes a reactor that sleeps, with the sender's own pass where the kernel can") {
    need_ring();
    const bool messages = GENERATE(true, false);
    reactor_group group({.reactors = 2, .each = each(messages)});
    ping_pong rally{1000};
    group.post(0, ping_pong::hop, std::ref(group), std::ref(rally), std::size_t{0});
    std::thread keeper([&] { group.run(); });
    keeper.join();
    CHECK(rally.left == -1);
    // counted again in a group that is still there
    reactor_group again({.reactors = 2, .each = each(messages)});
    rally.left = 1000;
    std::atomic<bool> done{false};
    again.post(0, ping_pong::hop, std::ref(again), std::ref(rally), std::size_t{0});
    while (!done) {
        again.post(1, [&](reactor&) { done = rally.left <= 0; });
        std::this_thread::sleep_for(1ms);
    }
    const auto sent = statistics_of(again, 0).messages + statistics_of(again, 1).messages;
    if (messages && kernel_has_messages())
        CHECK(sent > 100);
    else
        CHECK(sent == 0);
}

TEST_CASE("group: a burst of messages to a reactor that sleeps costs one wake-up") {
    need_ring();
    const bool messages = GENERATE(true, false);
    const bool from_reactor = GENERATE(true, false);
    CAPTURE(messages, from_reactor);
    reactor_group group({.reactors = 2, .each = each(messages)});
    static constexpr int burst = 1000;
    std::atomic<int> called{0};
    const auto send = [&] {
        for (int i = 0; i < burst; ++i) group.post(1, [&called](reactor&) { ++called; });
    };
    std::uint64_t least = ~std::uint64_t{0};
    for (int round = 1; round <= 20; ++round) { // it may fall asleep in the middle of a slow burst
        const auto before = statistics_of(group, 1).wakes;
        std::this_thread::sleep_for(5ms);
        if (from_reactor)
            group.post(0, [&](reactor&) { send(); });
        else
            send();
        while (called != round * burst) std::this_thread::sleep_for(1ms);
        least = std::min(least, statistics_of(group, 1).wakes - before);
    }
    // The burst's, and perhaps those of the counting.
    if (from_reactor && messages && kernel_has_messages()) CHECK(least <= 2);
    CHECK(least <= burst / 4);
}

TEST_CASE("group: messages to a reactor that is busy wake nobody") {
    need_ring();
    reactor_group group({.reactors = 2, .each = each(GENERATE(true, false))});
    std::atomic<bool> hold{true};
    std::atomic<bool> held{false};
    const auto before = statistics_of(group, 1);
    group.post(1, [&](reactor&) {
        held = true;
        while (hold) std::this_thread::yield();
    });
    while (!held) std::this_thread::yield();
    for (int i = 0; i < 100; ++i) group.post(1, [](reactor&) {});
    group.post(
        0,
        [](reactor&, reactor_group& g) {
            for (int i = 0; i < 100; ++i) g.post(1, [](reactor&) {});
        },
        std::ref(group));
    std::this_thread::sleep_for(1ms);
    hold = false;
    CHECK(statistics_of(group, 1).wakes - before.wakes <= 3);
}

TEST_CASE("group: what a task posts before it fails or ends its reactor is delivered all the same") {
    need_ring();
    const bool messages = GENERATE(true, false);
    for (int i = 0; i < static_cast<int>(scaled(50)); ++i) {
        reactor_group group({.reactors = 3, .each = each(messages)});
        std::atomic<bool> came{false};
        group.spawn_on(1, [](reactor& io) -> task<> { co_await io.sleep_for(1h); });
        group.spawn_on(0, [&](reactor& io) -> task<> {
            co_await io.sleep_for(200us); // so that the other sleeps
            group.post(
                1,
                [&came](reactor&, reactor_group& g) {
                    came = true;
                    g.request_stop();
                },
                std::ref(group));
            if (i % 2 == 0) throw std::system_error(ECANCELED, std::generic_category(), "given up");
            group[0].stop();
        });
        try {
            group.join();
        } catch (const std::system_error& e) {
            CHECK(code_of(e) == ECANCELED);
        }
        CHECK(came);
    }
}

TEST_CASE("reactors without a group: one that posts to another which is destroyed under it") {
    need_ring();
    const bool messages = GENERATE(true, false);
    // The wake-up may be on its way when the reactor is gone: it must then reach nobody, whoever has its descriptor.
    for (int i = 0; i < static_cast<int>(scaled(60)); ++i) {
        reactor sender(each(messages));
        std::atomic<reactor*> target{nullptr};
        std::atomic<bool> gone{false};
        int answers = 0;
        std::thread other([&] {
            {
                reactor io(each(messages));
                target = &io;
                static constexpr auto nap = [](reactor& r) -> task<> { co_await r.sleep_for(300us); };
                io.run(nap(io)); // ends by itself, perhaps just when it is told
                while (target != nullptr) std::this_thread::yield();
            }
            reactor next(each(messages)); // takes the descriptors
            gone = true;
            answers = next.run(answer(next));
        });
        while (target == nullptr) std::this_thread::yield();
        struct send {
            static task<> run(reactor& io, reactor& to, std::atomic<reactor*>& let_go, std::atomic<bool>& gone, int n) {
                co_await io.sleep_for(std::chrono::microseconds(n));
                to.post([] {});
                let_go = nullptr;
                while (!gone) std::this_thread::yield(); // before this pass enters the kernel
            }
        };
        sender.run(send::run(sender, *target, target, gone, 100 + 6 * i));
        const int own = sender.run(answer(sender));
        other.join();
        CHECK(own == 42);
        CHECK(answers == 42);
    }
}

TEST_CASE("reactors without a group wake each other, too; a nested run does not keep a wake-up back") {
    need_ring();
    const bool messages = GENERATE(true, false);
    reactor sender(each(messages));
    std::atomic<reactor*> target{nullptr};
    std::atomic<int> called{0};
    std::thread other([&] {
        reactor io(each(messages));
        target = &io;
        int destroyed = 0;
        io.run(for_ever(io, destroyed));
        while (target != nullptr) std::this_thread::yield(); // until stop() has returned
    });
    while (target == nullptr) std::this_thread::yield();
    struct send {
        static task<> run(reactor& io, reactor& to, std::atomic<int>& called) {
            for (int i = 0; i < 50; ++i) {
                co_await io.sleep_for(200us);
                to.post([&called] { ++called; });
            }
            co_await io.sleep_for(200us);
            to.post([&called] { ++called; });
            reactor inner; // runs within this pass, until the other has been told
            static constexpr auto wait = [](reactor& r, std::atomic<int>& n) -> task<> {
                for (;;) {
                    if (n == 51) break;
                    co_await r.sleep_for(100us);
                }
            };
            inner.run(wait(inner, called));
            to.stop();
        }
    };
    sender.run(send::run(sender, *target, called));
    target = nullptr;
    other.join();
    CHECK(called == 51);
}

namespace {

void set(reactor&, std::atomic<bool>& flag) { flag = true; }

// Posts to the other reactor, which sleeps, and then keeps its own from entering the kernel.
task<> owe_a_wake(reactor& io, reactor_group& group, std::atomic<bool>& owes, std::atomic<bool>& end, bool& in_time) {
    co_await io.sleep_for(100ms); // the other one sleeps by now
    group.post(1, [](reactor&) {});
    owes = true;
    const auto limit = std::chrono::steady_clock::now() + 20s;
    while (!end && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
    in_time = end;
}

} // namespace

TEST_CASE("group: a wake-up that a busy reactor still owes keeps nobody else from waking the target") {
    need_ring();
    std::atomic<bool> owes{false};
    std::atomic<bool> reached{false};
    bool in_time = false;
    reactor_group group({.reactors = 2});
    group.spawn_on(0, owe_a_wake, std::ref(group), std::ref(owes), std::ref(reached), std::ref(in_time));
    while (!owes) std::this_thread::yield();
    group.post(1, set, std::ref(reached));
    group.run();
    CHECK(in_time);
}
