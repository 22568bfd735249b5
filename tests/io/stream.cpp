// SPDX-License-Identifier: Apache-2.0
//
// Reading and writing a stream: what comes in which order, its bounds, and its end.
#include "../support/scripted_stream.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

using namespace cotun;
using namespace cotun::test;
using Catch::Matchers::ContainsSubstring;

namespace {

int read_some(rig& r, test_stream& s, std::string& into) {
    std::string piece(64, '\0');
    by_hand op(r, s.read_some(bytes_of(piece)));
    REQUIRE(op.ready());
    std::size_t size = 0;
    const int error = outcome_of(*op.operation, size);
    into = piece.substr(0, size);
    return error;
}

} // namespace

TEST_CASE("stream: an idle stream has no request and no buffer; one that is read has one request") {
    stream_rig r;
    test_stream s(r.io);
    test_stream other(r.io);
    r.turn();
    CHECK(r.kernel.in_flight.empty());
    CHECK(r.free() == 1024 - 256); // the group, of all streams
    std::string text(10, '\0');
    by_hand op(r, s.read_some(bytes_of(text)));
    r.turn();
    CHECK(r.kernel.in_flight.size() == 1);
    CHECK(r.free() == 1024 - 256);
    REQUIRE(r.come(s, "hello"));
    r.turn();
    std::size_t size = 0;
    CHECK(outcome_of(*op.operation, size) == 0);
    CHECK(text.substr(0, size) == "hello");
    r.turn();
    CHECK(r.free() == 1024 - 256);
    CHECK(r.receiving(s)->multishot); // goes on
}

TEST_CASE("stream: what came before the end, or an error, is read before it is told") {
    const int error = GENERATE(0, ECONNRESET, ETIMEDOUT);
    stream_rig r;
    test_stream s(r.io);
    std::string four(4, '\0');
    by_hand op(r, s.read(bytes_of(four)));
    r.turn();
    REQUIRE(r.come(s, "ab"));
    r.turn();
    CHECK_FALSE(op.ready());
    REQUIRE(r.come(s, "c"));
    r.kernel.complete(r.receiving(s)->name, -error);
    r.turn();
    REQUIRE(op.ready());
    try {
        op.operation->await_resume();
        FAIL("no error");
    } catch (const end_of_stream& e) {
        CHECK(error == 0);
        CHECK(e.code() == std::errc::no_message_available);
        CHECK_THAT(e.what(), ContainsSubstring("after 3 of 4 bytes") && ContainsSubstring("test stream"));
    } catch (const std::system_error& e) {
        CHECK(e.code().value() == error);
    }
    op.operation.reset();
    std::string text;
    CHECK(read_some(r, s, text) == 0);
    CHECK(text == "abc");
    for (int i = 0; i < 2; ++i) {
        CHECK(read_some(r, s, text) == error);
        CHECK(text.empty());
    }
    by_hand until(r, s.read_until("\n", 10));
    REQUIRE(until.ready());
    CHECK(outcome_of(*until.operation, text) == (error != 0 ? error : ENODATA));
    by_hand lease(r, s.receive());
    packet p;
    CHECK(outcome_of(*lease.operation, p) == error);
    CHECK_FALSE(p);
}

TEST_CASE("stream: read_until finds a delimiter that comes byte by byte, and keeps what follows") {
    const std::size_t step = GENERATE(1U, 2U, 3U, 5U, 100U);
    stream_rig r;
    test_stream s(r.io);
    const std::string all = "a\r\r\n\r\r\n\r\nrest";
    by_hand op(r, s.read_until("\r\n\r\n", 100));
    r.turn();
    for (std::size_t i = 0; i < all.size(); i += step) {
        REQUIRE(r.come(s, all.substr(i, step)));
        r.turn();
    }
    REQUIRE(op.ready());
    std::string head;
    CHECK(outcome_of(*op.operation, head) == 0);
    CHECK(head == "a\r\r\n\r\r\n\r\n");
    op.operation.reset();
    CHECK(rest_of(r, s) == "rest");
}

TEST_CASE("stream: read_until takes no more than it may, and gives back what it took") {
    stream_rig r;
    test_stream s(r.io);
    by_hand op(r, s.read_until("\n", 5));
    r.turn();
    REQUIRE(r.come(s, "123456\n"));
    r.turn();
    std::string head;
    CHECK(outcome_of(*op.operation, head) == EMSGSIZE);
    op.operation.reset();
    CHECK(rest_of(r, s) == "123456\n");
    CHECK_THROWS_AS((void)s.read_until("", 5), std::system_error);
    CHECK_THROWS_AS((void)s.read_until("ab", 1), std::system_error);
}

TEST_CASE("stream: bytes that nobody reads are bounded, and the receive goes on when they are read") {
    stream_rig r;
    test_stream s(r.io);
    std::string one(1, '\0');
    std::optional<by_hand<stream_read_some_operation>> op;
    op.emplace(r, s.read_some(bytes_of(one)));
    r.turn();
    unsigned sent = 0;
    while (sent < 100 && r.receiving(s) != nullptr) {
        REQUIRE(r.come(s, "x"));
        r.turn();
        if (sent == 0) op.reset(); // gone without taking it
        ++sent;
    }
    CHECK(sent >= detail::stream_reader::bound);
    CHECK(sent <= detail::stream_reader::bound + 3);
    CHECK(rest_of(r, s).size() == sent);
    r.turn();
    op.emplace(r, s.read_some(bytes_of(one)));
    r.turn();
    REQUIRE(r.receiving(s) != nullptr);
    REQUIRE(r.come(s, "y"));
    r.turn();
    CHECK(op->ready());
}

TEST_CASE("stream: when the group runs dry, bytes that nobody reads make room, and the starved go on in turn") {
    rig_options few = with_buffers(16);
    stream_rig r(few);
    std::vector<std::unique_ptr<test_stream>> all;
    std::string byte(1, '\0');
    for (unsigned i = 0; i < 20; ++i) {
        all.push_back(std::make_unique<test_stream>(r.io));
        by_hand op(r, all.back()->read_some(bytes_of(byte)));
        r.turn();
        r.come(*all.back(), "abc"); // for a reader that goes
        r.turn();
    }
    test_stream reader(r.io);
    for (unsigned i = 0; i < 40; ++i) { // although twenty streams hold what nobody reads
        std::string text(16, '\0');
        by_hand op(r, reader.read_some(bytes_of(text)));
        r.turn();
        if (!r.come(reader, "news")) {
            r.turn();
            r.turn();
            REQUIRE(r.come(reader, "news"));
        }
        r.turn();
        REQUIRE(op.ready());
        std::size_t size = 0;
        CHECK(outcome_of(*op.operation, size) == 0);
        CHECK(text.substr(0, size) == "news");
    }
    unsigned kept = 0;
    for (auto& s : all) kept += rest_of(r, *s) == "abc";
    CHECK(kept == 20);
    all.clear();
}

TEST_CASE("stream: with every buffer leased nothing spins, and all starved streams go on when some come back") {
    stream_rig r(with_buffers(8));
    test_stream a(r.io);
    test_stream b(r.io);
    std::vector<packet> leased;
    while (packet p = r.io.try_allocate(10)) leased.push_back(std::move(p));
    std::string text(8, '\0');
    std::vector<packet> read;
    for (;;) { // take the group's, too
        by_hand op(r, a.receive());
        r.turn();
        if (!r.come(a, "x")) break;
        r.turn();
        if (!op.ready()) break;
        read.push_back(op.operation->await_resume());
    }
    by_hand first(r, a.read_some(bytes_of(text)));
    std::string other(8, '\0');
    by_hand second(r, b.read_some(bytes_of(other)));
    for (int i = 0; i < 5; ++i) r.turn();
    const auto before = r.kernel.statistics().submissions;
    for (int i = 0; i < 5; ++i) r.turn();
    CHECK(r.kernel.statistics().submissions == before);
    CHECK(r.io.statistics().buffers_exhausted > 0);
    leased.clear();
    r.turn();
    r.turn();
    REQUIRE(r.receiving(a) != nullptr);
    REQUIRE(r.receiving(b) != nullptr);
    REQUIRE(r.come(b, "b"));
    REQUIRE(r.come(a, "a"));
    r.turn();
    CHECK(first.ready());
    CHECK(second.ready());
}

TEST_CASE("stream: a kernel without multishot receiving serves one receive at a time") {
    stream_rig r;
    const bool known = GENERATE(true, false);
    r.kernel.supported[static_cast<std::size_t>(ring::feature::receive_multishot)] = !known;
    test_stream s(r.io);
    std::string text(8, '\0');
    by_hand op(r, s.read_some(bytes_of(text)));
    r.turn();
    if (!known) { // it refuses the first
        r.kernel.complete(r.receiving(s)->name, -EINVAL);
        r.turn();
        r.turn();
    }
    REQUIRE(r.receiving(s) != nullptr);
    CHECK_FALSE(r.receiving(s)->multishot);
    for (int i = 0; i < 3; ++i) {
        REQUIRE(r.come(s, "abc"));
        r.turn();
        CHECK(r.receiving(s) == nullptr);
        CHECK(rest_of(r, s) == (i == 0 ? "" : "abc"));
        if (i == 0) {
            std::size_t size = 0;
            CHECK(outcome_of(*op.operation, size) == 0);
            op.operation.reset();
        }
        by_hand next(r, s.read_some(bytes_of(text)));
        r.turn();
    }
}

TEST_CASE("stream: small writes are gathered, and kept in order through short sends") {
    stream_rig r;
    r.kernel.writes_complete = false;
    test_stream s(r.io);
    std::string sent;
    std::string wire;
    const auto write = [&](const std::string& text) {
        by_hand op(r, s.write(text));
        const bool accepted = op.ready();
        if (accepted) sent += text;
        return accepted;
    };
    for (int i = 0; i < 200; ++i) REQUIRE(write(std::to_string(i) + ",")); // one buffer
    r.turn();
    REQUIRE(r.sending(s) != nullptr);
    CHECK(stream_rig::text_of(*r.sending(s)) == sent);
    for (int i = 0; i < 200; ++i) REQUIRE(write(std::to_string(i) + ";")); // behind it
    REQUIRE(write(std::string(1000, 'y')));
    REQUIRE(write(std::string(1000, 'z')));
    std::size_t step = 1;
    unsigned sends = 0;
    while (r.take(s, wire, step)) {
        step = step * 2 + 1;
        ++sends;
        r.turn(); // completed
        r.turn(); // sent on
    }
    CHECK(wire == sent);
    CHECK(sends > 5);
    r.turn();
    CHECK(r.free() == 1024 - 256);
}

TEST_CASE("stream: a peer that takes nothing holds back its writer, and no other's") {
    rig_options many;
    many.requests = 1024;
    stream_rig r(many);
    r.kernel.writes_complete = false;
    test_stream stalled(r.io);
    const std::string text(1500, 'x');
    unsigned accepted = 0;
    std::vector<std::unique_ptr<by_hand<stream_write_operation>>> waiting;
    for (int i = 0; i < 20; ++i) {
        auto op = std::make_unique<by_hand<stream_write_operation>>(r, stalled.write(text));
        if (op->ready())
            ++accepted;
        else
            waiting.push_back(std::move(op));
    }
    CHECK(accepted >= 8);
    CHECK(accepted <= 12);
    r.turn();
    // Fifty such streams take a quarter of the buffers, and no more; then writes wait for the kernel instead.
    std::vector<std::unique_ptr<test_stream>> more;
    for (int i = 0; i < 50; ++i) {
        more.push_back(std::make_unique<test_stream>(r.io));
        for (int j = 0; j < 10; ++j) by_hand op(r, more.back()->write(text));
    }
    r.turn();
    CHECK(r.free() >= 1024 - 256 - 256);
    test_stream well(r.io);
    std::string wire;
    by_hand op(r, well.write("I am well"));
    CHECK_FALSE(op.ready()); // no buffer: from the program's memory
    r.turn();
    REQUIRE(r.take(well, wire));
    r.turn();
    CHECK(op.ready());
    CHECK(wire == "I am well");
    // And in order: what waits is sent behind what was accepted.
    std::string all;
    while (r.take(stalled, all, 700)) {
        r.turn();
        r.turn();
    }
    CHECK(all == std::string(20 * 1500, 'x'));
    for (auto& w : waiting) CHECK(w->ready());
}

TEST_CASE("stream: writing fails with the kernel's error, and so does all that follows") {
    stream_rig r;
    r.kernel.writes_complete = false;
    test_stream s(r.io);
    by_hand accepted(r, s.write("accepted"));
    const std::string large(50'000, 'x');
    by_hand waiting(r, s.write(large));
    by_hand behind(r, s.write("behind"));
    by_hand flush(r, s.flush());
    CHECK_FALSE(behind.ready());
    r.turn();
    r.kernel.complete(r.sending(s)->name, -EPIPE);
    r.turn();
    REQUIRE(waiting.ready());
    CHECK(outcome_of(*waiting.operation) == EPIPE);
    REQUIRE(behind.ready());
    CHECK(outcome_of(*behind.operation) == EPIPE);
    REQUIRE(flush.ready());
    CHECK(outcome_of(*flush.operation) == EPIPE);
    by_hand late(r, s.write("late"));
    CHECK(outcome_of(*late.operation) == EPIPE);
    r.turn();
    CHECK(r.sending(s) == nullptr);
    CHECK(r.free() == 1024 - 256);
}

TEST_CASE("stream: shutdown_send comes behind what was written, and refuses what is written later") {
    stream_rig r;
    r.kernel.writes_complete = false;
    test_stream s(r.io);
    by_hand first(r, s.write("first"));
    const std::string large(50'000, 'x');
    by_hand second(r, s.write(large));
    s.shutdown_send();
    by_hand late(r, s.write("late"));
    CHECK(outcome_of(*late.operation) == EPIPE);
    std::string wire;
    for (int i = 0; i < 2; ++i) {
        r.turn();
        CHECK(r.kernel.shut_down.empty());
        r.take(s, wire, 30'000);
        r.turn();
    }
    r.turn();
    CHECK(wire.size() == 50'005);
    CHECK(r.kernel.shut_down == std::vector<int>{s.descriptor});
    CHECK(second.ready());
}

TEST_CASE("stream: close sends what was accepted, ends who waits, and lets go of everything") {
    const bool taken = GENERATE(true, false);
    stream_rig r;
    r.kernel.writes_complete = false;
    std::string wire;
    const auto before = r.kernel.now();
    auto s = std::make_unique<test_stream>(r.io);
    std::string text(8, '\0');
    by_hand read(r, s->read(bytes_of(text)));
    by_hand accepted(r, s->write("accepted"));
    r.turn();
    REQUIRE(r.come(*s, "abc"));
    r.turn();
    if (taken) {
        r.kernel.idle = [&](ring::scripted&) { r.take(*s, wire); };
    }
    outcome end;
    const auto close = [](test_stream& of, outcome& o) -> task<> {
        co_await of.close();
        o.ended = true;
    };
    r.io.spawn(close(*s, end));
    const auto wait = [](reactor& io, outcome& o) -> task<> {
        while (!o.ended) co_await io.sleep_for(std::chrono::milliseconds(10));
    };
    r.io.run(wait(r.io, end));
    r.kernel.idle = nullptr;
    CHECK(end.ended);
    CHECK(wire == (taken ? "accepted" : ""));
    CHECK((r.kernel.now() - before >= std::chrono::seconds(1)) == !taken);
    REQUIRE(read.ready());
    CHECK(outcome_of(*read.operation) == ECANCELED);
    CHECK_FALSE(s->is_open());
    by_hand late(r, s->read(bytes_of(text)));
    CHECK(outcome_of(*late.operation) == ECANCELED);
    by_hand later(r, s->write("later"));
    CHECK(outcome_of(*later.operation) == ECANCELED);
    CHECK(r.kernel.in_flight.empty());
    CHECK(r.free() == 1024);
    s.reset();
}

TEST_CASE("stream: a stream that is in use may be destroyed, and the reactor before it") {
    const bool reactor_first = GENERATE(true, false);
    const bool promised = GENERATE(true, false);
    std::string text(8, '\0');
    const std::string large(50'000, 'x');
    auto r = std::make_unique<stream_rig>();
    r->kernel.writes_complete = false;
    auto s = std::make_unique<test_stream>(r->io);
    auto read = std::make_unique<by_hand<stream_read_some_operation>>(*r, s->read_some(bytes_of(text)));
    auto write = std::make_unique<by_hand<stream_write_operation>>(*r, s->write(large));
    auto flush = std::make_unique<by_hand<stream_flush_operation>>(*r, s->flush());
    r->turn();
    if (promised) {
        REQUIRE(r->come(*s, "kept"));
        r->turn();
        CHECK(read->ready());
    }
    if (reactor_first) {
        r.reset();
    } else {
        s.reset();
        CHECK(r->kernel.in_flight.empty());
        CHECK(r->free() == 1024);
        std::size_t size = 0;
        CHECK(outcome_of(*read->operation, size) == (promised ? 0 : ECANCELED));
        CHECK(text.substr(0, size) == (promised ? "kept" : ""));
        CHECK(outcome_of(*write->operation) == ECANCELED);
    }
    read.reset();
    write.reset();
    flush.reset();
    s.reset();
}

TEST_CASE("stream: a buffer that comes back is for who waits to receive what was spilled, not for the kernel") {
    stream_rig r(with_buffers(8)); // two in the group
    test_stream s(r.io);
    {
        std::string byte(1, '\0');
        by_hand arms(r, s.read_some(bytes_of(byte)));
        r.turn();
    }
    REQUIRE(r.come(s, "first "));
    REQUIRE(r.come(s, "second"));
    r.turn();
    std::vector<packet> held;
    const auto hold_all = [&] {
        while (packet p = r.io.try_allocate(1)) held.push_back(std::move(p));
    };
    hold_all();
    s.reader().spill();
    hold_all();
    CHECK(held.size() == 8);
    by_hand op(r, s.receive());
    CHECK_FALSE(op.ready());
    r.turn();
    CHECK_FALSE(op.ready());
    held.pop_back();
    r.turn();
    r.turn();
    REQUIRE(op.ready());
    const packet got = op.operation->await_resume();
    CHECK(got.size() == 12);
}
