// SPDX-License-Identifier: Apache-2.0
//
// interval: a steady beat.
//
//     cotun::interval tick(io, 10ms);
//     for (;;) {
//         std::uint64_t periods = co_await tick.next();   // 1, or more if this task was late
//         advance(periods);
//     }
//
// The n-th period ends n periods after the start, and nothing that happens in between shifts it: however long the work
// of a turn takes, the beat does not drift. next() yields how many periods have ended since it last did. A task that is
// late is told of all that it missed at once, and without waiting; there is never a burst of ticks to be caught up
// with. A program that wants to skip what was missed does one turn of work and ignores the number; one that has to make
// it up repeats the work.
//
// Lifetime: it must outlive its wait. It may be destroyed when nothing waits for it, and the wait at any time: periods
// that it was not told of are told to the next. A request to stop (coro/stop.hpp) ends the wait, and loses none either.
// Thread: the reactor's. One task at a time waits for an interval; another throws
// std::errc::device_or_resource_busy.
// Errors: std::errc::invalid_argument for a period of 0 or less.
#pragma once

#include <cotun/coro/stop.hpp>
#include <cotun/coro/timer.hpp>
#include <cotun/io/reactor.hpp>

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <utility>

namespace cotun {

class interval;

/// co_await tick.next().
class [[nodiscard]] tick_operation final : detail::stoppable_wait, detail::timer {
public:
    explicit tick_operation(interval& of) noexcept : of_(&of) {}
    /// Only before it is awaited.
    tick_operation(tick_operation&& other) noexcept : stoppable_wait(std::move(other)), timer(), of_(other.of_) {}
    ~tick_operation();

    bool await_ready();
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    std::uint64_t await_resume();

private:
    void on_time() override;
    void give_up() noexcept override;

    interval* of_;
    bool waits_ = false;
};

class interval {
public:
    using clock = std::chrono::steady_clock;

    /// Starts now: the first period ends one period from here.
    interval(reactor& io, clock::duration period);
    /// Starts at `start`, which may have passed, or be to come.
    interval(reactor& io, clock::duration period, clock::time_point start);
    interval(const interval&) = delete;
    interval& operator=(const interval&) = delete;

    /// Yields how many periods have ended since it last did, 1 at least; waits for the end of one if there is none.
    tick_operation next() noexcept { return tick_operation(*this); }

    clock::duration period() const noexcept { return period_; }
    /// When the period ends that next() waits for, or did not wait for.
    clock::time_point due() const noexcept;

private:
    friend class tick_operation;
    std::uint64_t ended() const noexcept;

    detail::reactor_core* core_;
    clock::duration period_;
    clock::time_point last_; // the end of the last period that next() told of, or the start
    bool awaited_ = false;
};

} // namespace cotun
