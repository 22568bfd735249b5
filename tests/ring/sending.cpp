// SPDX-License-Identifier: Apache-2.0
//
// Sends that never wait: when they are over, and when a wait ends by them.
#include "ring/uring.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <array>
#include <cerrno>
#include <chrono>
#include <memory>
#include <poll.h>
#include <sys/socket.h>
#include <system_error>
#include <unistd.h>
#include <vector>

using namespace cotun::ring;
using namespace std::chrono_literals;

namespace {

constexpr std::array<std::byte, 32> some{};

// A driver, and both ends of a socket that keeps the boundaries of messages.
struct rig {
    explicit rig(task_mode mode = task_mode::automatic) {
        uring_options options;
        options.mode = mode;
        try {
            kernel = make_uring(options);
        } catch (const std::system_error& e) {
            SKIP(e.what());
        }
        REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, both.data()) == 0);
        for (std::size_t i = 0; i < both.size(); ++i) files[i] = kernel->attach(both[i]);
    }
    rig(const rig&) = delete;
    rig& operator=(const rig&) = delete;
    ~rig() {
        for (std::size_t i = 0; i < both.size(); ++i) {
            kernel->detach(files[i]);
            ::close(both[i]);
        }
    }

    // How long a wait with that limit took; what it brought is in `out`.
    clock::duration enter(clock::duration limit) {
        const auto begin = kernel->now();
        std::array<completion, 64> room{};
        const std::size_t count = kernel->enter(true, begin + limit, room);
        out.assign(room.begin(), room.begin() + static_cast<std::ptrdiff_t>(count));
        return kernel->now() - begin;
    }

    std::unique_ptr<driver> kernel;
    std::array<int, 2> both{};
    std::array<file, 2> files;
    std::vector<completion> out;
};

} // namespace

TEST_CASE("uring: a wait does not end by a send that was over when it began") {
    rig r(GENERATE(task_mode::automatic, task_mode::cooperative, task_mode::plain));
    r.enter(0ms);
    for (token t = 1; t <= 3; ++t) r.kernel->try_send(t, r.files[0], some);
    CHECK(r.enter(50ms) >= 50ms);
    REQUIRE(r.out.size() == 3); // told by then, in order
    for (std::size_t i = 0; i < 3; ++i) {
        CHECK(r.out[i].request == i + 1);
        CHECK(r.out[i].result == static_cast<std::int32_t>(some.size()));
        CHECK_FALSE(r.out[i].more);
    }
}

TEST_CASE("uring: a wait ends by a send when it was asked to, once") {
    rig r;
    r.enter(0ms);
    r.kernel->report_sends();
    r.kernel->try_send(1, r.files[0], some);
    r.kernel->report_sends();
    r.kernel->try_send(2, r.files[0], some);
    CHECK(r.enter(10s) < 5s);
    CHECK(r.out.size() == 2);
    r.kernel->try_send(3, r.files[0], some);
    CHECK(r.enter(50ms) >= 50ms);
    CHECK(r.out.size() == 1);
}

TEST_CASE("uring: a wait ends by whatever else comes after a send, and by a wake-up") {
    rig r;
    r.kernel->poll(7, r.files[1], POLLIN, false);
    r.enter(0ms);
    r.kernel->try_send(1, r.files[0], some); // which makes the other end readable
    CHECK(r.enter(10s) < 5s);
    CHECK(r.out.size() == 2);

    r.kernel->try_send(2, r.files[0], some);
    r.kernel->send(3, r.files[0], some); // one that may wait, and does not
    CHECK(r.enter(10s) < 5s);
    CHECK(r.out.size() == 2);

    r.kernel->try_send(4, r.files[0], some);
    r.kernel->wake();
    CHECK(r.enter(10s) < 5s);
    CHECK(r.out.size() == 1);
}

TEST_CASE("uring: a send that finds no room says so at once, and the descriptor's errors are told") {
    rig r;
    r.enter(0ms);
    token last = 0;
    bool full = false;
    for (int turns = 0; turns < 1000 && !full; ++turns) {
        r.kernel->try_send(++last, r.files[0], some);
        r.enter(0ms);
        REQUIRE(r.out.size() == 1);
        full = r.out[0].result == -EAGAIN;
        if (!full) REQUIRE(r.out[0].result == static_cast<std::int32_t>(some.size()));
    }
    CHECK(full);
    ::shutdown(r.both[0], SHUT_WR);
    r.kernel->try_send(++last, r.files[0], some);
    r.enter(20ms);
    REQUIRE(r.out.size() == 1);
    CHECK(r.out[0].result == -EPIPE);
}
