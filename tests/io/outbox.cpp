// SPDX-License-Identifier: Apache-2.0
#include "io/outbox.hpp"

#include "../support/scripted_port.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <deque>
#include <numeric>
#include <optional>

using namespace cotun;
using namespace cotun::test;

namespace {

std::vector<unsigned> from_to(unsigned first, unsigned end) {
    std::vector<unsigned> all(end - first);
    std::iota(all.begin(), all.end(), first);
    return all;
}

} // namespace

TEST_CASE("outbox: packets are written in the order in which they were given") {
    rig r;
    r.kernel.writes_complete = false;
    port p(r.io);
    outcome end;
    r.io.spawn(write_many(r, p, 0, 20, end));
    r.settle();
    CHECK(end.ended); // accepted, not written
    CHECK(r.writing(p) == from_to(0, 20));
    CHECK(p.writes().packets == 0);
    for (unsigned i = 0; i < 20; ++i) r.written(p, i);
    r.settle();
    CHECK(p.writes().packets == 20);
    CHECK(p.writes().bytes == 80);
    CHECK(p.writes().failed() == 0);
}

TEST_CASE("outbox: a batch goes out as one; handles without a packet are skipped") {
    rig r;
    r.kernel.writes_complete = false;
    port p(r.io);
    static constexpr auto body = [](rig& on, port& to) -> task<> {
        packet_batch batch;
        for (unsigned i = 0; i < 10; ++i) batch.push_back(on.make(i));
        batch[3].reset();
        batch[9].reset();
        co_await to.write_packets(std::move(batch));
        co_await to.write_packets(packet_batch());
        co_await to.write_packet(packet());
    };
    const std::size_t enters = r.kernel.enters();
    r.io.spawn(body(r, p));
    r.settle();
    CHECK(r.writing(p) == std::vector<unsigned>{0, 1, 2, 4, 5, 6, 7, 8});
    CHECK(r.kernel.enters() - enters <= 3);
    for (const unsigned n : r.writing(p)) r.written(p, n);
}

TEST_CASE("outbox: window full, writers wait and are served in their order") {
    rig r;
    r.kernel.writes_complete = false;
    port p(r.io, read_mode::automatic, 4);
    std::deque<outcome> ends(4);
    for (unsigned i = 0; i < 4; ++i) r.io.spawn(write_many(r, p, 100 * i, 3, ends[i]));
    r.settle();
    std::vector<unsigned> order;
    for (int i = 0; i < 100 && order.size() < 12; ++i) {
        const std::vector<unsigned> now = r.writing(p);
        CHECK(now.size() <= 4);
        REQUIRE_FALSE(now.empty());
        order.push_back(now.front());
        r.written(p, now.front());
        r.settle();
    }
    for (const outcome& e : ends) CHECK((e.ended && e.error == 0));
    REQUIRE(order.size() == 12);
    for (unsigned i = 0; i < 4; ++i) { // each writer's own order holds
        std::vector<unsigned> own;
        std::copy_if(order.begin(), order.end(), std::back_inserter(own), [i](unsigned n) { return n / 100 == i; });
        CHECK(own == from_to(100 * i, 100 * i + 3));
    }
    CHECK(p.writes().packets == 12);
}

TEST_CASE("outbox: single writers that wait are admitted first come, first served") {
    rig r;
    r.kernel.writes_complete = false;
    port p(r.io, read_mode::automatic, 2);
    std::deque<outcome> ends(10);
    for (unsigned i = 0; i < 10; ++i) r.io.spawn(write_one(p, r.make(i), ends[i]));
    r.settle();
    for (unsigned i = 0; i < 10; ++i) {
        CHECK(r.writing(p).front() == i);
        r.written(p, i);
        r.settle();
    }
}

TEST_CASE("outbox: a batch larger than the window is accepted piece by piece") {
    rig r;
    r.kernel.writes_complete = false;
    port p(r.io, read_mode::automatic, 4);
    static constexpr auto body = [](rig& on, port& to, outcome& end) -> task<> {
        packet_batch batch;
        for (unsigned i = 0; i < 20; ++i) batch.push_back(on.make(i));
        co_await to.write_packets(std::move(batch));
        end.ended = true;
    };
    outcome end;
    outcome behind;
    r.io.spawn(body(r, p, end));
    r.io.spawn(write_one(p, r.make(20), behind));
    std::vector<unsigned> order;
    r.settle();
    while (order.size() < 21) {
        const std::vector<unsigned> now = r.writing(p);
        REQUIRE_FALSE(now.empty());
        for (const unsigned n : now) {
            order.push_back(n);
            r.written(p, n);
        }
        r.settle();
    }
    CHECK(order == from_to(0, 21));
    CHECK(end.ended);
    CHECK(behind.ended);
}

TEST_CASE("outbox: a task that is destroyed while it waits to write drops its packet and stops nobody") {
    rig r;
    r.kernel.writes_complete = false;
    port p(r.io, read_mode::automatic, 2);
    std::deque<outcome> ends(6);
    std::vector<held_task> writers;
    for (unsigned i = 0; i < 6; ++i) writers.push_back(hold(write_one(p, r.make(i), ends[i])));
    r.settle();
    const std::size_t destroyed = GENERATE(2U, 3U, 5U);
    const bool admitted = GENERATE(true, false);
    if (admitted) { // it was let in, and has not been resumed: its packet is accepted already
        r.written(p, 0);
        r.written(p, 1);
        r.io.core().turn();
    }
    writers[destroyed].destroy();
    r.settle();
    std::vector<unsigned> order;
    for (;;) {
        const std::vector<unsigned> now = r.writing(p);
        if (now.empty()) break;
        order.push_back(now.front());
        r.written(p, now.front());
        r.settle();
    }
    std::vector<unsigned> expected = from_to(admitted ? 2 : 0, 6);
    if (!admitted || destroyed == 5) std::erase(expected, static_cast<unsigned>(destroyed));
    CHECK(order == expected);
    writers.clear();
    p.reset();
    CHECK(r.free() == 1024);
}

TEST_CASE("outbox: completions in any order") {
    std::array<unsigned, 4> order{0, 1, 2, 3};
    do {
        rig r;
        r.kernel.writes_complete = false;
        port p(r.io, read_mode::automatic, 4);
        outcome writer;
        outcome flusher;
        r.io.spawn(write_many(r, p, 0, 9, writer));
        r.settle();
        CHECK(r.writing(p) == from_to(0, 4));
        r.io.spawn(flush(p, flusher));
        for (const unsigned n : order) {
            r.written(p, n);
            if (order[0] % 2 == 0) r.settle();
        }
        r.settle();
        CHECK(r.writing(p) == from_to(4, 8));
        CHECK(flusher.ended);
        for (const unsigned n : order) r.written(p, 4 + n);
        r.settle();
        CHECK(r.writing(p) == from_to(8, 9));
        CHECK(writer.ended);
        r.written(p, 8);
        r.settle();
        CHECK(p.writes().packets == 9);
    } while (std::next_permutation(order.begin(), order.end()));
}

TEST_CASE("outbox: flush waits for what was accepted before it, and for nothing later") {
    rig r;
    r.kernel.writes_complete = false;
    port p(r.io);
    outcome w1;
    outcome w2;
    outcome f0;
    outcome f1;
    outcome f2;
    r.io.spawn(flush(p, f0));
    r.settle();
    CHECK(f0.ended); // nothing was accepted
    r.io.spawn(write_many(r, p, 0, 3, w1));
    r.settle();
    r.io.spawn(flush(p, f1));
    r.settle();
    r.io.spawn(write_many(r, p, 3, 3, w2));
    r.settle();
    r.io.spawn(flush(p, f2));
    r.settle();
    r.written(p, 5);
    r.written(p, 1);
    r.written(p, 2);
    r.settle();
    CHECK_FALSE(f1.ended);
    r.written(p, 0);
    r.settle();
    CHECK(f1.ended);
    CHECK_FALSE(f2.ended);
    r.written(p, 3);
    r.written(p, 4);
    r.settle();
    CHECK(f2.ended);
}

TEST_CASE("outbox: failures are counted by cause, and the first is thrown by flush, once") {
    rig r;
    r.kernel.writes_complete = false;
    port p(r.io);
    outcome writer;
    const std::vector<int> errors{EIO,          ENETDOWN,    EINVAL,  EMSGSIZE, ECONNREFUSED,
                                  EHOSTUNREACH, ENETUNREACH, ENOBUFS, ENOMEM,   EPERM,
                                  EACCES,       EAGAIN,      0};
    r.io.spawn(write_many(r, p, 0, static_cast<unsigned>(errors.size()), writer));
    r.settle();
    for (unsigned i = 0; i < errors.size(); ++i) r.written(p, i, errors[i]);
    r.settle();
    const write_statistics s = p.writes();
    CHECK(s.link_down == 2);
    CHECK(s.invalid == 1);
    CHECK(s.too_large == 1);
    CHECK(s.refused == 1);
    CHECK(s.unreachable == 2);
    CHECK(s.no_memory == 2);
    CHECK(s.not_permitted == 2);
    CHECK(s.other == 1);
    CHECK(s.packets == 1);
    CHECK(s.failed() == errors.size() - 1);
    outcome first;
    outcome second;
    r.io.spawn(flush(p, first));
    r.settle();
    CHECK(first.error == EIO);
    CHECK(first.text.find("test port: writing: ") != std::string::npos);
    r.io.spawn(flush(p, second));
    r.settle();
    CHECK((second.ended && second.error == 0));
    outcome later; // none of these was the end
    r.io.spawn(write_many(r, p, 50, 1, later));
    r.settle();
    CHECK((later.ended && later.error == 0));
    r.written(p, 50);
}

TEST_CASE("outbox: a short write is a failure, and flush tells of it") {
    rig r;
    r.kernel.writes_complete = false;
    port p(r.io);
    outcome writer;
    r.io.spawn(write_many(r, p, 0, 1, writer));
    r.settle();
    const auto* write = r.kernel.find(ring::scripted::kind::write, p.descriptor);
    REQUIRE(write != nullptr);
    r.kernel.complete(write->name, 2);
    r.settle();
    CHECK(p.writes().packets == 0);
    CHECK(p.writes().other == 1);
}

TEST_CASE("outbox: EBADFD is final: those who wait and the next write are told, what was accepted is dropped") {
    rig r;
    r.kernel.writes_complete = false;
    port p(r.io, read_mode::automatic, 4);
    std::deque<outcome> ends(7);
    for (unsigned i = 0; i < 7; ++i) r.io.spawn(write_one(p, r.make(i), ends[i]));
    outcome flusher;
    r.settle();
    r.io.spawn(flush(p, flusher));
    r.settle();
    r.written(p, 1, EBADFD);
    r.settle();
    for (unsigned i = 4; i < 7; ++i) CHECK(ends[i].error == EBADFD);
    CHECK_FALSE(flusher.ended);
    r.written(p, 0, EBADFD);
    r.written(p, 3, EBADFD);
    r.written(p, 2, EBADFD);
    r.settle();
    CHECK((flusher.ended && flusher.error == EBADFD));
    outcome next;
    r.io.spawn(write_one(p, r.make(9), next));
    outcome flush_again;
    r.io.spawn(flush(p, flush_again));
    r.settle();
    CHECK(next.error == EBADFD);
    CHECK(flush_again.ended);
    CHECK(r.kernel.find(ring::scripted::kind::write, p.descriptor) == nullptr);
    p.reset();
    CHECK(r.free() == 1024);
}

TEST_CASE("outbox: with few requests, writers share them without exceeding them, and none stalls") {
    rig_options options;
    options.requests = 32; // scripted throws when they are exceeded
    rig r(options);
    r.kernel.writes_complete = false;
    port a(r.io);
    port b(r.io);
    outcome end_a;
    outcome end_b;
    r.io.spawn(write_many(r, a, 0, 500, end_a));
    r.io.spawn(write_many(r, b, 0, 500, end_b));
    r.settle();
    CHECK(r.kernel.in_flight.size() <= 32);
    CHECK(r.reading(a) != nullptr);
    CHECK(r.reading(b) != nullptr);
    std::vector<unsigned> at_a;
    std::vector<unsigned> at_b;
    for (int i = 0; i < 5000 && at_a.size() + at_b.size() < 1000; ++i) {
        const std::vector<unsigned> now_a = r.writing(a);
        const std::vector<unsigned> now_b = r.writing(b);
        REQUIRE_FALSE((now_a.empty() && now_b.empty()));
        const bool of_a = !now_a.empty() && (i % 3 != 0 || now_b.empty());
        const unsigned n = of_a ? now_a.front() : now_b.front();
        (of_a ? at_a : at_b).push_back(n);
        r.written(of_a ? a : b, n);
        r.settle();
    }
    CHECK(at_a == from_to(0, 500));
    CHECK(at_b == from_to(0, 500));
    CHECK(r.io.statistics().requests_exhausted > 0);
    CHECK((end_a.ended && end_b.ended));
}
