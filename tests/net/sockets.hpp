// SPDX-License-Identifier: Apache-2.0
//
// UDP sockets for tests: opened, sent and received with few words, and never waited for without a bound.
#pragma once

#include <cotun/io/error.hpp>
#include <cotun/net/udp.hpp>

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "../support/namespace.hpp"

namespace test {

using cotun::endpoint;
using cotun::read_mode;

inline const std::array modes{read_mode::automatic, read_mode::multishot, read_mode::poll};

inline const char* name_of(read_mode mode) {
    return mode == read_mode::automatic ? "automatic" : mode == read_mode::poll ? "poll" : "multishot";
}

inline cotun::task<> time_out(cotun::reactor& io) {
    co_await io.sleep_for(60s);
    throw std::runtime_error("the test's time is up");
}

// Once a reactor.
template <typename T>
T run_bounded(cotun::reactor& io, cotun::task<T> body) {
    io.spawn(time_out(io));
    return io.run(std::move(body));
}

inline endpoint at(const std::string& host, const endpoint& socket) {
    return endpoint::from_string(host + ":" + std::to_string(socket.port()));
}

inline cotun::udp_options bound(const std::string& local, read_mode mode = read_mode::automatic) {
    cotun::udp_options o;
    o.local = endpoint::from_string(local);
    o.read = mode;
    return o;
}

inline cotun::packet text(cotun::reactor& io, const std::string& words) {
    cotun::packet p = io.try_allocate(words.size());
    std::memcpy(p.bytes().data(), words.data(), words.size());
    return p;
}

inline std::string text_of(const cotun::packet& p) {
    return {reinterpret_cast<const char*>(p.bytes().data()), p.bytes().size()};
}

// Waits for one datagram; "PAYLOAD from SENDER".
inline cotun::task<std::string> next(cotun::udp_socket& s) {
    cotun::datagram d = co_await s.receive();
    co_return text_of(d.payload) + " from " + d.sender.to_string();
}

inline cotun::task<std::error_code> send_one(cotun::reactor& io, cotun::udp_socket& s, std::string words,
                                             std::optional<endpoint> to) {
    cotun::packet p = text(io, words);
    std::error_code code;
    try {
        if (to)
            co_await s.send_to(std::move(p), *to);
        else
            co_await s.send(std::move(p));
        co_await s.flush();
    } catch (const std::system_error& e) {
        code = e.code();
    }
    co_return code;
}

inline cotun::task<std::string> exchange(cotun::reactor& io, cotun::udp_socket& from, cotun::udp_socket& to,
                                         std::string words, std::optional<endpoint> where) {
    const std::error_code code = co_await send_one(io, from, words, where);
    if (code) co_return code.message();
    co_return co_await next(to);
}

template <typename Call>
std::error_code refusal(Call call, const std::vector<std::string>& words) {
    const std::ptrdiff_t files = open_files();
    std::error_code code;
    try {
        call();
        FAIL_CHECK("it was not refused");
    } catch (const std::system_error& refused) {
        const std::string said = refused.what();
        INFO(said);
        for (const std::string& w : words) {
            INFO("expected: " << w);
            CHECK(said.find(w) != std::string::npos);
        }
        code = refused.code();
    }
    CHECK(open_files() == files);
    return code;
}

// In order, `count` numbers from 0 on; `received` grows with them.
inline cotun::task<> receive_numbers(cotun::udp_socket& s, std::uint64_t count, std::uint64_t& received, bool batches) {
    while (received < count) {
        cotun::packet_batch batch;
        if (batches) {
            batch = co_await s.receive_packets();
        } else {
            cotun::datagram d = co_await s.receive();
            batch.push_back(std::move(d.payload));
        }
        for (const cotun::packet& p : batch) {
            std::uint64_t number = 0;
            std::memcpy(&number, p.bytes().data(), sizeof number);
            if (number != received) throw std::runtime_error("out of order");
            ++received;
        }
    }
}

inline cotun::task<> send_numbers(cotun::reactor& io, cotun::udp_socket& s, std::uint64_t count,
                                  const std::uint64_t& received, std::uint64_t window, bool batches, std::size_t size,
                                  std::optional<endpoint> to) {
    for (std::uint64_t n = 0; n < count;) {
        while (n + 64 > received + window) co_await io.sleep_for(100us);
        cotun::packet_batch batch;
        for (std::size_t i = 0; i < (batches ? 64 : 1) && n < count; ++i, ++n) {
            cotun::packet p = co_await io.allocate(size);
            std::memcpy(p.bytes().data(), &n, sizeof n);
            batch.push_back(std::move(p));
        }
        if (batches && to)
            co_await s.send_packets_to(std::move(batch), *to);
        else if (batches)
            co_await s.send_packets(std::move(batch));
        else if (to)
            co_await s.send_to(std::move(batch.front()), *to);
        else
            co_await s.send(std::move(batch.front()));
    }
    co_await s.flush();
}

} // namespace test
