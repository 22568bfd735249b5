// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/timeout.hpp>
#include <cotun/io/remote_call.hpp>

#include "io/fail.hpp"
#include "io/group_core.hpp"
#include "io/reactor_core.hpp"

#include <memory>
#include <system_error>
#include <utility>

namespace cotun::detail {

// --- the target's side ---------------------------------------------------------------------------------------------

struct remote_call::request_message final : group_message {
    explicit request_message(remote_call& c) noexcept : answers(c) {}
    void run_on(reactor& there) override {
        std::exception_ptr no_room;
        try {
            there.core().check_room_for_task();
        } catch (...) {
            no_room = std::current_exception();
        }
        if (no_room)
            answers.answer(std::move(no_room));
        else
            there.spawn(serve(there, std::move(answers)));
    }
    duty answers;
};

remote_call::duty::~duty() {
    if (call_ == nullptr) return;
    std::exception_ptr ended;
    try {
        group_core::fail_ended(call_->target_);
    } catch (...) {
        ended = std::current_exception();
    }
    answer(std::move(ended));
}

void remote_call::duty::answer(std::exception_ptr failure) noexcept {
    call_->failure_ = std::move(failure);
    call_->answer();
    std::exchange(call_, nullptr)->release();
}

// The body under the stop of the call, and under that of the task that serves it.
class remote_call::stopped_body : public wrapping_operation<task<>> {
public:
    stopped_body(remote_call& call, task<>&& body) noexcept : wrapping_operation(std::move(body)), call_(&call) {}
    ~stopped_body() { call_->stop_.leave(); }
    template <class Promise>
    auto await_suspend(std::coroutine_handle<Promise> who) {
        const await_context context = context_of(who);
        call_->stop_.nest(context.stop);
        return inner_.suspend(who, {context.loop, &call_->stop_.state});
    }
    void await_resume() { inner_.await_resume(); }

private:
    remote_call* call_;
};

task<> remote_call::serve(reactor& there, duty answers) {
    std::exception_ptr failure;
    try {
        stopped_body body(answers.call(), answers.call().body(there));
        co_await body;
    } catch (...) {
        failure = std::current_exception();
    }
    answers.answer(std::move(failure));
}

void remote_call::answer() noexcept {
    const std::lock_guard lock(mutex_);
    answered_ = true;
    if (caller_ == nullptr) return;
    hold();
    caller_->deliver(answer_message_);
}

void remote_call::stop_message::run() {
    const std::unique_ptr<remote_call, void (*)(remote_call*)> held(call, [](remote_call* c) { c->release(); });
    call->stop_.state.request();
}

// --- the caller's side ---------------------------------------------------------------------------------------------

remote_call::~remote_call() = default;

// A refused message answers as it is destroyed.
void remote_call::request(call_waiter& waiter, reactor_core& here) {
    auto message = std::make_unique<request_message>(*this);
    waiter_ = &waiter;
    caller_ = &here;
    answered_ = false;
    try {
        group_->send(target_, std::move(message));
    } catch (const std::system_error&) {}
}

void remote_call::ask_to_stop() noexcept {
    if (std::exchange(stop_sent_, true)) return;
    const std::lock_guard lock(mutex_);
    if (answered_) return;
    hold();
    group_->core_of(target_).deliver(stop_message_);
}

void remote_call::abandon() noexcept {
    waiter_ = nullptr;
    {
        const std::lock_guard lock(mutex_);
        caller_ = nullptr;
    }
    ask_to_stop();
}

void remote_call::answer_message::run() {
    const std::unique_ptr<remote_call, void (*)(remote_call*)> held(call, [](remote_call* c) { c->release(); });
    if (call->waiter_ != nullptr) call->waiter_->answered();
}

bool call_waiter::suspend(std::coroutine_handle<> who, const await_context& context) {
    here_ = dynamic_cast<reactor_core*>(context.loop);
    if (here_ == nullptr) refuse_foreign_coroutine("call_on");
    if (context.stop != nullptr && context.stop->requested()) {
        stopped_ = true;
        return false;
    }
    coroutine = who;
    call_->request(*this, *here_);
    if (context.stop != nullptr) context.stop->link(*this);
    return true;
}

void call_waiter::answered() noexcept {
    unlink_stop();
    here_->make_ready(*this);
}

call_waiter::~call_waiter() {
    if (call_ == nullptr) return;
    call_->abandon();
    call_->release();
}

void call_waiter::throw_failure() {
    if (stopped_) throw_stopped();
    if (std::exception_ptr failure = call_->take_failure()) std::rethrow_exception(std::move(failure));
}

} // namespace cotun::detail
