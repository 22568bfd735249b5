// SPDX-License-Identifier: Apache-2.0
//
// device_port: one queue of a TUN or TAP device on a reactor: its descriptor, inbox and outbox.
#pragma once

#include <cotun/tun/device_events.hpp>

#include "io/packet_port.hpp"
#include "io/reactor_core.hpp"
#include "tun/device_inbox.hpp"
#include "tun/device_outbox.hpp"
#include "tun/interface.hpp"
#include "tun/link_watch.hpp"

#include <optional>
#include <string>

namespace cotun::detail {

/// What a port has to know of its device's options.
struct port_shape {
    read_mode read = read_mode::automatic;
    unsigned mtu_room = 0;
    superpacket_kinds write{};
    merge_options merge{};
    std::string clone_device = "/dev/net/tun";
};

class device_port final : public packet_port, link_watcher {
public:
    device_port(reactor_core& core, open_interface made, port_shape shape);

    std::string describe() const override;
    std::string explain(int error) const override;
    inbox& in() noexcept override { return inbox_; }
    outbox& out() noexcept override { return outbox_; }

    /// The interface stays when its last descriptor is closed.
    void note_persistent(bool on) noexcept { flags_ = (flags_ & ~unsigned{IFF_PERSIST}) | (on ? IFF_PERSIST : 0U); }
    device_kind kind() const noexcept;
    bool is_multi_queue() const noexcept;
    const std::string& name() const noexcept { return name_; }
    unsigned index() const noexcept { return index_; }
    unsigned mtu() const noexcept { return mtu_; }
    const std::string& clone_device() const noexcept { return clone_device_; }
    device_events& events();
    /// What is handed over whole, as of now.
    device_offload offload() const noexcept { return {front_.virtio, agreed_, outbox_.written_whole()}; }
    /// The kernel has refused a kind of superpackets, which go as segments from now on.
    void on_offload_refused() noexcept;
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
    unsigned flags_; // as TUNGETIFF told
    unsigned index_;
    unsigned mtu_;
    const std::string clone_device_;
    const front_shape front_;
    const superpacket_kinds agreed_;
    std::optional<device_events> events_; // once somebody wants them
    device_inbox inbox_;
    device_outbox outbox_;
};

} // namespace cotun::detail
