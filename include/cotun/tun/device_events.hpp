// SPDX-License-Identifier: Apache-2.0
//
// device_events: what happens to a device's link, from whoever it comes.
//
//     for (;;) {
//         cotun::link_event event = co_await dev.events().next();
//         if (event.kind == cotun::link_event_kind::address_added) announce(event.address);
//     }
//
// Told are: up and down, the carrier, the MTU, the name, the MAC address, addresses, that it was moved to another
// network namespace (and then what happens to it there), that it was deleted, and that the kernel refused superpackets
// (offload_refused). Not told is what was before the first call of events(). All but the last come by netlink
// (link/event.hpp), without a timer.
//
// Each event goes to one next() (link/event_operation.hpp). Lifetime: the device's; next() ends with
// std::errc::operation_canceled when the device is closed, or gone, and all events were taken. Thread: the reactor's.
// Bounds: 64 events wait; beyond, the oldest are dropped and counted.
#pragma once

#include <cotun/link/event.hpp>
#include <cotun/link/event_operation.hpp>

#include <cstddef>
#include <cstdint>

namespace cotun {

namespace detail {
class device_port;
class device_event_queue;
} // namespace detail

class device_events {
public:
    static constexpr std::size_t most_waiting = 64;

    device_events();
    device_events(const device_events&) = delete;
    device_events& operator=(const device_events&) = delete;
    ~device_events();

    /// The next event; ready at once while there are any.
    link_event_operation next() noexcept;
    /// Events that were dropped since nobody took them.
    std::uint64_t lost() const noexcept;

private:
    friend class detail::device_port;
    void put(const link_event& event) noexcept;
    void end() noexcept;

    detail::device_event_queue* queue_; // counted
};

} // namespace cotun
