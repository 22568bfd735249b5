// SPDX-License-Identifier: Apache-2.0
#include "link/event_source.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <system_error>

namespace cotun::link {

bool event_source::try_take(link_event_operation& w) {
    if (const detail::scheduler* const here = loop()) here->check_thread(call_);
    if (waiters_.empty() && events_.empty() && !ended_) fill();
    if (waiters_.empty() && !events_.empty()) {
        give_first(w);
        return true;
    }
    if (!ended_) return false;
    w.failure_ = closed();
    return true;
}

void event_source::wait(link_event_operation& w) noexcept {
    waiters_.push_back(w);
    serve();
}

void event_source::give_first(link_event_operation& w) noexcept {
    w.came_ = events_.front();
    events_.pop_front();
}

void event_source::put_back(const link_event& event) noexcept {
    events_.push_front(event);
    serve();
}

void event_source::serve() noexcept {
    try {
        while (!waiters_.empty()) {
            if (events_.empty() && !ended_) fill();
            if (events_.empty()) break;
            auto& w = static_cast<link_event_operation&>(waiters_.front());
            give_first(w);
            w.wake();
        }
    } catch (...) {
        return fail(std::current_exception());
    }
    if (waiters_.empty()) return;
    ended_ ? fail(closed()) : expect_more();
}

void event_source::end() noexcept {
    ended_ = true;
    serve();
}

void event_source::fail(const std::exception_ptr& why) noexcept {
    while (!waiters_.empty()) {
        auto& w = static_cast<link_event_operation&>(waiters_.front());
        w.failure_ = why;
        w.wake();
    }
}

std::exception_ptr event_source::closed() const {
    return std::make_exception_ptr(
        std::system_error(ECANCELED, std::generic_category(), fmt::format("{}: it was closed by this program", call_)));
}

} // namespace cotun::link

namespace cotun {

link_event_operation::~link_event_operation() {
    unlink();
    if (came_) from_->put_back(*came_);
    if (holds_) from_->drop();
}

bool link_event_operation::await_ready() { return from_->try_take(*this); }

bool link_event_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    detail::scheduler* const loop = from_->loop() != nullptr ? from_->loop() : context.loop;
    if (loop == nullptr) detail::refuse_foreign_coroutine(from_->call_);
    if (!start_waiting(who, *loop, context.stop)) return false;
    from_->hold();
    holds_ = true;
    from_->wait(*this);
    return true;
}

link_event link_event_operation::await_resume() {
    throw_if_stopped();
    if (failure_) std::rethrow_exception(failure_);
    const link_event event = *came_;
    came_.reset();
    return event;
}

} // namespace cotun
