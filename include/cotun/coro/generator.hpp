// SPDX-License-Identifier: Apache-2.0
//
// generator<T>: a coroutine that yields values one after another, and may await between them.
//
//     cotun::generator<std::string> lines(cotun::tcp_stream& from) {
//         for (;;) {
//             std::string line = co_await read_line(from);
//             if (line.empty()) co_return;
//             co_yield std::move(line);
//         }
//     }
//
//     cotun::generator<std::string> all = lines(stream);
//     while (std::optional<std::string> line = co_await all.next()) use(*line);
//
// It is lazy: it runs while somebody awaits next(), up to the next value. next() yields nothing once the coroutine has
// ended, and throws the exception that left it, once. For a generator<T&>, next() yields a
// std::optional<std::reference_wrapper<T>>.
//
// What the generator awaits runs for whoever awaits next(): on their reactor, and a request to stop them reaches it. If
// it lets the exception of that (std::errc::operation_canceled) pass, as most do, it has ended.
//
// A wait for the next value that is destroyed or let go (when_any) loses nothing: the generator goes on with what it
// awaits, the value is kept, and the next next() yields it. One next() at a time: another while one waits throws
// std::errc::device_or_resource_busy.
//
// Lifetime: the generator owns its frame; destroying it destroys what lives in it, wherever it stands, and a next()
// that waits throws operation_canceled. It must not be destroyed by what runs within it. Arguments: as for a task
// (coro/task.hpp), and no lambda with captures.
// Thread: the reactor's. Allocates its frame, and nothing a value.
// With GCC 12, name an aggregate with members that need destruction, and then co_yield std::move(it).
#pragma once

#include <cotun/coro/first_await.hpp>
#include <cotun/coro/frame.hpp>
#include <cotun/coro/stop.hpp>
#include <cotun/coro/waiter.hpp>

#include <coroutine>
#include <exception>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

namespace cotun {

template <class T>
class generator;

namespace detail {

/// Throws std::system_error (EINVAL): next() of a generator that is moved from or default-made.
[[noreturn]] void refuse_empty_generator();

class generator_promise_base;

/// The wait for the next value.
class next_wait : waiter {
public:
    explicit next_wait(generator_promise_base& of) noexcept : of_(&of) {}
    next_wait(next_wait&& other) noexcept : waiter(), of_(other.of_) {} // only before it is awaited
    ~next_wait() {
        if (waiting_) abandon();
    }

    bool await_ready() const noexcept;
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const await_context& context);

protected:
    void throw_if_gone() const {
        if (of_ == nullptr) throw_gone();
    }
    generator_promise_base& promise() const noexcept { return *of_; }

private:
    friend class generator_promise_base;
    [[noreturn]] static void throw_gone();
    void abandon() noexcept;

    generator_promise_base* of_; // nullptr: the generator was destroyed
    bool waiting_ = false;
};

// Control goes to and fro without symmetric transfer (task.hpp says why not): next() resumes the generator from within
// its await_suspend, and goes on at once if there is a value already; a generator that had to wait resumes whoever
// awaits from within its own. So a loop of ready values needs no stack.
class generator_promise_base : public frame_allocated {
public:
    struct hand_over {
        bool await_ready() const noexcept { return false; }
        template <class Promise>
        void await_suspend(std::coroutine_handle<Promise> self) const noexcept {
            self.promise().tell();
        }
        void await_resume() const noexcept {}
    };

    explicit generator_promise_base(std::coroutine_handle<> self) noexcept : self_(self) {}
    generator_promise_base(const generator_promise_base&) = delete;
    generator_promise_base& operator=(const generator_promise_base&) = delete;
    ~generator_promise_base();

    first_await<generator_promise_base> initial_suspend() const noexcept {
        return first_await<generator_promise_base>(*this);
    }
    hand_over final_suspend() noexcept {
        ended_ = true;
        return {};
    }
    void return_void() const noexcept {}
    void unhandled_exception() noexcept { failure_ = std::current_exception(); }
    await_context context() noexcept { return {loop_, &stop_.state}; }

protected:
    /// Of a generator that has stopped running.
    void taken() noexcept { told_ = ended_; }
    void rethrow_failure() {
        if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    }

private:
    friend class next_wait;
    bool run(next_wait& w, const await_context& context);
    void tell() noexcept;
    // The generator may be gone when it returns: not to be inlined into await_suspend, which Clang may spill to a
    // frame.
    void resume_awaiting() noexcept;

    std::coroutine_handle<> self_;
    next_wait* awaited_by_ = nullptr;
    scheduler* loop_ = nullptr;
    nested_stop stop_; // the generator's own: whoever awaits may be gone before what it awaits
    std::exception_ptr failure_;
    bool running_ = false;  // up to its next value, also while it waits
    bool starting_ = false; // next() is on the stack, and looks for itself
    bool told_ = false;     // there is a value, or the end
    bool ended_ = false;
};

inline bool next_wait::await_ready() const noexcept { return of_->told_; }

inline bool next_wait::suspend(std::coroutine_handle<> who, const await_context& context) {
    coroutine = who;
    return of_->run(*this, context);
}

inline void generator_promise_base::tell() noexcept {
    running_ = false;
    told_ = true;
    stop_.leave();
    if (!starting_) resume_awaiting();
}

template <class T>
class generator_promise final : public generator_promise_base {
public:
    using taken_type = std::optional<T>;

    generator_promise() noexcept
        : generator_promise_base(std::coroutine_handle<generator_promise>::from_promise(*this)) {}
    generator<T> get_return_object() noexcept;
    template <class U = T>
    requires std::is_constructible_v<T, U&&> hand_over yield_value(U&& value) {
        value_.emplace(std::forward<U>(value));
        return {};
    }
    std::optional<T> take() {
        taken();
        rethrow_failure();
        std::optional<T> value = std::move(value_);
        value_.reset();
        return value;
    }

private:
    std::optional<T> value_;
};

template <class T>
class generator_promise<T&> final : public generator_promise_base {
public:
    using taken_type = std::optional<std::reference_wrapper<T>>;

    generator_promise() noexcept
        : generator_promise_base(std::coroutine_handle<generator_promise>::from_promise(*this)) {}
    generator<T&> get_return_object() noexcept;
    hand_over yield_value(T& value) noexcept {
        value_ = &value;
        return {};
    }
    taken_type take() {
        taken();
        rethrow_failure();
        if (value_ == nullptr) return std::nullopt;
        return *std::exchange(value_, nullptr);
    }

private:
    T* value_ = nullptr;
};

} // namespace detail

/// co_await generator.next().
template <class T>
class [[nodiscard]] next_operation : public detail::next_wait {
public:
    explicit next_operation(detail::generator_promise<T>& of) noexcept : next_wait(of) {}
    /// The next value, or nothing; or the exception that left the generator.
    typename detail::generator_promise<T>::taken_type await_resume() {
        throw_if_gone();
        return static_cast<detail::generator_promise<T>&>(promise()).take();
    }
};

/// See the head of this file. T may be an object type that can be moved, or an lvalue reference.
template <class T>
class [[nodiscard("a generator runs only while its next() is awaited")]] generator {
public:
    using promise_type = detail::generator_promise<T>;
    using value_type = T;

    generator() noexcept = default;
    generator(generator && other) noexcept : frame_(std::exchange(other.frame_, nullptr)) {}
    generator& operator=(generator&& other) noexcept {
        if (this != &other) {
            destroy();
            frame_ = std::exchange(other.frame_, nullptr);
        }
        return *this;
    }
    ~generator() { destroy(); }

    /// Whether there is a coroutine: false for a default-made generator and for one that was moved from.
    explicit operator bool() const noexcept { return static_cast<bool>(frame_); }

    /// Throws std::errc::invalid_argument when there is no coroutine.
    next_operation<T> next() {
        if (!frame_) detail::refuse_empty_generator();
        return next_operation<T>(frame_.promise());
    }

private:
    friend promise_type;
    explicit generator(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}
    void destroy() noexcept {
        if (frame_) std::exchange(frame_, nullptr).destroy();
    }

    std::coroutine_handle<promise_type> frame_;
};

namespace detail {

template <class T>
generator<T> generator_promise<T>::get_return_object() noexcept {
    return generator<T>(std::coroutine_handle<generator_promise<T>>::from_promise(*this));
}
template <class T>
generator<T&> generator_promise<T&>::get_return_object() noexcept {
    return generator<T&>(std::coroutine_handle<generator_promise<T&>>::from_promise(*this));
}

} // namespace detail
} // namespace cotun
