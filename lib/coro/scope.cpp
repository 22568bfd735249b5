// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

namespace cotun {
namespace {

[[noreturn]] void fail(int error, const std::string& what) {
    throw std::system_error(error, std::generic_category(), what);
}

} // namespace

// --- the tasks -----------------------------------------------------------------------------------------------------

struct scope::body {
    using promise_type = body_promise;
};

// In the scope's list from its start to its end, where it destroys itself.
struct scope::body_promise : detail::frame_allocated, detail::waiter {
    // Has the task start in the next pass.
    struct first_turn : waiter {
        explicit first_turn(detail::scheduler& on) noexcept : loop(&on) {}
        bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> self) noexcept {
            coroutine = self;
            loop->make_ready(*this);
        }
        void await_resume() const noexcept {}
        detail::scheduler* loop;
    };

    body_promise(scope& o, task<>&) noexcept : of(&o) {
        coroutine = std::coroutine_handle<body_promise>::from_promise(*this);
        of->bodies_.push_back(*this);
        ++of->count_;
    }
    body get_return_object() const noexcept { return {}; }
    first_turn initial_suspend() const noexcept { return first_turn(*of->loop_); }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void unhandled_exception() const noexcept { std::terminate(); } // run_body catches all
    void return_void() const noexcept {}
    detail::await_context context() const noexcept { return {of->loop_, &of->stop_}; }

    scope* of;
};

scope::body scope::run_body(scope& of, task<> work) {
    std::exception_ptr failure;
    try {
        co_await std::move(work);
    } catch (...) {
        failure = std::current_exception();
    }
    of.ended(std::move(failure));
}

scope::scope(detail::scheduler& loop, const scope_options& options) : loop_(&loop), most_(options.tasks) {
    if (most_ == 0) fail(EINVAL, "scope: option tasks is 0; it must be 1 at least");
}

scope::~scope() {
    while (!bodies_.empty()) bodies_.front().coroutine.destroy();
    while (!visits_.empty()) static_cast<detail::scope_visit&>(visits_.pop_front()).of = nullptr;
    while (!joiners_.empty()) loop_->make_ready(joiners_.pop_front());
    while (!awaiting_room_.empty()) static_cast<room_operation&>(awaiting_room_.front()).wake();
}

void scope::spawn(task<> work) {
    if (!work) fail(EINVAL, "scope: spawn of an empty task (moved from?)");
    loop_->check_thread("spawn() into a scope");
    if (count_ >= most_)
        fail(EAGAIN, "scope: " + std::to_string(count_) +
                         " tasks run, as many as may; co_await room() before spawn(), or raise scope_options::tasks");
    run_body(*this, std::move(work));
}

void scope::ended(std::exception_ptr failure) noexcept {
    --count_;
    if (failure && !(stop_.requested() && detail::is_cancellation(failure))) {
        if (!failure_) failure_ = std::move(failure);
        stop_.request();
    }
    tell_of_room();
    while (count_ == 0 && !joiners_.empty()) loop_->make_ready(joiners_.pop_front());
}

void scope::tell_of_room() noexcept {
    if (awaiting_room_.empty()) return;
    auto& w = static_cast<room_operation&>(awaiting_room_.pop_front());
    w.told_ = true;
    loop_->make_ready(w);
}

// --- who waits -----------------------------------------------------------------------------------------------------

bool join_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    if (context.stop != nullptr && context.stop->requested())
        link_.on_stop();
    else if (context.stop != nullptr)
        link_.link(*context.stop);
    scope& of = *visit_.of;
    if (of.size() == 0) return false;
    coroutine = who;
    of.joiners_.push_back(*this);
    of.visits_.push_back(visit_);
    return true;
}

void join_operation::hand_on::on_stop() noexcept {
    of.stopped_ = true;
    if (of.visit_.of != nullptr) of.visit_.of->request_stop();
}

void join_operation::await_resume() {
    if (visit_.of == nullptr) fail(ECANCELED, "scope: it was destroyed while a task waited for its end");
    if (visit_.of->failure_) std::rethrow_exception(std::exchange(visit_.of->failure_, nullptr));
    if (stopped_) detail::throw_stopped();
}

room_operation::~room_operation() {
    if (told_ && visit_.of != nullptr) visit_.of->tell_of_room();
}

bool room_operation::await_ready() const noexcept { return visit_.of->count_ < visit_.of->most_; }

bool room_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    scope& of = *visit_.of;
    if (!start_waiting(who, *of.loop_, context.stop)) return false;
    of.awaiting_room_.push_back(*this);
    of.visits_.push_back(visit_);
    return true;
}

void room_operation::await_resume() {
    told_ = false;
    throw_if_stopped();
    if (visit_.of == nullptr) fail(ECANCELED, "scope: it was destroyed while a task waited for room in it");
}

} // namespace cotun
