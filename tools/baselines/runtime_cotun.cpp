// SPDX-License-Identifier: Apache-2.0

// The rows of tools/bench's `runtime` as a user of cotun would write them.

#include "runtime.hpp"

#include <array>
#include <atomic>
#include <cotun/cotun.hpp>
#include <span>
#include <thread>

#if __has_include(<cotun/coro/channel.hpp>)
#include <cotun/coro/channel.hpp>
#define RUNTIME_CHANNEL 1
#endif
#if __has_include(<cotun/net/tcp.hpp>)
#include <cotun/net/tcp.hpp>
#define RUNTIME_TCP 1
#endif

namespace {

using cotun::task;
using runtime::meter;
using namespace std::chrono_literals;

// --- tasks ---------------------------------------------------------------------------------------------------------

task<std::uint64_t> next(std::uint64_t n) { co_return n + 1; }

task<> await_tasks(meter& m) {
    std::uint64_t n = 0;
    do {
        for (int i = 0; i < 1000; ++i) n = co_await next(n);
    } while (m.goes_on(1000));
    runtime::use(n);
}

void row_task(meter& m) {
    cotun::reactor io;
    io.run(await_tasks(m));
}

task<> count(std::uint64_t& n) {
    ++n;
    co_return;
}

task<> spawn_tasks(cotun::reactor& io, meter& m) {
    std::uint64_t n = 0;
    do {
        cotun::scope tasks(io);
        for (unsigned i = 0; i < runtime::spawned; ++i) tasks.spawn(count(n));
        co_await tasks.join();
    } while (m.goes_on(runtime::spawned));
    runtime::use(n);
}

void row_spawn(meter& m) {
    cotun::reactor io;
    io.run(spawn_tasks(io, m));
}

// --- channel -------------------------------------------------------------------------------------------------------

#ifdef RUNTIME_CHANNEL
task<> produce(cotun::channel<std::uint64_t>& into) {
    for (std::uint64_t n = 0;; ++n) co_await into.send(n);
}

task<> consume(cotun::channel<std::uint64_t>& from, meter& m) {
    std::uint64_t n = 0;
    do {
        for (int i = 0; i < 1000; ++i) {
            const std::optional<std::uint64_t> value = co_await from.receive();
            n += *value;
        }
    } while (m.goes_on(1000));
    runtime::use(n);
}

void pass_values(meter& m, std::size_t capacity) {
    cotun::reactor io;
    cotun::channel<std::uint64_t> values(capacity);
    io.spawn(produce(values));
    io.run(consume(values, m));
}

void row_channel_1(meter& m) { pass_values(m, 1); }
void row_channel_64(meter& m) { pass_values(m, 64); }
#endif

// --- timers --------------------------------------------------------------------------------------------------------

task<> sleep(cotun::reactor& io, std::chrono::milliseconds time) { co_await io.sleep_for(time); }

// A deadline over something that ends before it.
task<> time_yields(cotun::reactor& io, meter& m) {
    do {
        for (int i = 0; i < 1000; ++i) co_await cotun::with_timeout(io.yield(), 30s);
    } while (m.goes_on(1000));
}

void row_timer(meter& m) {
    cotun::reactor io;
    for (unsigned i = 0; i < runtime::standing_timers; ++i) io.spawn(sleep(io, 60s + i * 1ms));
    io.run(time_yields(io, m));
}

// --- post ----------------------------------------------------------------------------------------------------------

// The loop's thread counts; the other waits for each burst to have been called.
void post_bursts(meter& m, unsigned burst) {
    cotun::reactor io;
    io.spawn(sleep(io, 1h)); // keeps it running
    std::atomic<std::uint64_t> bursts{0};
    std::thread poster([&] {
        runtime::take_cpu(0);
        std::uint64_t wanted = 0;
        unsigned called = 0; // the loop's
        std::uint64_t since = 0;
        for (;;) {
            for (unsigned i = 0; i < burst; ++i)
                io.post([&called, &bursts, burst] {
                    if (++called < burst) return;
                    called = 0;
                    bursts.fetch_add(1);
                    bursts.notify_one();
                });
            for (std::uint64_t seen = bursts.load(); seen == wanted; seen = bursts.load()) bursts.wait(seen);
            ++wanted;
            since += burst;
            if (since < 256) continue;
            if (!m.goes_on(std::exchange(since, 0))) break;
        }
        io.stop();
    });
    runtime::take_cpu(1);
    io.run();
    poster.join();
}

void row_post_1(meter& m) { post_bursts(m, 1); }
void row_post_256(meter& m) { post_bursts(m, runtime::burst); }

// --- echo ----------------------------------------------------------------------------------------------------------

#ifdef RUNTIME_TCP
task<> echo(cotun::tcp_stream peer) {
    std::array<std::byte, runtime::buffer_bytes> buffer;
    for (;;) {
        const std::size_t length = co_await peer.read_some(buffer);
        if (length == 0) co_return;
        co_await peer.write(std::span(buffer.data(), length));
    }
}

task<> accept_all(cotun::reactor& io, cotun::tcp_listener& listener) {
    cotun::scope peers(io);
    for (;;) {
        cotun::tcp_stream peer = co_await listener.accept();
        peers.spawn(echo(std::move(peer)));
    }
}

void row_tcp(meter&) {
    cotun::reactor io;
    cotun::tcp_listener listener = cotun::listen_tcp(io, {.local = cotun::endpoint::from_string("127.0.0.1:0")});
    runtime::announce(listener.local().port());
    io.run(accept_all(io, listener));
}
#endif

task<> echo_datagrams(cotun::udp_socket& socket) {
    for (;;) {
        cotun::datagram got = co_await socket.receive();
        co_await socket.send_to(std::move(got.payload), got.sender);
    }
}

void row_udp(meter&) {
    cotun::reactor io;
    cotun::udp_socket socket = cotun::open_udp(io, {.local = cotun::endpoint::from_string("127.0.0.1:0")});
    runtime::announce(socket.local().port());
    io.run(echo_datagrams(socket));
}

} // namespace

int main(int argc, char** argv) {
    return runtime::run_row(argc, argv,
                            {{"task", row_task},
                             {"spawn", row_spawn},
#ifdef RUNTIME_CHANNEL
                             {"channel_1", row_channel_1},
                             {"channel_64", row_channel_64},
#endif
                             {"timer", row_timer},
                             {"post_1", row_post_1},
                             {"post_256", row_post_256},
#ifdef RUNTIME_TCP
                             {"tcp", row_tcp},
#endif
                             {"udp", row_udp}});
}
