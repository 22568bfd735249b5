// SPDX-License-Identifier: Apache-2.0
//
// when_any: awaits several tasks or operations at once, until one has ended.
//
//     auto first = co_await cotun::when_any(peer.receive(), io.sleep_for(2s));  // a std::variant
//     if (first.index() == 0) use(std::get<0>(first));
//
// The first to end, with a value or an exception, decides. The others end before when_any does: an operation is let go,
// which takes nothing from its device, socket or channel (a packet that had come for it goes to the next); a task is
// asked to stop and awaited, and what it still yields is dropped. When the task that awaits is asked to stop, all are;
// one that yields a value all the same decides, else std::errc::operation_canceled is thrown.
//
// They start in the order given, each running until it waits; one that ends at once decides before the next starts.
// Values in the variant: std::monostate for none, std::reference_wrapper for a reference. Allocates a frame for each.
#pragma once

#include <cotun/coro/child.hpp>

#include <array>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

namespace cotun {

namespace detail {

class any_group : public child_group {
public:
    void on_value(std::size_t index) noexcept override;
    void on_failure(std::size_t index, std::exception_ptr failure) noexcept override;

protected:
    ~any_group() = default;

    struct entrant {
        child body;
        bool is_task = false;
        bool ended = false;
    };
    bool run(std::coroutine_handle<> who, const await_context& context, std::span<entrant> entrants);
    /// Who decided; throws if it was by an exception.
    std::size_t winner();

private:
    void decide() noexcept;
    void ended(std::size_t index) noexcept;

    std::span<entrant> entrants_;
    std::size_t started_ = 0;
    bool decided_ = false;
    std::optional<std::size_t> winner_; // with a value
    std::exception_ptr failure_;
};

} // namespace detail

template <awaitable... A>
requires(sizeof...(A) > 0) class [[nodiscard]] when_any_operation : detail::any_group {
public:
    using value_type = std::variant<typename detail::slot_of<A>::value_type...>;

    explicit when_any_operation(A&&... bodies) noexcept : bodies_(std::move(bodies)...) {}
    /// Only before it is awaited.
    when_any_operation(when_any_operation&& other) noexcept : bodies_(std::move(other.bodies_)) {}

    bool await_ready() const noexcept { return false; }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        make(std::index_sequence_for<A...>{});
        return run(who, context, entrants_);
    }
    value_type await_resume() { return value_of(winner(), std::index_sequence_for<A...>{}); }

private:
    template <std::size_t... I>
    void make(std::index_sequence<I...>) {
        ((entrants_[I].body = detail::run_child(*this, I, std::move(std::get<I>(bodies_)), std::get<I>(slots_)),
          entrants_[I].is_task = detail::is_task<A>::value),
         ...);
    }
    template <std::size_t... I>
    value_type value_of(std::size_t index, std::index_sequence<I...>) {
        std::optional<value_type> chosen;
        ((I == index ? void(chosen.emplace(std::in_place_index<I>, std::move(*std::get<I>(slots_).value))) : void()),
         ...);
        return std::move(*chosen);
    }

    std::tuple<A...> bodies_;
    std::tuple<detail::slot_of<A>...> slots_;
    std::array<entrant, sizeof...(A)> entrants_; // the last to be made, the first to go
};

template <awaitable... A>
requires(sizeof...(A) > 0) when_any_operation<A...> when_any(A... bodies)
noexcept { return when_any_operation<A...>(std::move(bodies)...); }

/// Which of a vector was the first, and what it yielded.
template <class T>
struct indexed {
    std::size_t index;
    T value;
};

template <awaitable A>
class [[nodiscard]] when_any_range_operation : detail::any_group {
public:
    using value_type = indexed<typename detail::slot_of<A>::value_type>;

    explicit when_any_range_operation(std::vector<A>&& bodies) noexcept : bodies_(std::move(bodies)) {}
    /// Only before it is awaited.
    when_any_range_operation(when_any_range_operation&& other) noexcept : bodies_(std::move(other.bodies_)) {}

    bool await_ready() const noexcept { return false; }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        slots_ = std::vector<detail::slot_of<A>>(bodies_.size());
        entrants_ = std::vector<entrant>(bodies_.size());
        for (std::size_t i = 0; i < bodies_.size(); ++i) {
            entrants_[i].body = detail::run_child(*this, i, std::move(bodies_[i]), slots_[i]);
            entrants_[i].is_task = detail::is_task<A>::value;
        }
        return run(who, context, entrants_);
    }
    value_type await_resume() {
        const std::size_t index = winner();
        return {index, std::move(*slots_[index].value)};
    }

private:
    std::vector<A> bodies_;
    std::vector<detail::slot_of<A>> slots_;
    std::vector<entrant> entrants_;
};

/// Yields an indexed<T>. Throws std::errc::invalid_argument if the vector is empty.
template <awaitable A>
when_any_range_operation<A> when_any(std::vector<A> bodies) noexcept {
    return when_any_range_operation<A>(std::move(bodies));
}

} // namespace cotun
