// SPDX-License-Identifier: Apache-2.0
//
// children: coroutines that an operation runs side by side, for one that waits until they have ended.
//
// Each awaits one task or operation and leaves its outcome in a slot. Their frames are the operation's: destroying it
// destroys them, wherever they stand.
#pragma once

#include <cotun/coro/awaitable.hpp>
#include <cotun/coro/frame.hpp>
#include <cotun/coro/stop.hpp>

#include <coroutine>
#include <cstddef>
#include <exception>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

namespace cotun::detail {

class child_group;

/// Owns a child's frame.
class child {
public:
    struct promise_type : frame_allocated {
        template <class... Parts>
        explicit promise_type(child_group& of, Parts&...) noexcept : group(&of) {}
        child get_return_object() noexcept { return child(std::coroutine_handle<promise_type>::from_promise(*this)); }
        std::suspend_always initial_suspend() const noexcept { return {}; }
        std::suspend_always final_suspend() const noexcept { return {}; }
        void return_void() const noexcept {}
        void unhandled_exception() const noexcept { std::terminate(); } // run_child catches all
        await_context context() const noexcept;

        child_group* group;
    };

    child() noexcept = default;
    child(child&& other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}
    child& operator=(child&& other) noexcept {
        std::swap(frame_, other.frame_);
        return *this;
    }
    ~child() { destroy(); }
    void destroy() noexcept {
        if (frame_) std::exchange(frame_, nullptr).destroy();
    }
    void start() { frame_.resume(); }
    explicit operator bool() const noexcept { return static_cast<bool>(frame_); }

private:
    explicit child(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}
    std::coroutine_handle<promise_type> frame_;
};

/// The wait of whoever has children. It cannot be stopped itself: a request stops the children, and what they make of
/// it ends the wait.
class child_group : waiter {
public:
    await_context context() noexcept { return {loop_, &stop_.state}; }

    /// Called by a child as the last thing that it does.
    virtual void on_value(std::size_t index) noexcept = 0;
    virtual void on_failure(std::size_t index, std::exception_ptr failure) noexcept = 0;

protected:
    child_group() noexcept = default;
    ~child_group() = default;

    void begin(std::coroutine_handle<> who, const await_context& context, std::size_t count);
    /// After all were started. False if all have ended already.
    bool must_wait() noexcept {
        starting_ = false;
        return running_ != 0;
    }
    void one_less() noexcept {
        if (--running_ == 0 && !starting_) loop_->make_ready(*this);
    }
    nested_stop stop_;

private:
    scheduler* loop_ = nullptr;
    std::size_t running_ = 0;
    bool starting_ = true;
};

inline await_context child::promise_type::context() const noexcept { return group->context(); }

/// What a child leaves behind: nothing, an object, or a reference.
template <class T>
struct child_slot {
    using value_type = T;
    std::optional<T> value;
};
template <class T>
struct child_slot<T&> {
    using value_type = std::reference_wrapper<T>;
    std::optional<std::reference_wrapper<T>> value;
};
template <>
struct child_slot<void> {
    using value_type = std::monostate;
    std::optional<std::monostate> value;
};

template <class A>
using slot_of = child_slot<result_of<A>>;

template <class A>
child run_child(child_group& group, std::size_t index, A body, slot_of<A>& slot) {
    std::exception_ptr failure;
    try {
        if constexpr (std::is_void_v<result_of<A>>) {
            co_await std::move(body);
            slot.value.emplace();
        } else if constexpr (std::is_reference_v<result_of<A>>) {
            slot.value.emplace(co_await std::move(body));
        } else {
            slot.value.emplace(co_await std::move(body));
        }
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure)
        group.on_failure(index, std::move(failure));
    else
        group.on_value(index);
}

/// Suspends in an operation, and leaves its result where it is.
template <class A>
class suspension {
public:
    explicit suspension(A& of) noexcept : of_(&of) {}
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return of_->suspend(who, context_of(who));
    }
    void await_resume() const noexcept {}

private:
    A* of_;
};

} // namespace cotun::detail
