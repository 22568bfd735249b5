// SPDX-License-Identifier: Apache-2.0
#include <cotun/tun/device.hpp>

#include "io/inbox.hpp"
#include "io/outbox.hpp"
#include "io/packet_port.hpp"
#include "io/reactor_core.hpp"
#include "tun/interface.hpp"

#include <array>
#include <cassert>
#include <cerrno>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace cotun {
namespace detail {
namespace {

// A frame may be longer than the MTU by an Ethernet header and a VLAN tag. A read that fills its buffer to the last
// byte may have been cut, so there is one more.
constexpr unsigned frame_overhead = 14 + 4 + 1;

} // namespace

// The kernel wakes the readers of a device before it takes the device from them (tun_detach_all), and not again: one
// that looks in between finds nothing, and would wait for ever. So when the link goes, the device's reader looks again.
class device_inbox final : public inbox {
public:
    device_inbox(packet_port& port, reactor_core& core, size_class c, read_mode mode)
        : inbox(port, core, c, mode, ring::feature::read_multishot), removal_(*this) {}

    /// Takes the descriptor over; once the port is open.
    void watch(int removal) noexcept {
        removal_.watched = {removal, -1};
        arm_watch();
    }

private:
    struct removal_poll final : ring::request_owner {
        explicit removal_poll(device_inbox& i) noexcept : of(i) {}
        removal_poll(const removal_poll&) = delete;
        removal_poll& operator=(const removal_poll&) = delete;
        ~removal_poll() {
            if (watched.descriptor >= 0) ::close(watched.descriptor);
        }
        void on_completion(std::uint32_t, const ring::completion& done) override { of.link_went(done.result); }
        device_inbox& of;
        ring::file watched;
        ring::token request = 0;
    };

    void arm_watch() noexcept {
        removal_.request = core().begin(removal_, 0, true);
        assert(removal_.request != 0); // each port has two that are reserved
        ++own_requests_;
        core().driver().poll(removal_.request, removal_.watched, POLLIN, false);
    }

    void link_went(std::int32_t events) noexcept {
        removal_.request = 0;
        --own_requests_;
        if (events > 0 && port().is_open()) {
            drain_watch();
            look_again();
            arm_watch();
        }
        port().progress();
    }

    void drain_watch() noexcept {
        std::array<std::byte, 16> start{}; // of a message: what is in it does not matter
        iovec into{start.data(), start.size()};
        for (int result = 0; result >= 0 || result == -ENOBUFS;) {
            msghdr message{};
            message.msg_iov = &into;
            message.msg_iovlen = 1;
            result = static_cast<int>(core().driver().receive_now(removal_.watched, message));
        }
    }

    void cancel_own() noexcept override {
        if (removal_.request != 0) core().driver().cancel(removal_.request);
    }

    void arm(ring::token request, std::uint16_t group) override {
        core().driver().read_multishot(request, port().file(), group);
    }

    bool place(packet_slot& slot, std::int32_t result) override {
        const auto size = static_cast<std::size_t>(result);
        if (size >= core().pool().space(slot).size()) {
            ++statistics_.truncated;
            return false;
        }
        core().pool().start(slot, size);
        return true;
    }

    ssize_t read_now(packet_slot& slot) override {
        return core().driver().read_now(port().file(), core().pool().space(slot));
    }

    removal_poll removal_;
};

class device_outbox final : public outbox {
public:
    device_outbox(packet_port& port, reactor_core& core) : outbox(port, core) {}

private:
    void transmit(ring::token request, std::size_t, packet_slot& slot) override {
        core().driver().write(request, port().file(), {slot.base + slot.offset, slot.size});
    }
    // A write to a TUN device never waits (research: its send buffer is unbounded).
    bool admits(std::size_t) override { return true; }
};

class device_port final : public packet_port {
public:
    device_port(reactor_core& core, open_interface&& made, bool tap, read_mode mode)
        : packet_port(core, made.descriptor),
          name(made.name),
          index(made.index),
          mtu(made.mtu),
          is_tap(tap),
          inbox_(*this, core, core.pool().class_for(made.mtu + frame_overhead), mode),
          outbox_(*this, core) {
        open();
        inbox_.watch(made.watch);
        made.release();
    }

    std::string describe() const override { return fmt::format("device \"{}\"", name); }
    std::string explain(int error) const override {
        switch (error) {
        case EBADFD:
        case EBADF:
        case ENODEV: return "the interface is gone; was it deleted from outside?";
        case ECANCELED: return "the device was closed by this program";
        case EIO:
        case ENETDOWN: return "the link is down: set it up (`ip link set up`), and write again";
        case EINVAL:
            return "not a packet that the kernel takes: empty, not IP, or multishot reads were asked for and are not "
                   "there";
        default: return "the kernel refused";
        }
    }
    inbox& in() noexcept override { return inbox_; }
    outbox& out() noexcept override { return outbox_; }

    const std::string name;
    const unsigned index;
    const unsigned mtu;
    const bool is_tap;

private:
    bool closes_slowly() const noexcept override { return true; } // it waits for the kernel's readers (RCU)

    device_inbox inbox_;
    device_outbox outbox_;
};

} // namespace detail

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

const std::string& device::name() const noexcept { return port().name; }
unsigned device::index() const noexcept { return port().index; }
bool device::is_tap() const noexcept { return port().is_tap; }
unsigned device::mtu() const noexcept { return port().mtu; }
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

device open_device(reactor& io, const device_options& options, bool tap) {
    detail::open_interface made = detail::make_interface(options, tap, tap ? "open_tap" : "open_tun");
    return device(new detail::device_port(io.core(), std::move(made), tap, options.read));
}

device open_tun(reactor& io, const device_options& options) { return open_device(io, options, false); }
device open_tap(reactor& io, const device_options& options) { return open_device(io, options, true); }

} // namespace cotun
