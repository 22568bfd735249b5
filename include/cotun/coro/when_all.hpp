// SPDX-License-Identifier: Apache-2.0
//
// when_all: awaits several tasks or operations at once, until all have ended.
//
//     auto [a, b] = co_await cotun::when_all(first(), second());
//     co_await cotun::when_all(pump(dev, peer), pump(peer, dev));       // of tasks without values: nothing
//     std::vector<int> all = co_await cotun::when_all(std::move(many)); // a std::vector<task<int>>
//
// They start in the order given, each running until it waits. The first that fails has the others asked to stop, and
// those that have not started never do; when all have ended, its exception is thrown, and the values of the others are
// dropped. A request to stop of the task that
// awaits is handed on to all. Nothing goes on afterwards.
//
// Yields a std::tuple, in which a task without a value leaves a std::monostate, and one of a reference a
// std::reference_wrapper. Allocates a frame for each.
#pragma once

#include <cotun/coro/child.hpp>

#include <array>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace cotun {

namespace detail {

class all_group : public child_group {
public:
    void on_value(std::size_t) noexcept override { one_less(); }
    void on_failure(std::size_t, std::exception_ptr failure) noexcept override {
        if (!failure_) {
            failure_ = std::move(failure);
            stop_.state.request();
        }
        one_less();
    }

protected:
    ~all_group() = default;
    void start_all(std::span<child> children) {
        for (child& c : children) {
            if (failure_)
                one_less();
            else
                c.start();
        }
    }
    void rethrow_failure() {
        stop_.leave();
        if (failure_) std::rethrow_exception(std::move(failure_));
    }

private:
    std::exception_ptr failure_;
};

} // namespace detail

template <awaitable... A>
class [[nodiscard]] when_all_operation : detail::all_group {
public:
    explicit when_all_operation(A&&... bodies) noexcept : bodies_(std::move(bodies)...) {}
    /// Only before it is awaited.
    when_all_operation(when_all_operation&& other) noexcept : bodies_(std::move(other.bodies_)) {}

    bool await_ready() const noexcept { return sizeof...(A) == 0; }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        begin(who, context, sizeof...(A));
        start(std::index_sequence_for<A...>{});
        return must_wait();
    }
    auto await_resume() {
        rethrow_failure();
        if constexpr (!(std::is_void_v<detail::result_of<A>> && ...))
            return std::apply(
                [](auto&... slots) {
                    return std::tuple<typename std::remove_reference_t<decltype(slots)>::value_type...>(
                        std::move(*slots.value)...);
                },
                slots_);
    }

private:
    template <std::size_t... I>
    void start(std::index_sequence<I...>) {
        ((children_[I] = detail::run_child(*this, I, std::move(std::get<I>(bodies_)), std::get<I>(slots_))), ...);
        start_all(children_);
    }

    std::tuple<A...> bodies_;
    std::tuple<detail::slot_of<A>...> slots_;
    std::array<detail::child, sizeof...(A)> children_; // the last to be made, the first to go
};

template <awaitable... A>
when_all_operation<A...> when_all(A... bodies) noexcept {
    return when_all_operation<A...>(std::move(bodies)...);
}

template <awaitable A>
class [[nodiscard]] when_all_range_operation : detail::all_group {
public:
    explicit when_all_range_operation(std::vector<A>&& bodies) noexcept : bodies_(std::move(bodies)) {}
    /// Only before it is awaited.
    when_all_range_operation(when_all_range_operation&& other) noexcept : bodies_(std::move(other.bodies_)) {}

    bool await_ready() const noexcept { return bodies_.empty(); }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        begin(who, context, bodies_.size());
        slots_ = std::vector<detail::slot_of<A>>(bodies_.size());
        children_.reserve(bodies_.size());
        for (std::size_t i = 0; i < bodies_.size(); ++i)
            children_.push_back(detail::run_child(*this, i, std::move(bodies_[i]), slots_[i]));
        start_all(children_);
        return must_wait();
    }
    auto await_resume() {
        rethrow_failure();
        if constexpr (!std::is_void_v<detail::result_of<A>>) {
            std::vector<typename detail::slot_of<A>::value_type> values;
            values.reserve(slots_.size());
            for (auto& slot : slots_) values.push_back(std::move(*slot.value));
            return values;
        }
    }

private:
    std::vector<A> bodies_;
    std::vector<detail::slot_of<A>> slots_;
    std::vector<detail::child> children_;
};

/// Yields a std::vector of the values, in the order of the tasks.
template <awaitable A>
when_all_range_operation<A> when_all(std::vector<A> bodies) noexcept {
    return when_all_range_operation<A>(std::move(bodies));
}

} // namespace cotun
