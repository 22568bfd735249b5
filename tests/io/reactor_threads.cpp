// SPDX-License-Identifier: Apache-2.0
#include "cotun/io/reactor.hpp"

#include "reactors.hpp"

#include "cotun/net/udp.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <memory>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using cotun::reactor;
using cotun::task;
using namespace cotun::test;

TEST_CASE("reactor: stop from another thread wakes it") {
    const auto io = over_ring();
    for (int i = 0; i < 100; ++i) {
        int destroyed = 0;
        std::thread other([&] {
            if (i % 2 == 0) std::this_thread::sleep_for(200us);
            io->stop();
        });
        io->run(for_ever(*io, destroyed));
        other.join();
        CHECK(destroyed == 1);
    }
}

namespace {
std::atomic<reactor*> to_stop{nullptr};
void stop_it(int) {
    if (reactor* r = to_stop.load()) r->stop();
}
} // namespace

TEST_CASE("reactor: stop from a signal handler") {
    const auto io = over_ring();
    struct sigaction act {};
    struct sigaction old {};
    act.sa_handler = stop_it;
    REQUIRE(sigaction(SIGUSR1, &act, &old) == 0);
    to_stop = io.get();
    const pthread_t self = pthread_self();
    for (int i = 0; i < 20; ++i) {
        int destroyed = 0;
        std::thread other([&] {
            std::this_thread::sleep_for(500us);
            pthread_kill(self, SIGUSR1);
        });
        io->run(for_ever(*io, destroyed));
        other.join();
        CHECK(destroyed == 1);
    }
    to_stop = nullptr;
    sigaction(SIGUSR1, &old, nullptr);
}

TEST_CASE("reactor: a hundred thousand posts from four threads are all called, each thread's in order") {
    const auto io = either();
    static constexpr int threads = 4;
    static constexpr int each = 25'000;
    std::array<int, threads> next{};
    int out_of_order = 0;
    int called = 0;
    std::vector<std::thread> posters;
    for (std::size_t t = 0; t < threads; ++t)
        posters.emplace_back([&, t] {
            for (int i = 0; i < each; ++i)
                io->post([&, t, i] {
                    if (next[t]++ != i) ++out_of_order;
                    ++called;
                });
        });
    static constexpr auto until = [](reactor& r, const int& n) -> task<> {
        for (;;) {
            if (n == threads * each) break;
            co_await r.sleep_for(1ms);
        }
    };
    io->run(until(*io, called));
    for (std::thread& t : posters) t.join();
    CHECK(called == threads * each);
    CHECK(out_of_order == 0);
}

TEST_CASE("reactor: a post wakes a reactor that has nothing else to wait for") {
    const auto io = over_ring();
    for (int i = 0; i < 50; ++i) {
        int destroyed = 0;
        std::thread other([&] {
            if (i % 2 == 0) std::this_thread::sleep_for(200us);
            io->post([&] { io->stop(); });
        });
        io->run(for_ever(*io, destroyed));
        other.join();
        CHECK(destroyed == 1);
    }
    CHECK(io->statistics().wakes > 0);
}

TEST_CASE("reactor: posts to one that goes to sleep after each, none lost") {
    const auto io = over_ring();
    static constexpr int count = 20'000;
    std::atomic<int> called{0};
    int destroyed = 0;
    std::thread other([&] {
        for (int i = 0; i < count; ++i) {
            io->post([&] { ++called; });
            while (called.load() <= i) std::this_thread::yield(); // a post that is lost hangs the test
            if (i % 64 == 0) std::this_thread::sleep_for(100us);  // surely asleep; else about to be, or just awake
        }
        io->stop();
    });
    io->run(for_ever(*io, destroyed));
    other.join();
    CHECK(called == count);
    CHECK(destroyed == 1);
    CHECK(io->statistics().wakes > 0);
}

TEST_CASE("reactor: posts to one that does not sleep cost no wake-up") {
    const auto io = over_ring();
    int called = 0;
    static constexpr auto posting = [](reactor& r, int& n) -> task<> {
        for (int i = 0; i < 100; ++i) {
            r.post([&n] { ++n; });
            co_await r.yield();
        }
    };
    io->run(posting(*io, called));
    CHECK(called == 100);
    CHECK(io->statistics().wakes == 0);
}

TEST_CASE("reactor: a posted function that throws ends run; those behind it are called by the next") {
    const auto io = either();
    int called = 0;
    int destroyed = 0;
    io->post([&] { ++called; });
    io->post([] { throw std::runtime_error("posted"); });
    io->post([&] { ++called; });
    io->post([&] { ++called; });
    CHECK_THROWS_AS(io->run(for_ever(*io, destroyed)), std::runtime_error);
    CHECK(called == 1);
    CHECK(destroyed == 1);
    CHECK(io->run(answer(*io)) == 42);
    CHECK(called == 3);
}

TEST_CASE("reactor: posted functions that were never called are destroyed with it") {
    auto token = std::make_shared<int>(1);
    {
        const auto io = either();
        io->post([token] {});
        io->post([token] {});
    }
    CHECK(token.use_count() == 1);
}

TEST_CASE("reactor: a function that posts does not keep the tasks from running") {
    const auto io = either();
    struct again {
        reactor* r;
        const bool* enough;
        void operator()() const {
            if (!*enough) r->post(*this);
        }
    };
    bool enough = false;
    io->post(again{io.get(), &enough});
    CHECK(io->run(answer(*io)) == 42);
    enough = true;
}

TEST_CASE("reactor: may run on another thread than the one that made it") {
    const auto io = over_ring();
    int got = 0;
    std::thread other([&] { got = io->run(answer(*io)); });
    other.join();
    CHECK(got == 42);
}

TEST_CASE("reactor: run on two threads one after the other either works or is refused in words") {
    const auto io = over_ring();
    std::thread other([&] { io->run(sleep(*io, 1ms)); });
    other.join();
    try {
        CHECK(io->run(answer(*io)) == 42);
    } catch (const std::system_error& e) {
        CHECK(code_of(e) == EEXIST);
        CHECK(std::string(e.what()).find("another thread") != std::string::npos);
    }
}

TEST_CASE("reactor: destroyed on another thread than the one that it ran on, which has ended") {
    SECTION("nothing in flight") {
        const auto io = over_ring();
        std::thread other([&] { io->run(sleep(*io, 1ms)); });
        other.join();
    }
    SECTION("tasks asleep") {
        int destroyed = 0;
        {
            const auto io = over_ring();
            std::thread other([&] {
                io->spawn(for_ever(*io, destroyed));
                io->run(sleep(*io, 1ms));
            });
            other.join();
        }
        CHECK(destroyed == 1);
    }
}

namespace {

task<> receive_for_ever(cotun::udp_socket& from, int& destroyed) {
    const note_end end(destroyed);
    for (;;) (void)co_await from.receive();
}

cotun::udp_options loopback(cotun::read_mode mode) {
    cotun::udp_options o;
    o.local = cotun::endpoint::from_string("127.0.0.1:0");
    o.read = mode;
    return o;
}

} // namespace

TEST_CASE("reactor: a socket with a read in flight may outlive the thread that the reactor ran on") {
    if (const auto why = ring_refused()) SKIP(*why);
    const auto mode = GENERATE(cotun::read_mode::automatic, cotun::read_mode::poll);
    const bool socket_first = GENERATE(true, false);
    const auto ring = GENERATE(cotun::ring_mode::automatic, cotun::ring_mode::cooperative, cotun::ring_mode::plain);
    const bool more_writes = GENERATE(true, false);
    int destroyed = 0;
    {
        cotun::reactor_options options;
        options.ring = ring;
        auto io = std::make_unique<reactor>(options);
        auto socket = std::make_unique<cotun::udp_socket>(cotun::open_udp(*io, loopback(mode)));
        std::thread other([&] {
            io->spawn(receive_for_ever(*socket, destroyed));
            io->run(sleep(*io, 2ms));
            if (!more_writes) return;
            static constexpr auto write = [](reactor& r, cotun::udp_socket& s) -> task<> {
                for (int i = 0; i < 3; ++i) {
                    cotun::packet p = co_await r.allocate(10);
                    co_await s.send_to(std::move(p), s.local());
                }
                r.stop();
                co_await r.sleep_for(1h);
            };
            io->run(write(*io, *socket));
        });
        other.join();
        if (socket_first) {
            socket.reset();
            io.reset();
        } else {
            io.reset();
            socket.reset();
        }
    }
    CHECK(destroyed == 1);
}

TEST_CASE("reactor: one whose thread has ended does no harm to another on the thread that destroys it") {
    if (const auto why = ring_refused()) SKIP(*why);
    static constexpr auto echo = [](reactor& r, cotun::udp_socket& s) -> task<int> {
        cotun::packet p = co_await r.allocate(10);
        co_await s.send_to(std::move(p), s.local());
        const cotun::datagram d = co_await s.receive();
        co_return static_cast<int>(d.payload.size());
    };
    auto old = std::make_unique<reactor>();
    auto old_socket = std::make_unique<cotun::udp_socket>(cotun::open_udp(*old, loopback(cotun::read_mode::automatic)));
    reactor io;
    cotun::udp_socket socket = cotun::open_udp(io, loopback(cotun::read_mode::automatic));
    CHECK(io.run(echo(io, socket)) == 10);
    std::thread other([&] { CHECK(old->run(echo(*old, *old_socket)) == 10); });
    other.join();
    CHECK(io.run(echo(io, socket)) == 10);
    old_socket.reset();
    CHECK(io.run(echo(io, socket)) == 10);
    old.reset();
    CHECK(io.run(echo(io, socket)) == 10);
}
