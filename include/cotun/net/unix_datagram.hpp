// SPDX-License-Identifier: Apache-2.0
//
// unix_datagram: datagrams between programs of one machine, named by a path or by an abstract name. None is lost on its
// way while both ends stay as they are (see connect()), and none overtakes another.
//
//     cotun::unix_datagram server = cotun::open_unix_datagram(io, {.local = "/run/thing.sock"});
//     cotun::unix_message m = co_await server.receive();
//     co_await server.send_to(std::move(m.payload), m.sender);        // to whoever has a name
//
//     cotun::unix_datagram log = cotun::open_unix_datagram(io, {.peer = "/dev/log", .descriptors = 4});
//     co_await log.send(std::move(p), std::move(descriptors));        // std::vector<cotun::unique_fd>
//
// Names: a path of at most 107 bytes, or "@thing", an abstract name: it has no file, belongs to the network namespace,
// and goes with the socket. A path's file is removed when the socket is closed, if it is the socket's still, and stays
// if the program is killed: open_unix_datagram() then takes it over if nobody is bound to it any more, and refuses it
// (EADDRINUSE) if somebody is.
//
// Room: a receiver has a queue of so many datagrams (net.unix.max_dgram_qlen, 10 unless the system says otherwise), a
// sender a send buffer of so many bytes. While the one or the other is full, what was accepted waits, and so do the
// datagrams behind it, also those that go elsewhere; writes wait when the window is full.
// Lifetime, thread: as device (tun/device.hpp). Bounds: 128 datagrams received and not read, 128 accepted and not sent.
// Errors: std::system_error. A peer that is not there fails that datagram (ECONNREFUSED, ENOENT; counted in
// writes().refused), as flush() tells, and the socket goes on. Once the peer of a connected socket was closed, sending
// fails until connect() has found another.
// Kernel: Linux 5.19; multishot receiving from 6.0 on. unix(7).
#pragma once

#include <cotun/coro/task.hpp>
#include <cotun/io/option_values.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/io/read_mode.hpp>
#include <cotun/io/statistics.hpp>
#include <cotun/net/unix_message.hpp>

#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace cotun {

namespace detail {
class unix_packet_port;
}

struct unix_datagram_options {
    /// The name to bind to. "@": an abstract one of the kernel's choice, see local(). None: a socket without a name,
    /// that nobody can send to.
    option_text local{};
    /// Connects to the peer: only its datagrams are received, and send() needs no name.
    option_text peer{};
    /// The permissions of the file, as chmod(2) has them, from the first moment on; 0: as the process's umask leaves
    /// them.
    unsigned mode = 0;
    /// The largest datagram to receive, bytes: chooses the size of the buffers, of which the pool must have such.
    /// Larger ones are counted as truncated and dropped.
    unsigned largest_datagram = 1500;
    /// The most descriptors that a datagram may bring, 0 to 253. With more, or where this program has no room for them
    /// (`ulimit -n`), it is counted as truncated and dropped. 0: they are not taken.
    unsigned descriptors = 0;
    /// The kernel's send buffer, bytes (SO_SNDBUF, which bounds the size of a datagram too); 0: as it is. There is no
    /// receive_buffer: what is on its way is charged to the sender, and SO_RCVBUF has no effect (unix(7)).
    unsigned send_buffer = 0;
    /// Forces one way of receiving.
    read_mode read = read_mode::automatic;
};
static_assert(std::is_trivially_destructible_v<unix_datagram_options>); // see io/option_values.hpp

class unix_datagram {
public:
    unix_datagram(unix_datagram&& other) noexcept;
    unix_datagram& operator=(unix_datagram&& other) noexcept;
    ~unix_datagram();

    /// The name that it is bound to; empty: none, or it is closed.
    std::string local() const;
    /// Connects, or connects to another peer. Datagrams that were accepted before may go to either. One that was
    /// connected already loses what it was sent and the reactor has not taken from the kernel yet: the kernel drops it,
    /// and tells (ECONNRESET) the old peer if that is connected to this one. Where it matters, open another socket.
    void connect(std::string_view peer);
    bool uses_multishot() const noexcept;
    /// For getsockopt(2) and setsockopt(2) of what cotun has no options for; -1 once it is closed. It stays the
    /// socket's: not to be read, written or closed.
    int native_handle() const noexcept;

    /// Yields the next datagram.
    unix_receive_operation receive() noexcept;
    /// Yields the payloads of all that have come, 1 to 64. They do not tell who sent them: receive() does.
    unix_receive_packets_operation receive_packets() noexcept;

    /// Sends to the connected peer. Without one the datagram fails (ENOTCONN), as flush() tells.
    write_packet_operation send(packet payload) noexcept;
    write_packets_operation send_packets(packet_batch payloads) noexcept;
    /// With descriptors, at most 253; throws std::errc::invalid_argument for more, for an empty one, and for an empty
    /// packet handle, which nothing goes with (a message of no bytes is co_await io.allocate(0)).
    unix_send_operation send(packet payload, std::vector<unique_fd> descriptors);
    /// Sends to `to`, connected or not. Throws std::errc::filename_too_long and std::errc::invalid_argument.
    unix_send_operation send_to(packet payload, std::string_view to);
    unix_send_operation send_to(packet payload, std::string_view to, std::vector<unique_fd> descriptors);

    /// Waits until all that was accepted so far is with its receivers, and throws the first failure since the last
    /// flush.
    flush_operation flush() noexcept;

    task<> close();

    read_statistics reads() const noexcept;
    write_statistics writes() const noexcept;

private:
    friend unix_datagram open_unix_datagram(reactor&, const unix_datagram_options&);
    explicit unix_datagram(detail::unix_packet_port* port) noexcept;
    void reset() noexcept;
    detail::unix_packet_port& port() const noexcept;

    detail::unix_packet_port* port_; // counted; nullptr once moved from
};

[[nodiscard]] unix_datagram open_unix_datagram(reactor& io, const unix_datagram_options& options = {});

} // namespace cotun
