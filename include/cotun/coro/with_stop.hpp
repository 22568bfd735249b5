// SPDX-License-Identifier: Apache-2.0
//
// with_stop, shield, this_stop_token: where a request to stop comes in, where it ends, and who may see it.
//
//     std::stop_source quit;
//     co_await cotun::with_stop(quit.get_token(), serve(io));    // quit.request_stop(), from any thread
//     co_await cotun::shield(dev.close());                       // not to be stopped
//     std::stop_token stop = co_await cotun::this_stop_token();  // for a loop of one's own, or another library
//
// A task that is asked to stop is not torn away: what it waits for throws std::errc::operation_canceled
// (coro/stop.hpp), and it ends as it likes. dev.close() and its like are never stopped.
#pragma once

#include <cotun/coro/awaitable.hpp>
#include <cotun/coro/stop.hpp>

#include <coroutine>
#include <memory>
#include <optional>
#include <stop_token>
#include <utility>

namespace cotun {

namespace detail {

/// A stop_state that a std::stop_token reaches, from any thread.
class bridged_stop {
public:
    explicit bridged_stop(std::stop_token token) noexcept : token_(std::move(token)) {}
    bridged_stop(bridged_stop&& other) noexcept : token_(std::move(other.token_)) {} // only before it is awaited
    ~bridged_stop() { end(); }

    void begin(const await_context& context);
    void end() noexcept;
    stop_state& stop() noexcept { return stop_.state; }

private:
    // What a posted function finds: the state may be gone by then. Touched on the loop's thread alone.
    struct mailbox {
        stop_state* target;
    };
    // Called by whoever requests the stop, on its thread.
    struct forward {
        void operator()() const;
        scheduler* loop;
        std::shared_ptr<mailbox> box;
    };

    std::stop_token token_;
    nested_stop stop_;
    std::shared_ptr<mailbox> box_;
    std::optional<std::stop_callback<forward>> callback_;
};

} // namespace detail

template <awaitable A>
class [[nodiscard]] with_stop_operation : public detail::wrapping_operation<A>, detail::bridged_stop {
public:
    with_stop_operation(A&& inner, std::stop_token token) noexcept
        : detail::wrapping_operation<A>(std::move(inner)), detail::bridged_stop(std::move(token)) {}

    template <class Promise>
    auto await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    auto suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        begin(context);
        return this->inner_.suspend(who, {context.loop, &stop()});
    }
    detail::result_of<A> await_resume() {
        end();
        return this->inner_.await_resume();
    }
};

/// Stops `inner` when `token` is requested, or whoever awaits is stopped. The request is carried over by post().
template <awaitable A>
with_stop_operation<A> with_stop(std::stop_token token, A inner) noexcept {
    return {std::move(inner), std::move(token)};
}

template <awaitable A>
class [[nodiscard]] shield_operation : public detail::wrapping_operation<A> {
public:
    explicit shield_operation(A&& inner) noexcept : detail::wrapping_operation<A>(std::move(inner)) {}

    template <class Promise>
    auto await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    auto suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        return this->inner_.suspend(who, {context.loop, nullptr});
    }
    detail::result_of<A> await_resume() { return this->inner_.await_resume(); }
};

/// No request to stop reaches `inner`; one that has come meanwhile stops the next wait.
template <awaitable A>
shield_operation<A> shield(A inner) noexcept {
    return shield_operation<A>(std::move(inner));
}

class [[nodiscard]] this_stop_token_operation {
public:
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<>, const detail::await_context& context) {
        if (context.stop != nullptr) token_ = context.stop->token();
        return false;
    }
    std::stop_token await_resume() noexcept { return std::move(token_); }

private:
    std::stop_token token_;
};

/// Yields, at once, the token of what can stop the task that awaits; one that can never be requested where nothing can.
/// Callbacks of the token are called on the reactor's thread.
inline this_stop_token_operation this_stop_token() noexcept { return {}; }

} // namespace cotun
