// SPDX-License-Identifier: Apache-2.0
#include "cotun/io/reactor.hpp"

#include "../support/scripted_port.hpp"

#include "cotun/net/udp.hpp"
#include "io/reactor_core.hpp"
#include "ring/scripted.hpp"
#include "ring/uring.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <limits>
#include <memory>
#include <optional>
#include <pthread.h>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using cotun::reactor;
using cotun::task;

namespace {

std::optional<std::string> ring_refused() {
    try {
        (void)cotun::ring::make_uring({});
        return std::nullopt;
    } catch (const std::system_error& e) {
        return e.what();
    }
}

std::unique_ptr<reactor> over_script() {
    return std::make_unique<reactor>(
        std::make_unique<cotun::detail::reactor_core>(cotun::reactor_options{}, std::make_unique<cotun::ring::scripted>()));
}

// Each test that uses it runs over the scripted driver, and again over io_uring where the kernel has it.
std::unique_ptr<reactor> either() {
    const bool scripted = GENERATE(true, false);
    INFO((scripted ? "scripted driver" : "io_uring"));
    if (scripted) return over_script();
    if (const auto why = ring_refused()) SKIP(*why);
    return std::make_unique<reactor>();
}

std::unique_ptr<reactor> over_ring() {
    if (const auto why = ring_refused()) SKIP(*why);
    return std::make_unique<reactor>();
}

int code_of(const std::system_error& e) { return e.code().value(); }

struct note_end {
    explicit note_end(int& n) noexcept : count(&n) {}
    note_end(const note_end&) = delete;
    note_end& operator=(const note_end&) = delete;
    ~note_end() { ++*count; }
    int* count;
};

task<> sleep(reactor& io, reactor::clock::duration time) { co_await io.sleep_for(time); }
task<int> answer(reactor& io) {
    co_await io.yield();
    co_return 42;
}
task<std::unique_ptr<int>> owned() { co_return std::make_unique<int>(5); }
task<> failing(reactor& io, int turns) {
    for (int i = 0; i < turns; ++i) co_await io.yield();
    throw std::runtime_error("on purpose");
}
task<> stay(reactor& io, std::unique_ptr<note_end>) {
    for (;;) co_await io.sleep_for(1h);
}
task<> for_ever(reactor& io, int& destroyed) { return stay(io, std::make_unique<note_end>(destroyed)); }
task<> count_turns(reactor& io, unsigned& count, const bool& enough) {
    for (;;) {
        if (enough) break;
        ++count;
        co_await io.yield();
    }
}

} // namespace

TEST_CASE("reactor: run returns the value of its task, or throws its exception") {
    const auto io = either();
    CHECK(io->run(answer(*io)) == 42);
    CHECK(*io->run(owned()) == 5);
    CHECK_THROWS_AS(io->run(failing(*io, 0)), std::runtime_error);
    CHECK_THROWS_AS(io->run(failing(*io, 3)), std::runtime_error);
    CHECK(io->run(answer(*io)) == 42);
    io->run(); // nothing was spawned: returns
}

TEST_CASE("reactor: spawned tasks run beside the main one, and run() waits for them all") {
    const auto io = either();
    int ended = 0;
    static constexpr auto body = [](reactor& r, int& n) -> task<> {
        co_await r.sleep_for(1ms);
        ++n;
    };
    for (int i = 0; i < 10; ++i) io->spawn(body(*io, ended));
    CHECK(ended == 0);
    io->run();
    CHECK(ended == 10);
    static constexpr auto spawns = [](reactor& r, int& n, auto child) -> task<> {
        r.spawn(child(r, n));
        co_await r.yield();
    };
    io->run(spawns(*io, ended, body));
    io->run();
    CHECK(ended == 11);
    CHECK_THROWS_AS(io->spawn(task<>()), std::system_error);
    CHECK_THROWS_AS(io->run(task<>()), std::system_error);
    CHECK_THROWS_AS(io->run(task<int>()), std::system_error);
}

TEST_CASE("reactor: the exception of a detached task ends run, and destroys main") {
    const auto io = either();
    int destroyed = 0;
    io->spawn(failing(*io, 2));
    CHECK_THROWS_AS(io->run(for_ever(*io, destroyed)), std::runtime_error);
    CHECK(destroyed == 1);
    CHECK(io->run(answer(*io)) == 42);
}

TEST_CASE("reactor: two exceptions at once, the first is thrown and the reactor goes on") {
    const auto io = either();
    io->spawn(failing(*io, 1));
    io->spawn(failing(*io, 1));
    CHECK_THROWS_AS(io->run(), std::runtime_error);
    CHECK(io->run(answer(*io)) == 42);
}

TEST_CASE("reactor: stop before run and during run") {
    const auto io = either();
    int destroyed = 0;
    io->stop();
    io->run(for_ever(*io, destroyed));
    CHECK(destroyed == 1);
    io->stop();
    try {
        (void)io->run(answer(*io));
        FAIL("a stopped run has no value");
    } catch (const std::system_error& e) {
        CHECK(code_of(e) == ECANCELED);
    }
    io->post([&] { io->stop(); });
    io->run(for_ever(*io, destroyed));
    CHECK(destroyed == 2);
    static constexpr auto stops = [](reactor& r, int& n) -> task<> {
        const note_end ended(n);
        co_await r.yield();
        r.stop();
        co_await r.sleep_for(1h);
    };
    io->run(stops(*io, destroyed));
    CHECK(destroyed == 3);
    CHECK(io->run(answer(*io)) == 42); // one stop ends one run

    static constexpr auto stops_at_its_end = [](reactor& r) -> task<int> {
        co_await r.yield();
        r.stop();
        co_return 7;
    };
    CHECK(io->run(stops_at_its_end(*io)) == 7); // what has arrived wins, and the stop is spent
    CHECK(io->run(answer(*io)) == 42);
}

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
        std::thread other([&] { io->post([&] { io->stop(); }); });
        io->run(for_ever(*io, destroyed));
        other.join();
        CHECK(destroyed == 1);
    }
    CHECK(io->statistics().wakes > 0);
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

TEST_CASE("reactor: run inside run is refused") {
    const auto io = either();
    static constexpr auto body = [](reactor& r) -> task<int> {
        int code = 0;
        try {
            r.run();
        } catch (const std::system_error& e) {
            code = e.code().value();
        }
        co_return code;
    };
    CHECK(io->run(body(*io)) == EBUSY);
    CHECK(io->run(answer(*io)) == 42);
}

TEST_CASE("reactor: timers go off in order, and virtual time costs none") {
    const auto io = over_script();
    std::vector<int> order;
    static constexpr auto body = [](reactor& r, std::vector<int>& into, int ms) -> task<> {
        co_await r.sleep_for(std::chrono::milliseconds(ms));
        into.push_back(ms);
    };
    std::vector<int> delays(10'000);
    for (std::size_t i = 0; i < delays.size(); ++i) delays[i] = static_cast<int>(i) * 1000 + 1;
    std::shuffle(delays.begin(), delays.end(), std::minstd_rand(7));
    for (const int ms : delays) io->spawn(body(*io, order, ms));
    const auto before = std::chrono::steady_clock::now();
    io->run();
    CHECK(std::chrono::steady_clock::now() - before < 60s); // ten million seconds have passed
    std::sort(delays.begin(), delays.end());
    CHECK(order == delays);
}

TEST_CASE("reactor: ten thousand timers over the ring") {
    const auto io = over_ring();
    int ended = 0;
    static constexpr auto body = [](reactor& r, int& n, int us) -> task<> {
        const auto begun = reactor::clock::now();
        co_await r.sleep_for(std::chrono::microseconds(us));
        if (reactor::clock::now() - begun >= std::chrono::microseconds(us)) ++n;
    };
    for (int i = 0; i < 10'000; ++i) io->spawn(body(*io, ended, (i * 7919) % 50'000));
    io->run();
    CHECK(ended == 10'000); // none early
}

TEST_CASE("reactor: a sleeping task that is destroyed takes its timer along") {
    const auto io = either();
    int destroyed = 0;
    for (int round = 0; round < 3; ++round) {
        io->post([&] { io->stop(); });
        io->run(for_ever(*io, destroyed));
    }
    CHECK(destroyed == 3);
    // Of a thousand, some are cancelled while they sleep: the others go off all the same.
    static constexpr auto many = [](reactor& r, int& n) -> task<> {
        {
            std::vector<cotun::test::held_task> asleep;
            for (int i = 0; i < 1000; ++i)
                asleep.push_back(cotun::test::hold(sleep(r, std::chrono::milliseconds((i * 37) % 500 + 1))));
            for (std::size_t i = 0; i < asleep.size(); i += 3) asleep[i].destroy();
        }
        co_await r.sleep_for(2ms);
        ++n;
    };
    int ended = 0;
    io->run(many(*io, ended));
    CHECK(ended == 1);
}

TEST_CASE("reactor: sleeps of zero, less than zero, and of all time") {
    const auto io = either();
    static constexpr auto now = [](reactor& r) -> task<> {
        co_await r.sleep_for(0ns);
        co_await r.sleep_for(-1h);
        co_await r.sleep_for(reactor::clock::duration::min());
        co_await r.sleep_until(reactor::clock::time_point::min());
        co_await r.sleep_until(reactor::clock::time_point{});
    };
    io->run(now(*io));

    static constexpr auto huge = [](reactor& r, bool& woken, bool until) -> task<> {
        if (until)
            co_await r.sleep_until(reactor::clock::time_point::max());
        else
            co_await r.sleep_for(reactor::clock::duration::max());
        woken = true;
    };
    bool woken = false;
    io->spawn(huge(*io, woken, true));
    io->spawn(huge(*io, woken, false));
    io->spawn(huge(*io, woken, false));
    const auto enters = io->statistics().enters;
    io->run(sleep(*io, 20ms));
    CHECK_FALSE(woken);
    CHECK(io->statistics().enters - enters < 100); // it waits, and does not spin
}

TEST_CASE("reactor: with nothing but a sleep of all time it waits, and does not spin") {
    const auto io = over_ring();
    int destroyed = 0;
    static constexpr auto huge = [](reactor& r, int& n) -> task<> {
        const note_end end(n);
        co_await r.sleep_for(reactor::clock::duration::max());
    };
    std::thread other([&] {
        std::this_thread::sleep_for(50ms);
        io->stop();
    });
    io->run(huge(*io, destroyed));
    other.join();
    CHECK(destroyed == 1);
    CHECK(io->statistics().passes < 100);
}

TEST_CASE("reactor: two loops that yield have the same number of turns") {
    const auto io = either();
    unsigned a = 0;
    unsigned b = 0;
    bool enough = false;
    io->spawn(count_turns(*io, a, enough));
    io->spawn(count_turns(*io, b, enough));
    static constexpr auto wait = [](reactor& r, bool& stop_them) -> task<> {
        for (int i = 0; i < 1000; ++i) co_await r.yield();
        stop_them = true;
    };
    io->run(wait(*io, enough));
    io->run();
    CHECK(a >= 999);
    CHECK(std::max(a, b) - std::min(a, b) <= 1);
}

TEST_CASE("reactor: a loop that yields keeps neither timers nor posts from their turn") {
    const auto io = over_ring();
    unsigned turns = 0;
    bool enough = false;
    bool posted = false;
    io->spawn(count_turns(*io, turns, enough));
    std::thread other([&] { io->post([&] { posted = true; }); });
    static constexpr auto wait = [](reactor& r, const bool& p) -> task<> {
        co_await r.sleep_for(1ms);
        for (;;) {
            if (p) break;
            co_await r.yield();
        }
    };
    io->run(wait(*io, posted));
    other.join();
    enough = true;
    io->run();
    CHECK(turns > 0);
}

TEST_CASE("reactor: destroyed with tasks suspended, it destroys them") {
    int destroyed = 0;
    {
        const auto io = either();
        for (int i = 0; i < 100; ++i) io->spawn(for_ever(*io, destroyed));
        io->run(sleep(*io, 1ms));
        io->spawn(for_ever(*io, destroyed)); // has not run yet
    }
    CHECK(destroyed == 101);
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

TEST_CASE("reactor: counts what it does") {
    const auto io = over_ring();
    const auto before = io->statistics();
    CHECK(before.requests_in_flight == 0);
    CHECK(before.small_buffers_free == 1024);
    CHECK(before.large_buffers_free == 64);
    io->run(sleep(*io, 1ms));
    const cotun::packet held = io->try_allocate(100);
    const auto after = io->statistics();
    CHECK(after.passes > before.passes);
    CHECK(after.enters > before.enters);
    CHECK(after.strays == 0);
    CHECK(after.overflows == 0);
    CHECK(after.small_buffers_free == 1023);
}

TEST_CASE("reactor: options out of range are refused by name") {
    static constexpr auto refused = [](const cotun::reactor_options& o, const std::string& name) {
        try {
            const reactor io(std::make_unique<cotun::detail::reactor_core>(o, std::make_unique<cotun::ring::scripted>()));
            return false;
        } catch (const std::system_error& e) {
            INFO(e.what());
            CHECK(code_of(e) == EINVAL);
            return std::string(e.what()).find(name) != std::string::npos;
        }
    };
    cotun::reactor_options o;
    o.requests = 31;
    CHECK(refused(o, "requests"));
    o.requests = 16385;
    CHECK(refused(o, "requests"));
    o = {};
    o.coalesce = std::chrono::microseconds(1001);
    CHECK(refused(o, "coalesce"));
    o.coalesce = std::chrono::microseconds(-1);
    CHECK(refused(o, "coalesce"));
    o = {};
    o.pool.small_count = 0;
    CHECK(refused(o, "small_count"));
    o.pool.small_count = 32769;
    CHECK(refused(o, "small_count"));
    o = {};
    o.pool.small_size = 511;
    CHECK(refused(o, "small_size"));
    o = {};
    o.pool.large_count = 40000;
    CHECK(refused(o, "large_count"));
    o = {};
    o.pool.large_size = 4095;
    CHECK(refused(o, "large_size"));
    o.pool.large_size = 2U << 20;
    CHECK(refused(o, "large_size"));
    o = {};
    o.pool.headroom = std::numeric_limits<unsigned>::max();
    CHECK(refused(o, "headroom"));
    o = {};
    o.pool.tailroom = std::numeric_limits<unsigned>::max();
    CHECK(refused(o, "tailroom"));
    o = {};
    o.pool.small_size = 512;
    o.pool.headroom = 256;
    o.pool.tailroom = 129;
    CHECK(refused(o, "tailroom"));
    o.pool.tailroom = 128;
    CHECK_FALSE(refused(o, ""));
    // The real constructor refuses them too, before it asks the kernel for anything.
    o = {};
    o.requests = 1;
    try {
        const reactor io(o);
        FAIL("refused");
    } catch (const std::system_error& e) {
        CHECK(code_of(e) == EINVAL);
    }
}
