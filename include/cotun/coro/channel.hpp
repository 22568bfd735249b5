// SPDX-License-Identifier: Apache-2.0
//
// channel<T>: values from tasks to tasks of the same reactor, in order, no more than `capacity` on their way.
//
//     cotun::channel<cotun::packet> to_peer(64);
//
//     co_await to_peer.send(std::move(pkt));                                    // waits while 64 are on their way
//     to_peer.close();                                                          // no more are to come
//
//     while (std::optional<cotun::packet> pkt = co_await to_peer.receive())     // empty: closed, and all received
//         co_await peer.send_packet(std::move(*pkt));
//
// Any number of tasks may send and receive. Values are received in the order in which they were sent; who waits longest
// to send, or to receive, is next. With capacity 0 a value goes from hand to hand: send() waits for a receiver.
//
// Nothing that was sent is lost: a value that was handed to a task that is destroyed, or lets go (when_any), before it
// runs goes to the next receiver, ahead of what came later. With capacity 0 the channel keeps that one value.
//
// What is not sent: a send() that is stopped throws std::errc::operation_canceled, one to a closed channel, or that
// waits when it is closed, std::errc::broken_pipe; the value goes with the operation. Who must keep it uses try_send,
// which leaves it alone unless it sends it.
//
// Closing: who waits to send throws; who waits to receive, and later receivers, get what was sent before, and then
// nothing. A request to stop ends a receive() with operation_canceled, but not once it was handed a value.
//
// Lifetime: waits may be destroyed at any time, also after the channel. When the channel is destroyed, what waits
// throws operation_canceled, but for who was handed a value; other values are destroyed. Thread: the reactor's;
// cross_channel goes between threads. Memory: `capacity` values, allocated once; none a message. T: an object that can
// be moved without an exception.
#pragma once

#include <cotun/coro/channel_state.hpp>
#include <cotun/coro/stop.hpp>

#include <coroutine>
#include <cstddef>
#include <optional>
#include <utility>

namespace cotun {

template <class T>
class channel_send_operation;
template <class T>
class channel_receive_operation;

namespace detail {

/// Lives as long as the channel and all who wait at it.
template <class T>
class channel_core final : public channel_state<T, channel_send_operation<T>, channel_receive_operation<T>> {
public:
    using channel_state<T, channel_send_operation<T>, channel_receive_operation<T>>::channel_state;
    void hold() noexcept { ++holders_; }
    void drop() noexcept {
        if (--holders_ == 0) delete this;
    }

private:
    std::size_t holders_ = 1;
};

/// What waits at a channel, in either direction.
template <class T>
class channel_wait : protected stoppable_wait {
protected:
    explicit channel_wait(channel_core<T>& at) noexcept : core_(&at) {}
    channel_wait(channel_wait&& other) noexcept : stoppable_wait(std::move(other)), core_(other.core_) {}
    ~channel_wait() {
        if (!holds_) return;
        unlink();
        core_->drop();
    }
    bool start(std::coroutine_handle<> who, const await_context& context, const char* what) {
        if (context.loop == nullptr) refuse_foreign_coroutine(what);
        if (!start_waiting(who, *context.loop, context.stop)) return false;
        holds_ = true;
        core_->hold();
        return true;
    }
    void finish(channel_outcome how) noexcept {
        outcome_ = how;
        wake();
    }

    channel_core<T>* core_;
    channel_outcome outcome_ = channel_outcome::pending;

private:
    bool holds_ = false;
};

} // namespace detail

/// co_await channel.send(value).
template <class T>
class [[nodiscard]] channel_send_operation : detail::channel_wait<T> {
    using outcome = detail::channel_outcome;

public:
    channel_send_operation(detail::channel_core<T>& to, T&& value) noexcept
        : detail::channel_wait<T>(to), value_(std::move(value)) {}
    channel_send_operation(channel_send_operation&& other) noexcept
        : detail::channel_wait<T>(std::move(other)), value_(std::move(other.value_)) {}

    bool await_ready() noexcept {
        if (this->core_->closed()) {
            this->outcome_ = outcome::closed;
        } else {
            if (!this->core_->has_room()) return false;
            this->core_->put(std::move(value_));
            this->outcome_ = outcome::done;
        }
        return true;
    }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        if (!this->start(who, context, "channel: send")) return false;
        this->core_->wait_to_send(*this);
        return true;
    }
    void await_resume() const {
        if (this->outcome_ == outcome::done) return;
        if (this->outcome_ == outcome::closed) detail::refuse_send_to_closed("channel");
        this->throw_if_stopped();
        detail::throw_channel_gone("channel");
    }

private:
    template <class, class, class>
    friend class detail::channel_state;
    using detail::channel_wait<T>::finish;
    T& value() noexcept { return value_; }

    T value_;
};

/// co_await channel.receive(). Yields a value, or nothing.
template <class T>
class [[nodiscard]] channel_receive_operation : detail::channel_wait<T> {
    using outcome = detail::channel_outcome;

public:
    explicit channel_receive_operation(detail::channel_core<T>& from) noexcept : detail::channel_wait<T>(from) {}
    channel_receive_operation(channel_receive_operation&& other) noexcept : detail::channel_wait<T>(std::move(other)) {}
    ~channel_receive_operation() {
        if (this->outcome_ == outcome::done) this->core_->decline();
    }

    bool await_ready() const noexcept { return this->core_->can_receive() || this->core_->closed(); }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        if (!this->start(who, context, "channel: receive")) return false;
        this->core_->wait_to_receive(*this);
        return true;
    }
    std::optional<T> await_resume() {
        if (this->outcome_ == outcome::done) {
            this->outcome_ = outcome::pending;
            return this->core_->take_promised();
        }
        this->throw_if_stopped();
        if (this->outcome_ == outcome::gone) detail::throw_channel_gone("channel");
        if (this->core_->can_receive()) return this->core_->take();
        return std::nullopt;
    }

private:
    template <class, class, class>
    friend class detail::channel_state;
    using detail::channel_wait<T>::finish;
};

template <class T>
class channel {
public:
    using value_type = T;

    /// Throws std::bad_alloc.
    explicit channel(std::size_t capacity) : core_(new detail::channel_core<T>(capacity)) {}
    channel(const channel&) = delete;
    channel& operator=(const channel&) = delete;
    ~channel() {
        core_->abandon();
        core_->drop();
    }

    /// Waits for room. What becomes of the value where it is not sent: see the head of this file.
    channel_send_operation<T> send(T value) noexcept { return {*core_, std::move(value)}; }
    /// Sends if there is room, or, with capacity 0, somebody waits. Else, and when it is closed: false, and `value` is
    /// as it was.
    [[nodiscard]] bool try_send(T&& value) noexcept {
        if (core_->closed() || !core_->has_room()) return false;
        core_->put(std::move(value));
        return true;
    }

    /// Waits for a value. Empty once the channel is closed and all was received.
    channel_receive_operation<T> receive() noexcept { return channel_receive_operation<T>(*core_); }
    /// Empty where there is none, or others wait for those that there are.
    [[nodiscard]] std::optional<T> try_receive() noexcept {
        if (!core_->can_receive()) return std::nullopt;
        return core_->take();
    }

    /// No more is sent. Again does nothing.
    void close() noexcept { core_->close(); }
    bool is_closed() const noexcept { return core_->closed(); }

    /// Values on their way, and how many may be.
    std::size_t size() const noexcept { return core_->size(); }
    std::size_t capacity() const noexcept { return core_->capacity(); }

private:
    detail::channel_core<T>* core_;
};

} // namespace cotun
