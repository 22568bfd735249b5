// SPDX-License-Identifier: Apache-2.0
//
// link_monitor: what happens to the links, addresses and routes of a network namespace, as it happens.
//
//     cotun::link_monitor monitor(io);
//     for (;;) {
//         cotun::link_event event = co_await monitor.next();
//         if (event.kind == cotun::link_event_kind::route_added && event.route.destination.length() == 0)
//         follow(event);
//     }
//
// From the constructor on, nothing is missed: what nobody has taken yet waits in the kernel, as many messages as its
// buffer holds. When there are more, the kernel drops them; the state is then read anew, what is different is told, and
// then `resynchronised` (link/event.hpp): the events that were told add up to what there is, at that moment.
//
// Nothing is polled by a timer. Routes that the kernel drops without a word, as IPv4's of a link that is set down, are
// found by reading the routes again after such a change.
//
// Stopping and destroying a wait loses no event, and several tasks may wait (link/event_operation.hpp).
// Lifetime: what waits when it is closed or destroyed throws std::errc::operation_canceled. One that was moved from can
// only be destroyed or assigned to.
// Thread: the reactor's. Memory: the known links, addresses and routes, some 200 bytes each.
// Errors: std::system_error. Needs no privileges. Kernel: rtnetlink(7).
#pragma once

#include <cotun/io/reactor.hpp>
#include <cotun/link/event.hpp>
#include <cotun/link/event_operation.hpp>
#include <cotun/link/network_namespace.hpp>

#include <type_traits>

namespace cotun {

namespace link {
class event_stream;
}

struct link_monitor_options {
    /// The namespace to watch. Empty: the calling thread's.
    netns_reference netns{};
    /// What to tell of.
    bool links = true;
    bool addresses = true;
    bool routes = true;
    bool rules = false;
    bool neighbours = false;
    /// The index of the one link to tell of, with its addresses; 0: all.
    unsigned only = 0;
    /// Whether to tell first of what there is, as if it had just been made, and then `resynchronised`.
    bool initial = false;
    /// Bytes of the kernel's buffer of messages; 0: its default (sysctl net.core.rmem_default).
    int receive_buffer = 0;
};
static_assert(std::is_trivially_destructible_v<link_monitor_options>); // see io/option_values.hpp

class link_monitor {
public:
    explicit link_monitor(reactor& io, const link_monitor_options& options = {});
    link_monitor(link_monitor&& other) noexcept;
    link_monitor& operator=(link_monitor&& other) noexcept;
    ~link_monitor();

    /// Yields the next event; ready at once while there are any.
    link_event_operation next() noexcept;

    /// Ends what waits, and closes. Once is enough; more does no harm.
    void close() noexcept;

private:
    void reset() noexcept;

    link::event_stream* stream_ = nullptr; // counted; nullptr once moved from
};

} // namespace cotun
