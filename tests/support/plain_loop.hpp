// SPDX-License-Identifier: Apache-2.0
//
// A loop for tests of coroutines that need no I/O: its clock stands still until nobody is ready, and then goes on to
// the next timer.
#pragma once

#include <cotun/coro/scheduler.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/stop.hpp>
#include <cotun/coro/task.hpp>

#include "io/timer_heap.hpp"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

namespace cotun::test {

class plain_loop final : public detail::scheduler {
public:
    ~plain_loop() {
        for (detail::message* m : posted_) m->drop();
    }
    clock::time_point now() noexcept override { return now_; }
    void arm(detail::timer& t, clock::time_point when) override { timers_.arm(t, when); }
    void disarm(detail::timer& t) noexcept override { timers_.disarm(t); }
    using scheduler::post;
    void post(detail::message& m) override {
        const std::lock_guard guard(lock_);
        posted_.push_back(&m);
        ++posts_;
        has_post_.notify_one();
    }
    /// Sleeps until somebody has posted.
    void await_post() {
        std::unique_lock locked(lock_);
        has_post_.wait(locked, [this] { return !posted_.empty(); });
    }
    /// How often somebody posted.
    std::size_t posts() const {
        const std::lock_guard guard(lock_);
        return posts_;
    }
    detail::scheduler& loop() noexcept { return *this; }

    bool idle() const noexcept { return ready_.empty(); }
    std::size_t timers() const noexcept { return timers_.size(); }

    /// One pass; the clock stands still.
    void pass() {
        call_posted();
        detail::waiter_list now;
        now.splice_back(ready_);
        while (!now.empty()) now.pop_front().coroutine.resume();
        while (detail::timer* t = timers_.pop_due(now_)) t->on_time();
    }
    /// Until nobody is ready and nothing is posted, without the clock going on.
    void settle() {
        do pass();
        while (!ready_.empty() || has_posted());
    }
    void advance(clock::duration time) {
        now_ += time;
        settle();
    }
    /// Runs `body` to its end and returns its value or throws its exception. std::logic_error if it would never end.
    template <class T>
    T run(task<T> body) {
        std::optional<T> value;
        run_to_end(keep(std::move(body), value));
        return std::move(*value);
    }
    void run(task<> body) { run_to_end(std::move(body)); }

private:
    template <class T>
    static task<> keep(task<T> body, std::optional<T>& value) {
        value.emplace(co_await std::move(body));
    }
    static task<> and_tell(task<> body, bool& ended, std::exception_ptr& failure) {
        try {
            co_await std::move(body);
        } catch (...) {
            failure = std::current_exception();
        }
        ended = true;
    }
    void run_to_end(task<> body) {
        bool ended = false;
        std::exception_ptr failure;
        scope root(*this);
        root.spawn(and_tell(std::move(body), ended, failure));
        for (settle(); !ended; settle()) {
            if (timers_.empty()) throw std::logic_error("it waits for ever");
            now_ = std::max(now_, *timers_.next());
        }
        if (failure) std::rethrow_exception(failure);
    }
    bool has_posted() const {
        const std::lock_guard guard(lock_);
        return !posted_.empty();
    }
    void call_posted() {
        std::vector<detail::message*> all;
        {
            const std::lock_guard guard(lock_);
            all.swap(posted_);
        }
        for (detail::message* m : all) m->run();
    }

    clock::time_point now_ = clock::time_point{} + std::chrono::hours(1);
    detail::timer_heap timers_;
    mutable std::mutex lock_;
    std::vector<detail::message*> posted_;
    std::size_t posts_ = 0;
    std::condition_variable has_post_;
};

/// A wait that a test ends: with a value, or not at all. Counts who waits.
template <class T = int>
class source {
public:
    class wait : public detail::stoppable_wait {
    public:
        explicit wait(source& of) noexcept : of_(&of) {}
        wait(wait&& other) noexcept : stoppable_wait(std::move(other)), of_(other.of_) {}
        ~wait() {
            if (value_) of_->values_.insert(of_->values_.begin(), std::move(*value_)); // nothing is lost
        }
        bool await_ready() {
            if (of_->values_.empty()) return false;
            value_ = std::move(of_->values_.front());
            of_->values_.erase(of_->values_.begin());
            return true;
        }
        template <class Promise>
        bool await_suspend(std::coroutine_handle<Promise> who) {
            return suspend(who, detail::context_of(who));
        }
        bool suspend(std::coroutine_handle<> who, const detail::await_context& context) {
            if (!start_waiting(who, *of_->loop_, context.stop)) return false;
            of_->waiters_.push_back(*this);
            ++of_->waits;
            return true;
        }
        T await_resume() {
            throw_if_stopped();
            T value = std::move(*value_);
            value_.reset();
            return value;
        }

    private:
        friend class source;
        source* of_;
        std::optional<T> value_;
    };

    explicit source(detail::scheduler& loop) noexcept : loop_(&loop) {}
    wait next() noexcept { return wait(*this); }
    bool awaited() const noexcept { return !const_cast<detail::waiter_list&>(waiters_).empty(); }
    std::size_t kept() const noexcept { return values_.size(); }
    void give(T value) {
        if (waiters_.empty()) {
            values_.push_back(std::move(value));
        } else {
            auto& w = static_cast<wait&>(waiters_.pop_front());
            w.value_ = std::move(value);
            loop_->make_ready(w);
        }
    }
    int waits = 0;

private:
    detail::scheduler* loop_;
    detail::waiter_list waiters_;
    std::vector<T> values_;
};

} // namespace cotun::test
