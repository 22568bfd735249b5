// SPDX-License-Identifier: Apache-2.0
//
// udp_socket: datagrams, beside devices in the same reactor and with the same packets.
//
//     cotun::udp_socket peer = cotun::open_udp(io, {.local = endpoint::from_string("0.0.0.0:5000"),
//                                                   .peer = endpoint::from_string("192.0.2.7:5000")});
//     cotun::packet_batch batch = co_await peer.receive_packets();
//     co_await dev.write_packets(std::move(batch));           // what the socket received, the device sends: no copy
//
// Lifetime, thread: as device (tun/device.hpp).
// Errors: std::system_error. A peer that is not there is not the end: ICMP refusals are counted (reads().refused) and
// reading goes on. One that no read has taken is told by the kernel to the next send, of which nothing goes out then:
// that datagram is counted in writes().refused, and not tried again. What became of datagrams that were accepted is
// counted, and thrown by flush().
// Order: datagrams are sent in the order in which they were given. When the socket's send buffer is full, the others
// wait; none is sent before an earlier one. A datagram larger than the path's MTU (of 1 KiB at least) needs room for
// all of its fragments at once: one that the send buffer could not hold if it were empty fails with ENOBUFS.
// Kernel: Linux 5.19; multishot receiving from 6.0 on. udp(7).
#pragma once

#include <cotun/coro/task.hpp>
#include <cotun/io/packet.hpp>
#include <cotun/io/packet_batch.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/io/read_mode.hpp>
#include <cotun/io/read_operation.hpp>
#include <cotun/io/statistics.hpp>
#include <cotun/io/write_operation.hpp>
#include <cotun/net/endpoint.hpp>
#include <cotun/net/socket_options.hpp>

#include <optional>
#include <type_traits>
#include <utility>

namespace cotun {

namespace detail {
class udp_port;
}

struct udp_options {
    /// Where to bind; port 0: the kernel's choice. None: any address and port, of the peer's family, or IPv4 without
    /// one.
    std::optional<endpoint> local{};
    /// Connects to the peer: only its datagrams are received, and send() needs no address.
    std::optional<endpoint> peer{};
    /// An IPv6 socket bound to [::] takes IPv4 as well, its senders shown as IPv4 addresses, unless this is set.
    bool v6_only = false;
    /// Lets datagrams be sent to broadcast addresses (SO_BROADCAST); without, they fail with EACCES.
    bool broadcast = false;
    /// The largest datagram to receive, bytes (1 to 65535): chooses the size of the buffers. Larger ones are counted as
    /// truncated and dropped.
    unsigned largest_datagram = 1500;
    /// Forces one way of receiving.
    read_mode read = read_mode::automatic;
    /// Buffers, interface, mark, TTL and the like.
    socket_options socket{};
};
static_assert(std::is_trivially_destructible_v<udp_options>); // see io/option_values.hpp

struct datagram {
    datagram() noexcept = default;
    datagram(packet&& p, const endpoint& from) noexcept : payload(std::move(p)), sender(from) {}
    packet payload;
    endpoint sender;
};

/// Where a packet that a UDP socket received came from; 0.0.0.0:0 for any other packet.
[[nodiscard]] endpoint sender(const packet& received) noexcept;

/// Yields one datagram with its sender.
class [[nodiscard]] receive_operation : public detail::read_waiter {
public:
    using read_waiter::read_waiter;
    datagram await_resume() {
        packet p = take();
        const endpoint from = cotun::sender(p);
        return datagram(std::move(p), from);
    }
};

class udp_socket {
public:
    udp_socket(udp_socket&& other) noexcept;
    udp_socket& operator=(udp_socket&& other) noexcept;
    ~udp_socket();

    /// The address and port that it is bound to.
    endpoint local() const;
    /// The peer that it is connected to, if any.
    std::optional<endpoint> peer() const noexcept;
    /// Connects, or connects to another peer. Datagrams that were accepted before may go to either.
    void connect(const endpoint& peer);
    bool uses_multishot() const noexcept;

    /// Yields the next datagram, its payload as a packet, with the sender.
    receive_operation receive() noexcept;
    /// Yields all that have come, 1 to 64; sender(packet) tells where each came from.
    read_packets_operation receive_packets() noexcept;

    /// Sends to the connected peer. Without one the datagram fails (EDESTADDRREQ), as flush() tells.
    write_packet_operation send(packet payload) noexcept;
    write_packets_operation send_packets(packet_batch payloads) noexcept;
    /// Sends to `to`, connected or not.
    write_packet_operation send_to(packet payload, const endpoint& to) noexcept;
    write_packets_operation send_packets_to(packet_batch payloads, const endpoint& to) noexcept;
    /// Waits until all that was accepted so far is with the kernel, and throws the first failure since the last flush.
    flush_operation flush() noexcept;

    task<> close();

    read_statistics reads() const noexcept;
    write_statistics writes() const noexcept;

private:
    friend udp_socket open_udp(reactor&, const udp_options&);
    explicit udp_socket(detail::udp_port* port) noexcept;
    void reset() noexcept;
    detail::udp_port& port() const noexcept;

    detail::udp_port* port_; // counted; nullptr once moved from
};

[[nodiscard]] udp_socket open_udp(reactor& io, const udp_options& options = {});

} // namespace cotun
