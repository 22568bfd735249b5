// SPDX-License-Identifier: Apache-2.0
#include <cotun/io/unique_fd.hpp>
#include <cotun/net/tcp.hpp>

#include "io/acceptor.hpp"
#include "io/connector.hpp"
#include "io/fail.hpp"
#include "io/stream_hub.hpp"
#include "io/stream_port.hpp"
#include "net/sockaddr.hpp"
#include "net/socket_options.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <fmt/format.h>
#include <limits>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <unistd.h>

namespace cotun {
namespace detail {
namespace {

endpoint local_of(int descriptor) noexcept {
    socket_address a;
    a.size = sizeof(sockaddr_in6);
    if (getsockname(descriptor, reinterpret_cast<sockaddr*>(a.bytes.data()), &a.size) < 0) return {};
    return from_sockaddr({a.bytes.data(), a.size});
}

endpoint peer_of(int descriptor) noexcept {
    socket_address a;
    a.size = sizeof(sockaddr_in6);
    if (getpeername(descriptor, reinterpret_cast<sockaddr*>(a.bytes.data()), &a.size) < 0) return {};
    return from_sockaddr({a.bytes.data(), a.size});
}

bool is_v6(const endpoint& e) noexcept { return e.address().unmapped().is_v6(); }

// Blocking: io_uring waits by itself, and older kernels answer EAGAIN where a socket is not.
unique_fd make_socket(bool v6) {
    const int descriptor = ::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor >= 0) return unique_fd(descriptor);
    const int error = errno;
    fail(error, error == EMFILE || error == ENFILE ? "TCP: a socket: out of descriptors (see `ulimit -n`)"
                : v6                               ? "TCP: an IPv6 socket (is IPv6 switched off?)"
                                                   : "TCP: an IPv4 socket");
}

// Sets an option of TCP's to `value`, which must be 1 to `most`; 0: it stays as it is.
void set_bounded(int descriptor, int name, std::int64_t value, std::int64_t most, std::string_view option,
                 std::string_view what) {
    if (value == 0) return;
    if (value < 0 || value > most)
        fail(EINVAL, fmt::format("{}: {} is {}; it must be 1 to {}", what, option, value, most));
    if (const int error = set_option(descriptor, IPPROTO_TCP, name, static_cast<int>(value)))
        fail(error, fmt::format("{}: {} {}: the kernel refused", what, option, value));
}

void set_tcp_options(int descriptor, const tcp_options& o, std::string_view what) {
    constexpr int longest = 32767; // seconds; of the kernel
    if (o.no_delay) set_option(descriptor, IPPROTO_TCP, TCP_NODELAY, 1);
    if (o.keep_alive) {
        if (o.keep_alive->count() == 0) fail(EINVAL, fmt::format("{}: keep_alive is 0; it must be 1 to 32767 s", what));
        set_bounded(descriptor, TCP_KEEPIDLE, o.keep_alive->count(), longest, "keep_alive", what);
        set_option(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1);
    }
    set_bounded(descriptor, TCP_KEEPINTVL, o.keep_alive_interval.count(), longest, "keep_alive_interval", what);
    set_bounded(descriptor, TCP_KEEPCNT, o.keep_alive_probes, 127, "keep_alive_probes", what);
    set_bounded(descriptor, TCP_USER_TIMEOUT, o.user_timeout.count(), std::numeric_limits<int>::max(), "user_timeout",
                what);
    const std::string_view control = o.congestion_control;
    if (!control.empty() && setsockopt(descriptor, IPPROTO_TCP, TCP_CONGESTION, control.data(),
                                       static_cast<socklen_t>(control.size())) != 0)
        fail(errno, fmt::format("{}: congestion_control \"{}\": {}", what, control,
                                errno == EPERM ? "net.ipv4.tcp_allowed_congestion_control does not have it, and "
                                                 "CAP_NET_ADMIN is not held"
                                               : "net.ipv4.tcp_available_congestion_control does not have it; its "
                                                 "module may be missing"));
}

void bind_socket(int descriptor, const endpoint& local, bool as_v6, std::string_view doing) {
    const socket_address address = to_sockaddr(local, as_v6);
    if (::bind(descriptor, address.get(), address.size) == 0) return;
    const int error = errno;
    const char* why = error == EADDRINUSE      ? "another socket has the port: choose another, or 0 for any"
                      : error == EADDRNOTAVAIL ? "no interface of this network namespace has the address"
                      : error == EACCES        ? "ports below 1024 need CAP_NET_BIND_SERVICE"
                      : error == EINVAL || error == EAFNOSUPPORT
                          ? "an address of the peer's family; a link-local one with its interface, [fe80::1%eth0]:80"
                          : "bind was refused";
    fail(error, fmt::format("{}: binding to {}: {}", doing, local.to_string(), why));
}

} // namespace

class tcp_port final : public stream_port {
public:
    tcp_port(reactor_core& core, int descriptor) noexcept : stream_port(core, descriptor), peer_(peer_of(descriptor)) {}

    std::string describe() const override {
        return fmt::format("TCP stream {} to {}", local_of(descriptor()).to_string(), peer_.to_string());
    }
    const endpoint& peer() const noexcept { return peer_; }

private:
    endpoint peer_;
};

namespace {

class tcp_connector final : public connector {
public:
    tcp_connector(reactor_core& core, const endpoint_list& peers, const connect_options& options)
        : connector(core, options.attempt), peers_(peers), options_(options) {}

private:
    target next(int& descriptor) override {
        const std::span<const endpoint> all(peers_.begin(), peers_.end());
        if (tried_ == all.size()) return {};
        peer_ = all[tried_++];
        const bool v6 = is_v6(peer_);
        const std::string what = fmt::format("connecting to {}", peer_.to_string());
        unique_fd made = make_socket(v6);
        set_options(made.get(), v6 ? AF_INET6 : AF_INET, options_.socket, what);
        set_tcp_options(made.get(), options_.stream, what);
        if (options_.local) bind_socket(made.get(), *options_.local, v6, what);
        address_ = to_sockaddr(peer_);
        descriptor = made.release();
        return {address_.get(), address_.size};
    }

    std::string attempt_failed(int error) const override {
        const char* why = "the kernel refused";
        switch (error) {
        case ECONNREFUSED: why = "nobody listens there"; break;
        case ETIMEDOUT: why = "it does not answer: is the address right, or does a firewall drop the packets?"; break;
        case ENETUNREACH:
        case EHOSTUNREACH: why = "there is no route to it, or its link does not answer"; break;
        case EADDRNOTAVAIL: why = "no local port is free, or the local address is none of this machine's"; break;
        case EACCES:
        case EPERM: why = "a firewall of this machine forbids it, or the address is a broadcast one"; break;
        case EINVAL: why = "a link-local address needs its interface, as in [fe80::1%eth0]:80"; break;
        case ECONNRESET: why = "it reset the connection at once"; break;
        default: break;
        }
        return fmt::format("connecting to {}: {} ({})", peer_.to_string(), why, std::generic_category().message(error));
    }

    endpoint_list peers_;
    connect_options options_;
    std::size_t tried_ = 0;
    endpoint peer_;
    socket_address address_; // the kernel's until the attempt has ended
};

} // namespace
} // namespace detail

using detail::fail;

tcp_stream::tcp_stream(detail::tcp_port* port) noexcept : stream_socket(port) {}
endpoint tcp_stream::local() const { return detail::local_of(port().descriptor()); }
endpoint tcp_stream::peer() const noexcept { return static_cast<detail::tcp_port&>(port()).peer(); }

tcp_stream tcp_accept_operation::await_resume() {
    const int descriptor = take();
    auto* port = new (std::nothrow) detail::tcp_port(from_->core(), descriptor);
    if (port == nullptr) {
        put_back(descriptor);
        throw std::bad_alloc();
    }
    if (priority_) detail::set_option(descriptor, SOL_SOCKET, SO_PRIORITY, static_cast<int>(*priority_));
    return tcp_stream(port);
}

tcp_stream tcp_connect_operation::await_resume() {
    const int descriptor = take();
    auto* port = new (std::nothrow) detail::tcp_port(of_->core(), descriptor);
    if (port == nullptr) {
        ::close(descriptor);
        of_->core().streams().dismiss();
        throw std::bad_alloc();
    }
    return tcp_stream(port);
}

tcp_listener::tcp_listener(detail::acceptor* a, std::optional<std::uint32_t> priority, const endpoint& local) noexcept
    : acceptor_(a), priority_(priority), local_(local) {
    acceptor_->hold();
}

tcp_listener& tcp_listener::operator=(tcp_listener&& other) noexcept {
    if (this != &other) {
        reset();
        acceptor_ = std::exchange(other.acceptor_, nullptr);
        priority_ = other.priority_;
        local_ = other.local_;
    }
    return *this;
}

void tcp_listener::reset() noexcept {
    if (acceptor_ == nullptr) return;
    acceptor_->close_now();
    std::exchange(acceptor_, nullptr)->drop();
}

detail::acceptor& tcp_listener::acceptor() const noexcept {
    assert(acceptor_ != nullptr && "the listener was moved from");
    return *acceptor_;
}

int tcp_listener::native_handle() const noexcept { return acceptor().descriptor(); }
bool tcp_listener::uses_multishot() const noexcept { return acceptor().uses_multishot(); }
tcp_accept_operation tcp_listener::accept() noexcept { return {acceptor(), priority_}; }
task<> tcp_listener::close() { return detail::acceptor::close(detail::counted(acceptor())); }
accept_statistics tcp_listener::statistics() const noexcept { return acceptor().statistics(); }

tcp_listener listen_tcp(reactor& io, const listen_options& options) {
    const bool v6 = detail::is_v6(options.local);
    if (options.backlog < 1) fail(EINVAL, "listen_tcp: backlog is 0; it must be 1 or more");
    unique_fd made = detail::make_socket(v6);
    if (v6) detail::set_option(made.get(), IPPROTO_IPV6, IPV6_V6ONLY, options.v6_only ? 1 : 0);
    if (options.reuse_address) detail::set_option(made.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    detail::set_options(made.get(), v6 ? AF_INET6 : AF_INET, options.socket, "listen_tcp");
    detail::set_tcp_options(made.get(), options.stream, "listen_tcp");
    detail::bind_socket(made.get(), options.local, v6, "listen_tcp");
    if (::listen(made.get(), static_cast<int>(std::min(options.backlog, 1U << 30))) != 0) {
        const int error = errno;
        fail(error, fmt::format("listen_tcp: {}: {}", options.local.to_string(),
                                error == EADDRINUSE ? "another socket listens there: choose another port, or set "
                                                      "reuse_port on all"
                                                    : "listen was refused"));
    }
    const endpoint bound = detail::local_of(made.get());
    tcp_listener listener(
        new detail::acceptor(io.core(), made.get(), fmt::format("TCP listener {}", bound.to_string())),
        options.socket.priority, bound);
    (void)made.release(); // the acceptor's
    return listener;
}

tcp_connect_operation connect_tcp(reactor& io, const endpoint_list& peers, const connect_options& options) {
    return tcp_connect_operation(new detail::tcp_connector(io.core(), peers, options));
}

} // namespace cotun
