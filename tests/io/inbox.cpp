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

namespace {

std::vector<unsigned> up_to(unsigned n) {
    std::vector<unsigned> all(n);
    std::iota(all.begin(), all.end(), 0U);
    return all;
}

void answer(rig& r, const port& at, unsigned n) { r.kernel.immediates[at.descriptor].push_back({0, numbered(n), {}}); }
void refuse(rig& r, const port& at, int error) { r.kernel.immediates[at.descriptor].push_back({error, {}, {}}); }
void readable(rig& r, const port& at) {
    REQUIRE(r.polling(at) != nullptr);
    r.kernel.complete(r.polling(at)->name, 1, true);
}

} // namespace

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
        } catch (const std::system_error&) {
        }
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
    rig r;
    port p(r.io);
    std::vector<unsigned> got;
    outcome end;
    r.io.spawn(read_all(p, got, end));
    r.settle();
    for (unsigned i = 0; i < 50; ++i) {
        REQUIRE(r.kernel.deliver(p.descriptor, numbered(i), i % 3 == 0));
        if (i % 3 == 0) r.settle();
    }
    r.settle();
    CHECK(got == up_to(50));
    CHECK(r.reading(p) != nullptr);
    CHECK(p.reads().rearms == 17);
}

TEST_CASE("inbox: EINVAL at the first arm falls back to poll; one that was forced fails by name") {
    rig r;
    SECTION("automatic") {
        port p(r.io);
        std::vector<unsigned> got;
        outcome end;
        r.io.spawn(read_all(p, got, end));
        r.settle();
        REQUIRE(r.kernel.end(p.descriptor, EINVAL));
        r.settle();
        CHECK_FALSE(p.uses_multishot());
        CHECK(r.free() == 1024); // the group's buffers are back
        for (unsigned i = 0; i < 10; ++i) answer(r, p, i);
        readable(r, p);
        r.settle();
        CHECK(got == up_to(10));
        const port second(r.io); // it is remembered
        r.settle();
        CHECK_FALSE(second.uses_multishot());
        CHECK(r.polling(second) != nullptr);
    }
    SECTION("forced") {
        port p(r.io, read_mode::multishot);
        std::vector<unsigned> got;
        outcome end;
        r.io.spawn(read_all(p, got, end));
        r.settle();
        REQUIRE(r.kernel.end(p.descriptor, EINVAL));
        r.settle();
        REQUIRE(end.ended);
        CHECK(end.error == EINVAL);
        CHECK(end.text.find("test port: reading: ") != std::string::npos);
    }
    SECTION("after it has worked it is an error like others") {
        port p(r.io);
        std::vector<unsigned> got;
        outcome end;
        r.io.spawn(read_all(p, got, end));
        r.settle();
        REQUIRE(r.arrive(p, 0));
        r.settle();
        REQUIRE(r.kernel.end(p.descriptor, EINVAL));
        r.settle();
        CHECK(p.uses_multishot());
    }
}

TEST_CASE("inbox: poll mode reads until EAGAIN, in order, a quota at a time") {
    rig_options options;
    options.multishot = false;
    rig r(options);
    port p(r.io);
    std::vector<unsigned> got;
    outcome end;
    r.io.spawn(read_all(p, got, end));
    r.settle();
    CHECK_FALSE(p.uses_multishot());
    REQUIRE(r.polling(p) != nullptr);
    CHECK(r.polling(p)->multishot);
    for (unsigned i = 0; i < 1000; ++i) { // far more than a pass takes: one event is enough for them all
        if (i % 10 == 3) refuse(r, p, EINTR);
        answer(r, p, i);
    }
    readable(r, p);
    r.settle();
    CHECK(got == up_to(1000));
    for (unsigned i = 1000; i < 1010; ++i) answer(r, p, i);
    r.settle();
    CHECK(got.size() == 1000); // no event, no read
    readable(r, p);
    r.settle();
    CHECK(got == up_to(1010));
    // The poll may end: it is armed again, and what came meanwhile is found.
    answer(r, p, 1010);
    r.kernel.complete(r.polling(p)->name, 1, false);
    r.settle();
    CHECK(got == up_to(1011));
    CHECK(r.polling(p) != nullptr);
}

TEST_CASE("inbox: poll mode without buffers, or without a reader, goes on where it stopped") {
    rig_options options = with_buffers(8);
    options.multishot = false;
    rig r(options);
    port p(r.io);
    r.settle();
    for (unsigned i = 0; i < 30; ++i) answer(r, p, i);
    readable(r, p);
    r.settle(); // nobody reads: the share is in the queue
    CHECK(r.free() > 0);
    std::vector<packet> all;
    for (;;) {
        packet one = r.io.try_allocate(10);
        if (!one) break;
        all.push_back(std::move(one));
    }
    std::vector<unsigned> got;
    outcome end;
    r.io.spawn(read_all(p, got, end));
    r.settle();
    all.clear();
    r.settle();
    CHECK(got == up_to(30));
}

TEST_CASE("inbox: poll mode, errors: some are survived, a final one is the end, behind the packets") {
    rig_options options;
    options.multishot = false;
    rig r(options);
    port p(r.io);
    std::vector<unsigned> got;
    outcome end;
    r.settle();
    answer(r, p, 0);
    refuse(r, p, ECONNREFUSED);
    answer(r, p, 1);
    refuse(r, p, EBADFD);
    answer(r, p, 2);
    readable(r, p);
    r.settle();
    r.io.spawn(read_all(p, got, end));
    r.settle();
    CHECK(got == up_to(2));
    CHECK(p.reads().refused == 1);
    REQUIRE(end.ended);
    CHECK(end.error == EBADFD);
}

TEST_CASE("inbox: a run of errors without a packet between them is the end, and no endless loop") {
    rig_options options;
    options.multishot = GENERATE(true, false);
    rig r(options);
    port p(r.io);
    std::vector<unsigned> got;
    outcome end;
    r.io.spawn(read_all(p, got, end));
    r.settle();
    unsigned errors = 0;
    for (; errors < 1000 && !end.ended; ++errors) {
        if (options.multishot) {
            REQUIRE(r.kernel.end(p.descriptor, EIO));
        } else {
            refuse(r, p, EIO);
            readable(r, p);
        }
        r.settle();
        if (errors > 0 && options.multishot) CHECK(r.reading(p) == nullptr); // the second is waited out
        r.kernel.advance(std::chrono::milliseconds(100));
        r.settle();
    }
    CHECK(end.ended);
    CHECK(end.error == EIO);
    CHECK(errors > 10);
    CHECK(errors < 1000);
}

TEST_CASE("inbox: a device that closes while it waits out an error leaves no timer behind") {
    rig r;
    outcome end;
    std::vector<unsigned> got;
    {
        port p(r.io);
        r.io.spawn(read_all(p, got, end));
        r.settle();
        for (int i = 0; i < 2; ++i) {
            REQUIRE(r.kernel.end(p.descriptor, ENOMEM));
            r.settle();
        }
        CHECK(r.reading(p) == nullptr);
    }
    r.kernel.advance(std::chrono::seconds(1));
    r.settle();
    CHECK(end.error == ECANCELED);
    CHECK(r.io.statistics().requests_in_flight == 0);
}

TEST_CASE("inbox: the buffers of a device that has ended are the others'") {
    rig r(with_buffers(9));
    port ended(r.io);
    port goes_on(r.io);
    r.settle();
    CHECK(r.free() == 3); // a third each, and a third for packets on their way
    REQUIRE(r.kernel.end(ended.descriptor, EBADFD));
    r.settle();
    REQUIRE(r.arrive(goes_on, 0));
    r.settle();
    CHECK(r.kernel.buffers_in(r.reading(goes_on)->group) == 3); // now its share is four, with the one in its queue
}

TEST_CASE("inbox: a group that is refused for want of memory makes place for poll") {
    rig_options options = with_buffers(64);
    rig r(options);
    const read_mode mode = GENERATE(read_mode::automatic, read_mode::multishot);
    port p(r.io, mode);
    r.settle();
    REQUIRE(p.uses_multishot());
    r.kernel.refuse_groups = ENOMEM;
    std::optional<port> other; // its share makes the first start again with less
    if (mode == read_mode::multishot) {
        CHECK_THROWS_AS(other.emplace(r.io, mode), std::system_error);
        return;
    }
    other.emplace(r.io, mode);
    r.settle();
    CHECK_FALSE(p.uses_multishot());
    CHECK_FALSE(other->uses_multishot());
    r.kernel.immediates[p.descriptor].push_back({0, numbered(7), {}});
    r.kernel.complete(r.polling(p)->name, POLLIN, true);
    std::vector<unsigned> got;
    outcome end;
    r.io.spawn(read_one(p, got, end));
    r.settle();
    CHECK(got == std::vector<unsigned>{7});
}

TEST_CASE("inbox: EBADFD ends all waiters and later ones; what had come is read first") {
    rig r;
    port p(r.io);
    r.settle();
    std::vector<unsigned> got;
    std::deque<outcome> ends(3);
    SECTION("waiters") {
        for (outcome& o : ends) r.io.spawn(read_one(p, got, o));
        r.settle();
        REQUIRE(r.kernel.end(p.descriptor, EBADFD));
        r.settle();
        for (const outcome& o : ends) {
            CHECK(o.ended);
            CHECK(o.error == EBADFD);
            CHECK(is_final(std::error_code(o.error, std::generic_category())));
        }
        outcome later;
        r.io.spawn(read_one(p, got, later));
        r.settle();
        CHECK(later.error == EBADFD);
    }
    SECTION("a queue") {
        for (unsigned i = 0; i < 3; ++i) REQUIRE(r.arrive(p, i));
        REQUIRE(r.kernel.end(p.descriptor, EBADFD));
        r.settle();
        outcome end;
        r.io.spawn(read_all(p, got, end));
        r.settle();
        CHECK(got == up_to(3));
        CHECK(end.error == EBADFD);
    }
    SECTION("a waiter destroyed after the end") {
        outcome ignored;
        held_task t = hold(read_one(p, got, ignored));
        REQUIRE(r.arrive(p, 0));
        REQUIRE(r.kernel.end(p.descriptor, EBADFD));
        r.io.core().turn();
        t.destroy();
        outcome end;
        r.io.spawn(read_all(p, got, end));
        r.settle();
        CHECK(got == up_to(1));
        CHECK(end.error == EBADFD);
    }
    CHECK(r.reading(p) == nullptr); // not armed again
}

TEST_CASE("inbox: an error that passes re-arms the multishot") {
    rig r;
    port p(r.io);
    std::vector<unsigned> got;
    outcome end;
    r.io.spawn(read_all(p, got, end));
    r.settle();
    for (unsigned i = 0; i < 100; ++i) {
        REQUIRE(r.kernel.end(p.descriptor, i % 2 == 0 ? ECONNREFUSED : ENOMEM));
        r.settle();
        REQUIRE(r.reading(p) != nullptr);
        REQUIRE(r.arrive(p, i));
        r.settle();
    }
    CHECK(got == up_to(100));
    CHECK(p.reads().refused == 100);
    CHECK_FALSE(end.ended);
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

TEST_CASE("inbox: with four buffers, two ports that forward to each other never stall") {
    rig_options options = with_buffers(4);
    options.multishot = GENERATE(true, false);
    rig r(options);
    port a(r.io);
    port b(r.io);
    static constexpr auto forward = [](port& from, port& to) -> task<> {
        try {
            for (;;) {
                packet p = co_await from.read_packet();
                co_await to.write_packet(std::move(p));
            }
        } catch (const std::system_error&) {
        }
    };
    r.io.spawn(forward(a, b));
    r.io.spawn(forward(b, a));
    r.kernel.writes_complete = false;
    r.settle();
    unsigned from_a = 0;
    unsigned from_b = 0;
    std::vector<unsigned> at_a;
    std::vector<unsigned> at_b;
    const auto write_out = [&](port& to, std::vector<unsigned>& into) {
        for (const unsigned n : r.writing(to)) {
            into.push_back(n);
            r.written(to, n);
        }
    };
    const auto feed = [&](port& from, unsigned& next) {
        if (options.multishot) {
            while (next < 2000 && r.reading(from) != nullptr && r.arrive(from, next)) ++next;
        } else if (next < 2000) {
            for (int i = 0; i < 6 && next < 2000; ++i) answer(r, from, next++);
            readable(r, from);
        }
    };
    for (int round = 0; round < 6000; ++round) {
        if (at_a.size() == 2000 && at_b.size() == 2000) break;
        feed(a, from_a);
        if (round % 3 != 0) feed(b, from_b);
        r.settle();
        write_out(b, at_b);
        if (round % 2 == 0) write_out(a, at_a);
        r.settle();
    }
    CHECK(at_b == up_to(2000));
    CHECK(at_a == up_to(2000));
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
