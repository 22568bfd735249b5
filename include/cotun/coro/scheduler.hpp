// SPDX-License-Identifier: Apache-2.0
//
// scheduler: what coroutines need of the loop that runs them. The reactor is one; tests have another.
//
// Thread: the loop's, except post().
#pragma once

#include <cotun/coro/message.hpp>
#include <cotun/coro/timer.hpp>
#include <cotun/coro/waiter.hpp>

#include <concepts>
#include <memory>
#include <system_error>
#include <utility>

namespace cotun::detail {

class scheduler {
public:
    using clock = timer::clock;

    scheduler() noexcept = default;
    scheduler(const scheduler&) = delete;
    scheduler& operator=(const scheduler&) = delete;

    /// Has the coroutine resumed in the next pass; it leaves the list that it waits on.
    void make_ready(waiter& w) noexcept {
#ifndef NDEBUG
        check_thread("waking a task");
#endif
        w.ready_ = true;
        ready_.push_back(w);
    }

    /// Ends the program, with a message that names `what` and both threads, if the loop runs on another thread.
    virtual void check_thread([[maybe_unused]] const char* what) const noexcept {}

    virtual clock::time_point now() noexcept = 0;
    /// Throws std::bad_alloc; std::errc::resource_unavailable_try_again if there are as many timers as there may be.
    virtual void arm(timer& t, clock::time_point when) = 0;
    virtual void disarm(timer& t) noexcept = 0;
    /// Has `m` run on the loop's thread. Any thread. When it throws, `m` is still the caller's.
    virtual void post(message& m) = 0;
    template <std::invocable Function>
    void post(Function function) {
        auto m = std::make_unique<posted_function<Function>>(std::move(function));
        post(*m);
        static_cast<void>(m.release());
    }
    /// The same, for who cannot tell of a refusal: where the loop will never run again, in a child of fork(2), it is
    /// destroyed here.
    template <std::invocable Function>
    void post_if_it_runs(Function function) {
        try {
            post(std::move(function));
        } catch (const std::system_error&) {}
    }

protected:
    ~scheduler() = default;
    waiter_list ready_;
};

} // namespace cotun::detail
