// SPDX-License-Identifier: Apache-2.0
//
// udp_socket: datagrams, beside devices in the same reactor and with the same packets.
//
//     cotun::udp_socket peer = cotun::open_udp(io, {.local = endpoint::from_string("0.0.0.0:5000"),
//                                                   .peer = endpoint::from_string("192.0.2.7:5000")});
//     cotun::packet_batch batch = co_await peer.receive_packets();
//     co_await dev.write_packets(std::move(batch));           // what the socket received, the device sends: no copy
//
// A server that has several addresses answers from the one that it was asked at:
//
//     cotun::udp_socket s = cotun::open_udp(io, {.local = endpoint::from_string("[::]:53"), .packet_info = true});
//     cotun::datagram d = co_await s.receive();
//     make_answer(d.payload);                                 // in place
//     co_await s.reply(std::move(d.payload));
//
// Lifetime, thread: as device (tun/device.hpp).
// Errors: std::system_error. A peer that is not there is not the end: ICMP refusals are counted (reads().refused) and
// reading goes on. One that no read has taken is told by the kernel to the next send, of which nothing goes out then:
// what was to go with it is counted in writes().refused, and not tried again. What became of datagrams that were
// accepted is counted, and thrown by flush(). Several at once: what one pass of the reactor accepts goes out at its
// end. Datagrams of one size that follow each other to one place are one send (UDP_SEGMENT, Linux 4.18), up to 64 of
// them; the receiver sees no difference. So are the segments of a superpacket that a device has read
// (tun/offload_options.hpp), with what the program has put in front of it in front of each. Where the way does not take
// such a send, the datagrams go one by one; nothing is lost by it. Order: datagrams are sent in the order in which they
// were given. When the socket's send buffer is full, the others wait; none is sent before an earlier one. A datagram
// larger than the path's MTU (of 1 KiB at least) needs room for all of its fragments at once: one that the send buffer
// could not hold if it were empty fails with ENOBUFS. Multicast: a socket receives what is sent to the groups that it
// has joined, and not, as the kernel has it by default, what any other socket of the host has joined. Kernel:
// Linux 5.19; multishot receiving from 6.0 on. udp(7).
#pragma once

#include <cotun/coro/task.hpp>
#include <cotun/io/option_values.hpp>
#include <cotun/io/packet.hpp>
#include <cotun/io/packet_batch.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/io/read_mode.hpp>
#include <cotun/io/read_operation.hpp>
#include <cotun/io/statistics.hpp>
#include <cotun/io/write_operation.hpp>
#include <cotun/net/datagram.hpp>
#include <cotun/net/endpoint.hpp>
#include <cotun/net/socket_options.hpp>

#include <cstdint>
#include <optional>
#include <string_view>
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
    /// Tells of each datagram which address it was sent to, over which interface it came, its TTL and TOS: info_of(),
    /// datagram::info; and has reply() answer from that address. Costs a little for each.
    bool packet_info = false;
    /// Takes datagrams of one sender and one size from the kernel many at a time (UDP_GRO, Linux 5.0): up to 64 KiB in
    /// one read, which is what makes a tunnel fast. Each is a packet of its own all the same; those that came together
    /// share a buffer, and one that needs room for a header is moved. It takes large buffers
    /// (pool_options::large_count) whatever the size of the datagrams; where the reactor has no more than half of them
    /// left to share, the socket goes without.
    bool receive_merged = false;
    /// What is sent to multicast groups: its TTL or hop limit (0 to 255; 0: not beyond this host; 1 unless it is
    /// given), whether this host's own members receive it too, and the interface that it leaves by (unless it is given,
    /// the one that the routes have).
    std::optional<unsigned> multicast_ttl{};
    bool multicast_loop = true;
    option_text multicast_interface{};
    /// Forces one way of receiving.
    read_mode read = read_mode::automatic;
    /// Buffers, interface, mark, TTL and the like.
    socket_options socket{};
};
static_assert(std::is_trivially_destructible_v<udp_options>); // see io/option_values.hpp

/// Yields one datagram, with its sender.
class [[nodiscard]] receive_operation : public detail::read_waiter {
public:
    using read_waiter::read_waiter;
    datagram await_resume() { return datagram(take()); }
};

class udp_socket {
public:
    udp_socket(udp_socket&& other) noexcept;
    udp_socket& operator=(udp_socket&& other) noexcept;
    ~udp_socket();

    /// The address and port that it is bound to, or was when it was closed.
    endpoint local() const;
    /// The peer that it is connected to, if any.
    std::optional<endpoint> peer() const noexcept;
    /// Connects, or connects to another peer. Datagrams that were accepted before may go to either.
    void connect(const endpoint& peer);
    /// The size of the largest IP packet, bytes, that reaches the connected peer unfragmented, as far as the kernel
    /// knows (IP_MTU); nothing if there is no peer.
    std::optional<unsigned> path_mtu() const noexcept;
    bool uses_multishot() const noexcept;
    /// For getsockopt(2) and setsockopt(2) of what cotun has no options for; -1 once it is closed. It stays the
    /// socket's: not to be read, written or closed.
    int native_handle() const noexcept;

    /// Receives what is sent to a multicast group, over one interface, by index or name; 0: the one that the route to
    /// the group has. Throw std::system_error, saying why: no such interface, joined already, not a group, too many.
    void join(const wire::ip_address& group, std::uint32_t interface = 0);
    void join(const wire::ip_address& group, std::string_view interface);
    /// No more. `interface` as when it was joined.
    void leave(const wire::ip_address& group, std::uint32_t interface = 0);
    void leave(const wire::ip_address& group, std::string_view interface);

    /// Yields the next datagram, its payload as a packet, with the sender.
    receive_operation receive() noexcept;
    /// Yields all that have come, 1 to 64; sender(packet) tells where each came from, info_of(packet) how.
    read_packets_operation receive_packets() noexcept;

    /// Sends to the connected peer. Without one the datagram fails (EDESTADDRREQ), as flush() tells.
    write_packet_operation send(packet payload) noexcept;
    write_packets_operation send_packets(packet_batch payloads) noexcept;
    /// Sends to `to`, connected or not.
    write_packet_operation send_to(packet payload, const endpoint& to) noexcept;
    write_packets_operation send_packets_to(packet_batch payloads, const endpoint& to) noexcept;

    /// Sends a packet that was received, and changed in place, back to where it came from: to its sender, and, if the
    /// socket that received it has udp_options::packet_info, from the address that it was sent to. One that was not
    /// received goes to the connected peer.
    write_packet_operation reply(packet answer);
    write_packets_operation reply_packets(packet_batch answers);
    /// The same with another packet for an answer.
    write_packet_operation reply(packet answer, const packet& request);

    /// As above, from an address of this host's, over an interface, with TTL or TOS of their own. Throw
    /// std::system_error for what cannot be: values out of range, an address of the other family than the peer's. An
    /// address that is not this host's, or an interface that is not there, the kernel refuses when it is sent (EINVAL
    /// or ENETUNREACH): the datagram fails, as flush() tells, and the socket goes on.
    write_packet_operation send(packet payload, const datagram_options& how);
    write_packets_operation send_packets(packet_batch payloads, const datagram_options& how);
    write_packet_operation send_to(packet payload, const endpoint& to, const datagram_options& how);
    write_packets_operation send_packets_to(packet_batch payloads, const endpoint& to, const datagram_options& how);

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
