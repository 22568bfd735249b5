// SPDX-License-Identifier: Apache-2.0
//
// task<T>: a coroutine that runs when it is awaited, and hands its value or its exception to who awaits it.
//
// A task is lazy: calling the coroutine makes a frame and runs nothing. It is awaited once, as an rvalue:
//
//     cotun::task<int> answer();
//     int n = co_await answer();
//
// Lifetime: the task owns its frame until it is awaited; the await then owns it, and the task is empty. So a coroutine
// that is destroyed while it awaits takes with it what it awaits, wherever the task object stands, and nothing is left
// that would resume it. Destroying a task that is suspended destroys the frame and all that lives in it, down through
// what it awaits; operations of cotun may be destroyed while they wait. A task must not be destroyed by what runs
// within it. Arguments are copied into the frame as the coroutine declares them: a reference stays a reference, and
// must outlive the task.
//
// Never write a task as a lambda with captures: the frame holds a pointer to the lambda, not its captures. Pass state
// as parameters.
//
// Thread: a task runs on the thread of the reactor that drives it, and on no other.
// Errors: an exception that leaves the coroutine is rethrown by the await. Awaiting an empty task (default-made, moved
// from, or awaited before) throws std::system_error (EINVAL).
#pragma once

#include <cotun/coro/first_await.hpp>
#include <cotun/coro/frame.hpp>
#include <cotun/coro/stop.hpp>

#include <coroutine>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

// A task hands over to another by symmetric transfer only where the compiler promises a tail call in every build. GCC
// before 15 does not (it overflows the stack below -O2 and under the sanitizers), so there the child is resumed inside
// await_suspend, which returns false when the child has already finished: a loop of ready tasks needs no stack.
#if !defined(COTUN_SYMMETRIC_TRANSFER)
#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 15)
#define COTUN_SYMMETRIC_TRANSFER 1
#else
#define COTUN_SYMMETRIC_TRANSFER 0
#endif
#endif

namespace cotun {

template <class T = void>
class task;

namespace detail {

/// Throws the std::system_error of an await of an empty task.
[[noreturn]] void refuse_empty_await();

/// What the promises of all tasks share: who goes on when the task has ended.
class task_promise_base : public frame_allocated {
public:
    struct final_awaiter {
        bool await_ready() const noexcept { return false; }
#if COTUN_SYMMETRIC_TRANSFER
        template <class Promise>
        std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> self) noexcept {
            return self.promise().continuation_;
        }
#else
        // No continuation yet means that the parent is still inside await_suspend below and looks for itself.
        template <class Promise>
        void await_suspend(std::coroutine_handle<Promise> self) noexcept {
            if (std::coroutine_handle<> parent = self.promise().continuation_) parent.resume();
        }
#endif
        void await_resume() const noexcept {}
    };

    first_await<task_promise_base> initial_suspend() const noexcept { return first_await<task_promise_base>(*this); }
    final_awaiter final_suspend() const noexcept { return {}; }
    void unhandled_exception() noexcept { failure_ = std::current_exception(); }

    const await_context& context() const noexcept { return context_; }

    /// Runs `self` for `parent`, which is suspended. Returns as await_suspend does.
    template <class Promise>
    static auto start(std::coroutine_handle<Promise> self, std::coroutine_handle<> parent,
                      const await_context& context) noexcept {
        self.promise().context_ = context;
#if COTUN_SYMMETRIC_TRANSFER
        self.promise().continuation_ = parent;
        return self;
#else
        self.resume();
        if (self.done()) return false;
        self.promise().continuation_ = parent;
        return true;
#endif
    }

protected:
    void rethrow_failure() const {
        if (failure_) std::rethrow_exception(failure_);
    }

private:
    std::coroutine_handle<> continuation_;
    await_context context_;
    std::exception_ptr failure_;
};

template <class T>
class task_promise final : public task_promise_base {
public:
    task<T> get_return_object() noexcept;
    template <class U>
    requires std::is_constructible_v<T, U&&>
    void return_value(U&& value) { value_.emplace(std::forward<U>(value)); }
    T result() {
        rethrow_failure();
        return std::move(*value_);
    }

private:
    std::optional<T> value_;
};

template <class T>
class task_promise<T&> final : public task_promise_base {
public:
    task<T&> get_return_object() noexcept;
    void return_value(T& value) noexcept { value_ = &value; }
    T& result() {
        rethrow_failure();
        return *value_;
    }

private:
    T* value_ = nullptr;
};

template <>
class task_promise<void> final : public task_promise_base {
public:
    task<void> get_return_object() noexcept;
    void return_void() const noexcept {}
    void result() const { rethrow_failure(); }
};

} // namespace detail

/// See the head of this file. T may be void, an object type that can be moved, or an lvalue reference.
template <class T>
class [[nodiscard("a task runs only when it is awaited or spawned")]] task {
public:
    using promise_type = detail::task_promise<T>;
    using value_type = T;

    task() noexcept = default;
    task(task && other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}
    task& operator=(task&& other) noexcept {
        if (this != &other) {
            destroy();
            frame_ = std::exchange(other.frame_, nullptr);
        }
        return *this;
    }
    ~task() { destroy(); }

    /// Whether there is a coroutine: false for a default-made task and for one that was moved from or awaited.
    explicit operator bool() const noexcept { return static_cast<bool>(frame_); }

    /// Owns the frame while it is awaited. It lives in the frame of who awaits and is destroyed with that, so the child
    /// never outlives the parent that its promise names. It is made in place and never copied or moved, and it has a
    /// constructor: GCC 12 destroys twice what an aggregate owns in an await expression.
    class awaiter {
    public:
        /// Throws std::system_error (EINVAL) when the task is empty. It is empty from here on.
        explicit awaiter(task&& awaited) : frame_(awaited.release()) {}
        awaiter(const awaiter&) = delete;
        awaiter& operator=(const awaiter&) = delete;
        ~awaiter() { frame_.destroy(); }
        bool await_ready() const noexcept { return false; }
        template <class Promise>
        auto await_suspend(std::coroutine_handle<Promise> parent) noexcept {
            return suspend(parent, detail::context_of(parent));
        }
        auto suspend(std::coroutine_handle<> parent, const detail::await_context& context) noexcept {
            return detail::task_promise_base::start(frame_, parent, context);
        }
        T await_resume() { return frame_.promise().result(); }

    private:
        std::coroutine_handle<promise_type> frame_;
    };

    /// Runs the task, which is empty from here on. Throws std::system_error (EINVAL) when it is empty already.
    awaiter operator co_await()&& { return awaiter(std::move(*this)); }

private:
    friend promise_type;
    explicit task(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}
    std::coroutine_handle<promise_type> release() {
        if (!frame_) detail::refuse_empty_await();
        return std::exchange(frame_, nullptr);
    }
    void destroy() noexcept {
        if (frame_) std::exchange(frame_, nullptr).destroy();
    }

    std::coroutine_handle<promise_type> frame_;
};

namespace detail {

template <class T>
task<T> task_promise<T>::get_return_object() noexcept {
    return task<T>(std::coroutine_handle<task_promise<T>>::from_promise(*this));
}
template <class T>
task<T&> task_promise<T&>::get_return_object() noexcept {
    return task<T&>(std::coroutine_handle<task_promise<T&>>::from_promise(*this));
}
inline task<void> task_promise<void>::get_return_object() noexcept {
    return task<void>(std::coroutine_handle<task_promise<void>>::from_promise(*this));
}

} // namespace detail
} // namespace cotun
