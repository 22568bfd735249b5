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
// Lifetime: the interface exists from open_tun() until close() has returned, or the destructor, which closes it
// synchronously (it waits for the kernel, up to a few tens of milliseconds, and up to a second for packets that were
// accepted). Operations that wait are ended with std::errc::operation_canceled; who resumes from one may not use a
// handle that was destroyed meanwhile. Close or destroy it on the reactor's thread. One that was moved from can only be
// destroyed or assigned to. `ip netns delete` does not end a device: its namespace lives on with it.
// Thread: the reactor's.
// Errors: std::system_error that says what was refused and what to do about it; nothing is left behind by a failed
// open. A device deleted from outside ends its reads and writes with EBADFD, which cotun::is_final() knows; one that is
// set down keeps its readers waiting and fails writes with EIO, until it is up again. Kernel:
// Documentation/networking/tuntap.rst. Needs /dev/net/tun, and CAP_NET_ADMIN in the network namespace.
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
#include <cotun/wire/address.hpp>

#include <string>
#include <type_traits>

namespace cotun {

namespace detail {
class device_port;
}

struct device_options {
    /// 1 to 15 bytes without '/' and blanks, not in use; may hold one "%d", for which the kernel puts the first free
    /// number. Empty: the kernel's choice (tun0, tap0, ...).
    option_text name{};
    /// IPv4 and IPv6, each with its prefix length; up to 16.
    option_list<wire::ip_prefix, 16> addresses{};
    /// Bytes of the largest packet (68 to 65535; from 1280 on for IPv6), without the Ethernet header. 0: the kernel's
    /// default, 1500. If it is raised from outside later, larger packets are counted as truncated and dropped.
    unsigned mtu = 0;
    /// Whether to set the interface up.
    bool up = true;
    /// The network namespace to open it in: a name as in `ip netns`, or a path. Empty: the calling thread's. The
    /// reactor stays where it is.
    option_text netns{};
    /// Forces one way of reading; for trying, and for kernels whose multishot read misbehaves.
    read_mode read = read_mode::automatic;
    /// The clone device.
    option_text clone_device = "/dev/net/tun";
};
static_assert(std::is_trivially_destructible_v<device_options>); // see option_values.hpp

class device {
public:
    device(device&& other) noexcept;
    device& operator=(device&& other) noexcept;
    ~device();

    /// The name that the kernel gave, at the time of opening.
    const std::string& name() const noexcept;
    /// The interface's index in its namespace.
    unsigned index() const noexcept;
    bool is_tap() const noexcept;
    /// At the time of opening.
    unsigned mtu() const noexcept;
    /// Whether packets come by multishot read. May turn false after the first reads, where the kernel refuses it.
    bool uses_multishot() const noexcept;
    /// For ioctl(2) of what cotun has no options for; -1 once it is closed. It stays the device's: not to be read,
    /// written or closed.
    int native_handle() const noexcept;

    /// Yields the next packet: an IP packet, or an Ethernet frame.
    read_packet_operation read_packet() noexcept;
    /// Yields all packets that have come, 1 to 64.
    read_packets_operation read_packets() noexcept;

    /// Writes a packet; see write_operation.hpp for when that is done. Neither empty packets nor, on a TUN device, such
    /// as are not IP are taken by the kernel: they are counted as invalid.
    write_packet_operation write_packet(packet written) noexcept;
    write_packets_operation write_packets(packet_batch written) noexcept;
    /// Waits until all that was accepted so far is written, and throws the first failure since the last flush.
    flush_operation flush() noexcept;

    /// Ends all operations and deletes the interface; when it returns, the name can be used again. Once is enough; more
    /// does no harm.
    task<> close();

    read_statistics reads() const noexcept;
    write_statistics writes() const noexcept;

private:
    friend device open_device(reactor&, const device_options&, bool);
    explicit device(detail::device_port* port) noexcept;
    detail::device_port& port() const noexcept;
    void reset() noexcept;

    detail::device_port* port_; // counted; nullptr once moved from
};

/// Makes an interface, gives it its addresses and MTU, and sets it up; by netlink, without running other programs.
/// When it returns, packets written to the device reach its addresses, and the addresses can be bound to, IPv6 too.
[[nodiscard]] device open_tun(reactor& io, const device_options& options = {});
[[nodiscard]] device open_tap(reactor& io, const device_options& options = {});

} // namespace cotun
