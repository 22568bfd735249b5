// SPDX-License-Identifier: Apache-2.0
//
// semaphore: a number of units that tasks take and give back: how many may do something at a time, or how much of
// something there is.
//
//     cotun::semaphore lookups(8);
//     co_await lookups.acquire();
//     ... co_await the lookup ...
//     lookups.release();              // on every way out
//
// First come, first served: nobody overtakes who waits, also not with a smaller wish. Units that were handed to a task
// that is destroyed before it runs go to the next. A request to stop ends a wait with std::errc::operation_canceled,
// but not once the units were handed over: then the task has them.
//
// Lifetime: a wait may be destroyed, also after the semaphore. When the semaphore is destroyed, what still waits for it
// throws operation_canceled. Thread: the reactor's, one for all who use it. Allocates nothing.
// Bounds: never more units than `most`: release() beyond is refused.
#pragma once

#include <cotun/coro/stop.hpp>
#include <cotun/coro/waiter.hpp>

#include <coroutine>
#include <cstddef>
#include <limits>
#include <utility>

namespace cotun {

class semaphore;

/// co_await semaphore.acquire(units).
class [[nodiscard]] acquire_operation : detail::stoppable_wait {
public:
    acquire_operation(semaphore& of, std::size_t units) noexcept : of_(&of), units_(units) {}
    acquire_operation(acquire_operation&& other) noexcept
        : stoppable_wait(std::move(other)), of_(other.of_), units_(other.units_) {}
    ~acquire_operation() {
        if (state_ == state::waiting || state_ == state::granted) leave();
    }

    bool await_ready() noexcept;
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    void await_resume() {
        if (state_ != state::taken) end_wait();
    }

private:
    friend class semaphore;
    enum class state : unsigned char { made, taken, waiting, granted, gone };
    // In the semaphore's list of those that were handed units and have not run yet: it tells them when it goes.
    struct grant final : detail::waiter {
        explicit grant(acquire_operation& o) noexcept : of(&o) {}
        acquire_operation* of;
    };
    void give_up() noexcept override { leave(); }
    void leave() noexcept;
    void end_wait();

    semaphore* of_;
    std::size_t units_;
    state state_ = state::made;
    grant grant_{*this};
};

class semaphore {
public:
    static constexpr std::size_t unbounded = std::numeric_limits<std::size_t>::max();

    /// Throws std::errc::invalid_argument if there are more than `most`, or that is 0.
    explicit semaphore(std::size_t units, std::size_t most = unbounded);
    semaphore(const semaphore&) = delete;
    semaphore& operator=(const semaphore&) = delete;
    ~semaphore();

    /// Waits until there are as many. Throws std::errc::invalid_argument for 0, and for more than there can ever be.
    acquire_operation acquire(std::size_t units = 1) {
        check(units);
        return {*this, units};
    }
    /// False if there are not as many, or others wait. Throws as acquire() does.
    bool try_acquire(std::size_t units = 1) {
        check(units);
        return take(units);
    }
    /// Throws std::errc::value_too_large, and takes none, if there were more than `most` then.
    void release(std::size_t units = 1) {
        if (units > most_ - available_) refuse_release(units);
        available_ += units;
        if (!waiters_.empty()) serve();
    }

    /// Units that nobody has.
    std::size_t available() const noexcept { return available_; }

private:
    friend class acquire_operation;
    void check(std::size_t units) const {
        if (units == 0 || units > most_) refuse(units);
    }
    [[noreturn]] void refuse(std::size_t units) const;
    [[noreturn]] void refuse_release(std::size_t units) const;
    bool take(std::size_t units) noexcept {
        if (units > available_ || !waiters_.empty()) return false;
        available_ -= units;
        return true;
    }
    void serve() noexcept;

    std::size_t available_;
    std::size_t most_;
    detail::waiter_list waiters_;
    detail::waiter_list granted_;
};

inline bool acquire_operation::await_ready() noexcept {
    if (!of_->take(units_)) return false;
    state_ = state::taken;
    return true;
}

} // namespace cotun
