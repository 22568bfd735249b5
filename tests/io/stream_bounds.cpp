// SPDX-License-Identifier: Apache-2.0
//
// What streams may hold, however their peers behave: of memory, of the pool's buffers, of the requests.
#include "../support/scripted_stream.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

using namespace cotun;
using namespace cotun::test;

namespace {

// A stream whose handler reads once, and is busy with something else from then on.
struct busy_stream {
    explicit busy_stream(stream_rig& r) : stream(r.io) {
        std::string byte(1, '\0');
        const by_hand arms(r, stream.read_some(bytes_of(byte)));
        r.turn();
    }
    test_stream stream;
    std::string sent;
};

// Its peer sends as long as it is received from.
bool send_more(stream_rig& r, busy_stream& to) {
    const ring::scripted::request* q = r.receiving(to.stream);
    if (q == nullptr || r.kernel.buffers_in(q->group) == 0) return false;
    const std::string piece(100 + to.sent.size() % 7, static_cast<char>('a' + to.sent.size() % 26));
    if (!r.come(to.stream, piece)) return false;
    to.sent += piece;
    return true;
}

std::string all_of(stream_rig& r, test_stream& s, std::size_t size) {
    std::string all(size, '\0');
    by_hand op(r, s.read(bytes_of(all)));
    REQUIRE(op.ready());
    REQUIRE(outcome_of(*op.operation) == 0);
    return all;
}

} // namespace

TEST_CASE("stream: what nobody reads is bounded, however often others need the buffers") {
    constexpr std::size_t segments = detail::stream_reader::bound - 1; // never as many as end a receive by themselves
    stream_rig r(with_buffers(64));                                    // of which 32 are for what comes
    std::vector<std::unique_ptr<busy_stream>> busy;
    for (int i = 0; i < 10; ++i) busy.push_back(std::make_unique<busy_stream>(r));
    test_stream well(r.io);
    for (int round = 0; round < 50; ++round) {
        for (auto& b : busy) { // those whose buffers were handed back
            for (std::size_t i = b->stream.reader().held(); i < segments && send_more(r, *b); ++i) {}
            r.turn();
        }
        std::string text(8, '\0'); // arms, and finds the group dry
        by_hand op(r, well.read_some(bytes_of(text)));
        for (int i = 0; i < 4; ++i) r.turn();
        REQUIRE(r.come(well, "well"));
        r.turn();
        REQUIRE(op.ready());
        std::size_t size = 0;
        CHECK(outcome_of(*op.operation, size) == 0);
        CHECK(text.substr(0, size) == "well");
    }
    std::size_t most = 0;
    for (auto& b : busy) most = std::max(most, b->sent.size());
    CHECK(most <= 2 * segments * 106); // at one time, and once more what came before the cancel
    for (auto& b : busy) {
        CHECK(all_of(r, b->stream, b->sent.size()) == b->sent); // in order
        std::string text(8, '\0');
        by_hand op(r, b->stream.read_some(bytes_of(text)));
        CHECK_FALSE(op.ready());
        r.turn();
        r.turn();
        REQUIRE(r.come(b->stream, "more")); // it is received from again
        r.turn();
        CHECK(op.ready());
    }
}

TEST_CASE("stream: somebody who waits while a receive is being cancelled has another") {
    stream_rig r;
    busy_stream b(r);
    REQUIRE(send_more(r, b));
    r.turn();
    const bool slow = GENERATE(true, false);
    const bool data = GENERATE(true, false); // comes instead of the cancel's answer
    r.kernel.cancels_answered = !slow;
    b.stream.reader().spill();
    std::string text(b.sent.size() + 4, '\0');
    by_hand op(r, b.stream.read(bytes_of(text)));
    r.turn();
    if (slow) {
        REQUIRE(r.kernel.cancelled.size() == 1);
        if (data)
            REQUIRE(r.come(b.stream, "news", true));
        else
            r.kernel.complete(r.receiving(b.stream)->name, -ECANCELED);
        r.turn();
    }
    r.turn();
    r.turn();
    if (!slow || !data) {
        CHECK_FALSE(op.ready());
        REQUIRE(r.come(b.stream, "news"));
        r.turn();
    }
    REQUIRE(op.ready());
    CHECK(outcome_of(*op.operation) == 0);
    CHECK(text == b.sent + "news");
    r.kernel.cancels_answered = true;
}

TEST_CASE("stream: bytes that a read has given back count against the bound, too") {
    stream_rig r;
    test_stream s(r.io);
    std::string much(40'000, '\0');
    std::optional<by_hand<stream_read_operation>> op;
    op.emplace(r, s.read(bytes_of(much)));
    r.turn();
    const std::string piece(1000, 'x');
    for (int i = 0; i < 20; ++i) {
        REQUIRE(r.come(s, piece));
        r.turn();
    }
    op.reset(); // 20,000 bytes are there again
    r.turn();
    r.turn();
    CHECK(r.receiving(s) == nullptr);
    CHECK(all_of(r, s, 20'000) == std::string(20'000, 'x'));
}

TEST_CASE("stream: of the small buffers, unread bytes take half, unsent ones a quarter, and devices have theirs") {
    const unsigned count = GENERATE(8U, 16U, 64U, 1024U);
    CAPTURE(count);
    rig_options o = with_buffers(count);
    o.requests = 2048;
    stream_rig r(o);
    r.kernel.writes_complete = false;
    std::vector<std::unique_ptr<busy_stream>> all;
    for (unsigned i = 0; i < count; ++i) {
        all.push_back(std::make_unique<busy_stream>(r));
        CHECK(r.free() >= count / 2);
    }
    for (int round = 0; round < 3; ++round)
        for (auto& s : all) {
            (void)send_more(r, *s);
            r.turn();
            CHECK(r.free() >= count / 2);
        }
    // What is to be sent, copies and leases.
    const std::string text(500, 'x');
    for (auto& s : all)
        for (int i = 0; i < 10; ++i) {
            by_hand op(r, s->stream.write(text));
            if (!op.ready()) break;
        }
    CHECK(r.free() >= count / 4);
    for (auto& s : all)
        for (int i = 0; i < 10 && r.free() > 0; ++i) {
            by_hand op(r, s->stream.write(r.make(1)));
            if (!op.ready()) break;
        }
    CHECK(r.free() >= count / 4);
    port device(r.io);
    std::vector<unsigned> got;
    outcome end;
    r.io.spawn(read_all(device, got, end));
    r.settle();
    for (unsigned i = 0; i < 100; ++i) {
        REQUIRE(r.arrive(device, i));
        r.settle();
    }
    CHECK(got == up_to(100));
    r.kernel.writes_complete = true;
}

namespace {

struct noted_owner final : ring::request_owner {
    void on_completion(std::uint32_t, const ring::completion&) override {}
};

} // namespace

TEST_CASE("stream: receives take no request of those that are set aside for devices, whatever was begun before") {
    rig_options o;
    o.requests = 64; // 17 aside
    stream_rig r(o);
    noted_owner owner;
    std::vector<ring::token> begun;
    while (const ring::token name = r.io.core().begin(owner, 0)) {
        r.kernel.poll(name, {STDERR_FILENO, -1}, 1, false);
        begun.push_back(name);
    }
    CHECK(begun.size() == 47);
    std::string byte(1, '\0');
    std::vector<std::unique_ptr<test_stream>> streams;
    std::vector<std::unique_ptr<by_hand<stream_read_some_operation>>> reads;
    for (int i = 0; i < 40; ++i) {
        streams.push_back(std::make_unique<test_stream>(r.io));
        reads.push_back(
            std::make_unique<by_hand<stream_read_some_operation>>(r, streams.back()->read_some(bytes_of(byte))));
    }
    r.turn();
    const auto receives = [&] {
        return std::count_if(r.kernel.in_flight.begin(), r.kernel.in_flight.end(),
                             [](const auto& q) { return q.what == kind::receive; });
    };
    CHECK(receives() == 0);
    std::vector<std::unique_ptr<port>> devices;
    std::vector<unsigned> got;
    std::vector<outcome> ends(7);
    for (outcome& end : ends) {
        devices.push_back(std::make_unique<port>(r.io));
        r.io.spawn(read_one(*devices.back(), got, end));
    }
    r.settle();
    for (auto& d : devices) REQUIRE(r.arrive(*d, 7));
    r.settle();
    CHECK(got.size() == 7);
    // Streams have theirs as soon as there is room, beside the devices'.
    for (const ring::token name : begun) r.kernel.complete(name, 1);
    for (int i = 0; i < 3; ++i) r.turn();
    CHECK(receives() == 40);
    reads.clear();
    streams.clear();
}
