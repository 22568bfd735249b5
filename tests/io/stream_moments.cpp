// SPDX-License-Identifier: Apache-2.0
//
// Every operation of a stream, stopped and destroyed at each step of its life: no byte is lost, none is sent twice, and
// nothing is left.
#include "../support/scripted_stream.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_all.hpp>

#include <algorithm>
#include <cstring>
#include <string>

using namespace cotun;
using namespace cotun::test;

namespace {

enum class moment { before, queued, in_flight, completed, delivered };
enum class end { stop, destroy };

template <class Values>
auto each(Values values) {
    return Catch::Generators::from_range(values);
}

const std::vector<moment> moments{moment::before, moment::queued, moment::in_flight, moment::completed,
                                  moment::delivered};

void end_it(auto& op, end how) {
    if (how == end::stop)
        op.stop.request();
    else
        op.operation.reset();
}

void check_nothing_left(stream_rig& r) {
    CHECK(r.kernel.in_flight.empty());
    CHECK(r.free() == 1024);
    CHECK(r.io.statistics().requests_in_flight == 0);
    CHECK(r.io.statistics().strays == 0);
}

/// Starts a read, has `pieces` arrive, ends the read at `when`, and reads what is left. `satisfied`: the pieces are
/// what the read wants. Returns what the read got and what was left, in this order.
template <class Make, class Get>
std::string read_ended(stream_rig& r, test_stream& s, moment when, end how, const std::vector<std::string>& pieces,
                       bool satisfied, Make make, Get get) {
    by_hand op(r, make(s));
    if (when == moment::before) { // a second one, which finds the request made
        detail::stop_state requested;
        requested.request();
        auto late = make(s);
        CHECK_FALSE(late.await_ready());
        CHECK_FALSE(late.suspend(std::noop_coroutine(), {&r.io.core(), &requested}));
        CHECK(outcome_of(late) == ECANCELED);
    }
    if (when >= moment::in_flight) {
        r.turn();
        REQUIRE(r.receiving(s) != nullptr);
        CHECK(r.receiving(s)->multishot);
    }
    if (when >= moment::completed)
        for (const std::string& piece : pieces) REQUIRE(r.come(s, piece));
    if (when >= moment::delivered) r.turn();
    CHECK(op.ready() == (satisfied && when == moment::delivered));
    end_it(op, how);
    r.turn();
    std::string got;
    if (how == end::stop) {
        REQUIRE(op.ready());
        const bool late = satisfied && when == moment::delivered;
        const int error = get(*op.operation, got);
        CHECK(error == (late ? 0 : ECANCELED));
        op.operation.reset();
    }
    if (when < moment::completed) { // nothing had come: it comes for the next
        by_hand next(r, s.receive());
        r.turn();
        for (const std::string& piece : pieces) REQUIRE(r.come(s, piece));
        r.turn();
        REQUIRE(next.ready());
        const packet p = next.operation->await_resume();
        got.append(reinterpret_cast<const char*>(p.bytes().data()), p.size());
    }
    r.turn();
    return got + rest_of(r, s);
}

} // namespace

TEST_CASE("stream: a read that is stopped or destroyed loses no byte, at any moment") {
    const moment when = GENERATE(each(moments));
    const end how = GENERATE(end::stop, end::destroy);
    const bool whole = GENERATE(true, false);
    const int what = GENERATE(0, 1, 2, 3);
    CAPTURE(static_cast<int>(when), static_cast<int>(how), whole, what);
    stream_rig r;
    {
        test_stream s(r.io);
        const std::vector<std::string> pieces =
            whole ? std::vector<std::string>{"one\n", "two"} : std::vector<std::string>{"o", "n"};
        const std::string all = whole ? "one\ntwo" : "on";
        std::string buffer(4, '.');
        std::string got;
        const bool any = what == 0 || what == 3; // these are content with less
        const auto read = [&](auto make, auto get) {
            got = read_ended(r, s, when, how, pieces, whole || any, make, get);
        };
        if (what == 0)
            read([&](test_stream& t) { return t.read_some(bytes_of(buffer)); },
                 [&](stream_read_some_operation& op, std::string& into) {
                     std::size_t size = 0;
                     const int error = outcome_of(op, size);
                     into = buffer.substr(0, size);
                     return error;
                 });
        else if (what == 1)
            read([&](test_stream& t) { return t.read(bytes_of(buffer)); },
                 [&](stream_read_operation& op, std::string& into) {
                     const int error = outcome_of(op);
                     if (error == 0) into = buffer;
                     return error;
                 });
        else if (what == 2)
            read([&](test_stream& t) { return t.read_until("\n", 100); },
                 [&](stream_read_until_operation& op, std::string& into) { return outcome_of(op, into); });
        else
            read([&](test_stream& t) { return t.receive(); },
                 [&](stream_receive_operation& op, std::string& into) {
                     packet p;
                     const int error = outcome_of(op, p);
                     if (error == 0) into.assign(reinterpret_cast<const char*>(p.bytes().data()), p.size());
                     return error;
                 });
        CHECK(got == all);
    }
    check_nothing_left(r);
}

TEST_CASE("stream: a large write that is stopped or destroyed leaves the kernel nothing, at any moment") {
    const moment when = GENERATE(each(moments));
    const end how = GENERATE(end::stop, end::destroy);
    const std::size_t taken = GENERATE(std::size_t{0}, std::size_t{1000}, std::size_t{100'000});
    CAPTURE(static_cast<int>(when), static_cast<int>(how), taken);
    stream_rig r;
    r.kernel.writes_complete = false;
    std::string wire;
    std::string large(100'000, 'x');
    {
        test_stream s(r.io);
        by_hand first(r, s.write("first")); // accepted, and sent before it
        CHECK(first.ready());
        CHECK(outcome_of(*first.operation) == 0);
        r.turn();
        REQUIRE(r.take(s, wire));
        std::optional<by_hand<stream_write_operation>> op;
        if (when == moment::before) {
            detail::stop_state requested;
            requested.request();
            auto late = s.write(large);
            CHECK_FALSE(late.await_ready());
            CHECK_FALSE(late.suspend(std::noop_coroutine(), {&r.io.core(), &requested}));
            CHECK(outcome_of(late) == ECANCELED);
        }
        op.emplace(r, s.write(large));
        CHECK_FALSE(op->ready());
        if (when >= moment::in_flight) {
            r.turn(); // the first has been sent: its turn
            r.turn();
            REQUIRE(r.sending(s) != nullptr);
        }
        const bool completes = when >= moment::completed && taken > 0;
        if (completes) {
            REQUIRE(r.take(s, wire, taken));
            if (when == moment::delivered) r.turn();
        }
        const std::size_t gone = wire.size() - 5;
        // What the kernel has taken when it is asked to cancel counts, too.
        if (when == moment::in_flight && taken > 0) {
            r.kernel.cancels_answered = false;
            r.kernel.idle = nullptr;
        }
        if (when == moment::in_flight && taken > 0) {
            if (how == end::stop) {
                op->stop.request();
                r.turn();
                CHECK_FALSE(op->ready()); // the kernel still has its memory
                REQUIRE(r.take(s, wire, taken));
                r.turn();
            } else {
                r.kernel.idle = [&](ring::scripted&) { r.take(s, wire, taken); };
                op->operation.reset(); // returns when the kernel is done
                r.kernel.idle = nullptr;
                CHECK((r.sending(s) == nullptr || r.sending(s)->bytes.data() == nullptr));
            }
            r.kernel.cancels_answered = true;
        } else {
            end_it(*op, how);
            std::fill(large.begin(), large.end(), how == end::destroy ? '!' : 'x'); // it is the program's again
            r.turn();
            r.turn();
        }
        const std::size_t sent = std::max(gone, wire.size() - 5);
        const bool all = sent == large.size();
        const bool some = sent > 0 && !all;
        if (how == end::stop) {
            REQUIRE(op->ready());
            CHECK(outcome_of(*op->operation) == (all ? 0 : ECANCELED));
        }
        op.reset();
        r.turn();
        CHECK(r.sending(s) == nullptr);
        by_hand next(r, s.write("next"));
        CHECK(next.ready());
        CHECK(outcome_of(*next.operation) == (some ? ECONNABORTED : 0));
        if (!some) {
            r.turn();
            r.take(s, wire);
            r.turn();
            CHECK(wire == "first" + std::string(all ? 100'000 : 0, 'x') + "next");
        }
    }
    check_nothing_left(r);
}

TEST_CASE("stream: flush, stopped and destroyed at any moment") {
    const moment when = GENERATE(each(moments));
    const end how = GENERATE(end::stop, end::destroy);
    stream_rig r;
    r.kernel.writes_complete = false;
    std::string wire;
    {
        test_stream s(r.io);
        by_hand write(r, s.write("text"));
        CHECK(outcome_of(*write.operation) == 0);
        if (when >= moment::in_flight) r.turn();
        by_hand op(r, s.flush());
        CHECK_FALSE(op.ready());
        if (when >= moment::completed) r.take(s, wire);
        if (when >= moment::delivered) r.turn();
        CHECK(op.ready() == (when >= moment::delivered));
        end_it(op, how);
        r.turn();
        if (how == end::stop) CHECK(outcome_of(*op.operation) == (when >= moment::delivered ? 0 : ECANCELED));
        r.take(s, wire);
        r.turn();
        CHECK(wire == "text");
        by_hand after(r, s.flush());
        CHECK(after.ready());
        CHECK(outcome_of(*after.operation) == 0);
    }
    check_nothing_left(r);
}

TEST_CASE("stream: of two reads that wait, the second gets what follows the first's, wherever that one ends") {
    const end how = GENERATE(end::stop, end::destroy);
    const bool lease = GENERATE(false, true);
    const bool same_pass = GENERATE(false, true);
    CAPTURE(static_cast<int>(how), lease, same_pass);
    stream_rig r;
    {
        test_stream s(r.io);
        std::string one(3, '.');
        std::string two(3, '.');
        std::optional<by_hand<stream_read_operation>> first;
        std::optional<by_hand<stream_receive_operation>> leased;
        if (lease)
            leased.emplace(r, s.receive());
        else
            first.emplace(r, s.read(bytes_of(one)));
        by_hand second(r, s.read(bytes_of(two)));
        r.turn();
        REQUIRE(r.come(s, "one"));
        if (!same_pass) r.turn();
        REQUIRE(r.come(s, "two"));
        r.turn();
        CHECK((lease ? leased->ready() : first->ready()));
        if (how == end::stop) { // too late
            (lease ? leased->stop : first->stop).request();
            packet p;
            const int error = lease ? outcome_of(*leased->operation, p) : outcome_of(*first->operation);
            CHECK(error == 0);
            if (lease) CHECK(std::memcmp(p.bytes().data(), "one", 3) == 0);
        }
        first.reset();
        leased.reset();
        r.turn();
        REQUIRE(second.ready());
        CHECK(outcome_of(*second.operation) == 0);
        CHECK(two == (how == end::stop ? "two" : "one"));
        second.operation.reset();
        CHECK(rest_of(r, s) == (how == end::stop ? "" : "two"));
    }
    check_nothing_left(r);
}

TEST_CASE("stream: write_some takes what there is room for, and waits only while there is none") {
    stream_rig r;
    r.kernel.writes_complete = false;
    std::string all(100'000, '.');
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<char>('a' + i % 23);
    std::string wire;
    {
        test_stream s(r.io);
        by_hand none(r, s.write_some({}));
        REQUIRE(none.ready());
        CHECK(none.operation->await_resume() == 0);
        const std::size_t step = GENERATE(1U, 700U, 5'000U, 100'000U); // what the kernel takes at a time
        unsigned waited = 0;
        unsigned at_once = 0;
        for (std::size_t sent = 0; sent < all.size();) {
            by_hand op(r, s.write_some(bytes_of(all).subspan(sent)));
            if (op.ready()) {
                ++at_once;
            } else {
                ++waited;
                by_hand flush(r, s.flush());
                for (int i = 0; i < 40'000 && !op.ready(); ++i) { // what was accepted before goes out first
                    r.turn();
                    r.take(s, wire, step);
                }
                REQUIRE(op.ready());
                CHECK(flush.ready());
            }
            const std::size_t size = op.operation->await_resume();
            CHECK(size > 0);
            sent += size;
            if (step == 1 && sent > 20'000) all.resize(sent);
        }
        CHECK(at_once > 0);
        CHECK(waited > 0);
        for (int i = 0; i < 40'000 && wire.size() < all.size(); ++i) {
            r.turn();
            r.take(s, wire, step);
        }
        CHECK(wire == all);
        r.turn();
    }
    check_nothing_left(r);
}

TEST_CASE("stream: a write_some that is stopped or destroyed in flight never breaks the stream") {
    const end how = GENERATE(end::stop, end::destroy);
    const std::size_t taken = GENERATE(std::size_t{0}, std::size_t{1000}, std::size_t{5000});
    const bool in_time = GENERATE(true, false); // before the cancel, or in spite of it
    stream_rig r;
    r.kernel.writes_complete = false;
    const std::string text(5000, 'x');
    std::string wire;
    {
        test_stream s(r.io);
        std::vector<packet> held;
        while (packet p = r.io.try_allocate(1)) held.push_back(std::move(p));
        by_hand op(r, s.write_some(std::as_bytes(std::span(text))));
        CHECK_FALSE(op.ready());
        r.turn();
        REQUIRE(r.sending(s) != nullptr);
        if (in_time && taken > 0) {
            r.take(s, wire, taken);
        } else if (taken > 0) {
            r.kernel.cancels_answered = false;
            r.kernel.idle = [&](ring::scripted&) { r.take(s, wire, taken); };
        }
        end_it(op, how);
        if (r.kernel.idle && how == end::stop) r.kernel.idle(r.kernel);
        r.kernel.idle = nullptr;
        r.kernel.cancels_answered = true;
        r.turn();
        if (how == end::stop) {
            REQUIRE(op.ready());
            std::size_t size = 0;
            CHECK(outcome_of(*op.operation, size) == (taken > 0 ? 0 : ECANCELED));
            CHECK(size == taken);
        }
        CHECK(wire.size() == taken);
        held.clear();
        by_hand next(r, s.write("next"));
        CHECK(next.ready());
        CHECK(outcome_of(*next.operation) == 0);
        r.turn();
        r.take(s, wire);
        r.turn();
        CHECK(wire == text.substr(0, taken) + "next");
    }
    check_nothing_left(r);
}
