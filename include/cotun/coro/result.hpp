// SPDX-License-Identifier: Apache-2.0
//
// as_result: the outcome of a task or an operation as a value, where errors are expected.
//
//     cotun::result<cotun::packet> got = co_await cotun::as_result(dev.read_packet());
//     if (!got) fmt::print("{}\n", got.error().message());
//
// Only std::system_error becomes a value; other exceptions are faults of the program, and go on.
#pragma once

#include <cotun/coro/awaitable.hpp>

#include <coroutine>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

namespace cotun {

/// A value, or the std::system_error that came in its place. T may be void, an object type, or a reference.
template <class T = void>
class [[nodiscard]] result {
    using stored = std::conditional_t<
        std::is_void_v<T>, std::monostate,
        std::conditional_t<std::is_reference_v<T>, std::add_pointer_t<T>, std::remove_reference_t<T>>>;

public:
    using value_type = T;

    result() requires std::is_void_v<T>
    = default;
    template <class U>
    requires std::is_constructible_v<T, U&&> &&
        (!std::is_void_v<T> && !std::is_same_v<std::remove_cvref_t<U>, result>)result(U&& value)
        : outcome_(std::in_place_index<0>, store(std::forward<U>(value))) {}
    result(std::system_error failure) : outcome_(std::in_place_index<1>, std::move(failure)) {}

    bool has_value() const noexcept { return outcome_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }

    /// The value; throws the error where there is none.
    std::add_lvalue_reference_t<T> value() & {
        if (!has_value()) throw std::get<1>(outcome_);
        if constexpr (std::is_reference_v<T>)
            return *std::get<0>(outcome_);
        else if constexpr (!std::is_void_v<T>)
            return std::get<0>(outcome_);
    }
    T value() && {
        if (!has_value()) throw std::get<1>(outcome_);
        if constexpr (std::is_reference_v<T>)
            return *std::get<0>(outcome_);
        else if constexpr (!std::is_void_v<T>)
            return std::move(std::get<0>(outcome_));
    }
    auto& operator*() noexcept requires(!std::is_void_v<T>) {
        if constexpr (std::is_reference_v<T>)
            return *std::get<0>(outcome_);
        else
            return *std::get_if<0>(&outcome_);
    }
    auto* operator->() noexcept requires(!std::is_void_v<T>) { return &**this; }

    /// Default-made where there is a value.
    std::error_code error() const noexcept {
        const auto* failure = std::get_if<1>(&outcome_);
        return failure != nullptr ? failure->code() : std::error_code();
    }
    /// The whole text of the error: what was tried, on what, and the remedy; empty where there is a value.
    const char* what() const noexcept {
        const auto* failure = std::get_if<1>(&outcome_);
        return failure != nullptr ? failure->what() : "";
    }

private:
    template <class U>
    static stored store(U&& value) {
        if constexpr (std::is_reference_v<T>)
            return &value;
        else
            return stored(std::forward<U>(value));
    }
    std::variant<stored, std::system_error> outcome_;
};

template <awaitable A>
class [[nodiscard]] result_operation : public detail::wrapping_operation<A> {
public:
    explicit result_operation(A&& inner) noexcept : detail::wrapping_operation<A>(std::move(inner)) {}

    template <class Promise>
    auto await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    auto suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        // What resumes next: `who` itself, or a task.
        using next = std::conditional_t<std::is_same_v<decltype(this->inner_.suspend(who, context)), bool>, bool,
                                        std::coroutine_handle<>>;
        try { // an operation may be refused before it waits: too many timers, for example
            return next(this->inner_.suspend(who, context));
        } catch (const std::system_error& failure) {
            refused_.emplace(failure);
            if constexpr (std::is_same_v<next, bool>)
                return next(false);
            else
                return next(who);
        }
    }
    result<detail::result_of<A>> await_resume() {
        if (refused_) return *std::move(refused_);
        try {
            if constexpr (std::is_void_v<detail::result_of<A>>) {
                this->inner_.await_resume();
                return {};
            } else {
                return this->inner_.await_resume();
            }
        } catch (const std::system_error& failure) {
            return failure;
        }
    }

private:
    std::optional<std::system_error> refused_;
};

template <awaitable A>
result_operation<A> as_result(A inner) noexcept {
    return result_operation<A>(std::move(inner));
}

} // namespace cotun
