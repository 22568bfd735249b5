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

void answer(rig& r, const port& at, unsigned n) { r.kernel.immediates[at.descriptor].push_back({0, numbered(n), {}}); }
void refuse(rig& r, const port& at, int error) { r.kernel.immediates[at.descriptor].push_back({error, {}, {}}); }
void readable(rig& r, const port& at) {
    REQUIRE(r.polling(at) != nullptr);
    r.kernel.complete(r.polling(at)->name, 1, true);
}

} // namespace

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

TEST_CASE("inbox: one that looks again loses nothing, and finds out that there is nothing any more") {
    rig r;
    port p(r.io);
    std::vector<unsigned> got;
    outcome end;
    r.settle();
    for (unsigned i = 0; i < 3; ++i) REQUIRE(r.arrive(p, i));
    p.look_again();
    p.look_again(); // asks once
    r.settle();
    REQUIRE(r.reading(p) != nullptr);
    for (unsigned i = 3; i < 6; ++i) REQUIRE(r.arrive(p, i));
    r.io.spawn(read_all(p, got, end));
    r.settle();
    CHECK(got == up_to(6));
    CHECK(p.reads().refused == 0);
    p.look_again();
    r.io.core().turn(); // the read that went on has ended, and a new one
    r.settle();
    REQUIRE(r.kernel.end(p.descriptor, EBADFD)); // is told
    r.settle();
    CHECK(end.error == EBADFD);
    p.look_again();
    r.settle();
    CHECK(r.reading(p) == nullptr);
}

TEST_CASE("inbox: poll mode, one that looks again reads without an event") {
    reading_rig all(polled());
    auto& [r, p, got, end] = all;
    answer(r, p, 0);
    refuse(r, p, EBADFD);
    p.look_again();
    r.settle();
    CHECK(got == up_to(1));
    CHECK(end.error == EBADFD);
    CHECK(p.reads().refused == 0);
}

TEST_CASE("inbox: poll mode reads until EAGAIN, in order, a quota at a time") {
    reading_rig all(polled());
    auto& [r, p, got, end] = all;
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
    rig r(polled(with_buffers(8)));
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
    rig r(polled());
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

TEST_CASE("inbox: poll mode, errors in a row are waited out, also where the poll fails meanwhile") {
    reading_rig all(polled());
    auto& [r, p, got, end] = all;
    for (int i = 0; i < 4; ++i) refuse(r, p, ENOMEM);
    answer(r, p, 0);
    readable(r, p);
    r.settle();
    CHECK(p.reads().refused == 2); // the second is waited out
    REQUIRE(r.polling(p) != nullptr);
    r.kernel.complete(r.polling(p)->name, -ENOMEM);
    r.settle();
    CHECK(p.reads().refused == 3);
    for (int i = 0; i < 10; ++i) {
        r.kernel.advance(std::chrono::milliseconds(10));
        r.settle();
    }
    CHECK(got == up_to(1));
    CHECK_FALSE(end.ended);
    CHECK(r.io.statistics().timers == 1);
}

TEST_CASE("inbox: refusals that peers cause are no run of errors, however many there are") {
    const int refusal = GENERATE(ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EMSGSIZE);
    rig_options options;
    options.multishot = GENERATE(true, false);
    reading_rig all(options);
    auto& [r, p, got, end] = all;
    for (unsigned i = 0; i < 1000; ++i) {
        if (options.multishot) {
            REQUIRE(r.kernel.end(p.descriptor, refusal));
        } else {
            refuse(r, p, refusal);
            readable(r, p);
        }
        r.settle();
    }
    CHECK_FALSE(end.ended);
    CHECK(p.reads().refused == 1000);
}

TEST_CASE("inbox: a run of errors without a packet between them is the end, and no endless loop") {
    rig_options options;
    options.multishot = GENERATE(true, false);
    reading_rig all(options);
    auto& [r, p, got, end] = all;
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
    reading_rig all;
    auto& [r, p, got, end] = all;
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
        } catch (const std::system_error&) {}
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
