// SPDX-License-Identifier: Apache-2.0
//
// when_any: awaits several tasks or operations at once, until one has ended.
//
//     auto first = co_await cotun::when_any(peer.receive(), io.sleep_for(2s));  // a std::variant
//     if (first.index() == 0) use(std::get<0>(first));
//
// The first to end, with a value or an exception, decides. The others end before when_any does: an operation is
// let go, which takes nothing from its device, socket or channel (a packet that had come for it goes to the next); a
// task is asked to stop and awaited, and what it still yields is dropped. When the task that awaits is asked to stop,
// all are; one that yields a value all the same decides, else std::errc::operation_canceled is thrown. Destroyed while
// it waits, it takes nothing either, even if an operation had its result already.
//
// Operations that can be answered at once decide, in the order given, before anything starts. Then all start in that
// order, each running until it waits; one that ends at once decides before the next starts.
// Values in the variant: std::monostate for none, std::reference_wrapper for a reference. Allocates a frame for each.
#pragma once

#include <cotun/coro/child.hpp>

#include <array>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <optional>
#include <span>
#include <system_error>
#include <tuple>
#include <type_traits>
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
        bool failed = false;
    };
    void answered_at_once(std::size_t index) noexcept { winner_ = index; }
    bool is_decided() const noexcept { return winner_.has_value(); }
    bool run(std::coroutine_handle<> who, const await_context& context, std::span<entrant> entrants);
    /// What `value_of` yields of the one that decided. After a request to stop from outside nobody has: then of the
    /// first that has a value all the same.
    template <class Value>
    auto choose(std::size_t count, Value value_of) {
        stop_.leave();
        if (winner_) return value_of(*winner_);
        for (std::size_t i = 0; i < count && stop_.stopped_outside(); ++i) {
            if (!candidate(i)) continue;
            try {
                return value_of(i);
            } catch (const std::system_error& stopped) {
                if (stopped.code() != std::errc::operation_canceled) throw;
            }
        }
        if (!failure_) throw_stopped();
        std::rethrow_exception(std::move(failure_));
    }

private:
    bool candidate(std::size_t index) const noexcept {
        return index < started_ && !entrants_[index].is_task && !entrants_[index].failed;
    }
    void decide() noexcept;
    /// Destroys an operation.
    virtual void let_go(std::size_t index) noexcept = 0;

    std::span<entrant> entrants_;
    std::size_t started_ = 0;
    bool decided_ = false;
    std::optional<std::size_t> winner_; // with a value, or an operation that is to be asked for it
    std::exception_ptr failure_;
};

template <class A>
void fill(slot_of<A>& slot, A& body) {
    if constexpr (std::is_void_v<result_of<A>>) {
        body.await_resume();
        slot.value.emplace();
    } else {
        slot.value.emplace(body.await_resume());
    }
}

template <class A>
child run_operation(child_group& group, std::size_t index, A& body, slot_of<A>& slot) {
    std::exception_ptr failure;
    try {
        if (body.await_ready()) {
            fill(slot, body);
        } else {
            co_await suspension<A>(body);
        }
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure)
        group.on_failure(index, std::move(failure));
    else
        group.on_value(index);
}

/// A task leaves its value in the slot. An operation that had to wait keeps it until it is asked, so that it is not
/// lost if nobody ever asks.
template <class A>
child run_entrant(child_group& group, std::size_t index, A& body, slot_of<A>& slot) {
    if constexpr (is_task<A>::value) {
        return run_child(group, index, std::move(body), slot);
    } else {
        return run_operation(group, index, body, slot);
    }
}

/// The value of one that has ended.
template <class A>
typename slot_of<A>::value_type take_value(A& body, slot_of<A>& slot) {
    if constexpr (!is_task<A>::value)
        if (!slot.value) fill(slot, body);
    return std::move(*slot.value);
}

} // namespace detail

template <awaitable... A>
requires(sizeof...(A) > 0) class [[nodiscard]] when_any_operation : detail::any_group {
public:
    using value_type = std::variant<typename detail::slot_of<A>::value_type...>;

    explicit when_any_operation(A&&... bodies) noexcept : bodies_(std::optional<A>(std::move(bodies))...) {}
    /// Only before it is awaited.
    when_any_operation(when_any_operation&& other) noexcept : bodies_(std::move(other.bodies_)) {}

    bool await_ready() {
        try_all(std::index_sequence_for<A...>{});
        return is_decided();
    }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        make(std::index_sequence_for<A...>{});
        return run(who, context, entrants_);
    }
    value_type await_resume() {
        return choose(sizeof...(A),
                      [this](std::size_t index) { return value_of(index, std::index_sequence_for<A...>{}); });
    }

private:
    template <std::size_t... I>
    void try_all(std::index_sequence<I...>) {
        (try_one(I, *std::get<I>(bodies_)), ...);
    }
    template <class B>
    void try_one(std::size_t index, B& body) {
        if constexpr (!detail::is_task<B>::value)
            if (!is_decided() && body.await_ready()) answered_at_once(index);
    }
    template <std::size_t... I>
    void make(std::index_sequence<I...>) {
        ((entrants_[I].body = detail::run_entrant(*this, I, *std::get<I>(bodies_), std::get<I>(slots_)),
          entrants_[I].is_task = detail::is_task<A>::value),
         ...);
    }
    template <std::size_t... I>
    value_type value_of(std::size_t index, std::index_sequence<I...>) {
        std::optional<value_type> chosen;
        ((I == index ? void(chosen.emplace(std::in_place_index<I>,
                                           detail::take_value(*std::get<I>(bodies_), std::get<I>(slots_))))
                     : void()),
         ...);
        return std::move(*chosen);
    }

    void let_go(std::size_t index) noexcept override { let_go(index, std::index_sequence_for<A...>{}); }
    template <std::size_t... I>
    void let_go(std::size_t index, std::index_sequence<I...>) noexcept {
        ((I == index ? std::get<I>(bodies_).reset() : void()), ...);
    }

    std::tuple<std::optional<A>...> bodies_;
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

    explicit when_any_range_operation(std::vector<A>&& bodies) noexcept : given_(std::move(bodies)) {}
    /// Only before it is awaited.
    when_any_range_operation(when_any_range_operation&& other) noexcept : given_(std::move(other.given_)) {}

    bool await_ready() {
        slots_ = std::vector<detail::slot_of<A>>(given_.size());
        bodies_ = std::vector<std::optional<A>>(given_.size());
        for (std::size_t i = 0; i < given_.size(); ++i) bodies_[i].emplace(std::move(given_[i]));
        if constexpr (!detail::is_task<A>::value)
            for (std::size_t i = 0; i < bodies_.size() && !is_decided(); ++i)
                if (bodies_[i]->await_ready()) answered_at_once(i);
        return is_decided();
    }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        entrants_ = std::vector<entrant>(bodies_.size());
        for (std::size_t i = 0; i < bodies_.size(); ++i) {
            entrants_[i].body = detail::run_entrant(*this, i, *bodies_[i], slots_[i]);
            entrants_[i].is_task = detail::is_task<A>::value;
        }
        return run(who, context, entrants_);
    }
    value_type await_resume() {
        return choose(bodies_.size(), [this](std::size_t index) -> value_type {
            return {index, detail::take_value(*bodies_[index], slots_[index])};
        });
    }

private:
    void let_go(std::size_t index) noexcept override { bodies_[index].reset(); }

    std::vector<A> given_;
    std::vector<std::optional<A>> bodies_;
    std::vector<detail::slot_of<A>> slots_;
    std::vector<entrant> entrants_;
};

/// Yields an indexed<T>. Throws std::errc::invalid_argument if the vector is empty.
template <awaitable A>
when_any_range_operation<A> when_any(std::vector<A> bodies) noexcept {
    return when_any_range_operation<A>(std::move(bodies));
}

} // namespace cotun
