// SPDX-License-Identifier: Apache-2.0
//
// device_port: one queue of a TUN or TAP device on a reactor: its descriptor, inbox and outbox.
#pragma once

#include <cotun/tun/device_events.hpp>

#include "io/inbox.hpp"
#include "io/outbox.hpp"
#include "io/packet_port.hpp"
#include "io/reactor_core.hpp"
#include "tun/interface.hpp"
#include "tun/link_watch.hpp"

#include <linux/if_tun.h>

#include <optional>
#include <string>

namespace cotun::detail {

/// What a port has to know of its device's options.
struct port_shape {
    read_mode read = read_mode::automatic;
    unsigned mtu_room = 0;
    std::string clone_device = "/dev/net/tun";
};

class device_inbox final : public inbox {
public:
    device_inbox(packet_port& port, reactor_core& core, size_class c, read_mode mode, bool information)
        : inbox(port, core, c, mode, ring::feature::read_multishot), information_(information) {}

private:
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
        return !information_ || take_information(slot);
    }
    bool take_information(packet_slot& slot) noexcept;
    ssize_t read_now(packet_slot& slot) override {
        return core().driver().read_now(port().file(), core().pool().space(slot));
    }

    const bool information_; // a struct tun_pi comes in front of each packet
};

class device_outbox final : public outbox {
public:
    device_outbox(packet_port& port, reactor_core& core, bool information, bool bounded)
        : outbox(port, core), bounded_(bounded) {
        if (information) prefix_ = sizeof(tun_pi);
    }

private:
    void transmit(ring::token request, std::size_t, packet_slot& slot) override {
        if (prefix_ != 0) return transmit_with_information(request, slot);
        core().driver().write(request, port().file(), {slot.base + slot.offset, slot.size});
    }
    void transmit_with_information(ring::token request, packet_slot& slot) noexcept;
    // A write to a TUN device never waits, unless its send buffer was given a bound: then a later one could overtake
    // one that does.
    bool admits(std::size_t) override { return !bounded_ || in_flight_ == 0; }

    const bool bounded_;
};

class device_port final : public packet_port, link_watcher {
public:
    device_port(reactor_core& core, open_interface made, port_shape shape);

    std::string describe() const override;
    std::string explain(int error) const override;
    inbox& in() noexcept override { return inbox_; }
    outbox& out() noexcept override { return outbox_; }

    device_kind kind() const noexcept;
    bool is_multi_queue() const noexcept;
    const std::string& name() const noexcept { return name_; }
    unsigned index() const noexcept { return index_; }
    unsigned mtu() const noexcept { return mtu_; }
    const std::string& clone_device() const noexcept { return clone_device_; }
    device_events& events();
    using link_watcher::ask_about_link;

private:
    bool closes_slowly() const noexcept override { return true; } // it waits for the kernel's readers (RCU)
    bool tells_when_gone() const noexcept override { return is_watching(); }
    void leaving() noexcept override;
    void left() noexcept override { stop_watching(); }
    void on_link_event(const link_event& told) noexcept override;
    void on_closing_event(const link_event& event) noexcept;
    void follow(link_event& moved) noexcept;
    unsigned index_by_name() const noexcept;
    void start_watching() noexcept;
    void resize(unsigned mtu) noexcept;

    std::string name_;
    const unsigned flags_; // as TUNGETIFF told
    unsigned index_;
    unsigned mtu_;
    const std::string clone_device_;
    std::optional<device_events> events_; // once somebody wants them
    device_inbox inbox_;
    device_outbox outbox_;
};

} // namespace cotun::detail
