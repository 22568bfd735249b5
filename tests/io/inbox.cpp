// SPDX-License-Identifier: Apache-2.0
#include "io/inbox.hpp"

#include "../support/scripted_port.hpp"
#include "cotun/io/error.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <chrono>
#include <deque>
#include <numeric>
#include <optional>
#include <poll.h>

using namespace cotun;
using namespace cotun::test;

TEST_CASE("inbox: packets come out in the order in which they came in") {
    rig r;
    port p(r.io);
    std::vector<unsigned> got;
    outcome end;
    r.settle();
    CHECK(p.uses_multishot());
    for (unsigned i = 0; i < 100; ++i) REQUIRE(r.arrive(p, i)); // nobody waits yet
    r.settle();
    r.io.spawn(read_all(p, got, end));
    r.settle();
    for (unsigned i = 100; i < 1000; ++i) {
        REQUIRE(r.arrive(p, i));
        if (i % 7 == 0) r.settle();
    }
    r.settle();
    CHECK(got == up_to(1000));
    CHECK(p.reads().packets == 1000);
    CHECK(p.reads().bytes == 4000);
}

TEST_CASE("inbox: read_packets takes all that has come, 64 at most") {
    rig r;
    port p(r.io);
    static constexpr auto read = [](port& from, std::vector<std::size_t>& sizes, std::vector<unsigned>& got) -> task<> {
        for (;;) {
            const packet_batch batch = co_await from.read_packets();
            sizes.push_back(batch.size());
            for (const packet& each : batch) got.push_back(number_of(each));
        }
    };
    r.settle();
    for (unsigned i = 0; i < 100; ++i) REQUIRE(r.arrive(p, i));
    r.settle();
    std::vector<std::size_t> sizes;
    std::vector<unsigned> got;
    static constexpr auto guarded = [](auto body, port& from, std::vector<std::size_t>& s,
                                       std::vector<unsigned>& g) -> task<> {
        try {
            co_await body(from, s, g);
        } catch (const std::system_error&) {}
    };
    r.io.spawn(guarded(read, p, sizes, got));
    r.settle();
    for (unsigned i = 100; i < 103; ++i) REQUIRE(r.arrive(p, i));
    r.settle();
    CHECK(sizes == std::vector<std::size_t>{64, 36, 3});
    CHECK(got == up_to(103));
}

TEST_CASE("inbox: a waiter that is destroyed before a packet came takes none") {
    rig r;
    port p(r.io);
    std::vector<unsigned> got;
    std::vector<unsigned> never;
    outcome end;
    outcome ignored;
    held_task first = hold(read_one(p, never, ignored));
    r.io.spawn(read_all(p, got, end));
    r.settle();
    first.destroy();
    for (unsigned i = 0; i < 3; ++i) REQUIRE(r.arrive(p, i));
    r.settle();
    CHECK(got == up_to(3));
    CHECK(never.empty());
}

TEST_CASE("inbox: a waiter that is destroyed after a packet was given to it loses none, and order is kept") {
    rig r;
    port p(r.io);
    const std::size_t waiting = GENERATE(1U, 2U, 3U, 4U);
    const std::size_t destroyed = GENERATE(0U, 1U, 2U, 3U);
    const bool others_come = GENERATE(true, false);
    if (destroyed >= waiting) return;
    std::vector<unsigned> got;
    std::deque<outcome> ends(waiting);
    outcome end;
    std::vector<held_task> readers;
    r.settle();
    for (outcome& o : ends) readers.push_back(hold(read_one(p, got, o)));
    for (unsigned i = 0; i < 4; ++i) REQUIRE(r.arrive(p, i));
    // After the completions and before those that they made ready: posted functions come first in the next pass.
    static constexpr auto destroy_one = [](held_task& which) { which.destroy(); };
    r.kernel.idle = [&](ring::scripted&) { r.io.stop(); };
    r.io.core().turn();
    destroy_one(readers[destroyed]);
    if (others_come) r.io.spawn(read_all(p, got, end));
    r.settle();
    if (!others_come) {
        CHECK(got == up_to(static_cast<unsigned>(waiting) - 1));
        r.io.spawn(read_all(p, got, end));
        r.settle();
    }
    CHECK(got == up_to(4));
}

TEST_CASE("inbox: a packet that has arrived for a waiter wins over a close that comes later") {
    rig r;
    port p(r.io);
    std::vector<unsigned> got;
    outcome reader;
    outcome closer;
    r.settle();
    held_task t = hold(read_one(p, got, reader));
    REQUIRE(r.arrive(p, 0));
    REQUIRE(r.arrive(p, 1)); // for nobody: dropped with the port
    r.io.core().turn();
    const bool destroyed = GENERATE(true, false);
    held_task c = hold(close(p, closer));
    if (destroyed) t.destroy();
    r.settle();
    if (!destroyed) CHECK(got == up_to(1));
    CHECK(reader.error == 0);
    p.reset();
    CHECK(r.free() == 1024);
}

TEST_CASE("inbox: out of buffers, reading goes on when they come back, whatever comes first") {
    rig r(with_buffers(4));
    port p(r.io);
    r.settle();
    REQUIRE(r.reading(p) != nullptr);
    std::vector<packet> kept;
    static constexpr auto take_two = [](port& from, std::vector<packet>& into) -> task<> {
        for (int i = 0; i < 2; ++i) into.push_back(co_await from.read_packet());
    };
    REQUIRE(r.arrive(p, 0));
    REQUIRE(r.arrive(p, 1));
    r.settle();
    r.io.spawn(take_two(p, kept)); // their buffers are kept: two are left in the pool
    r.settle();
    REQUIRE(kept.size() == 2);
    std::vector<packet> all;
    for (;;) {
        packet one = r.io.try_allocate(10);
        if (!one) break;
        all.push_back(std::move(one));
    }
    unsigned arrived = 2;
    for (;;) {
        if (!r.arrive(p, arrived)) break; // until the group is empty: ENOBUFS ends the multishot
        ++arrived;
    }
    SECTION("buffers come back before the completion is seen") {
        all.clear();
        kept.clear();
        r.settle();
    }
    SECTION("buffers come back later") {
        r.settle();
        CHECK(r.reading(p) == nullptr);
        all.clear();
        r.settle();
        kept.clear();
        r.settle();
    }
    std::vector<unsigned> got;
    outcome end;
    r.io.spawn(read_all(p, got, end));
    r.settle();
    REQUIRE(r.reading(p) != nullptr); // armed again
    CHECK(p.reads().rearms >= 1);
    CHECK(p.reads().buffers_exhausted >= 1);
    for (unsigned i = 0; i < 20; ++i) {
        REQUIRE(r.arrive(p, arrived++));
        r.settle();
    }
    std::vector<unsigned> expected(arrived - 2);
    std::iota(expected.begin(), expected.end(), 2U);
    CHECK(got == expected);
}

TEST_CASE("inbox: the last completion may carry a packet") {
    reading_rig all;
    auto& [r, p, got, end] = all;
    for (unsigned i = 0; i < 50; ++i) {
        REQUIRE(r.kernel.deliver(p.descriptor, numbered(i), i % 3 == 0));
        if (i % 3 == 0) r.settle();
    }
    r.settle();
    CHECK(got == up_to(50));
    CHECK(r.reading(p) != nullptr);
    CHECK(p.reads().rearms == 17);
}

TEST_CASE("inbox: a second reader makes the first withdraw to its share, and none is lost") {
    rig r(with_buffers(12));
    port a(r.io);
    r.settle();
    REQUIRE(r.reading(a) != nullptr);
    const std::uint16_t first_group = r.reading(a)->group;
    CHECK(r.kernel.buffers_in(first_group) == 6);
    REQUIRE(r.arrive(a, 0));
    std::optional<port> b(std::in_place, r.io);
    REQUIRE(r.arrive(a, 1)); // after the cancel was asked for
    r.settle();
    REQUIRE(r.reading(a) != nullptr);
    REQUIRE(r.reading(*b) != nullptr);
    CHECK(r.kernel.buffers_in(r.reading(a)->group) + 2 <= 4);
    CHECK(r.kernel.buffers_in(r.reading(*b)->group) == 4);
    std::vector<unsigned> got;
    outcome end;
    r.io.spawn(read_all(a, got, end));
    r.settle();
    for (unsigned i = 2; i < 20; ++i) {
        REQUIRE(r.arrive(a, i));
        r.settle();
    }
    CHECK(got == up_to(20));
    b.reset();
    REQUIRE(r.arrive(a, 20));
    r.settle();
    CHECK(r.kernel.buffers_in(r.reading(a)->group) == 6); // the share is its own again
    CHECK(got == up_to(21));
}

TEST_CASE("inbox: a reader that withdraws may be closed meanwhile") {
    rig r(with_buffers(12));
    std::optional<port> a(std::in_place, r.io);
    r.settle();
    std::optional<port> b(std::in_place, r.io);
    if (GENERATE(true, false)) a.reset();
    b.reset();
    a.reset();
    r.settle();
    CHECK(r.free() == 12);
    CHECK(r.kernel.in_flight.empty());
}

TEST_CASE("inbox: more readers than buffers or requests are refused in words") {
    rig_options options = with_buffers(3);
    options.requests = 1024;
    rig few(options);
    const port a(few.io);
    const port b(few.io);
    try {
        const port c(few.io);
        FAIL("three readers of three buffers leave none to forward with");
    } catch (const std::system_error& e) {
        CHECK(e.code().value() == ENOBUFS);
        CHECK(std::string(e.what()).find("small_count") != std::string::npos);
    }
    rig_options small;
    small.requests = 32;
    rig r(small);
    std::deque<port> ports;
    try {
        for (int i = 0; i < 10; ++i) ports.emplace_back(r.io);
        FAIL("ten ports on 32 requests");
    } catch (const std::system_error& e) {
        CHECK(e.code().value() == ENOBUFS);
        CHECK(std::string(e.what()).find("requests") != std::string::npos);
    }
    CHECK(ports.size() == 4);
    r.settle();
}

TEST_CASE("inbox: destroying the port ends its waiters") {
    rig r;
    std::optional<port> p(std::in_place, r.io);
    std::vector<unsigned> got;
    std::deque<outcome> ends(3);
    for (outcome& o : ends) r.io.spawn(read_one(*p, got, o));
    r.settle();
    p.reset();
    r.settle();
    for (const outcome& o : ends) {
        CHECK(o.ended);
        CHECK(o.error == ECANCELED);
        CHECK(o.text.find("test port") != std::string::npos);
    }
    CHECK(r.kernel.in_flight.empty());
    CHECK(r.free() == 1024);
}
