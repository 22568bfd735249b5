// SPDX-License-Identifier: Apache-2.0
//
// TCP: streams, listeners, and connecting.
//
//     cotun::tcp_listener listener = cotun::listen_tcp(io, {.local = endpoint::from_string("0.0.0.0:8080")});
//     for (;;) {
//         cotun::tcp_stream client = co_await listener.accept();
//         clients.spawn(serve(std::move(client)));                // clients: a cotun::scope
//     }
//
//     cotun::tcp_stream server = co_await cotun::connect_tcp(io, endpoint::from_string("192.0.2.1:80"));
//     co_await server.write("GET / HTTP/1.0\r\n\r\n");
//
// Reading and writing: net/stream.hpp, which also says what a stream's lifetime and bounds are.
// Accepting: a connection that came for a waiter that was stopped or destroyed goes to the next. Out of descriptors
// (EMFILE) or memory, the listener pauses, longer each time, and goes on by itself; it is counted. When there are as
// many streams as the reactor allows, connections wait in the backlog. A listener keeps one request of the quarter that
// is set aside for listeners, devices and sockets (of 1024 requests: 255 listeners); beyond, listen_tcp() throws
// std::errc::no_buffer_space: raise reactor_options::requests. Connecting: addresses are tried in turn; when none
// answers, the error is the last one's, and its text has all of them. Stopped, an attempt is taken back; one that had
// succeeded wins. tcp(7).
#pragma once

#include <cotun/coro/task.hpp>
#include <cotun/io/accept_operation.hpp>
#include <cotun/io/option_values.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/io/statistics.hpp>
#include <cotun/net/endpoint.hpp>
#include <cotun/net/socket_options.hpp>
#include <cotun/net/stream.hpp>

#include <chrono>
#include <concepts>
#include <cstdint>
#include <optional>
#include <ranges>
#include <type_traits>
#include <utility>

namespace cotun {

namespace detail {
class tcp_port;
}

/// Of a connection; a listener's are those of the connections that it accepts. tcp(7). What is given as 0 or not at all
/// stays as the system has it.
struct tcp_options {
    /// Sends small segments at once (TCP_NODELAY): writes are gathered by the reactor already.
    bool no_delay = true;
    /// Asks a peer that has been silent for so long whether it is still there (SO_KEEPALIVE, TCP_KEEPIDLE): 1 to
    /// 32767 s. None: never.
    std::optional<std::chrono::seconds> keep_alive{};
    /// How often it is asked while it does not answer (TCP_KEEPINTVL), 1 to 32767 s, and after how many times the
    /// connection fails with ETIMEDOUT (TCP_KEEPCNT), 1 to 127. Usually 75 s, and 9.
    std::chrono::seconds keep_alive_interval{0};
    unsigned keep_alive_probes = 0;
    /// After how long without an acknowledgement of what was sent the connection fails with ETIMEDOUT
    /// (TCP_USER_TIMEOUT, RFC 5482): up to 2^31 - 1 ms. Usually about a quarter of an hour.
    std::chrono::milliseconds user_timeout{0};
    /// Such as "bbr" (TCP_CONGESTION): those that `sysctl net.ipv4.tcp_available_congestion_control` has.
    option_text congestion_control{};
};

struct listen_options {
    /// Where to listen; port 0: the kernel's choice, which local() tells.
    endpoint local{};
    /// Connections that wait to be accepted, at most (net.core.somaxconn bounds it).
    unsigned backlog = 4096;
    /// Lets the port be used again while connections of an earlier listener linger (SO_REUSEADDR).
    bool reuse_address = true;
    /// A listener at [::] takes IPv4 as well, unless this is set.
    bool v6_only = false;
    tcp_options stream{};
    /// Of the listener and of the connections that it accepts: buffers, interface, mark, TTL and the like. With
    /// `reuse_port`, several listeners have the port, each with a share of the connections.
    socket_options socket{};
};

struct connect_options {
    /// Where to connect from. None: the kernel's choice.
    std::optional<endpoint> local{};
    /// How long each address may take to answer; 0: as long as the kernel tries, about two minutes.
    std::chrono::milliseconds attempt{0};
    tcp_options stream{};
    /// Buffers, interface, mark, TTL and the like.
    socket_options socket{};
};
static_assert(std::is_trivially_destructible_v<listen_options>); // see io/option_values.hpp
static_assert(std::is_trivially_destructible_v<connect_options>);

/// Addresses to be tried in turn, up to 16: `endpoint`, `{endpoint, endpoint}`, or a range of them, such as what
/// resolve() yields, of which the first 16 are.
class endpoint_list : public option_list<endpoint, 16> {
public:
    constexpr endpoint_list() noexcept = default;
    template <class... Endpoints>
    requires(sizeof...(Endpoints) > 0 && sizeof...(Endpoints) <= capacity &&
             (std::convertible_to<const Endpoints&, endpoint> &&
              ...)) constexpr endpoint_list(const Endpoints&... each) // NOLINT: implicit by design
        : option_list(each...) {}
    template <std::ranges::input_range Range>
    requires(!std::convertible_to<const Range&, endpoint> && !std::derived_from<Range, endpoint_list> &&
             std::convertible_to<std::ranges::range_reference_t<const Range>,
                                 endpoint>) constexpr endpoint_list(const Range& of) { // NOLINT: implicit by design
        for (const endpoint& each : of) {
            if (size() == capacity) break;
            push_back(each);
        }
    }
};
static_assert(std::is_trivially_destructible_v<endpoint_list>);

class tcp_stream : public stream_socket {
public:
    tcp_stream(tcp_stream&&) noexcept = default;
    tcp_stream& operator=(tcp_stream&&) noexcept = default;

    /// 0.0.0.0:0 once it is closed.
    endpoint local() const;
    endpoint peer() const noexcept;

private:
    friend class tcp_accept_operation;
    friend class tcp_connect_operation;
    explicit tcp_stream(detail::tcp_port* port) noexcept;
};

class [[nodiscard]] tcp_accept_operation final : public detail::accept_waiter {
public:
    tcp_accept_operation(detail::acceptor& from, std::optional<std::uint32_t> priority) noexcept
        : accept_waiter(from), priority_(priority) {}
    tcp_accept_operation(tcp_accept_operation&&) noexcept = default;
    tcp_stream await_resume();

private:
    std::optional<std::uint32_t> priority_;
};

class [[nodiscard]] tcp_connect_operation final : public detail::connect_waiter {
public:
    explicit tcp_connect_operation(detail::connector* of) noexcept : connect_waiter(of) {}
    tcp_connect_operation(tcp_connect_operation&&) noexcept = default;
    tcp_stream await_resume();
};

class tcp_listener {
public:
    tcp_listener(tcp_listener&& other) noexcept
        : acceptor_(std::exchange(other.acceptor_, nullptr)), priority_(other.priority_), local_(other.local_) {}
    tcp_listener& operator=(tcp_listener&& other) noexcept;
    ~tcp_listener() { reset(); }

    /// Where it listens, or did when it was closed.
    endpoint local() const noexcept { return local_; }
    bool uses_multishot() const noexcept;
    /// For getsockopt(2) and setsockopt(2), as long as it is open; it stays the listener's.
    int native_handle() const noexcept;
    tcp_accept_operation accept() noexcept;
    /// Connections that were not taken are closed. Who waits is told std::errc::operation_canceled.
    task<> close();
    accept_statistics statistics() const noexcept;

private:
    friend tcp_listener listen_tcp(reactor&, const listen_options&);
    tcp_listener(detail::acceptor* a, std::optional<std::uint32_t> priority, const endpoint& local) noexcept;
    void reset() noexcept;
    detail::acceptor& acceptor() const noexcept;
    detail::acceptor* acceptor_;            // counted; nullptr once moved from
    std::optional<std::uint32_t> priority_; // the one option that accepted connections do not take from the listener
    endpoint local_;
};

[[nodiscard]] tcp_listener listen_tcp(reactor& io, const listen_options& options);
[[nodiscard]] tcp_connect_operation connect_tcp(reactor& io, const endpoint_list& peers,
                                                const connect_options& options = {});

} // namespace cotun
