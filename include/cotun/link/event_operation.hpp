// SPDX-License-Identifier: Apache-2.0
//
// co_await monitor.next(), dev.events().next(): the wait for the next event of a link.
//
// Any number of tasks may wait: each event goes to one of them, in the order in which they wait. Destroyed or stopped
// (coro/stop.hpp), a wait loses no event: one that had come for it goes to the next. A wait whose monitor or device was
// closed throws std::errc::operation_canceled; a device's, when the events before that were taken.
#pragma once

#include <cotun/coro/stop.hpp>
#include <cotun/link/event.hpp>

#include <coroutine>
#include <exception>
#include <optional>
#include <utility>

namespace cotun {

namespace link {
class event_source;
}

class [[nodiscard]] link_event_operation final : detail::stoppable_wait {
public:
    explicit link_event_operation(link::event_source& from) noexcept : from_(&from) {}
    /// Only before it is awaited.
    link_event_operation(link_event_operation&& other) noexcept
        : stoppable_wait(std::move(other)), from_(other.from_) {}
    ~link_event_operation();

    bool await_ready();
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    link_event await_resume();

private:
    friend class link::event_source;
    link::event_source* from_;
    std::optional<link_event> came_;
    std::exception_ptr failure_;
    bool holds_ = false;
};

} // namespace cotun
