// SPDX-License-Identifier: Apache-2.0
//
// with_timeout, with_deadline: bounds the time that a task or an operation may take.
//
//     cotun::datagram reply = co_await cotun::with_timeout(peer.receive(), 2s);
//
// When the time has come, what is awaited is asked to stop (coro/stop.hpp), and awaited to its end: nothing of it goes
// on afterwards. If it ended by that with std::errc::operation_canceled, std::errc::timed_out is thrown in its place; a
// result that had arrived, or another error, stands. A deadline in the past leaves what can be answered at once.
//
// The clock is steady, and starts when with_timeout is awaited, not when it is called. No memory is allocated.
#pragma once

#include <cotun/coro/awaitable.hpp>
#include <cotun/coro/stop.hpp>
#include <cotun/coro/timer.hpp>

#include <algorithm>
#include <chrono>
#include <coroutine>
#include <system_error>
#include <utility>

namespace cotun {

namespace detail {

[[noreturn]] void throw_timed_out();

class timeout_base : timer {
protected:
    using clock = timer::clock;

    timeout_base() noexcept = default;
    timeout_base(timeout_base&&) noexcept {} // only before it is awaited
    ~timeout_base() { end(); }

    void begin(const await_context& context, clock::time_point deadline) {
        loop_ = context.loop;
        stop_.nest(context.stop);
        if (deadline <= loop_->now())
            on_time();
        else
            loop_->arm(*this, deadline);
    }
    void end() noexcept {
        if (armed()) loop_->disarm(*this);
        stop_.leave();
    }
    /// Whether operation_canceled is our own doing.
    bool expired() const noexcept { return expired_ && !stop_.stopped_outside(); }
    stop_state& stop() noexcept { return stop_.state; }

private:
    void on_time() override {
        expired_ = true;
        stop_.state.request();
    }

    scheduler* loop_ = nullptr;
    nested_stop stop_;
    bool expired_ = false;
};

} // namespace detail

template <awaitable A>
class [[nodiscard]] timeout_operation : public detail::wrapping_operation<A>, detail::timeout_base {
public:
    using clock = std::chrono::steady_clock;

    timeout_operation(A&& inner, clock::duration time) noexcept
        : detail::wrapping_operation<A>(std::move(inner)), time_(time) {}
    timeout_operation(A&& inner, clock::time_point deadline) noexcept
        : detail::wrapping_operation<A>(std::move(inner)), absolute_(true), deadline_(deadline) {}

    template <class Promise>
    auto await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    auto suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        if (context.loop == nullptr) detail::refuse_foreign_coroutine("with_timeout");
        if (!absolute_) {
            const clock::time_point now = context.loop->now();
            deadline_ = time_ < clock::time_point::max() - now ? now + time_ : clock::time_point::max();
        }
        begin(context, deadline_);
        return this->inner_.suspend(who, {context.loop, &stop()});
    }
    detail::result_of<A> await_resume() {
        end();
        if (!expired()) return this->inner_.await_resume();
        try {
            return this->inner_.await_resume();
        } catch (const std::system_error& failure) {
            if (failure.code() == std::errc::operation_canceled) detail::throw_timed_out();
            throw;
        }
    }

private:
    bool absolute_ = false;
    clock::duration time_{};
    clock::time_point deadline_{};
};

template <awaitable A>
timeout_operation<A> with_timeout(A inner, std::chrono::steady_clock::duration time) noexcept {
    return {std::move(inner), time};
}
template <awaitable A>
timeout_operation<A> with_deadline(A inner, std::chrono::steady_clock::time_point deadline) noexcept {
    return {std::move(inner), deadline};
}

} // namespace cotun
