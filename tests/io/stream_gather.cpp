// SPDX-License-Identifier: Apache-2.0
//
// Writes of several pieces: in order, whole, from where the pieces lie, whatever part the kernel takes of them.
#include "../support/scripted_stream.hpp"

#include <catch2/catch_test_macros.hpp>

#include <array>
#include <cerrno>
#include <numeric>
#include <random>
#include <string>
#include <vector>

using namespace cotun;
using namespace cotun::test;

namespace {

using piece = std::span<const std::byte>;

piece piece_of(std::string_view s) { return std::as_bytes(std::span(s)); }

std::string text_of(const std::vector<piece>& pieces) {
    std::string all;
    for (const piece p : pieces) all.append(reinterpret_cast<const char*>(p.data()), p.size());
    return all;
}

} // namespace

TEST_CASE("gathered write: small pieces are copied, and go out together", "[io][stream]") {
    stream_rig r;
    r.kernel.writes_complete = false;
    test_stream s(r.io);
    std::string head = "head ";
    std::string body = "body";
    {
        const std::array pieces{piece_of(head), piece_of(""), piece_of(body)};
        by_hand op(r, s.write(pieces));
        CHECK(op.ready());
        CHECK(outcome_of(*op.operation) == 0);
    }
    head = body = "gone";
    r.turn();
    std::string wire;
    REQUIRE(r.take(s, wire));
    CHECK(wire == "head body");
    r.turn();
    CHECK(r.sending(s) == nullptr);
}

TEST_CASE("gathered write: of nothing", "[io][stream]") {
    stream_rig r;
    test_stream s(r.io);
    by_hand none(r, s.write(std::span<const piece>{}));
    CHECK(none.ready());
    CHECK(outcome_of(*none.operation) == 0);
    const std::array<piece, 3> empty{};
    by_hand some(r, s.write(empty));
    CHECK(some.ready());
    CHECK(outcome_of(*some.operation) == 0);
}

TEST_CASE("gathered write: large pieces go out from where they are, in one system call", "[io][stream]") {
    stream_rig r;
    r.kernel.writes_complete = false;
    test_stream s(r.io);
    const std::string head = "head";
    const std::string body(100'000, 'b');
    const std::array pieces{piece_of(head), piece_of(""), piece_of(body), piece_of(head)};
    by_hand op(r, s.write(pieces));
    CHECK_FALSE(op.ready());
    r.turn();
    const ring::scripted::request* sent = r.sending(s);
    REQUIRE(sent != nullptr);
    REQUIRE(sent->pieces.size() == 3);
    CHECK(sent->pieces[0].iov_base == head.data());
    CHECK(sent->pieces[1].iov_base == body.data());
    CHECK(sent->pieces[1].iov_len == body.size());
    std::string wire;
    r.take(s, wire);
    r.turn();
    CHECK(op.ready());
    CHECK(outcome_of(*op.operation) == 0);
    CHECK(wire == head + body + head);
}

TEST_CASE("gathered write: pieces of any size and number, taken in any parts", "[io][stream]") {
    std::mt19937_64 pick(20261128);
    const auto upto = [&](std::size_t most) { return std::uniform_int_distribution<std::size_t>(0, most)(pick); };
    for (int round = 0; round < 300; ++round) {
        stream_rig r;
        r.kernel.writes_complete = false;
        std::string wire;
        std::string expected;
        {
            test_stream s(r.io);
            for (int i = 0; i < 4; ++i) {
                std::vector<std::string> texts(upto(40));
                for (std::string& t : texts) t.assign(upto(upto(1) ? 20 : 3000), static_cast<char>('a' + upto(25)));
                std::vector<piece> pieces;
                for (const std::string& t : texts) pieces.push_back(piece_of(t));
                expected += text_of(pieces);
                by_hand before(r, s.write("between"));
                if (before.ready()) expected.insert(expected.size() - text_of(pieces).size(), "between");
                const bool waits_first = !before.ready();
                if (waits_first) { // it gives up: nothing of it goes out
                    before.stop.request();
                    CHECK(before.ready());
                    before.operation.reset();
                }
                by_hand op(r, s.write(std::span<const piece>(pieces)));
                for (int turns = 0; !op.ready(); ++turns) {
                    REQUIRE(turns < 1'000'000);
                    r.turn();
                    const std::size_t most = 1 + upto(upto(3) ? 5000 : 3);
                    if (upto(9) == 0 && r.sending(s) != nullptr)
                        r.kernel.complete(r.sending(s)->name, upto(1) ? -EAGAIN : -EINTR);
                    else
                        r.take(s, wire, most);
                }
                CHECK(outcome_of(*op.operation) == 0);
            }
            for (r.turn(); r.take(s, wire); r.turn()) {}
        }
        REQUIRE(wire == expected);
    }
}

TEST_CASE("gathered write: stopped and destroyed at any moment, the kernel has let go first", "[io][stream]") {
    for (const bool destroyed : {false, true})
        for (std::size_t part = 0; part <= 5; ++part) {
            CAPTURE(destroyed, part);
            stream_rig r;
            r.kernel.writes_complete = false;
            test_stream s(r.io);
            auto body = std::make_unique<std::string>(50'000, 'b');
            const std::array pieces{piece_of("abc"), piece_of(*body)};
            std::string wire;
            int outcome = -1;
            {
                by_hand op(r, s.write(pieces));
                r.turn();
                REQUIRE(r.sending(s) != nullptr);
                if (part > 0) {
                    r.take(s, wire, part);
                    r.turn();
                }
                if (!destroyed) {
                    op.stop.request();
                    for (int i = 0; i < 3 && !op.ready(); ++i) r.turn();
                    REQUIRE(op.ready());
                    outcome = outcome_of(*op.operation);
                }
            }
            CHECK(r.sending(s) == nullptr); // whatever it named is free
            body.reset();
            if (!destroyed) CHECK(outcome == ECANCELED);
            by_hand next(r, s.write("next"));
            CHECK(next.ready());
            CHECK(outcome_of(*next.operation) == (part > 0 ? ECONNABORTED : 0)); // nothing may follow a part
        }
}
