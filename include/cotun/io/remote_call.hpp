// SPDX-License-Identifier: Apache-2.0
//
// What is done on another reactor of a group (io/reactor_group.hpp): tasks that are started there, functions that are
// called there, and calls whose result is awaited here.
//
// They travel with what they were given: callables and arguments are moved into a message, and handed over as rvalues
// there. A callable lives as long as the task that it made.
#pragma once

#include <cotun/coro/awaitable.hpp>
#include <cotun/coro/child.hpp>
#include <cotun/coro/message.hpp>
#include <cotun/coro/stop.hpp>
#include <cotun/coro/task.hpp>
#include <cotun/io/packet.hpp>
#include <cotun/io/packet_batch.hpp>
#include <cotun/io/reactor.hpp>

#include <atomic>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>

namespace cotun {

namespace detail {

class group_core;
class reactor_core;

/// A message that keeps the group from being at its end.
class group_message : public message {
public:
    virtual ~group_message();

private:
    friend class group_core;
    void run() final;
    void drop() noexcept final;
    virtual void run_on(reactor& there) = 0;

    group_core* group_ = nullptr; // once it is on its way
    std::size_t to_ = 0;
};

template <class Function, class... Args>
class function_message final : public group_message {
public:
    template <class F, class... A>
    explicit function_message(F&& f, A&&... arguments)
        : function_(std::forward<F>(f)), arguments_(std::forward<A>(arguments)...) {}

private:
    void run_on(reactor& there) override {
        std::apply([&](Args&... a) { std::invoke(function_, there, std::forward<Args>(a)...); }, arguments_);
    }
    Function function_;
    std::tuple<Args...> arguments_;
};

/// Makes a task where it is to run, and lives as long as it.
class task_maker {
public:
    virtual ~task_maker() = default;
    virtual task<> make(reactor& there) = 0;
};

template <class Factory, class... Args>
class task_maker_of final : public task_maker {
public:
    template <class F, class... A>
    explicit task_maker_of(F&& f, A&&... arguments)
        : factory_(std::forward<F>(f)), arguments_(std::forward<A>(arguments)...) {}

    task<> make(reactor& there) override {
        return std::apply([&](Args&... a) { return std::invoke(factory_, there, std::forward<Args>(a)...); },
                          arguments_);
    }

private:
    Factory factory_;
    std::tuple<Args...> arguments_;
};

class spawn_message final : public group_message {
public:
    explicit spawn_message(std::unique_ptr<task_maker> maker) noexcept : maker_(std::move(maker)) {}

private:
    void run_on(reactor& there) override;
    std::unique_ptr<task_maker> maker_;
};

class call_waiter;

/// A call, shared by its two sides. Each member says on which of their threads it is touched.
class remote_call {
public:
    remote_call(group_core& group, std::size_t target) noexcept : group_(&group), target_(target) {}
    remote_call(const remote_call&) = delete;
    remote_call& operator=(const remote_call&) = delete;

    // --- the caller's thread --------------------------------------------------------------------------------------

    /// Whatever comes of it, the answer comes to `here`.
    void request(call_waiter& waiter, reactor_core& here);
    /// Has the other side asked to stop. Its end is the answer.
    void ask_to_stop() noexcept;
    /// Nobody waits for the answer any more.
    void abandon() noexcept;
    std::exception_ptr take_failure() noexcept { return std::move(failure_); }

    void release() noexcept {
        if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }

protected:
    virtual ~remote_call();

private:
    // Whoever has it answers, or it answers itself that the reactor has ended: the target's thread, but for a request
    // that was refused.
    class duty {
    public:
        explicit duty(remote_call& c) noexcept : call_(&c) { c.hold(); }
        duty(duty&& other) noexcept : call_(std::exchange(other.call_, nullptr)) {}
        ~duty();
        remote_call& call() noexcept { return *call_; }
        void answer(std::exception_ptr failure) noexcept;

    private:
        remote_call* call_;
    };
    struct request_message;
    struct stop_message final : message {
        explicit stop_message(remote_call& c) noexcept : call(&c) {}
        void run() override;
        void drop() noexcept override { call->release(); }
        remote_call* call;
    };
    struct answer_message final : message {
        explicit answer_message(remote_call& c) noexcept : call(&c) {}
        void run() override;
        void drop() noexcept override { call->release(); }
        remote_call* call;
    };
    class stopped_body;

    void hold() noexcept { references_.fetch_add(1, std::memory_order_relaxed); }

    // the target's thread
    virtual task<> body(reactor& there) = 0;
    static task<> serve(reactor& there, duty answers);
    void answer() noexcept;

    group_core* group_;
    std::size_t target_;
    std::atomic<unsigned> references_{1}; // the operation's; each message under way has one
    call_waiter* waiter_ = nullptr;       // caller
    bool stop_sent_ = false;              // caller
    nested_stop stop_;                    // target
    stop_message stop_message_{*this};
    answer_message answer_message_{*this};
    std::exception_ptr failure_; // target, and after the answer caller

    // Until it has answered, the target's reactor lives; until it has abandoned the call, the caller's does.
    std::mutex mutex_;
    bool answered_ = true;
    reactor_core* caller_ = nullptr;
};

template <class T>
struct unwrapped_task {
    using type = T;
};
template <class T>
struct unwrapped_task<task<T>> {
    using type = T;
};

template <class Function, class... Args>
using remote_result = typename unwrapped_task<std::invoke_result_t<Function&, reactor&, Args...>>::type;

/// A call that yields a T. Coroutines are no templates of the callable: it may be of a type without linkage.
template <class T>
class remote_call_for : public remote_call {
public:
    using remote_call::remote_call;
    child_slot<T> result;

private:
    /// Calls a function that makes no task, and keeps its result; false for others.
    virtual bool call(reactor& there) = 0;
    virtual task<T> make(reactor& there) = 0;
    task<> body(reactor& there) final {
        const bool done = call(there);
        if (done) co_return;
        if constexpr (std::is_void_v<T>) {
            co_await make(there);
            result.value.emplace();
        } else {
            result.value.emplace(co_await make(there));
        }
    }
};

template <class Function, class... Args>
class remote_call_of final : public remote_call_for<remote_result<Function, Args...>> {
    using produced = std::invoke_result_t<Function&, reactor&, Args...>;
    using yielded = remote_result<Function, Args...>;

public:
    template <class F, class... A>
    remote_call_of(group_core& group, std::size_t target, F&& f, A&&... arguments)
        : remote_call_for<yielded>(group, target),
          function_(std::forward<F>(f)),
          arguments_(std::forward<A>(arguments)...) {}

private:
    produced invoke(reactor& there) {
        return std::apply(
            [&](Args&... a) -> produced { return std::invoke(function_, there, std::forward<Args>(a)...); },
            arguments_);
    }
    bool call(reactor& there) override {
        if constexpr (is_task<produced>::value) {
            return false;
        } else if constexpr (std::is_void_v<yielded>) {
            invoke(there);
            this->result.value.emplace();
        } else {
            this->result.value.emplace(invoke(there));
        }
        return true;
    }
    task<yielded> make(reactor& there) override {
        if constexpr (is_task<produced>::value)
            return invoke(there);
        else
            return {};
    }

    Function function_;
    std::tuple<Args...> arguments_;
};

/// The caller's wait. A request to stop goes to the other side, whose end is the end of the wait: so a result that has
/// arrived wins, and nothing of the call goes on after it.
class call_waiter : waiter, stop_link {
public:
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const await_context& context);

protected:
    explicit call_waiter(remote_call& call) noexcept : call_(&call) {}
    call_waiter(call_waiter&& other) noexcept // only before it is awaited
        : waiter(), stop_link(), call_(std::exchange(other.call_, nullptr)) {}
    ~call_waiter();

    void throw_failure();
    remote_call& call() noexcept { return *call_; }

private:
    friend class remote_call;
    void on_stop() noexcept override { call_->ask_to_stop(); }
    void answered() noexcept;

    remote_call* call_;
    reactor_core* here_ = nullptr;
    bool stopped_ = false; // before it began
};

} // namespace detail

/// co_await group.call_on(...).
template <class T>
class [[nodiscard]] call_operation : public detail::call_waiter {
public:
    explicit call_operation(detail::remote_call_for<T>& call) noexcept : call_waiter(call) {}
    call_operation(call_operation&&) noexcept = default;

    T await_resume() {
        throw_failure();
        if constexpr (!std::is_void_v<T>)
            return std::move(*static_cast<detail::remote_call_for<T>&>(call()).result.value);
    }
};

} // namespace cotun
