// SPDX-License-Identifier: Apache-2.0
//
// event_source: what link_event_operation waits at: events in order, and who waits for them. A monitor's are read from
// its socket when they are wanted; a device's are put in when they happen.
//
// Lives as long as who holds it: its owner, and all who wait.
#pragma once

#include <cotun/coro/scheduler.hpp>
#include <cotun/coro/waiter.hpp>
#include <cotun/link/event.hpp>
#include <cotun/link/event_operation.hpp>

#include <deque>
#include <exception>

namespace cotun::link {

class event_source {
public:
    event_source(const event_source&) = delete;
    event_source& operator=(const event_source&) = delete;

    void hold() noexcept { ++references_; }
    void drop() noexcept {
        if (--references_ == 0) delete this;
    }

protected:
    // `call`: for errors.
    explicit event_source(const char* call) noexcept : call_(call) {}
    virtual ~event_source() = default;

    // The loop of those who wait; nullptr: each has its own.
    [[nodiscard]] virtual detail::scheduler* loop() const noexcept { return nullptr; }
    // Puts more events into events_, where there are any to be had now.
    virtual void fill() {}
    // Somebody waits, and there are none.
    virtual void expect_more() noexcept {}

    // Gives what there is to those who wait.
    void serve() noexcept;
    // From now on there are no more than those of events_.
    void end() noexcept;
    [[nodiscard]] bool has_ended() const noexcept { return ended_; }
    [[nodiscard]] bool is_awaited() const noexcept { return !waiters_.empty(); }

    std::deque<link_event> events_;

private:
    friend class cotun::link_event_operation;

    bool try_take(link_event_operation& w);
    void wait(link_event_operation& w) noexcept;
    void put_back(const link_event& event) noexcept;
    void give_first(link_event_operation& w) noexcept;
    void fail(const std::exception_ptr& why) noexcept;
    [[nodiscard]] std::exception_ptr closed() const;

    const char* call_;
    bool ended_ = false;
    unsigned references_ = 0;
    detail::waiter_list waiters_;
};

} // namespace cotun::link
