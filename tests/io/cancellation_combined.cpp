// SPDX-License-Identifier: Apache-2.0
//
// What wraps operations and puts them together, stopped and destroyed at every step of the life of what is within.
// Operations beside each other: cancellation_orders.cpp.
#include <cotun/coro/event.hpp>
#include <cotun/coro/generator.hpp>
#include <cotun/coro/result.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_all.hpp>
#include <cotun/coro/when_any.hpp>
#include <cotun/coro/with_stop.hpp>

#include "../support/scripted_stream.hpp"
#include "cancel_moments.hpp"

#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <algorithm>
#include <optional>
#include <stop_token>
#include <tuple>
#include <variant>

using namespace cotun;
using namespace cotun::test;
using namespace std::chrono_literals;

namespace {

// Of a packet, whatever it is wrapped in.
class wrapping : public subject {
public:
    using body = task<packet> (*)(rig&, port&);
    wrapping(rig& r, body read) : subject(r), port_(r.io), read_(read) {}
    task<> operate() override {
        const packet p = co_await read_(*rig_, port_);
        CHECK(number_of(p) == 7);
    }
    void answer() override { REQUIRE(rig_->arrive(port_, 7)); }

protected:
    port port_;

private:
    body read_;
};

// A stop waits outside.
class shielding final : public wrapping {
public:
    explicit shielding(rig& r) : wrapping(r, read) {}
    bool can_be_stopped() const override { return false; }

private:
    static task<packet> read(rig&, port& p) { co_return co_await shield(p.read_packet()); }
};

task<packet> read_task(port& p) { co_return co_await p.read_packet(); }

task<packet> in_time(rig&, port& p) { co_return co_await with_timeout(p.read_packet(), 1h); }
task<packet> task_in_time(rig&, port& p) { co_return co_await with_timeout(read_task(p), 1h); }
task<packet> by_deadline(rig& r, port& p) { co_return co_await with_deadline(p.read_packet(), r.io.core().now() + 1h); }
task<packet> as_value(rig&, port& p) {
    result<packet> got = co_await as_result(p.read_packet());
    co_return std::move(got).value();
}
task<packet> with_another_stop(rig&, port& p) {
    std::stop_source never;
    co_return co_await with_stop(never.get_token(), p.read_packet());
}
task<packet> first_of_two(rig& r, port& p) {
    auto first = co_await when_any(r.io.sleep_for(1h), p.read_packet());
    co_return std::get<1>(std::move(first));
}
task<packet> first_of_tasks(rig& r, port& p) {
    static constexpr auto nothing = [](reactor& io) -> task<> { co_await io.sleep_for(1h); };
    auto first = co_await when_any(read_task(p), nothing(r.io));
    co_return std::get<0>(std::move(first));
}
task<packet> first_of_many(rig&, port& p) {
    std::vector<read_packet_operation> all;
    for (int i = 0; i < 3; ++i) all.push_back(p.read_packet());
    auto first = co_await when_any(std::move(all));
    co_return std::move(first.value);
}

// Both of two.
class reading_both final : public subject {
public:
    reading_both(rig& r, bool first, bool range) : subject(r), one_(r.io), other_(r.io), first_(first), range_(range) {}
    task<> operate() override {
        if (range_) {
            std::vector<task<packet>> reads;
            reads.push_back(read_task(one_));
            reads.push_back(read_task(other_));
            const std::vector<packet> all = co_await when_all(std::move(reads));
            CHECK(number_of(all[0]) == 1);
            CHECK(number_of(all[1]) == 2);
            co_return;
        }
        auto both = co_await when_all(one_.read_packet(), read_task(other_));
        CHECK(number_of(std::get<0>(both)) == 1);
        CHECK(number_of(std::get<1>(both)) == 2);
    }
    void answer() override {
        if (first_) REQUIRE(rig_->arrive(one_, 1));
        REQUIRE(rig_->arrive(other_, 2));
        if (!first_) REQUIRE(rig_->arrive(one_, 1));
    }

private:
    port one_;
    port other_;
    bool first_;
    bool range_;
};

// What a child has got is there, though join() tells of the stop.
class joining final : public subject {
public:
    explicit joining(rig& r) : subject(r), port_(r.io) {}
    task<> operate() override {
        if (!got_) {
            scope children(rig_->io);
            children.spawn(read(*this));
            co_await children.join();
        }
        CHECK(number_of(got_) == 7);
        got_.reset();
    }
    void answer() override { REQUIRE(rig_->arrive(port_, 7)); }
    moment wins_from() const override { return moment::after; }

private:
    static task<> read(joining& s) { s.got_ = co_await s.port_.read_packet(); }
    port port_;
    packet got_;
};

class awaiting_room final : public subject {
public:
    explicit awaiting_room(rig& r) : subject(r), full_(r.io, one()) {
        full_.spawn(wait(gate_));
        r.settle();
    }
    task<> operate() override { co_await full_.room(); }
    void answer() override { gate_.set(); }
    // Room is when the task has ended, in the pass after.
    moment wins_from() const override { return moment::after; }

private:
    static scope_options one() {
        scope_options o;
        o.tasks = 1;
        return o;
    }
    static task<> wait(event& e) { co_await e.wait(); }
    event gate_;
    scope full_;
};

class generating final : public subject {
public:
    explicit generating(rig& r) : subject(r), port_(r.io), all_(all(port_)) {}
    task<> operate() override {
        if (!all_) all_ = all(port_);
        std::optional<packet> value = co_await all_.next();
        if (!value) { // a stop has ended the coroutine within: the next is another
            all_ = all(port_);
            value = co_await all_.next();
        }
        CHECK(number_of(*value) == 7);
    }
    void answer() override { REQUIRE(rig_->arrive(port_, 7)); }

private:
    static generator<packet> all(port& from) {
        for (;;) {
            packet p = co_await from.read_packet();
            co_yield std::move(p);
        }
    }
    port port_;
    generator<packet> all_;
};

operation_kind wrapped(std::string name, wrapping::body read) { return of<wrapping>(std::move(name), read); }

std::vector<operation_kind> kinds() {
    return {
        wrapped("task", [](rig&, port& p) { return read_task(p); }),
        wrapped("with_timeout", in_time),
        wrapped("with_timeout of a task", task_in_time),
        wrapped("with_deadline", by_deadline),
        wrapped("as_result", as_value),
        wrapped("with_stop", with_another_stop),
        of<shielding>("shield"),
        wrapped("when_any", first_of_two),
        wrapped("when_any of tasks", first_of_tasks),
        wrapped("when_any of a range", first_of_many),
        of<reading_both>("when_all, in order", true, false),
        of<reading_both>("when_all, out of order", false, false),
        of<reading_both>("when_all of a range, in order", true, true),
        of<reading_both>("when_all of a range, out of order", false, true),
        of<joining>("scope: join"),
        of<awaiting_room>("scope: room"),
        of<generating>("generator"),
    };
}

} // namespace

TEST_CASE("what is made of operations, stopped or destroyed at every step of its life", "[cancel]") {
    const operation_kind what = GENERATE(from_range(kinds()));
    check_every_moment(what);
}
