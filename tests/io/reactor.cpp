// SPDX-License-Identifier: Apache-2.0
#include "cotun/io/reactor.hpp"

#include "cotun/coro/timeout.hpp"
#include "cotun/coro/when_any.hpp"

#include "reactors.hpp"

#include "io/reactor_core.hpp"
#include "ring/scripted.hpp"
#include "ring/uring.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>

#include <cerrno>
#include <chrono>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>

using namespace std::chrono_literals;
using cotun::reactor;
using cotun::task;
using namespace cotun::test;

namespace {

task<std::unique_ptr<int>> owned() { co_return std::make_unique<int>(5); }
task<> failing(reactor& io, int turns) {
    for (int i = 0; i < turns; ++i) co_await io.yield();
    throw std::runtime_error("on purpose");
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

TEST_CASE("reactor: run of an operation") {
    const auto io = over_script();
    io->run(io->yield());
    CHECK(io->run(cotun::with_timeout(answer(*io), 1h)) == 42);
    const auto first = io->run(cotun::when_any(answer(*io), io->sleep_for(1h)));
    CHECK(std::get<0>(first) == 42);
    CHECK_THROWS_AS(io->run(cotun::with_timeout(io->sleep_for(1h), 1ms)), std::system_error);
    CHECK(io->statistics().tasks == 0);
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
            const reactor io(
                std::make_unique<cotun::detail::reactor_core>(o, std::make_unique<cotun::ring::scripted>()));
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

TEST_CASE("a reactor whose kernel entry throws does not sleep: who posts wakes nobody") {
    const auto io = over_script();
    static constexpr auto hangs = [](reactor& r) -> task<> { co_await r.readable(0); };
    CHECK_THROWS_AS(io->run(hangs(*io)), std::logic_error); // the scripted kernel's answer to a wait for ever
    io->post([] {});
    CHECK(io->run(answer(*io)) == 42);
    CHECK(io->statistics().wakes == 0);
}
