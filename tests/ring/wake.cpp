// SPDX-License-Identifier: Apache-2.0
//
// Drivers that wake each other by messages from ring to ring; those that are gone, cannot, or are not asked to.
#include "ring/wake.hpp"

#include "ring/scripted.hpp"
#include "ring/uring.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <fcntl.h>
#include <memory>
#include <sys/eventfd.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace cotun::ring;
using namespace std::chrono_literals;

namespace {

std::unique_ptr<driver> make(task_mode mode = task_mode::automatic, bool messages = true) {
    uring_options options;
    options.mode = mode;
    options.messages = messages;
    try {
        (void)make_uring({});
    } catch (const std::system_error& e) {
        SKIP(e.what());
    }
    return make_uring(options);
}

void pass(driver& d) {
    std::array<completion, 8> out{};
    CHECK(d.enter(false, std::nullopt, out) == 0); // what is the driver's own is not shown
}

} // namespace

TEST_CASE("uring: a message wakes a driver that waits, in whatever way either hands completions over") {
    const auto from_mode = GENERATE(task_mode::deferred, task_mode::cooperative, task_mode::plain);
    const auto to_mode = GENERATE(task_mode::deferred, task_mode::cooperative, task_mode::plain);
    CAPTURE(static_cast<int>(from_mode), static_cast<int>(to_mode));
    const auto from = make(from_mode);
    if (!from->supports(feature::message_ring)) SKIP("no IORING_OP_MSG_RING");
    const auto to = make(to_mode);
    const std::shared_ptr<waker> target = to->share_waker();
    std::atomic<int> woken{0};
    std::atomic<bool> in_time{true};
    std::thread waits([&] {
        std::array<completion, 8> out{};
        for (std::uint64_t i = 1; i <= 50; ++i) {
            const auto deadline = to->now() + 20s;
            while (to->statistics().wakes < i && to->now() < deadline) (void)to->enter(true, deadline, out);
            in_time = in_time && to->statistics().wakes >= i;
            ++woken;
        }
    });
    for (int i = 0; i < 50; ++i) {
        while (woken < i) std::this_thread::yield();
        if (i % 2 == 0) std::this_thread::sleep_for(1ms); // it sleeps by now
        CHECK(from->send_wake(target));
        pass(*from);
    }
    waits.join();
    CHECK(in_time);
    CHECK(from->statistics().messages == 50);
    CHECK(from->supports(feature::message_ring));
}

TEST_CASE(
    "uring: a message to a driver that is gone reaches nobody, and its descriptor is nobody's while it may be named") {
    const auto from = make();
    if (!from->supports(feature::message_ring)) SKIP("no IORING_OP_MSG_RING");
    std::shared_ptr<waker> target;
    {
        const auto to = make();
        pass(*to);
        target = to->share_waker();
    }
    auto& of_ring = dynamic_cast<uring_waker&>(*target);
    REQUIRE(fcntl(of_ring.ring(), F_GETFD) >= 0); // still taken
    std::vector<std::unique_ptr<driver>> others;
    for (int i = 0; i < 4; ++i) others.push_back(make());
    for (const auto& other : others) {
        CHECK(dynamic_cast<uring_waker&>(*other->share_waker()).ring() != of_ring.ring());
        pass(*other);
    }
    CHECK(from->send_wake(target));
    pass(*from);
    pass(*from);
    for (const auto& other : others) {
        pass(*other);
        CHECK(other->statistics().wakes == 0);
    }
    CHECK(from->supports(feature::message_ring)); // one target's end says nothing of others
    const int number = of_ring.ring();
    const int event = of_ring.descriptor();
    target.reset(); // the sender forgets it when it has another
    CHECK(from->send_wake(others[0]->share_waker()));
    pass(*from);
    CHECK(fcntl(number, F_GETFD) < 0);
    CHECK(fcntl(event, F_GETFD) < 0);
}

TEST_CASE("uring: a message that fails wakes its target all the same") {
    const auto from = make();
    if (!from->supports(feature::message_ring)) SKIP("no IORING_OP_MSG_RING");
    const auto to = make(); // has not entered the kernel: its ring takes no messages yet
    CHECK(from->send_wake(to->share_waker()));
    pass(*from);
    std::array<completion, 8> out{};
    const auto deadline = to->now() + 20s;
    while (to->statistics().wakes == 0 && to->now() < deadline) (void)to->enter(true, deadline, out);
    CHECK(to->statistics().wakes == 1);
}

TEST_CASE("uring: messages are refused where they are switched off, to what is no ring, and beyond their bound") {
    const auto to = make();
    const auto silent = make(task_mode::automatic, false);
    CHECK_FALSE(silent->supports(feature::message_ring));
    CHECK_FALSE(silent->send_wake(to->share_waker()));
    const auto from = make();
    if (!from->supports(feature::message_ring)) SKIP("no IORING_OP_MSG_RING");
    scripted no_ring;
    CHECK_FALSE(from->send_wake(no_ring.share_waker()));
    pass(*to);
    unsigned taken = 0;
    while (taken < 1000 && from->send_wake(to->share_waker())) ++taken;
    CHECK(taken > 0);
    CHECK(taken < 16); // the queue is the requests'
    pass(*from);
    CHECK(from->send_wake(to->share_waker()));
    pass(*from);
    std::array<completion, 8> out{};
    (void)to->enter(false, std::nullopt, out);
    CHECK(to->statistics().wakes == taken + 1);
}

TEST_CASE("uring: a sender knows many targets, and forgets those that are gone") {
    const auto from = make();
    if (!from->supports(feature::message_ring)) SKIP("no IORING_OP_MSG_RING");
    for (unsigned i = 0; i < 2 * wake_targets::most; ++i) {
        uring_options small;
        small.requests = 32;
        small.buffers = 0;
        const auto to = make_uring(small);
        pass(*to);
        CHECK(from->send_wake(to->share_waker()));
        pass(*from);
        pass(*to);
        CHECK(to->statistics().wakes == 1);
    }
}
