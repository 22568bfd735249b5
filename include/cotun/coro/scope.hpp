// SPDX-License-Identifier: Apache-2.0
//
// scope: tasks that run beside each other and end together (a nursery).
//
//     cotun::task<> serve(cotun::reactor& io, cotun::tcp_listener& listener) {
//         cotun::scope clients(io);
//         clients.spawn(accept_loop(listener, clients));
//         co_await clients.join();
//     }
//
// Nothing outlives it. join() waits until all have ended, those included that are spawned meanwhile. The first that
// fails has the others asked to stop; join() then throws its exception. A request to stop of the task that joins is
// handed on to all, and join() throws std::errc::operation_canceled when they have ended. request_stop() asks all to
// stop, and join() returns. Tasks that end with operation_canceled after a request have not failed.
//
// A scope that is left without join(), by an exception for example, destroys what still runs, wherever it stands:
// operations of cotun may be destroyed while they wait. So what the tasks refer to must have been there before the
// scope. Others that wait for its end, or for room, throw std::errc::operation_canceled then.
//
// Thread: the reactor's. A scope must not be destroyed by what runs within it.
// Bounds: scope_options::tasks at a time. spawn() beyond throws std::errc::resource_unavailable_try_again; room()
// waits.
#pragma once

#include <cotun/coro/frame.hpp>
#include <cotun/coro/stop.hpp>
#include <cotun/coro/task.hpp>

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <stop_token>
#include <utility>

namespace cotun {

class scope;

struct scope_options {
    /// The most tasks that run at a time, at least 1.
    std::size_t tasks = 65536;
};

namespace detail {

/// Has a place where reactors are: what a scope runs on.
template <class Loop>
concept loop_owner = requires(Loop& loop) {
    { loop.loop() } -> std::same_as<scheduler&>;
};

/// In the scope's list while somebody waits there, also when the wait is over and has not resumed: a scope that goes
/// says so.
struct scope_visit : waiter {
    explicit scope_visit(scope* s) noexcept : of(s) {}
    scope* of; // nullptr: it is gone
};

} // namespace detail

/// co_await scope.join().
class [[nodiscard]] join_operation : detail::waiter {
public:
    explicit join_operation(scope& of) noexcept : visit_(&of) {}
    join_operation(join_operation&& other) noexcept : waiter(), visit_(other.visit_.of) {} // only before it is awaited

    bool await_ready() const noexcept { return false; }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    void await_resume();

private:
    // A request reaches the scope, whose tasks end; the wait ends with them.
    struct hand_on final : detail::stop_link {
        explicit hand_on(join_operation& o) noexcept : of(o) {}
        void on_stop() noexcept override;
        void link(detail::stop_state& s) noexcept { s.link(*this); }
        join_operation& of;
    };
    friend class scope;
    detail::scope_visit visit_;
    hand_on link_{*this};
    bool stopped_ = false;
};

/// co_await scope.room().
class [[nodiscard]] room_operation final : detail::stoppable_wait {
public:
    explicit room_operation(scope& of) noexcept : visit_(&of) {}
    room_operation(room_operation&& other) noexcept : stoppable_wait(std::move(other)), visit_(other.visit_.of) {}
    ~room_operation();

    bool await_ready() const noexcept;
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    void await_resume();

private:
    friend class scope;
    detail::scope_visit visit_;
    bool told_ = false; // that there is room; whoever goes without taking it tells the next
};

class scope {
public:
    template <detail::loop_owner Loop>
    explicit scope(Loop& on, const scope_options& options = {}) : scope(on.loop(), options) {}
    /// Throws std::errc::invalid_argument for an option that is out of its range.
    scope(detail::scheduler& loop, const scope_options& options);
    scope(const scope&) = delete;
    scope& operator=(const scope&) = delete;
    ~scope();

    /// Starts a task in the next pass. Throws std::errc::invalid_argument for an empty one.
    void spawn(task<> body);
    /// Waits until fewer tasks run than may.
    room_operation room() noexcept { return room_operation(*this); }
    /// Waits until no task runs. Several may.
    join_operation join() noexcept { return join_operation(*this); }

    /// Asks all tasks to stop, and those that are spawned later. Again does nothing.
    void request_stop() noexcept { stop_.request(); }
    /// Requested with the tasks; its callbacks are called on the reactor's thread.
    std::stop_token token() { return stop_.token(); }

    /// How many tasks run.
    std::size_t size() const noexcept { return count_; }

private:
    friend class join_operation;
    friend class room_operation;
    struct body;
    struct body_promise;
    static body run_body(scope& of, task<> work);
    void ended(std::exception_ptr failure) noexcept;
    void tell_of_room() noexcept;

    detail::scheduler* loop_;
    std::size_t most_;
    std::size_t count_ = 0;
    std::exception_ptr failure_;
    detail::stop_state stop_;
    detail::waiter_list joiners_;
    detail::waiter_list awaiting_room_;
    detail::waiter_list bodies_;
    detail::waiter_list visits_;
};

} // namespace cotun
