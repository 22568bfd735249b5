// SPDX-License-Identifier: Apache-2.0
//
// mutex: one task at a time. Tasks of one reactor never run at once, so it is needed only where a task awaits something
// in the midst of what nobody else may see half done.
//
//     cotun::mutex writing;
//     cotun::mutex_guard guard = co_await writing.lock();   // until the guard goes, or guard.unlock()
//     co_await stream.write(header);
//     co_await stream.write(body);
//
// Whoever waits longest is next: an unlock hands the lock over, and nobody comes in between. A task that is destroyed
// after it was handed the lock, and before it runs, hands it on. A request to stop ends a wait with
// std::errc::operation_canceled, but not once the lock was handed over: then the task has it.
//
// A task that locks a mutex twice waits for itself, until it is stopped.
//
// Lifetime: guards and waits may be destroyed at any time, also after the mutex. When the mutex is destroyed, what
// still waits for it throws operation_canceled. Thread: the reactor's, one for all who use it. Allocates nothing.
#pragma once

#include <cotun/coro/stop.hpp>
#include <cotun/coro/waiter.hpp>

#include <coroutine>
#include <utility>

namespace cotun {

class mutex;

/// Holds a mutex, or nothing.
class [[nodiscard("the mutex is unlocked when the guard goes")]] mutex_guard {
public:
    mutex_guard() noexcept = default;
    mutex_guard(mutex_guard && other) noexcept { take_over(other); }
    mutex_guard& operator=(mutex_guard&& other) noexcept {
        if (this != &other) {
            unlock();
            take_over(other);
        }
        return *this;
    }
    ~mutex_guard() { unlock(); }

    explicit operator bool() const noexcept { return of_ != nullptr; }
    /// Does nothing where it holds nothing.
    void unlock() noexcept;

private:
    friend class mutex;
    friend class lock_operation;
    void hold(mutex & m) noexcept;
    void take_over(mutex_guard & other) noexcept {
        if (other.of_ != nullptr) hold(*std::exchange(other.of_, nullptr));
    }
    mutex* of_ = nullptr;
};

/// co_await mutex.lock(). Yields the guard.
class [[nodiscard]] lock_operation : detail::stoppable_wait {
public:
    explicit lock_operation(mutex& of) noexcept : of_(&of) {}
    lock_operation(lock_operation&& other) noexcept : stoppable_wait(std::move(other)), of_(other.of_) {}

    bool await_ready() noexcept;
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    mutex_guard await_resume() {
        if (!got_) refuse();
        return std::move(got_);
    }

private:
    friend class mutex;
    [[noreturn]] void refuse() const;
    mutex* of_;
    mutex_guard got_; // handed over, and handed on if this is destroyed first
};

class mutex {
public:
    mutex() noexcept = default;
    mutex(const mutex&) = delete;
    mutex& operator=(const mutex&) = delete;
    ~mutex();

    lock_operation lock() noexcept { return lock_operation(*this); }
    /// An empty guard if another holds it.
    mutex_guard try_lock() noexcept {
        mutex_guard guard;
        if (!is_locked()) guard.hold(*this);
        return guard;
    }
    /// Also when it has been handed to a task that has not run yet.
    bool is_locked() const noexcept { return holder_ != nullptr; }

private:
    friend class lock_operation;
    friend class mutex_guard;
    void unlock() noexcept {
        holder_ = nullptr;
        if (!waiters_.empty()) hand_on();
    }
    void hand_on() noexcept;

    mutex_guard* holder_ = nullptr; // nullptr: then nobody waits
    detail::waiter_list waiters_;
};

inline void mutex_guard::hold(mutex& m) noexcept {
    of_ = &m;
    m.holder_ = this;
}
inline void mutex_guard::unlock() noexcept {
    if (of_ != nullptr) std::exchange(of_, nullptr)->unlock();
}

inline bool lock_operation::await_ready() noexcept {
    if (of_->is_locked()) return false;
    got_.hold(*of_);
    return true;
}

} // namespace cotun
