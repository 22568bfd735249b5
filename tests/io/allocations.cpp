// SPDX-License-Identifier: Apache-2.0
#include "../support/allocations.hpp"
#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"

#include "cotun/coro/frame.hpp"
#include "cotun/coro/scope.hpp"
#include "cotun/io/reactor.hpp"
#include "cotun/net/udp.hpp"
#include "ring/uring.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <atomic>
#include <chrono>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

using namespace cotun;

namespace {

constexpr unsigned burst = 32;

// Sends bursts to itself, and reads each back before the next.
task<unsigned> echo(udp_socket& s, reactor& io, unsigned rounds) {
    const endpoint here = s.local();
    unsigned received = 0;
    for (unsigned round = 0; round < rounds; ++round) {
        for (unsigned i = 0; i < burst; ++i) {
            packet p = co_await io.allocate(64);
            co_await s.send_to(std::move(p), here);
        }
        unsigned back = 0;
        while (back < burst) {
            const packet_batch batch = co_await s.receive_packets();
            back += static_cast<unsigned>(batch.size());
        }
        received += back;
    }
    co_return received;
}

} // namespace

TEST_CASE("reading and writing packets allocates nothing, once warm") {
    try {
        (void)ring::make_uring({});
    } catch (const std::system_error& e) {
        SKIP(e.what());
    }
    reactor io;
    udp_options options;
    options.local = endpoint::from_string("127.0.0.1:0");
    options.read = GENERATE(read_mode::automatic, read_mode::poll);
    udp_socket s = open_udp(io, options);
    CHECK(io.run(echo(s, io, 100)) == 100 * burst);
    const auto rounds = static_cast<unsigned>(test::scaled(test::sanitized ? 300 : 3200)); // 100,000 packets
    const std::size_t before = test::allocations.load();
    const unsigned received = io.run(echo(s, io, rounds));
    const std::size_t allocated = test::allocations.load() - before;
    CHECK(received == rounds * burst);
    CHECK(allocated < 16); // of run() itself
}

namespace {

constexpr std::size_t frame_size = 1000;
constexpr std::size_t kept_by_a_thread = 128; // as coro/frame.hpp says
constexpr std::size_t kept_for_all = 256;

// Marks every byte, so that a frame which two hold at the same time is seen.
void take_frames(std::vector<void*>& frames, std::size_t count, int mark) {
    for (std::size_t i = 0; i < count; ++i) {
        frames.push_back(detail::allocate_frame(frame_size));
        std::memset(frames.back(), mark, frame_size);
    }
}

std::size_t free_frames(std::vector<void*>& frames, int mark) {
    std::size_t wrong = 0;
    for (void* frame : frames) {
        const auto* bytes = static_cast<const unsigned char*>(frame);
        for (std::size_t i = 0; i < frame_size; i += 64) wrong += bytes[i] != static_cast<unsigned char>(mark);
        detail::free_frame(frame, frame_size);
    }
    frames.clear();
    return wrong;
}

} // namespace

TEST_CASE("frames made on one thread and freed on another come back without the allocator") {
    constexpr int rounds = 200;
    std::vector<void*> frames;
    frames.reserve(kept_for_all);
    std::atomic<int> turn{0}; // even: to make, odd: to free
    std::size_t wrong = 0;
    std::thread other([&] {
        for (int i = 0; i < rounds; ++i) {
            for (; turn.load() != 2 * i + 1;) std::this_thread::yield();
            wrong += free_frames(frames, i % 251);
            turn.store(2 * i + 2);
        }
    });
    std::size_t before = 0;
    for (int i = 0; i < rounds; ++i) {
        for (; turn.load() != 2 * i;) std::this_thread::yield();
        if (i == 10) before = test::allocations.load();
        take_frames(frames, kept_for_all, i % 251);
        turn.store(2 * i + 1);
    }
    for (; turn.load() != 2 * rounds;) std::this_thread::yield();
    const std::size_t allocated = test::allocations.load() - before;
    other.join();
    CHECK(wrong == 0);
    if (!test::sanitized) CHECK(allocated == 0);
}

TEST_CASE("what is kept of freed frames is bounded, and goes with the thread") {
    const std::size_t before = test::live.load();
    std::size_t kept = 0;
    std::size_t wrong = 0;
    std::thread([&] {
        std::vector<void*> frames;
        take_frames(frames, 10'000, 7);
        wrong = free_frames(frames, 7);
        frames.shrink_to_fit();
        kept = test::live.load() - before;
    }).join();
    CHECK(wrong == 0);
    CHECK(kept <= kept_by_a_thread + kept_for_all + 4); // and what the thread itself took
    CHECK(test::live.load() - before <= kept_for_all);
}

TEST_CASE("four threads make and free frames, and no frame is given to two") {
    std::atomic<std::size_t> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 1; t <= 4; ++t)
        threads.emplace_back([&wrong, t] {
            std::vector<void*> frames;
            for (int i = 0; i < 200; ++i) {
                take_frames(frames, 300, t);
                wrong += free_frames(frames, t);
            }
        });
    for (std::thread& t : threads) t.join();
    CHECK(wrong == 0);
}

TEST_CASE("spawning a hundred tasks at a time allocates nothing, once warm") {
    reactor io;
    static constexpr auto nothing = []() -> task<> { co_return; };
    static constexpr auto spawn = [](reactor& on, int rounds) -> task<> {
        for (int i = 0; i < rounds; ++i) {
            scope tasks(on);
            for (int n = 0; n < 100; ++n) tasks.spawn(nothing());
            co_await tasks.join();
        }
    };
    io.run(spawn(io, 10));
    const std::size_t before = test::allocations.load();
    io.run(spawn(io, 100));
    if (!test::sanitized) CHECK(test::allocations.load() - before < 16);
}
