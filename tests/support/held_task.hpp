// SPDX-License-Identifier: Apache-2.0
//
// A coroutine that a test holds: it starts at once, and destroying it destroys what it awaits, wherever that stands.
#pragma once

#include <cotun/coro/task.hpp>

#include <coroutine>
#include <exception>
#include <utility>

namespace cotun::test {

/// An exception that leaves it is kept for rethrow(); one that nobody has asked for ends the program.
class held_task {
public:
    struct promise_type {
        held_task get_return_object() noexcept {
            return held_task(std::coroutine_handle<promise_type>::from_promise(*this));
        }
        std::suspend_never initial_suspend() const noexcept { return {}; }
        std::suspend_always final_suspend() const noexcept { return {}; }
        void return_void() const noexcept {}
        void unhandled_exception() noexcept { failure = std::current_exception(); }
        ~promise_type() {
            if (failure) std::terminate();
        }
        std::exception_ptr failure;
    };
    held_task(held_task&& other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}
    held_task& operator=(held_task&& other) noexcept {
        std::coroutine_handle<promise_type> taken = std::exchange(other.frame_, nullptr);
        destroy();
        frame_ = taken;
        return *this;
    }
    ~held_task() { destroy(); }

    bool ended() const noexcept { return frame_.done(); }
    void rethrow() {
        if (std::exception_ptr failure = std::exchange(frame_.promise().failure, nullptr))
            std::rethrow_exception(std::move(failure));
    }
    void destroy() {
        if (frame_) std::exchange(frame_, nullptr).destroy();
    }

private:
    explicit held_task(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}
    std::coroutine_handle<promise_type> frame_;
};

/// Starts the task at once, outside any reactor's roots.
inline held_task hold(task<> body) { co_await std::move(body); }

} // namespace cotun::test
