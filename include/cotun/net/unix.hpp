// SPDX-License-Identifier: Apache-2.0
//
// Unix streams: between programs of one machine, named by a path or by an abstract name. Beside them,
// net/unix_datagram.hpp and net/unix_seqpacket.hpp keep the boundaries of what is sent.
//
//     cotun::unix_listener listener = cotun::listen_unix(io, "/run/thing.sock");
//     cotun::unix_stream client = co_await listener.accept();
//
//     cotun::unix_stream server = co_await cotun::connect_unix(io, "@thing");   // abstract: no file
//
// Reading, writing, accepting and connecting are those of TCP: net/stream.hpp, net/tcp.hpp.
//
// Descriptors of open files can be passed beside the bytes (SCM_RIGHTS), and then are open in the other program too:
//
//     co_await s.write("tun0\n", std::move(descriptors));                    // they go with the first byte
//
//     cotun::unix_listener listener = cotun::listen_unix(io, name, {.descriptors = 1});
//     std::string line = co_await client.read_until("\n", 64);
//     std::vector<cotun::unique_fd> its = client.take_descriptors();         // of all that has been read so far
//     cotun::unix_message m = co_await client.receive_message();             // or both at once
//
// A stream takes them only if its options say how many may come at once; else the kernel closes them. They arrive
// close-on-exec with the first byte that they were sent with: take_descriptors() has them when that byte has been read,
// and receive_message() never yields bytes from behind those. A read that is stopped gives both back. Where more come
// than the options allow, or than there is room for (`ulimit -n`), the kernel closes those: take_descriptors() and
// receive_message() throw std::errc::message_size for it, once, and lose no byte. Whatever nobody takes is closed with
// the stream, and before that what was not read; of those that wait to be taken it keeps 1012 at most, and more count
// as lost. Such a stream is received from by a poll and recvmsg(2), at one more system call than others.
// A write with descriptors is done when the kernel has all of it, as a large one. It is refused with
// std::errc::invalid_argument for more than 253, an empty one, and no bytes; one that the kernel refuses for its
// descriptors alone (EBADF, ETOOMANYREFS) leaves the stream as it was.
//
// A path has 107 bytes at
// most. A name that begins with '@' is abstract: it belongs to the network namespace, and goes with the listener. A
// path's file is removed when the listener is closed, if it is the listener's still, and stays if the program is
// killed: listen_unix() then takes it over if nobody is bound to it any more, and refuses it (EADDRINUSE) if somebody
// is; of several that start at once one has it (a file PATH.takeover is there for that long). As many listeners as
// reactor_options::requests allows; beyond, listen_unix() throws std::errc::no_buffer_space. unix(7).
#pragma once

#include <cotun/io/accept_operation.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/io/statistics.hpp>
#include <cotun/io/unique_fd.hpp>
#include <cotun/net/stream.hpp>
#include <cotun/net/unix_message.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

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

/// co_await s.write(bytes, descriptors): as a write that is sent from the program's memory. Destroying it closes the
/// descriptors, once the kernel has let go of them.
class [[nodiscard]] unix_write_operation final : public stream_write_operation {
public:
    unix_write_operation(detail::stream_port& to, std::span<const std::byte> bytes,
                         std::unique_ptr<detail::descriptors_to_send> beside) noexcept;
    unix_write_operation(unix_write_operation&&) noexcept;
    ~unix_write_operation();

private:
    std::unique_ptr<detail::descriptors_to_send> owned_;
};

/// co_await s.receive_message(): what has come, at most a small buffer's, with its descriptors; false: the peer has
/// shut down its side.
class [[nodiscard]] unix_stream_receive_operation final : public detail::stream_read_waiter {
public:
    explicit unix_stream_receive_operation(detail::stream_port& from) noexcept : stream_read_waiter(from) {}
    unix_stream_receive_operation(unix_stream_receive_operation&&) noexcept = default;
    ~unix_stream_receive_operation() {
        give_up();
        end();
    }
    unix_message await_resume();

private:
    bool feed(detail::stream_reader& from) override;
    void give_up() noexcept override;
    packet got_;
};

/// How many descriptors came, and how often some did not: beyond what the options allow, or this program may open.
struct unix_descriptor_statistics {
    std::uint64_t received = 0;
    std::uint64_t lost = 0;
};

class unix_stream : public stream_socket {
public:
    unix_stream(unix_stream&&) noexcept = default;
    unix_stream& operator=(unix_stream&&) noexcept = default;

    unix_peer peer() const noexcept;

    using stream_socket::write;
    /// Passes the descriptors with the first of the bytes.
    unix_write_operation write(std::span<const std::byte> bytes, std::vector<unique_fd> descriptors);
    unix_write_operation write(std::string_view text, std::vector<unique_fd> descriptors);
    /// Those that came with what has been read and were not taken; throws std::errc::message_size, once, where some
    /// were lost.
    std::vector<unique_fd> take_descriptors();
    /// Bytes with the descriptors that came with them, and with what was read before and were not taken.
    unix_stream_receive_operation receive_message() noexcept;
    unix_descriptor_statistics descriptors() const noexcept;

private:
    friend class unix_accept_operation;
    friend class unix_connect_operation;
    explicit unix_stream(detail::unix_port* port) noexcept;
};

class [[nodiscard]] unix_accept_operation final : public detail::accept_waiter {
public:
    unix_accept_operation(detail::acceptor& from, unsigned descriptors) noexcept
        : accept_waiter(from), descriptors_(descriptors) {}
    unix_accept_operation(unix_accept_operation&&) noexcept = default;
    unix_stream await_resume();

private:
    unsigned descriptors_;
};

class [[nodiscard]] unix_connect_operation final : public detail::connect_waiter {
public:
    unix_connect_operation(detail::connector* of, unsigned descriptors) noexcept
        : connect_waiter(of), descriptors_(descriptors) {}
    unix_connect_operation(unix_connect_operation&&) noexcept = default;
    unix_stream await_resume();

private:
    unsigned descriptors_;
};

struct unix_listen_options {
    /// Connections that wait to be accepted, at most.
    unsigned backlog = 4096;
    /// The file's permissions, as chmod(2) has them, from the first moment on; 0: as the process's umask leaves them.
    unsigned mode = 0;
    /// The most descriptors that may come at once over a connection, 0 to 253; 0: they are not taken.
    unsigned descriptors = 0;
};
static_assert(std::is_trivially_destructible_v<unix_listen_options>); // see io/option_values.hpp

struct unix_connect_options {
    /// As unix_listen_options has it.
    unsigned descriptors = 0;
};
static_assert(std::is_trivially_destructible_v<unix_connect_options>);

class unix_listener : public detail::unix_listening {
public:
    unix_accept_operation accept() noexcept { return {accepting(), descriptors_}; }

private:
    friend unix_listener listen_unix(reactor&, std::string_view, const unix_listen_options&);
    unix_listener(reactor& io, std::string_view name, const unix_listen_options& options);
    unsigned descriptors_; // of the connections
};

[[nodiscard]] unix_listener listen_unix(reactor& io, std::string_view name, const unix_listen_options& options = {});
/// Throws std::errc::filename_too_long and std::errc::invalid_argument at once; all else by the await.
[[nodiscard]] unix_connect_operation connect_unix(reactor& io, std::string_view name,
                                                  const unix_connect_options& options = {});

} // namespace cotun
