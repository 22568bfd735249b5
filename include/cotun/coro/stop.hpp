// SPDX-License-Identifier: Apache-2.0
//
// How a request to stop reaches what waits.
//
// Whoever can stop others (a scope, when_any, with_timeout, with_stop) has a stop_state. Each task hands the one that
// it was given on to what it awaits; whatever waits links itself to it, and so does every stop_state further in. So a
// request goes down to all that waits beneath, at once, and resumes nobody: it makes waiters ready.
//
// A wait that is stopped throws std::errc::operation_canceled. One whose result has arrived is not stopped any more:
// the result wins. A wait that begins after the request, and that cannot be answered at once, is stopped there.
//
// Thread: the loop's. stop_state::token() is the way to and from other threads.
#pragma once

#include <cotun/coro/scheduler.hpp>

#include <coroutine>
#include <exception>
#include <optional>
#include <stop_token>
#include <utility>

namespace cotun::detail {

/// What is told of a request to stop.
class stop_link {
public:
    stop_link() noexcept = default;
    stop_link(const stop_link&) = delete;
    stop_link& operator=(const stop_link&) = delete;

    /// Called once, unlinked. Resumes nobody.
    virtual void on_stop() noexcept = 0;

protected:
    ~stop_link() { unlink_stop(); }
    void unlink_stop() noexcept {
        if (next_ == nullptr) return;
        previous_->next_ = next_;
        next_->previous_ = previous_;
        next_ = previous_ = nullptr;
    }

private:
    friend class stop_state;
    stop_link* next_ = nullptr;
    stop_link* previous_ = nullptr;
};

class stop_state final : public stop_link {
public:
    stop_state() noexcept { next_ = previous_ = this; }
    ~stop_state() {
        while (next_ != this) next_->unlink_stop();
        next_ = previous_ = nullptr;
    }

    bool requested() const noexcept { return requested_; }

    void request() noexcept {
        if (std::exchange(requested_, true)) return;
        while (next_ != this) {
            stop_link& first = *next_;
            first.unlink_stop();
            first.on_stop();
        }
        if (source_) source_->request_stop();
    }

    /// Not after the request.
    void link(stop_link& l) noexcept {
        l.previous_ = previous_;
        l.next_ = this;
        previous_->next_ = &l;
        previous_ = &l;
    }

    /// A token that is requested with this. What it calls is called on the loop's thread.
    std::stop_token token() {
        if (!source_) {
            source_.emplace();
            if (requested_) source_->request_stop();
        }
        return source_->get_token();
    }

private:
    void on_stop() noexcept override {} // the ring's own head: never told

    bool requested_ = false;
    std::optional<std::stop_source> source_;
};

/// A stop_state within another: what stops the outer one stops it.
class nested_stop final : public stop_link {
public:
    void nest(stop_state* outer) noexcept {
        if (outer == nullptr) return;
        if (outer->requested())
            on_stop();
        else
            outer->link(*this);
    }
    void leave() noexcept { unlink_stop(); }
    /// Whether it was stopped from outside.
    bool stopped_outside() const noexcept { return stopped_outside_; }
    stop_state state;

private:
    void on_stop() noexcept override {
        stopped_outside_ = true;
        state.request();
    }
    bool stopped_outside_ = false;
};

/// What a coroutine hands on to what it awaits.
struct await_context {
    scheduler* loop = nullptr;
    stop_state* stop = nullptr; // nullptr: nobody can ask for a stop
};

/// The context of the coroutine that awaits; an empty one of a coroutine that is not cotun's.
template <class Promise>
await_context context_of(std::coroutine_handle<Promise> awaiting) noexcept {
    if constexpr (requires { awaiting.promise().context(); })
        return awaiting.promise().context();
    else
        return {};
}

/// Throws the std::system_error (operation_canceled) of a wait that was stopped.
[[noreturn]] void throw_stopped();
/// Whether it is that error, whoever threw it.
bool is_cancellation(const std::exception_ptr& failure);
/// Throws std::errc::operation_not_permitted: `what` was awaited by a coroutine that is no task of cotun's.
[[noreturn]] void refuse_foreign_coroutine(const char* what);

/// The base of every operation that waits until it is made ready, and has to ask nobody to give up waiting. The derived
/// class puts itself on a list, or on the timers, after start_waiting(). It can be moved until it is awaited.
class stoppable_wait : public waiter, stop_link {
protected:
    stoppable_wait() noexcept = default;
    /// Only before it is awaited.
    stoppable_wait(stoppable_wait&&) noexcept : waiter(), stop_link() {}
    ~stoppable_wait() = default;

    /// False if a stop was requested already: then there is no wait, and stopped() holds.
    bool start_waiting(std::coroutine_handle<> who, scheduler& loop, stop_state* stop) noexcept {
        coroutine = who;
        loop_ = &loop;
        if (stop == nullptr) return true;
        if (stop->requested()) {
            stopped_ = true;
            return false;
        }
        stop->link(*this);
        return true;
    }

    /// Has it resumed, after start_waiting(); it leaves its list.
    void wake() noexcept { loop_->make_ready(*this); }

    bool stopped() const noexcept { return stopped_; }
    void throw_if_stopped() const {
        if (stopped_) throw_stopped();
    }

    /// Gives up what it waits for, beyond leaving its list.
    virtual void give_up() noexcept {}

private:
    void on_stop() noexcept override {
        if (is_ready()) return; // the result has come, and wins
        stopped_ = true;
        give_up();
        loop_->make_ready(*this);
    }

    scheduler* loop_ = nullptr;
    bool stopped_ = false;
};

} // namespace cotun::detail
