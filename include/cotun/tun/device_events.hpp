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
// network namespace (and then what happens to it there), and that it was deleted. Not told is what was before the first
// call of events(). They come by netlink (link/event.hpp), without a timer.
//
// Each event goes to one next(). Lifetime: the device's; next() ends with std::errc::operation_canceled when the device
// is closed and all events were taken. Thread: the reactor's. Bounds: 64 events wait; beyond, the oldest are dropped
// and counted.
#pragma once

#include <cotun/coro/channel.hpp>
#include <cotun/link/event.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <system_error>

namespace cotun {

namespace detail {
class device_port;
}

/// co_await dev.events().next().
class [[nodiscard]] next_event_operation : public channel_receive_operation<link_event> {
public:
    explicit next_event_operation(channel_receive_operation<link_event>&& from) noexcept
        : channel_receive_operation<link_event>(std::move(from)) {}

    link_event await_resume() {
        std::optional<link_event> next = channel_receive_operation<link_event>::await_resume();
        if (!next) throw_closed();
        return *next;
    }

private:
    [[noreturn]] static void throw_closed();
};

class device_events {
public:
    static constexpr std::size_t most_waiting = 64;

    device_events() : queue_(most_waiting) {}

    /// The next event. A wait that is stopped or destroyed takes none.
    next_event_operation next() noexcept { return next_event_operation(queue_.receive()); }
    /// Events that were dropped since nobody took them.
    std::uint64_t lost() const noexcept { return lost_; }

private:
    friend class detail::device_port;
    void put(link_event event) noexcept;
    void end() noexcept { queue_.close(); }

    channel<link_event> queue_;
    std::uint64_t lost_ = 0;
};

} // namespace cotun
