// SPDX-License-Identifier: Apache-2.0
#include <cotun/tun/device.hpp>

#include "io/fail.hpp"
#include "tun/device_port.hpp"
#include "tun/interface.hpp"
#include "tun/tun_driver.hpp"

#include <cassert>
#include <cerrno>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <utility>

namespace cotun {
namespace {

[[noreturn]] void refuse(const detail::device_port& port, const char* call, std::string_view why) {
    detail::fail(errno, fmt::format("{}(): device \"{}\": {}", call, port.name(), why));
}

void set_queue(const detail::device_port& port, const char* call, int flag) {
    ifreq request{};
    request.ifr_flags = static_cast<short>(flag);
    if (ioctl(port.descriptor(), TUNSETQUEUE, &request) == 0) return;
    refuse(port, call,
           errno == EINVAL ? "only a queue of a device with multi_queue, and not twice (TUNSETQUEUE)" : "TUNSETQUEUE");
}

} // namespace

device::device(detail::device_port* port) noexcept : port_(port) { port_->hold(); }
device::device(device&& other) noexcept : port_(std::exchange(other.port_, nullptr)) {}
device& device::operator=(device&& other) noexcept {
    if (this != &other) {
        reset();
        port_ = std::exchange(other.port_, nullptr);
    }
    return *this;
}
device::~device() { reset(); }

void device::reset() noexcept {
    if (port_ == nullptr) return;
    port_->close_now();
    std::exchange(port_, nullptr)->drop();
}

detail::device_port& device::port() const noexcept {
    assert(port_ != nullptr && "the device was moved from");
    return *port_;
}

const std::string& device::name() const noexcept { return port().name(); }
unsigned device::index() const noexcept { return port().index(); }
device_kind device::kind() const noexcept { return port().kind(); }
unsigned device::mtu() const noexcept { return port().mtu(); }
bool device::is_multi_queue() const noexcept { return port().is_multi_queue(); }
device_offload device::offloads() const noexcept { return port().offload(); }
int device::native_handle() const noexcept { return port().descriptor(); }
bool device::uses_multishot() const noexcept { return port().in().uses_multishot(); }
read_packet_operation device::read_packet() noexcept { return read_packet_operation(port().in()); }
read_packets_operation device::read_packets() noexcept { return read_packets_operation(port().in()); }
write_packet_operation device::write_packet(packet written) noexcept { return {port().out(), std::move(written)}; }
write_packets_operation device::write_packets(packet_batch written) noexcept {
    return {port().out(), std::move(written)};
}
flush_operation device::flush() noexcept { return flush_operation(port().out()); }
task<> device::close() { return detail::packet_port::close(detail::port_reference(&port())); }
read_statistics device::reads() const noexcept { return port().in().statistics(); }
write_statistics device::writes() const noexcept { return port().out().statistics(); }

unique_fd device::open_queue() const { return detail::open_another_queue(port().descriptor(), port().clone_device()); }
void device::detach_queue() { set_queue(port(), "detach_queue", IFF_DETACH_QUEUE); }
void device::attach_queue() { set_queue(port(), "attach_queue", IFF_ATTACH_QUEUE); }

device_events& device::events() { return port().events(); }
link_info device::link() const { return port().ask_about_link(); }

void device::set_steering_program(int program) {
    if (ioctl(port().descriptor(), TUNSETSTEERINGEBPF, &program) != 0)
        refuse(port(), "set_steering_program",
               "not the descriptor of an eBPF program of the type BPF_PROG_TYPE_SOCKET_FILTER (TUNSETSTEERINGEBPF)");
}

void device::set_carrier(bool on) {
    const int value = on ? 1 : 0;
    if (ioctl(port().descriptor(), TUNSETCARRIER, &value) != 0)
        refuse(port(), "set_carrier", "TUNSETCARRIER (Linux 5.0; it needs CAP_NET_ADMIN, or to be the device's owner)");
}

void device::set_persistent(bool on) {
    if (ioctl(port().descriptor(), TUNSETPERSIST, on ? 1UL : 0UL) != 0)
        refuse(port(), "set_persistent", "TUNSETPERSIST");
    port().note_persistent(on);
}

device open_device(reactor& io, const device_options& wanted, device_kind kind) {
    device_options options = wanted;
    if (!io.core().has_readers_to_spare(detail::large_packets)) options.offload.enabled = false;
    detail::open_interface made =
        detail::make_interface(options, kind, kind == device_kind::tap ? "open_tap" : "open_tun");
    detail::port_shape shape;
    shape.read = options.read;
    shape.write = options.offload.write;
    shape.merge = options.offload.merge;
    shape.mtu_room = options.mtu_room;
    shape.clone_device = options.clone_device.view();
    return device(new detail::device_port(io.core(), std::move(made), std::move(shape)));
}

device open_tun(reactor& io, const device_options& options) { return open_device(io, options, device_kind::tun); }
device open_tap(reactor& io, const device_options& options) { return open_device(io, options, device_kind::tap); }

unique_fd make_tun(const device_options& options) {
    return detail::make_interface(options, device_kind::tun, "make_tun").descriptor;
}
unique_fd make_tap(const device_options& options) {
    return detail::make_interface(options, device_kind::tap, "make_tap").descriptor;
}

device adopt_device(reactor& io, unique_fd descriptor, const adopt_options& options) {
    detail::open_interface made = detail::adopt_interface(std::move(descriptor), options);
    detail::port_shape shape;
    shape.read = options.read;
    shape.mtu_room = options.mtu_room;
    shape.write = options.offload.write;
    shape.merge = options.offload.merge;
    return device(new detail::device_port(io.core(), std::move(made), std::move(shape)));
}

} // namespace cotun
