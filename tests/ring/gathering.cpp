// SPDX-License-Identifier: Apache-2.0
#include "ring/gathering.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <chrono>

using cotun::ring::gathering;
using namespace std::chrono_literals;

namespace {

constexpr std::chrono::microseconds most = 100us;

/// A reactor that waits, and finds packets: `each` of them, `apart` from one wait to the next.
struct traffic {
    gathering& of;
    cotun::ring::clock::time_point now;
    unsigned waits = 0;
    unsigned gathered = 0;

    void run(std::chrono::nanoseconds length, std::chrono::nanoseconds apart, unsigned each) {
        waits = gathered = 0;
        for (const auto end = now + length; now < end; now += apart) {
            ++waits;
            if (of.next(now) > 0us) ++gathered;
            for (unsigned i = 0; i < each; ++i) of.arrived();
        }
    }
};

} // namespace

TEST_CASE("gathering: not at first, nor while few packets come") {
    gathering g(most);
    traffic t{g, cotun::ring::clock::time_point(1h)};
    CHECK(g.next(t.now) == 0us);
    t.run(1s, 10ms, 10); // many at a time, but seldom
    CHECK(t.gathered == 0);
    t.run(1s, 100us, 1);
    CHECK(t.gathered == 0);
}

TEST_CASE("gathering: while packets come fast, whether a wait finds one or many") {
    const unsigned each = GENERATE(4U, 5U, 100U);
    gathering g(most);
    traffic t{g, cotun::ring::clock::time_point(1h)};
    t.run(gathering::span, 5us, 1); // each wait finds one
    t.run(100ms, 40us, each);
    CHECK(t.gathered == t.waits);
}

TEST_CASE("gathering: no longer than it takes for enough of them") {
    gathering g(most);
    traffic t{g, cotun::ring::clock::time_point(1h)};
    t.run(2 * gathering::span, 100us, 10); // 100,000 a second
    CHECK(g.next(t.now) == most);
    t.run(2 * gathering::span, 20us, 20); // a million
    CHECK(g.next(t.now) >= 16us);
    CHECK(g.next(t.now) <= 20us);
}

TEST_CASE("gathering: ends within a span of the packets") {
    gathering g(most);
    traffic t{g, cotun::ring::clock::time_point(1h)};
    t.run(100ms, 40us, 10);
    REQUIRE(t.gathered > 0);
    t.run(2 * gathering::span, 1ms, 1);
    t.run(100ms, 1ms, 1);
    CHECK(t.gathered == 0);
    t.run(100ms, 40us, 10);
    t.now += 1s; // and what comes alone after a rest is not delayed
    CHECK(g.next(t.now) == 0us);
}

TEST_CASE("gathering: is given up where each packet comes alone, and tried again later") {
    gathering g(most);
    traffic t{g, cotun::ring::clock::time_point(1h)};
    const unsigned each = GENERATE(1U, 2U); // the kernel may answer at once what was written to it
    t.run(1s, 15us, each);                  // fast, but each an answer to the one before
    CHECK(t.gathered > 0);
    CHECK(t.gathered < t.waits / 200);
    t.run(5s, 15us, each);
    CHECK(t.gathered > 0);
    CHECK(t.gathered < t.waits / 2000);
    t.run(gathering::longest_pause + 2 * gathering::span, 40us, 10);
    t.run(100ms, 40us, 10);
    CHECK(t.gathered == t.waits);
}

TEST_CASE("gathering: not at all when switched off") {
    gathering g(0us);
    traffic t{g, cotun::ring::clock::time_point(1h)};
    t.run(100ms, 5us, 10);
    CHECK(t.gathered == 0);
}

TEST_CASE("gathering: a pause is short again when gathering was worth it") {
    gathering g(most);
    traffic t{g, cotun::ring::clock::time_point(1h)};
    t.run(5s, 15us, 1);
    t.run(gathering::longest_pause + 2 * gathering::span, 40us, 10);
    t.run(2 * gathering::span, 15us, 1);
    t.run(gathering::first_pause + 2 * gathering::span, 40us, 10);
    CHECK(t.gathered > 0);
}
