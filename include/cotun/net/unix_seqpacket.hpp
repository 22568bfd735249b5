// SPDX-License-Identifier: Apache-2.0
//
// unix_seqpacket: a connection between programs of one machine that carries records: what one write sends is what one
// read receives, in order.
//
//     cotun::unix_seqpacket_listener listener = cotun::listen_unix_seqpacket(io, "/run/thing.sock", {.descriptors =
//     1}); cotun::unix_seqpacket client = co_await listener.accept();
//
//     cotun::unix_seqpacket server = co_await cotun::connect_unix_seqpacket(io, "/run/thing.sock");
//     for (;;) {
//         cotun::unix_message record = co_await server.receive();
//         if (!record) break;                                          // the peer has ended
//         co_await server.send(std::move(record.payload));
//     }
//
// Names, listening, accepting and connecting are those of streams (net/unix.hpp), descriptors as net/unix_message.hpp
// has them.
//
// The end: recvmsg(2) answers a record of no bytes and the end alike, with 0. So the kernel is asked to put the time
// beside each record (SO_TIMESTAMP): what comes without is the end. An empty record is thus a message whose payload has
// the size 0; the end is a message without a payload, and stays so. A peer that closes with records unread resets the
// connection: what it had sent is read first, then receive() throws ECONNRESET, unless a send was told of it before.
//
// Bounds: a connection takes a reader's share of the reactor's packet buffers, as a device does: for dozens of
// connections, not for thousands. Where there is no share left (pool_options, reactor_options::requests), connections
// wait to be accepted until a reader has gone, and connecting is refused (ENOBUFS). 128 records received and not read,
// 128 accepted and not sent; records behind a full send buffer wait. Lifetime, thread: as device (tun/device.hpp).
// Errors: std::system_error. Once the peer is gone, sending fails with EPIPE, as flush() and the next write tell.
// Kernel: Linux 5.19; multishot receiving from 6.0 on. unix(7).
#pragma once

#include <cotun/io/accept_operation.hpp>
#include <cotun/io/read_mode.hpp>
#include <cotun/net/unix.hpp>
#include <cotun/net/unix_message.hpp>

#include <string_view>
#include <type_traits>
#include <vector>

namespace cotun {

namespace detail {
class unix_packet_port;
}

struct unix_seqpacket_options {
    /// The largest record to receive, bytes: chooses the size of the buffers, of which the pool must have such. Larger
    /// ones are counted as truncated and dropped.
    unsigned largest_record = 1500;
    /// The most descriptors that a record may bring, 0 to 253. With more, or where this program has no room for them
    /// (`ulimit -n`), it is counted as truncated and dropped. 0: they are not taken.
    unsigned descriptors = 0;
    /// The kernel's send buffer, bytes (SO_SNDBUF, which bounds the size of a record too); 0: as it is. There is no
    /// receive_buffer: what is on its way is charged to the sender, and SO_RCVBUF has no effect (unix(7)).
    unsigned send_buffer = 0;
    /// Forces one way of receiving.
    read_mode read = read_mode::automatic;
    /// Listeners: as unix_listen_options.
    unsigned backlog = 4096;
    unsigned mode = 0;
};
static_assert(std::is_trivially_destructible_v<unix_seqpacket_options>); // see io/option_values.hpp

class unix_seqpacket {
public:
    unix_seqpacket(unix_seqpacket&& other) noexcept;
    unix_seqpacket& operator=(unix_seqpacket&& other) noexcept;
    ~unix_seqpacket();

    unix_peer peer() const noexcept;
    bool uses_multishot() const noexcept;
    /// For getsockopt(2) and setsockopt(2) of what cotun has no options for; -1 once it is closed. It stays the
    /// socket's: not to be read, written or closed.
    int native_handle() const noexcept;

    /// Yields the next record; a false one at the end.
    unix_receive_operation receive() noexcept;
    /// Yields the payloads of all that have come, 1 to 64; none at the end.
    unix_receive_packets_operation receive_packets() noexcept;

    /// Sends one record, which may be empty.
    write_packet_operation send(packet record) noexcept;
    write_packets_operation send_packets(packet_batch records) noexcept;
    /// With descriptors, at most 253; throws std::errc::invalid_argument for more, for an empty one, and for an empty
    /// packet handle, which nothing goes with (a message of no bytes is co_await io.allocate(0)).
    unix_send_operation send(packet record, std::vector<unique_fd> descriptors);

    /// Waits until all that was accepted so far is in the peer's queue, and throws the first failure since the last
    /// flush.
    flush_operation flush() noexcept;
    /// Tells the peer that no more comes, once all has been sent; it can still be read from. Later writes throw
    /// std::errc::broken_pipe.
    void shutdown_send();

    task<> close();

    read_statistics reads() const noexcept;
    write_statistics writes() const noexcept;

private:
    friend class unix_seqpacket_accept_operation;
    friend class unix_seqpacket_connect_operation;
    explicit unix_seqpacket(detail::unix_packet_port* port) noexcept;
    void reset() noexcept;
    detail::unix_packet_port& port() const noexcept;

    detail::unix_packet_port* port_; // counted; nullptr once moved from
};

class [[nodiscard]] unix_seqpacket_accept_operation final : public detail::accept_waiter {
public:
    unix_seqpacket_accept_operation(detail::acceptor& from, const unix_seqpacket_options& options) noexcept
        : accept_waiter(from), options_(options) {}
    unix_seqpacket_accept_operation(unix_seqpacket_accept_operation&&) noexcept = default;
    unix_seqpacket await_resume();

private:
    unix_seqpacket_options options_;
};

class [[nodiscard]] unix_seqpacket_connect_operation final : public detail::connect_waiter {
public:
    unix_seqpacket_connect_operation(detail::connector* of, const unix_seqpacket_options& options) noexcept
        : connect_waiter(of), options_(options) {}
    unix_seqpacket_connect_operation(unix_seqpacket_connect_operation&&) noexcept = default;
    unix_seqpacket await_resume();

private:
    unix_seqpacket_options options_;
};

class unix_seqpacket_listener : public detail::unix_listening {
public:
    unix_seqpacket_accept_operation accept() noexcept { return {accepting(), options_}; }

private:
    friend unix_seqpacket_listener listen_unix_seqpacket(reactor&, std::string_view, const unix_seqpacket_options&);
    unix_seqpacket_listener(reactor& io, std::string_view name, const unix_seqpacket_options& options);
    unix_seqpacket_options options_; // of the connections
};

[[nodiscard]] unix_seqpacket_listener listen_unix_seqpacket(reactor& io, std::string_view name,
                                                            const unix_seqpacket_options& options = {});
/// Throws std::errc::filename_too_long and std::errc::invalid_argument at once; all else by the await.
[[nodiscard]] unix_seqpacket_connect_operation connect_unix_seqpacket(reactor& io, std::string_view name,
                                                                      const unix_seqpacket_options& options = {});

} // namespace cotun
