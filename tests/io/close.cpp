// SPDX-License-Identifier: Apache-2.0
#include "io/packet_port.hpp"

#include "../support/scripted_port.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <array>
#include <chrono>
#include <deque>
#include <fcntl.h>
#include <memory>
#include <optional>
#include <unistd.h>

using namespace cotun;
using namespace cotun::test;

namespace {

// Virtual time passes meanwhile, and a little real time: close(2) is called on a thread of its own.
task<> until(rig& r, const bool& done) {
    for (int i = 0; i < 100'000; ++i) {
        if (done) break;
        co_await r.io.sleep_for(std::chrono::milliseconds(1));
        ::usleep(100);
    }
}

task<> close_and_try(port& closed, int& error, outcome& end) {
    co_await closed.close();
    errno = 0;
    if (::fcntl(closed.descriptor, F_GETFD) < 0) error = errno;
    end.ended = true;
}

} // namespace

TEST_CASE("close: what was accepted is written, what comes later is refused, the descriptor is closed") {
    rig r;
    r.kernel.writes_complete = false;
    port p(r.io, read_mode::automatic, 4);
    std::vector<unsigned> got;
    outcome reader;
    std::deque<outcome> writers(6);
    outcome closer;
    outcome second_closer;
    r.io.spawn(read_one(p, got, reader));
    for (unsigned i = 0; i < 6; ++i) r.io.spawn(write_one(p, r.make(i), writers[i]));
    r.settle();
    r.io.spawn(close(p, closer));
    r.settle();
    CHECK_FALSE(closer.ended);
    CHECK(reader.error == ECANCELED);
    CHECK(writers[4].error == ECANCELED);
    CHECK(writers[5].error == ECANCELED);
    outcome late;
    r.io.spawn(write_one(p, r.make(9), late));
    r.io.spawn(read_one(p, got, late));
    r.io.spawn(close(p, second_closer));
    r.settle();
    CHECK(late.error == ECANCELED);
    for (unsigned i = 0; i < 4; ++i) r.written(p, i);
    r.io.run(until(r, closer.ended));
    r.io.run(until(r, second_closer.ended));
    CHECK(closer.ended);
    CHECK(second_closer.ended);
    CHECK(p.writes().packets == 4);
    CHECK(p.writes().dropped == 0);
    CHECK(::write(p.descriptor, "", 0) < 0);
    CHECK(errno == EBADF);
    outcome third;
    r.io.spawn(close(p, third));
    r.settle();
    CHECK(third.ended);
    CHECK(r.free() == 1024);
    CHECK(r.kernel.in_flight.empty());
}

TEST_CASE("close: a kernel that does not write is given a second, then what is left is dropped") {
    rig r;
    r.kernel.writes_complete = false;
    std::optional<port> p(std::in_place, r.io, read_mode::automatic, 4);
    outcome flusher;
    outcome writer;
    r.io.spawn(write_many(r, *p, 0, 4, writer));
    r.settle();
    r.io.spawn(flush(*p, flusher));
    r.settle();
    const auto before = r.kernel.now();
    SECTION("destroyed") { p.reset(); }
    SECTION("closed") {
        outcome closer;
        r.io.spawn(close(*p, closer));
        r.io.run(until(r, closer.ended));
        REQUIRE(closer.ended);
        CHECK(p->writes().dropped == 4);
        p.reset();
    }
    CHECK(r.kernel.now() - before >= std::chrono::seconds(1));
    r.settle();
    CHECK(flusher.ended);
    CHECK(r.free() == 1024);
    CHECK(r.kernel.in_flight.empty());
}

TEST_CASE("close: a port with writers and readers that wait may be destroyed, and the reactor before it") {
    const bool reactor_first = GENERATE(true, false);
    std::vector<unsigned> got;
    std::deque<outcome> ends(12);
    auto r = std::make_unique<rig>();
    auto p = std::make_unique<port>(r->io, read_mode::automatic, 4);
    r->kernel.writes_complete = false;
    for (unsigned i = 0; i < 8; ++i) r->io.spawn(write_one(*p, r->make(i), ends[i]));
    r->settle();
    for (unsigned i = 8; i < 11; ++i) r->io.spawn(read_one(*p, got, ends[i]));
    r->io.spawn(flush(*p, ends[11]));
    r->settle();
    if (reactor_first) {
        r.reset();
        p.reset();
    } else {
        p.reset();
        r.reset();
    }
}

TEST_CASE("close: a task that closes may be destroyed half-way; the handle finishes it") {
    rig r;
    r.kernel.writes_complete = false;
    std::optional<port> p(std::in_place, r.io);
    outcome writer;
    outcome closer;
    r.io.spawn(write_many(r, *p, 0, 2, writer));
    r.settle();
    {
        const held_task t = hold(close(*p, closer));
        r.settle();
        CHECK_FALSE(closer.ended);
    }
    const int descriptor = p->descriptor;
    p.reset();
    CHECK(::write(descriptor, "", 0) < 0);
    CHECK(r.free() == 1024);
}

TEST_CASE("close: whoever it returns to, the descriptor is closed by then") {
    for (int round = 0; round < 100; ++round) {
        rig r;
        std::optional<port> p(std::in_place, r.io);
        r.settle();
        std::array<int, 2> error{};
        std::array<outcome, 2> ends;
        const int descriptor = p->descriptor;
        SECTION("two that ask at once") {
            for (std::size_t i = 0; i < 2; ++i) r.io.spawn(close_and_try(*p, error[i], ends[i]));
            for (std::size_t i = 0; i < 2; ++i) r.io.run(until(r, ends[i].ended));
            CHECK(error == std::array{EBADF, EBADF});
        }
        SECTION("one that gives up while the kernel is at it, and the handle's destructor") {
            {
                const held_task t = hold(close_and_try(*p, error[0], ends[0]));
                r.settle(); // close(2) runs now, or soon, on its thread
            }
            p.reset();
            CHECK(::fcntl(descriptor, F_GETFD) < 0);
        }
        SECTION("one that waits, and the handle's destructor") {
            r.io.spawn(close_and_try(*p, error[0], ends[0]));
            r.settle();
            r.io.post([&] { p.reset(); });
            r.settle();
            CHECK(::fcntl(descriptor, F_GETFD) < 0);
        }
    }
}

TEST_CASE("close: a port that waits for room among the requests is forgotten with it") {
    rig_options options;
    options.requests = 32;
    rig r(options);
    r.kernel.writes_complete = false;
    std::deque<outcome> ends(3);
    std::optional<port> full(std::in_place, r.io);
    std::optional<port> waits(std::in_place, r.io);
    r.io.spawn(write_many(r, *full, 0, 40, ends[0]));
    r.settle();
    r.io.spawn(write_many(r, *waits, 0, 4, ends[1]));
    r.settle();
    CHECK(r.writing(*waits).empty());
    REQUIRE(r.kernel.end(waits->descriptor, EBADFD));
    r.settle();
    waits.reset(); // a second of virtual time, and nothing of it in flight
    CHECK(r.writing(*full).size() > 10);
    r.kernel.writes_complete = true;
    while (!r.writing(*full).empty()) {
        r.written(*full, r.writing(*full).front());
        r.settle();
    }
    CHECK(full->writes().packets == 40);
    CHECK(r.free() + r.kernel.buffers_in(r.reading(*full)->group) == 1024);
}
