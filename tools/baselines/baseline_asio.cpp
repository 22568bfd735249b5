// SPDX-License-Identifier: Apache-2.0

// The same forwarder as a user of Asio's C++20 coroutines would write it: one coroutine a direction, one packet at a
// time, the library's defaults (epoll inside, and a read or write is tried before it is waited for).

#include "devices.hpp"

#include <asio.hpp>

namespace {

using asio::awaitable;
using asio::posix::stream_descriptor;

awaitable<void> move_packets(stream_descriptor& from, stream_descriptor& to, std::size_t largest,
                             baseline::counters& total) {
    std::vector<char> buffer(largest);
    for (;;) {
        const std::size_t length = co_await from.async_read_some(asio::buffer(buffer), asio::use_awaitable);
        asio::error_code error;
        co_await asio::async_write(to, asio::buffer(buffer, length), asio::redirect_error(asio::use_awaitable, error));
        if (!error)
            ++total.forwarded;
        else if (baseline::is_transient(error.value()))
            ++total.refused;
        else
            throw std::system_error(error, "write to a device");
    }
}

baseline::counters forward(const baseline::options& options) {
    asio::io_context io(1);
    asio::signal_set stop(io, SIGINT, SIGTERM);
    stop.async_wait([&](const asio::error_code&, int) { io.stop(); });

    stream_descriptor a(io, baseline::open_device(options.a, options).release());
    stream_descriptor b(io, baseline::open_device(options.b, options).release());
    const std::size_t largest = baseline::largest_packet(options);
    baseline::counters total;
    const auto rethrow = [](std::exception_ptr failure) {
        if (failure) std::rethrow_exception(failure);
    };
    asio::co_spawn(io, move_packets(a, b, largest, total), rethrow);
    asio::co_spawn(io, move_packets(b, a, largest, total), rethrow);
    io.run();
    return total;
}

} // namespace

int main(int argc, char** argv) { return baseline::run_baseline(argc, argv, forward); }
