// SPDX-License-Identifier: Apache-2.0
//
// cross_channel<T>: a channel between threads. Tasks of any reactor await it; threads without one block, or try.
//
//     cotun::cross_channel<job> jobs(256);
//
//     jobs.blocking_send(job{...});                              // a thread of its own
//     co_await jobs.send(job{...});                              // a task, of any reactor
//     while (std::optional<job> next = co_await jobs.receive())  // a task of another
//
// What channel.hpp says of order, capacity, closing, and of values that are not sent or not received, holds here, too:
// one order for all who send and receive, whatever their threads. A value that was handed to a task that is destroyed
// before it runs goes to the next receiver of any thread.
//
// Whoever hands a value over wakes the receiver's reactor by post(), and only a receiver that waits: of a burst the
// first value wakes it, and it finds the others when it runs. Nobody is woken for a value that is there already.
//
// Lifetime: tasks that wait may be destroyed at any time, also while another thread is handing over, and their reactors
// with them, before the channel or after it. When the channel is destroyed, tasks that still wait throw
// std::errc::operation_canceled. Nobody may call it any more then, and no thread be blocked in it (close() ends that).
// Values are destroyed with it, or with the last that waits, on that thread.
// Thread: any. A value goes to another thread: what is bound to its own, such as a packet, cannot be sent.
// Memory: `capacity` values, allocated once; a wait takes a record, and a wake-up what post() takes. Where there is no
// memory to wake another, the program ends (std::terminate).
// T: an object that can be moved without an exception. Its move is called under the channel's lock, on the sender's
// thread or the receiver's.
#pragma once

#include <cotun/coro/channel_state.hpp>
#include <cotun/coro/scheduler.hpp>
#include <cotun/coro/stop.hpp>

#include <condition_variable>
#include <coroutine>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

namespace cotun {

template <class T>
class cross_send_operation;
template <class T>
class cross_receive_operation;

namespace detail {

class cross_wait;

struct cross_core_base {
    std::mutex lock;
};

/// One who waits: a task on its loop, or a thread. Shared with the function that wakes the task, which may find that
/// the wait is gone. While it is in a list of the channel, its task or thread is there, and so is the loop: to leave it
/// takes the lock, under which it is woken.
class cross_waiter : public waiter, public std::enable_shared_from_this<cross_waiter> {
public:
    /// Of a task.
    cross_waiter(std::shared_ptr<cross_core_base> at, scheduler& loop, cross_wait& wait) noexcept
        : core(std::move(at)), task(&wait), loop_(&loop) {}
    /// Of the calling thread.
    explicit cross_waiter(std::shared_ptr<cross_core_base> at) noexcept : core(std::move(at)) {}

    /// Under the lock.
    void finish(channel_outcome how) noexcept;
    /// Blocks the thread until it is finished.
    channel_outcome block(std::unique_lock<std::mutex>& locked);

    const std::shared_ptr<cross_core_base> core;
    cross_wait* task = nullptr; // touched on the loop's thread alone; nullptr when it need not be woken any more
    channel_outcome outcome = channel_outcome::pending; // under the lock

private:
    scheduler* loop_ = nullptr;
    std::condition_variable finished_;
};

template <class T>
class cross_sender final : public cross_waiter {
public:
    template <class... Who>
    explicit cross_sender(T& value, Who&&... who) noexcept : cross_waiter(std::forward<Who>(who)...), value_(&value) {}
    T& value() noexcept { return *value_; }

private:
    T* value_;
};

template <class T>
struct cross_core final : cross_core_base {
    explicit cross_core(std::size_t capacity) : state(capacity) {}
    channel_state<T, cross_sender<T>, cross_waiter> state; // under the lock
};

/// A task's wait.
class cross_wait : protected stoppable_wait {
protected:
    cross_wait() noexcept = default;
    cross_wait(cross_wait&& other) noexcept : stoppable_wait(std::move(other)) {} // only before it is awaited
    ~cross_wait() = default;
    cross_wait& as_wait() noexcept { return *this; }

    std::shared_ptr<cross_waiter> record_; // once it has waited

private:
    friend class cross_waiter;
    void give_up() noexcept override;
};

template <class T>
concept bound_to_thread = requires {
    typename T::bound_to_thread;
};

} // namespace detail

/// co_await cross_channel.send(value).
template <class T>
class [[nodiscard]] cross_send_operation : detail::cross_wait {
    using outcome = detail::channel_outcome;

public:
    cross_send_operation(const std::shared_ptr<detail::cross_core<T>>& to, T&& value) noexcept
        : to_(&to), value_(std::move(value)) {}
    cross_send_operation(cross_send_operation&& other) noexcept
        : cross_wait(std::move(other)), to_(other.to_), value_(std::move(other.value_)) {}
    ~cross_send_operation() {
        if (record_) leave();
    }

    bool await_ready() {
        const std::lock_guard guard((*to_)->lock);
        return send_now();
    }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        if (context.loop == nullptr) detail::refuse_foreign_coroutine("cross_channel: send");
        auto record = std::make_shared<detail::cross_sender<T>>(value_, *to_, *context.loop, as_wait());
        const std::lock_guard guard((*to_)->lock);
        if (send_now() || !start_waiting(who, *context.loop, context.stop)) return false;
        (*to_)->state.wait_to_send(*record);
        record_ = std::move(record);
        return true;
    }
    void await_resume() {
        if (record_) leave();
        if (outcome_ == outcome::done) return;
        if (outcome_ == outcome::closed) detail::refuse_send_to_closed("cross_channel");
        throw_if_stopped();
        detail::throw_channel_gone("cross_channel");
    }

private:
    bool send_now() noexcept {
        auto& state = (*to_)->state;
        if (state.closed()) {
            outcome_ = outcome::closed;
        } else {
            if (!state.has_room()) return false;
            state.put(std::move(value_));
            outcome_ = outcome::done;
        }
        return true;
    }
    void leave() noexcept {
        record_->task = nullptr;
        const std::shared_ptr<detail::cross_waiter> record = std::move(record_); // goes after the lock
        const std::lock_guard guard(record->core->lock);
        record->unlink();
        outcome_ = record->outcome;
    }

    const std::shared_ptr<detail::cross_core<T>>* to_; // the channel's; not once it has waited
    T value_;
    outcome outcome_ = outcome::pending;
};

/// co_await cross_channel.receive(). Yields a value, or nothing.
template <class T>
class [[nodiscard]] cross_receive_operation : detail::cross_wait {
    using outcome = detail::channel_outcome;

public:
    explicit cross_receive_operation(const std::shared_ptr<detail::cross_core<T>>& from) noexcept : from_(&from) {}
    cross_receive_operation(cross_receive_operation&& other) noexcept
        : cross_wait(std::move(other)), from_(other.from_) {}
    ~cross_receive_operation() {
        if (!record_) return;
        record_->task = nullptr;
        const std::shared_ptr<detail::cross_waiter> record = std::move(record_); // goes after the lock
        const std::lock_guard guard(record->core->lock);
        record->unlink();
        if (record->outcome == outcome::done) core_of(*record).state.decline();
    }

    bool await_ready() {
        const std::lock_guard guard((*from_)->lock);
        return receive_now((*from_)->state);
    }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        if (context.loop == nullptr) detail::refuse_foreign_coroutine("cross_channel: receive");
        auto record = std::make_shared<detail::cross_waiter>(*from_, *context.loop, as_wait());
        const std::lock_guard guard((*from_)->lock);
        if (receive_now((*from_)->state) || !start_waiting(who, *context.loop, context.stop)) return false;
        (*from_)->state.wait_to_receive(*record);
        record_ = std::move(record);
        return true;
    }
    std::optional<T> await_resume() {
        const outcome how = record_ ? end_wait() : outcome::pending;
        if (how == outcome::gone) detail::throw_channel_gone("cross_channel");
        if (how == outcome::pending) throw_if_stopped();
        return std::move(got_);
    }

private:
    static detail::cross_core<T>& core_of(const detail::cross_waiter& record) noexcept {
        return static_cast<detail::cross_core<T>&>(*record.core);
    }
    bool receive_now(auto& state) noexcept {
        if (!state.can_receive()) return state.closed();
        got_ = state.take();
        return true;
    }
    outcome end_wait() noexcept {
        record_->task = nullptr;
        const std::shared_ptr<detail::cross_waiter> record = std::move(record_); // goes after the lock
        const std::lock_guard guard(record->core->lock);
        auto& state = core_of(*record).state;
        if (record->outcome == outcome::done)
            got_ = state.take_promised();
        else if (record->outcome == outcome::closed)
            receive_now(state);
        return record->outcome;
    }

    const std::shared_ptr<detail::cross_core<T>>* from_; // the channel's; not once it has waited
    std::optional<T> got_;
};

template <class T>
class cross_channel {
    static_assert(
        !detail::bound_to_thread<T>,
        "this type belongs to the thread of its reactor (a packet to its pool): send a copy of what it holds");
    using outcome = detail::channel_outcome;

public:
    using value_type = T;

    /// Throws std::bad_alloc.
    explicit cross_channel(std::size_t capacity) : core_(std::make_shared<detail::cross_core<T>>(capacity)) {}
    cross_channel(const cross_channel&) = delete;
    cross_channel& operator=(const cross_channel&) = delete;
    ~cross_channel() {
        const std::lock_guard guard(core_->lock);
        core_->state.abandon();
    }

    // --- tasks ----------------------------------------------------------------------------------------------------

    /// Waits for room.
    cross_send_operation<T> send(T value) noexcept { return {core_, std::move(value)}; }
    /// Waits for a value. Empty once the channel is closed and all was received.
    cross_receive_operation<T> receive() noexcept { return cross_receive_operation<T>(core_); }

    // --- threads: they would block a reactor -----------------------------------------------------------------------

    /// Blocks the thread until there is room. Throws std::errc::broken_pipe where the channel is closed.
    void blocking_send(T value) {
        const auto core = core_;
        std::unique_lock locked(core->lock);
        outcome how = core->state.closed() ? outcome::closed : outcome::done;
        if (how == outcome::done && core->state.has_room()) {
            core->state.put(std::move(value));
        } else if (how == outcome::done) {
            const auto record = std::make_shared<detail::cross_sender<T>>(value, core);
            core->state.wait_to_send(*record);
            how = record->block(locked);
        }
        if (how == outcome::closed) detail::refuse_send_to_closed("cross_channel");
        if (how == outcome::gone) detail::throw_channel_gone("cross_channel");
    }
    /// Blocks the thread until there is a value. Empty once the channel is closed and all was received.
    std::optional<T> blocking_receive() {
        const auto core = core_;
        std::unique_lock locked(core->lock);
        if (!core->state.can_receive() && !core->state.closed()) {
            const auto record = std::make_shared<detail::cross_waiter>(core);
            core->state.wait_to_receive(*record);
            const outcome how = record->block(locked);
            if (how == outcome::done) return core->state.take_promised();
            if (how == outcome::gone) detail::throw_channel_gone("cross_channel");
        }
        if (!core->state.can_receive()) return std::nullopt;
        return core->state.take();
    }

    // --- either ---------------------------------------------------------------------------------------------------

    /// Sends if there is room, or, with capacity 0, somebody waits. Else, and when it is closed: false, and `value` is
    /// as it was.
    [[nodiscard]] bool try_send(T&& value) {
        const std::lock_guard guard(core_->lock);
        if (core_->state.closed() || !core_->state.has_room()) return false;
        core_->state.put(std::move(value));
        return true;
    }
    /// Empty where there is none, or others wait for those that there are.
    [[nodiscard]] std::optional<T> try_receive() {
        const std::lock_guard guard(core_->lock);
        if (!core_->state.can_receive()) return std::nullopt;
        return core_->state.take();
    }

    /// No more is sent. Again does nothing.
    void close() {
        const std::lock_guard guard(core_->lock);
        core_->state.close();
    }
    bool is_closed() const {
        const std::lock_guard guard(core_->lock);
        return core_->state.closed();
    }
    /// Values on their way, and how many may be.
    std::size_t size() const {
        const std::lock_guard guard(core_->lock);
        return core_->state.size();
    }
    std::size_t capacity() const noexcept { return core_->state.capacity(); }

private:
    std::shared_ptr<detail::cross_core<T>> core_;
};

} // namespace cotun
