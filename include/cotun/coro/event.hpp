// SPDX-License-Identifier: Apache-2.0
//
// event: something that has happened, or not yet. Tasks wait until it has.
//
//     cotun::event configured;
//     co_await configured.wait();   // in any number of tasks; ready at once when it is set
//     configured.set();             // all who wait go on; it stays set until reset()
//
// A wait that set() has ended stays ended, whatever reset() does before its task runs. A request to stop ends a wait
// with std::errc::operation_canceled.
//
// Lifetime: a wait may be destroyed. When the event is destroyed, what still waits for it throws operation_canceled.
// Thread: the reactor's, one for all who use it. Allocates nothing.
#pragma once

#include <cotun/coro/stop.hpp>
#include <cotun/coro/waiter.hpp>

#include <coroutine>
#include <utility>

namespace cotun {

class event;

/// co_await event.wait().
class [[nodiscard]] event_wait_operation final : detail::stoppable_wait {
public:
    explicit event_wait_operation(event& of) noexcept : of_(&of) {}
    event_wait_operation(event_wait_operation&& other) noexcept : stoppable_wait(std::move(other)), of_(other.of_) {}

    bool await_ready() const noexcept;
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    void await_resume() const;

private:
    friend class event;
    event* of_; // nullptr: it is gone
};

class event {
public:
    explicit event(bool is_set = false) noexcept : set_(is_set) {}
    event(const event&) = delete;
    event& operator=(const event&) = delete;
    ~event();

    bool is_set() const noexcept { return set_; }
    void set() noexcept;
    void reset() noexcept { set_ = false; }
    event_wait_operation wait() noexcept { return event_wait_operation(*this); }

private:
    friend class event_wait_operation;
    bool set_;
    detail::waiter_list waiters_;
};

inline bool event_wait_operation::await_ready() const noexcept { return of_->set_; }

} // namespace cotun
