// SPDX-License-Identifier: Apache-2.0
#include "tun/device_port.hpp"

#include "link/netlink.hpp"
#include "link/netns_scope.hpp"
#include "tun/offload_agreement.hpp"
#include "tun/tun_driver.hpp"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>

namespace cotun::detail {
namespace {

// A frame may be longer than the MTU by an Ethernet header and a VLAN tag, and have packet information and a virtio-net
// header in front. A read that fills its buffer to the last byte may have been cut, so there is one more.
constexpr unsigned frame_overhead = 14 + 4 + longest_front + 1;

front_shape front_of(const open_interface& made) noexcept {
    return {made.packet_information, made.virtio_header, (made.flags & IFF_TAP) != 0};
}

// Superpackets are as large as an IP packet can be, whatever the MTU.
unsigned largest_packet(const open_interface& made, unsigned mtu_room) noexcept {
    return made.virtio_header ? 65535 : std::max(made.mtu, mtu_room);
}

} // namespace

device_port::device_port(reactor_core& core, open_interface made, port_shape shape)
    : packet_port(core, made.descriptor.get()),
      name_(std::move(made.name)),
      flags_(made.flags),
      index_(made.index),
      mtu_(made.mtu),
      clone_device_(std::move(shape.clone_device)),
      front_(front_of(made)),
      agreed_(made.agreed),
      inbox_(*this, core, core.pool().class_for(largest_packet(made, shape.mtu_room) + frame_overhead), shape.read,
             front_),
      outbox_(*this, core, front_, made.bounded, shape.write, shape.merge) {
    if (index_ != 0) start_watching(); // before the inbox starts: see link_watch::prepare()
    open();
    static_cast<void>(made.descriptor.release());
}

std::string device_port::describe() const { return fmt::format("device \"{}\"", name_); }

std::string device_port::explain(int error) const {
    switch (error) {
    case EBADFD:
    case EBADF:
    case ENODEV: return "the interface is gone; was it deleted from outside?";
    case ECANCELED: return "the device was closed by this program";
    case EIO:
    case ENETDOWN: return "the link is down: set it up (`ip link set up`), and write again";
    case EINVAL:
        return "not a packet that the kernel takes: empty, not IP, or multishot reads were asked for and are not there";
    default: return "the kernel refused";
    }
}

device_kind device_port::kind() const noexcept { return (flags_ & IFF_TAP) != 0 ? device_kind::tap : device_kind::tun; }
bool device_port::is_multi_queue() const noexcept { return (flags_ & IFF_MULTI_QUEUE) != 0; }

// --- what happens to the link --------------------------------------------------------------------------------------

device_events& device_port::events() {
    if (!events_) events_.emplace();
    return *events_;
}

void device_port::on_offload_refused() noexcept {
    if (!events_) return;
    link_event event;
    event.kind = link_event_kind::offload_refused;
    event.index = index_;
    event.name = name_;
    events_->put(event);
}

// A program that attaches to the interface later, and knows nothing of superpackets, would be given them. Of several
// queues, others may be open still.
void device_port::leaving() noexcept {
    if (events_) events_->end();
    const bool stays = (flags_ & (IFF_PERSIST | IFF_MULTI_QUEUE)) == IFF_PERSIST;
    if (stays && front_.virtio && !core().forked()) clear_offloads(descriptor());
}

// Where the namespace cannot be entered, or netlink is short of memory, packets go all the same.
void device_port::start_watching() noexcept {
    try {
        const unique_fd there = namespace_of(descriptor());
        watch_link(core(), there.get(), index_);
        const link_info* const known = watched_link(); // it may have changed since it was looked up
        if (known != nullptr) resize(known->mtu);
    } catch (const std::system_error&) {}
}

void device_port::resize(unsigned mtu) noexcept {
    mtu_ = mtu;
    inbox_.make_room_for(mtu + frame_overhead);
}

// The kernel tells that the interface is gone when it is in no list any more and nobody finds it; who makes another of
// that name waits for the lock that is held until its last traces are away. close(2) goes on without the lock, until no
// callback of the kernel's (RCU) can know of the interface: ten times as long.
void device_port::on_closing_event(const link_event& event) noexcept {
    if (event.kind == link_event_kind::moved) stop_watching(); // and what becomes of it there only close(2) tells
    if (event.kind == link_event_kind::deleted) gone();
}

void device_port::on_link_event(const link_event& told) noexcept {
    if (!is_open()) return on_closing_event(told);
    link_event event = told;
    // The message of a move may be lost among others; all that is read then is that the link is not here.
    attachment now;
    if (event.found_missing && get_attachment(descriptor(), now) == 0) event.kind = link_event_kind::moved;
    switch (event.kind) {
    case link_event_kind::renamed: name_ = event.name.view(); break;
    case link_event_kind::mtu_changed: resize(event.mtu); break;
    // The kernel wakes the readers of a device before it takes the device from them (tun_detach_all), and not again:
    // one that looks in between finds nothing, and would wait for ever. So the reader looks again.
    case link_event_kind::deleted: inbox_.look_again(); break;
    case link_event_kind::moved: follow(event); break;
    default: break;
    }
    if (events_) events_->put(event);
}

// The descriptor stays attached; the link has another index there, and maybe another name.
void device_port::follow(link_event& moved) noexcept {
    attachment now;
    if (get_attachment(descriptor(), now) != 0) return inbox_.look_again();
    name_ = now.name;
    if (moved.new_index == 0) moved.new_index = index_by_name();
    if (moved.new_index != 0) index_ = moved.new_index;
    start_watching();
}

// 0: it cannot be found out, since the namespace cannot be entered, or the device has moved on.
unsigned device_port::index_by_name() const noexcept {
    unsigned index = 0;
    try {
        const unique_fd there = namespace_of(descriptor());
        cotun::link::run_in_namespace(there.get(), "the namespace of a device", "following a device", [&] {
            cotun::link::netlink_socket netlink;
            index = netlink.get_link(name_).index;
        });
    } catch (const std::system_error&) {}
    return index;
}

} // namespace cotun::detail
