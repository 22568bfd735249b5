// SPDX-License-Identifier: Apache-2.0

// The rows of tools/bench's `runtime` as a user of Asio's C++20 coroutines would write them for speed: use_awaitable, a
// concurrency hint of 1, the channel that is not thread-safe. Built twice: over epoll, and with ASIO_HAS_IO_URING and
// ASIO_DISABLE_EPOLL over io_uring.

#include "runtime.hpp"

#include <array>
#include <asio.hpp>
#include <asio/experimental/channel.hpp>
#include <atomic>
#include <memory>
#include <thread>

namespace {

using asio::awaitable;
using asio::use_awaitable;
using asio::ip::tcp;
using asio::ip::udp;
using runtime::meter;
using namespace std::chrono_literals;

using channel = asio::experimental::channel<void(asio::error_code, std::uint64_t)>;

void rethrow(std::exception_ptr failure) {
    if (failure) std::rethrow_exception(failure);
}

void run(asio::io_context& io, awaitable<void> main) {
    asio::co_spawn(io, std::move(main), [&io](std::exception_ptr failure) {
        io.stop();
        rethrow(failure);
    });
    io.run();
}

// --- tasks ---------------------------------------------------------------------------------------------------------

awaitable<std::uint64_t> next(std::uint64_t n) { co_return n + 1; }

awaitable<void> await_tasks(meter& m) {
    std::uint64_t n = 0;
    do {
        for (int i = 0; i < 1000; ++i) n = co_await next(n);
    } while (m.goes_on(1000));
    runtime::use(n);
}

void row_task(meter& m) {
    asio::io_context io(1);
    run(io, await_tasks(m));
}

awaitable<void> count(std::uint64_t& n) {
    ++n;
    co_return;
}

// Asio 1.22 has no group of a variable number: the last to end wakes the one that waits.
awaitable<void> spawn_tasks(asio::io_context& io, meter& m) {
    std::uint64_t n = 0;
    channel done(io, 1);
    do {
        unsigned running = runtime::spawned;
        for (unsigned i = 0; i < runtime::spawned; ++i)
            asio::co_spawn(io, count(n), [&running, &done](std::exception_ptr failure) {
                rethrow(failure);
                if (--running == 0) done.try_send(asio::error_code(), 0U);
            });
        co_await done.async_receive(use_awaitable);
    } while (m.goes_on(runtime::spawned));
    runtime::use(n);
}

void row_spawn(meter& m) {
    asio::io_context io(1);
    run(io, spawn_tasks(io, m));
}

// --- channel -------------------------------------------------------------------------------------------------------

awaitable<void> produce(channel& into) {
    for (std::uint64_t n = 0;; ++n) co_await into.async_send(asio::error_code(), n, use_awaitable);
}

awaitable<void> consume(channel& from, meter& m) {
    std::uint64_t n = 0;
    do {
        for (int i = 0; i < 1000; ++i) n += co_await from.async_receive(use_awaitable);
    } while (m.goes_on(1000));
    runtime::use(n);
}

void pass_values(meter& m, std::size_t capacity) {
    asio::io_context io(1);
    channel values(io, capacity);
    asio::co_spawn(io, produce(values), asio::detached);
    run(io, consume(values, m));
}

void row_channel_1(meter& m) { pass_values(m, 1); }
void row_channel_64(meter& m) { pass_values(m, 64); }

// --- timers --------------------------------------------------------------------------------------------------------

// A deadline over something that ends before it.
awaitable<void> time_yields(asio::io_context& io, meter& m) {
    asio::steady_timer deadline(io);
    bool expired = false;
    do {
        for (int i = 0; i < 1000; ++i) {
            deadline.expires_after(30s);
            deadline.async_wait([&expired](const asio::error_code& error) {
                if (!error) expired = true;
            });
            co_await asio::post(io, use_awaitable);
            deadline.cancel();
        }
    } while (m.goes_on(1000));
    runtime::use(expired ? 1 : 0);
}

void row_timer(meter& m) {
    asio::io_context io(1);
    std::vector<std::unique_ptr<asio::steady_timer>> standing;
    for (unsigned i = 0; i < runtime::standing_timers; ++i) {
        standing.push_back(std::make_unique<asio::steady_timer>(io, 60s + i * 1ms));
        standing.back()->async_wait([](const asio::error_code&) {});
    }
    run(io, time_yields(io, m));
}

// --- post ----------------------------------------------------------------------------------------------------------

// The loop's thread counts; the other waits for each burst to have been called.
void post_bursts(meter& m, unsigned burst) {
    asio::io_context io(1);
    const auto work = asio::make_work_guard(io);
    std::atomic<std::uint64_t> bursts{0};
    std::thread poster([&] {
        runtime::take_cpu(0);
        std::uint64_t wanted = 0;
        unsigned called = 0; // the loop's
        std::uint64_t since = 0;
        for (;;) {
            for (unsigned i = 0; i < burst; ++i)
                asio::post(io, [&called, &bursts, burst] {
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

awaitable<void> echo(tcp::socket peer) {
    std::array<char, runtime::buffer_bytes> buffer;
    for (;;) {
        const std::size_t length = co_await peer.async_read_some(asio::buffer(buffer), use_awaitable);
        co_await asio::async_write(peer, asio::buffer(buffer, length), use_awaitable);
    }
}

awaitable<void> accept_all(asio::io_context& io, tcp::acceptor& listener) {
    for (;;) {
        tcp::socket peer = co_await listener.async_accept(use_awaitable);
        peer.set_option(tcp::no_delay(true));
        asio::co_spawn(io, echo(std::move(peer)), asio::detached);
    }
}

void row_tcp(meter&) {
    asio::io_context io(1);
    tcp::acceptor listener(io, {asio::ip::address_v4::loopback(), 0});
    runtime::announce(listener.local_endpoint().port());
    run(io, accept_all(io, listener));
}

awaitable<void> echo_datagrams(udp::socket& socket) {
    std::array<char, runtime::buffer_bytes> buffer;
    udp::endpoint sender;
    for (;;) {
        const std::size_t length = co_await socket.async_receive_from(asio::buffer(buffer), sender, use_awaitable);
        co_await socket.async_send_to(asio::buffer(buffer, length), sender, use_awaitable);
    }
}

void row_udp(meter&) {
    asio::io_context io(1);
    udp::socket socket(io, {asio::ip::address_v4::loopback(), 0});
    runtime::announce(socket.local_endpoint().port());
    run(io, echo_datagrams(socket));
}

} // namespace

int main(int argc, char** argv) {
    return runtime::run_row(argc, argv,
                            {{"task", row_task},
                             {"spawn", row_spawn},
                             {"channel_1", row_channel_1},
                             {"channel_64", row_channel_64},
                             {"timer", row_timer},
                             {"post_1", row_post_1},
                             {"post_256", row_post_256},
                             {"tcp", row_tcp},
                             {"udp", row_udp}});
}
