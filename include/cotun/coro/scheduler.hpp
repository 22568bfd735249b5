// SPDX-License-Identifier: Apache-2.0
//
// scheduler: what coroutines need of the loop that runs them. The reactor is one; tests have another.
//
// Thread: the loop's, except post().
#pragma once

#include <cotun/coro/frame.hpp>
#include <cotun/coro/timer.hpp>
#include <cotun/coro/waiter.hpp>

#include <concepts>
#include <memory>
#include <utility>

namespace cotun::detail {

/// A function on its way to the loop's thread; made on one and freed on the other, as frames may be.
class posted : public frame_allocated {
public:
    posted() noexcept = default;
    posted(const posted&) = delete;
    posted& operator=(const posted&) = delete;
    virtual ~posted() = default;
    virtual void call() = 0;

    posted* next = nullptr; // the loop's list of them
};

template <std::invocable Function>
class posted_function final : public posted {
public:
    explicit posted_function(Function&& function) : function_(std::move(function)) {}
    void call() override { function_(); }

private:
    Function function_;
};

class scheduler {
public:
    using clock = timer::clock;

    scheduler() noexcept = default;
    scheduler(const scheduler&) = delete;
    scheduler& operator=(const scheduler&) = delete;

    /// Has the coroutine resumed in the next pass; it leaves the list that it waits on.
    void make_ready(waiter& w) noexcept {
        w.ready_ = true;
        ready_.push_back(w);
    }

    virtual clock::time_point now() noexcept = 0;
    /// Throws std::bad_alloc; std::errc::resource_unavailable_try_again if there are as many timers as there may be.
    virtual void arm(timer& t, clock::time_point when) = 0;
    virtual void disarm(timer& t) noexcept = 0;
    /// Has the function called on the loop's thread. Any thread.
    virtual void post(std::unique_ptr<posted> function) = 0;
    template <std::invocable Function>
    void post(Function function) {
        post(std::unique_ptr<posted>(std::make_unique<posted_function<Function>>(std::move(function))));
    }

protected:
    ~scheduler() = default;
    waiter_list ready_;
};

} // namespace cotun::detail
