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
#include <cotun/net/stream.hpp>

#include <chrono>
#include <optional>
#include <type_traits>
#include <utility>

namespace cotun {

namespace detail {
class tcp_port;
}

/// Of a connection; a listener's are those of the connections that it accepts.
struct tcp_options {
    /// Sends small segments at once (TCP_NODELAY): writes are gathered by the reactor already.
    bool no_delay = true;
    /// Asks a silent peer whether it is still there (SO_KEEPALIVE).
    bool keep_alive = false;
    /// The kernel's buffers, bytes (SO_RCVBUF, SO_SNDBUF; beyond the system's bounds where the privilege allows). 0: as
    /// they are, which the kernel adapts.
    unsigned receive_buffer = 0;
    unsigned send_buffer = 0;
    /// SO_MARK, for routing and firewalls; 0: none. Needs CAP_NET_ADMIN, or CAP_NET_RAW from Linux 5.17 on.
    unsigned mark = 0;
    /// The type of service, or traffic class (IP_TOS, IPV6_TCLASS), 0 to 255.
    unsigned tos = 0;
    /// The interface that packets may come and go by (SO_BINDTODEVICE); empty: any.
    option_text device{};
};

struct listen_options {
    /// Where to listen; port 0: the kernel's choice, which local() tells.
    endpoint local{};
    /// Connections that wait to be accepted, at most (net.core.somaxconn bounds it).
    unsigned backlog = 4096;
    /// Lets several sockets listen at the port, each with a share of the connections (SO_REUSEPORT).
    bool reuse_port = false;
    /// Lets the port be used again while connections of an earlier listener linger (SO_REUSEADDR).
    bool reuse_address = true;
    /// A listener at [::] takes IPv4 as well, unless this is set.
    bool v6_only = false;
    tcp_options stream{};
};

struct connect_options {
    /// Where to connect from. None: the kernel's choice.
    std::optional<endpoint> local{};
    /// How long each address may take to answer; 0: as long as the kernel tries, about two minutes.
    std::chrono::milliseconds attempt{0};
    tcp_options stream{};
};
static_assert(std::is_trivially_destructible_v<listen_options>); // see io/option_values.hpp
static_assert(std::is_trivially_destructible_v<connect_options>);

/// One address, or up to 16 to be tried in turn: `endpoint`, `{endpoint, endpoint}`, or a range of them.
using endpoint_list = option_list<endpoint, 16>;
static_assert(std::is_trivially_destructible_v<endpoint_list>);

class tcp_stream : public stream_socket {
public:
    tcp_stream(tcp_stream&&) noexcept = default;
    tcp_stream& operator=(tcp_stream&&) noexcept = default;

    endpoint local() const;
    endpoint peer() const noexcept;

private:
    friend class tcp_accept_operation;
    friend class tcp_connect_operation;
    explicit tcp_stream(detail::tcp_port* port) noexcept;
};

class [[nodiscard]] tcp_accept_operation final : public detail::accept_waiter {
public:
    explicit tcp_accept_operation(detail::acceptor& from) noexcept : accept_waiter(from) {}
    tcp_accept_operation(tcp_accept_operation&&) noexcept = default;
    tcp_stream await_resume();
};

class [[nodiscard]] tcp_connect_operation final : public detail::connect_waiter {
public:
    explicit tcp_connect_operation(detail::connector* of) noexcept : connect_waiter(of) {}
    tcp_connect_operation(tcp_connect_operation&&) noexcept = default;
    tcp_stream await_resume();
};

class tcp_listener {
public:
    tcp_listener(tcp_listener&& other) noexcept : acceptor_(std::exchange(other.acceptor_, nullptr)) {}
    tcp_listener& operator=(tcp_listener&& other) noexcept;
    ~tcp_listener() { reset(); }

    endpoint local() const;
    bool uses_multishot() const noexcept;
    tcp_accept_operation accept() noexcept;
    /// Connections that were not taken are closed. Who waits is told std::errc::operation_canceled.
    task<> close();
    accept_statistics statistics() const noexcept;

private:
    friend tcp_listener listen_tcp(reactor&, const listen_options&);
    explicit tcp_listener(detail::acceptor* a) noexcept;
    void reset() noexcept;
    detail::acceptor& acceptor() const noexcept;
    detail::acceptor* acceptor_; // counted; nullptr once moved from
};

[[nodiscard]] tcp_listener listen_tcp(reactor& io, const listen_options& options);
[[nodiscard]] tcp_connect_operation connect_tcp(reactor& io, const endpoint_list& peers,
                                                const connect_options& options = {});

} // namespace cotun
