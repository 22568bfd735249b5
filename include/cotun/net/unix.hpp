// SPDX-License-Identifier: Apache-2.0
//
// Unix streams: between programs of one machine, named by a path or by an abstract name. Beside them,
// net/unix_datagram.hpp and net/unix_seqpacket.hpp keep the boundaries of what is sent, and pass descriptors; those
// that come over a stream the kernel closes.
//
//     cotun::unix_listener listener = cotun::listen_unix(io, "/run/thing.sock");
//     cotun::unix_stream client = co_await listener.accept();
//
//     cotun::unix_stream server = co_await cotun::connect_unix(io, "@thing");   // abstract: no file
//
// Reading, writing, accepting and connecting are those of TCP: net/stream.hpp, net/tcp.hpp. A path has 107 bytes at
// most. A name that begins with '@' is abstract: it belongs to the network namespace, and goes with the listener. A
// path's file is removed when the listener is closed, if it is the listener's still, and stays if the program is
// killed: listen_unix() then takes it over if nobody is bound to it any more, and refuses it (EADDRINUSE) if somebody
// is; of several that start at once one has it (a file PATH.takeover is there for that long). As many listeners as
// reactor_options::requests allows; beyond, listen_unix() throws std::errc::no_buffer_space. unix(7).
#pragma once

#include <cotun/io/accept_operation.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/io/statistics.hpp>
#include <cotun/net/stream.hpp>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace cotun {

namespace detail {

class admission;
class unix_port;

/// What listeners of streams and of seqpackets have in common.
class unix_listening {
public:
    task<> close();
    accept_statistics statistics() const noexcept;

protected:
    /// Listens. `who`: what errors begin with; `places`: of which a connection takes one, nullptr: streams'.
    unix_listening(reactor& io, int type, std::string_view name, unsigned backlog, unsigned mode, const char* who,
                   admission* places = nullptr);
    unix_listening(unix_listening&& other) noexcept : acceptor_(std::exchange(other.acceptor_, nullptr)) {}
    unix_listening& operator=(unix_listening&& other) noexcept;
    ~unix_listening() { reset(); }
    acceptor& accepting() const noexcept;

private:
    void reset() noexcept;
    acceptor* acceptor_; // counted; nullptr once moved from
};

} // namespace detail

/// Who is at the other end, as the kernel knows it from the time of connect(2) or listen(2) (SO_PEERCRED).
struct unix_peer {
    std::int32_t process = 0;
    std::uint32_t user = 0;
    std::uint32_t group = 0;
};

namespace detail {
unix_peer unix_peer_of(int descriptor) noexcept;
}

class unix_stream : public stream_socket {
public:
    unix_stream(unix_stream&&) noexcept = default;
    unix_stream& operator=(unix_stream&&) noexcept = default;

    unix_peer peer() const noexcept;

private:
    friend class unix_accept_operation;
    friend class unix_connect_operation;
    explicit unix_stream(detail::unix_port* port) noexcept;
};

class [[nodiscard]] unix_accept_operation final : public detail::accept_waiter {
public:
    explicit unix_accept_operation(detail::acceptor& from) noexcept : accept_waiter(from) {}
    unix_accept_operation(unix_accept_operation&&) noexcept = default;
    unix_stream await_resume();
};

class [[nodiscard]] unix_connect_operation final : public detail::connect_waiter {
public:
    explicit unix_connect_operation(detail::connector* of) noexcept : connect_waiter(of) {}
    unix_connect_operation(unix_connect_operation&&) noexcept = default;
    unix_stream await_resume();
};

struct unix_listen_options {
    /// Connections that wait to be accepted, at most.
    unsigned backlog = 4096;
    /// The file's permissions, as chmod(2) has them, from the first moment on; 0: as the process's umask leaves them.
    unsigned mode = 0;
};
static_assert(std::is_trivially_destructible_v<unix_listen_options>); // see io/option_values.hpp

class unix_listener : public detail::unix_listening {
public:
    unix_accept_operation accept() noexcept { return unix_accept_operation(accepting()); }

private:
    friend unix_listener listen_unix(reactor&, std::string_view, const unix_listen_options&);
    using unix_listening::unix_listening;
};

[[nodiscard]] unix_listener listen_unix(reactor& io, std::string_view name, const unix_listen_options& options = {});
/// Throws std::errc::filename_too_long and std::errc::invalid_argument at once; all else by the await.
[[nodiscard]] unix_connect_operation connect_unix(reactor& io, std::string_view name);

} // namespace cotun
