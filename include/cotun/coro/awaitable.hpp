// SPDX-License-Identifier: Apache-2.0
//
// awaitable: what can be handed to with_timeout, with_stop, as_result, shield, when_all and when_any: a task, or an
// operation of cotun (what dev.read_packet() and its like return, those functions included). They take it by value and
// start it when they are awaited themselves.
#pragma once

#include <cotun/coro/stop.hpp>
#include <cotun/coro/task.hpp>

#include <concepts>
#include <coroutine>
#include <optional>
#include <type_traits>
#include <utility>

namespace cotun {

namespace detail {

template <class A>
struct is_task : std::false_type {};
template <class T>
struct is_task<task<T>> : std::true_type {};

} // namespace detail

/// An operation that is its own awaiter, and lets go of what it waits for when it is destroyed.
template <class A>
concept operation = std::move_constructible<A> &&
    requires(A& a, std::coroutine_handle<> who, const detail::await_context& context) {
    { a.await_ready() } -> std::same_as<bool>;
    a.suspend(who, context);
    a.await_resume();
};

template <class A>
concept awaitable = detail::is_task<A>::value || operation<A>;

namespace detail {

/// An awaitable that is awaited from within an operation: the operation's own await_ready, suspend and await_resume
/// call these, in that order.
template <class A>
class awaited {
public:
    explicit awaited(A&& a) noexcept : operation_(std::move(a)) {}
    bool await_ready() { return operation_.await_ready(); }
    auto suspend(std::coroutine_handle<> who, const await_context& context) { return operation_.suspend(who, context); }
    decltype(auto) await_resume() { return operation_.await_resume(); }

private:
    A operation_;
};

template <class T>
class awaited<task<T>> {
public:
    explicit awaited(task<T>&& t) noexcept : task_(std::move(t)) {}
    awaited(awaited&& other) noexcept : task_(std::move(other.task_)) {} // only before it is awaited
    bool await_ready() {
        awaiter_.emplace(std::move(task_));
        return false;
    }
    auto suspend(std::coroutine_handle<> who, const await_context& context) { return awaiter_->suspend(who, context); }
    T await_resume() { return awaiter_->await_resume(); }

private:
    task<T> task_;
    std::optional<typename task<T>::awaiter> awaiter_;
};

template <awaitable A>
using result_of = decltype(std::declval<awaited<A>&>().await_resume());

/// What operations that are made of another have in common: it is awaited by whoever awaits them.
template <awaitable A>
class wrapping_operation {
public:
    bool await_ready() { return inner_.await_ready(); }

protected:
    explicit wrapping_operation(A&& inner) noexcept : inner_(std::move(inner)) {}
    awaited<A> inner_;
};

} // namespace detail
} // namespace cotun
