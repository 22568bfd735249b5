// SPDX-License-Identifier: Apache-2.0
//
// device: a TUN (layer 3, IP packets) or TAP (layer 2, Ethernet frames) interface.
//
//     cotun::device dev = cotun::open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24", "fd00::1/64"}});
//     for (;;) {
//         cotun::packet pkt = co_await dev.read_packet();
//         ...
//         co_await dev.write_packet(std::move(pkt));
//     }
//
// What the kernel sends out of the interface is read here; what is written here comes in by it.
//
// A device is one queue of an interface, and most interfaces have one. With several (.multi_queue), each is a device of
// its own, on the same reactor or on another one:
//
//     cotun::device first = cotun::open_tun(io, {.name = "tun0", .multi_queue = true});
//     cotun::unique_fd queue = first.open_queue();                               // from here it may go to any thread
//     cotun::device second = cotun::adopt_device(other_io, std::move(queue));    // on the other reactor's thread
//
// The kernel keeps a flow on a queue: the one on which the flow's answers were last written, else by a hash. So what a
// queue's reactor reads, it writes to the same queue, and a flow's packets stay in their order.
//
// A privileged helper can make the device for a program without privileges: make_tun() gives the descriptor, which goes
// over a Unix socket (net/unix.hpp) and is adopted there.
//
// Lifetime: the interface exists from open_tun() until close() of its last queue has returned, or the destructor, which
// closes it synchronously (it waits for the kernel, some milliseconds, and up to a second for packets that were
// accepted); a persistent one stays. Operations that wait are ended with std::errc::operation_canceled; who resumes
// from one may not use a handle that was destroyed meanwhile. Close or destroy it on the reactor's thread. One that was
// moved from can only be destroyed or assigned to. `ip netns delete` does not end a device: its namespace lives on with
// it. Thread: the reactor's. Errors: std::system_error that says what was refused and what to do about it; nothing is
// left behind by a failed open. A device deleted from outside ends its reads and writes with EBADFD, which
// cotun::is_final() knows; one that is set down keeps its readers waiting and fails writes with EIO, until it is up
// again. Kernel: Documentation/networking/tuntap.rst. Needs /dev/net/tun, and CAP_NET_ADMIN in the network namespace.
#pragma once

#include <cotun/coro/task.hpp>
#include <cotun/io/packet.hpp>
#include <cotun/io/packet_batch.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/io/read_operation.hpp>
#include <cotun/io/statistics.hpp>
#include <cotun/io/unique_fd.hpp>
#include <cotun/io/write_operation.hpp>
#include <cotun/link/link_info.hpp>
#include <cotun/tun/device_events.hpp>
#include <cotun/tun/device_options.hpp>

#include <string>

namespace cotun {

namespace detail {
class device_port;
}

class device {
public:
    device(device&& other) noexcept;
    device& operator=(device&& other) noexcept;
    ~device();

    /// The name that the kernel gave, or the one that it told of since.
    const std::string& name() const noexcept;
    /// The interface's index in its namespace.
    unsigned index() const noexcept;
    device_kind kind() const noexcept;
    bool is_tap() const noexcept { return kind() == device_kind::tap; }
    /// As last told by the kernel.
    unsigned mtu() const noexcept;
    bool is_multi_queue() const noexcept;
    /// Whether packets come by multishot read. May turn false after the first reads, where the kernel refuses it.
    bool uses_multishot() const noexcept;
    /// Which superpackets are read and written whole, as of now.
    device_offload offloads() const noexcept;
    /// For ioctl(2) of what cotun has no options for; -1 once it is closed. It stays the device's: not to be read,
    /// written or closed.
    int native_handle() const noexcept;

    /// Yields the next packet: an IP packet, or an Ethernet frame; it may be a superpacket (packet::offload()).
    read_packet_operation read_packet() noexcept;
    /// Yields all packets that have come, 1 to 64.
    read_packets_operation read_packets() noexcept;

    /// Writes a packet; see write_operation.hpp for when that is done. Neither empty packets nor, on a TUN device, such
    /// as are not IP are taken by the kernel: they are counted as invalid.
    write_packet_operation write_packet(packet written) noexcept;
    write_packets_operation write_packets(packet_batch written) noexcept;
    /// Waits until all that was accepted so far is written, and throws the first failure since the last flush.
    flush_operation flush() noexcept;

    /// Opens one more queue of the interface, for adopt_device(). Any number up to the kernel's 256; E2BIG beyond.
    /// Needs what opening the device needs, and a device that was opened with multi_queue (EINVAL).
    [[nodiscard]] unique_fd open_queue() const;
    /// Takes this queue out of the interface: it gets no packets any more, and what is written to it is lost, until it
    /// is attached again. Packets that wait in it are dropped by the kernel. For multi-queue devices (EINVAL).
    void detach_queue();
    void attach_queue();
    /// Has an eBPF program (BPF_PROG_TYPE_SOCKET_FILTER, by its descriptor) say the queue of each packet, for all
    /// queues of the interface; its result is taken modulo their number. -1: the kernel's flow hash again.
    void set_steering_program(int program);
    /// Whether the link has a carrier, for those who route over it (Linux 5.0).
    void set_carrier(bool on);
    /// Whether the interface stays when its last queue is closed.
    void set_persistent(bool on);

    /// What happens to the link: see tun/device_events.hpp. Recorded from the first call on.
    device_events& events();
    /// What the kernel says of the link now, its counters among it; a request by netlink, synchronous. reads() and
    /// writes() are this queue's own. Throws std::system_error: ENODEV when the link is gone, ENOTCONN where its
    /// namespace cannot be entered.
    link_info link() const;

    /// Ends all operations and closes the queue; with the last one, unless it is persistent, the interface goes. When
    /// it returns, the name can be used again. Once is enough; more does no harm.
    task<> close();

    read_statistics reads() const noexcept;
    write_statistics writes() const noexcept;

private:
    friend device open_device(reactor&, const device_options&, device_kind);
    friend device adopt_device(reactor&, unique_fd, const adopt_options&);
    explicit device(detail::device_port* port) noexcept;
    detail::device_port& port() const noexcept;
    void reset() noexcept;

    detail::device_port* port_; // counted; nullptr once moved from
};

/// Makes an interface, gives it its addresses and MTU, and sets it up; by netlink, without running other programs.
/// When it returns, packets written to the device reach its addresses, and the addresses can be bound to, IPv6 too.
/// A failure leaves no interface behind; of one that was there already (existing_interface), what was changed before
/// the failure stays changed.
[[nodiscard]] device open_tun(reactor& io, const device_options& options = {});
[[nodiscard]] device open_tap(reactor& io, const device_options& options = {});

/// The same without a reactor: the descriptor, non-blocking and close-on-exec, for adopt_device() here or in another
/// process. `read` and `mtu_room` do not count. Any thread.
[[nodiscard]] unique_fd make_tun(const device_options& options = {});
[[nodiscard]] unique_fd make_tap(const device_options& options = {});

/// Makes a device of a descriptor that is attached to an interface (TUNSETIFF), whoever opened it. What it is, is asked
/// of it (TUNGETIFF); what does not fit the options, or cotun, is refused by name, and the descriptor closed. It is set
/// to O_NONBLOCK, and must not be used by others any more. Needs no privileges, but where its interface is in a
/// namespace that this process cannot enter: there adopt_options::mtu must be given.
[[nodiscard]] device adopt_device(reactor& io, unique_fd descriptor, const adopt_options& options = {});

} // namespace cotun
