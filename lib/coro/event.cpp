// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/event.hpp>

#include <cerrno>
#include <system_error>

namespace cotun {

bool event_wait_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    if (context.loop == nullptr) detail::refuse_foreign_coroutine("event: wait");
    if (!start_waiting(who, *context.loop, context.stop)) return false;
    of_->waiters_.push_back(*this);
    return true;
}

void event_wait_operation::await_resume() const {
    throw_if_stopped();
    if (of_ == nullptr)
        throw std::system_error(ECANCELED, std::generic_category(),
                                "event: it was destroyed while a task waited for it");
}

void event::set() noexcept {
    set_ = true;
    while (!waiters_.empty()) static_cast<event_wait_operation&>(waiters_.front()).wake();
}

event::~event() {
    while (!waiters_.empty()) {
        auto& w = static_cast<event_wait_operation&>(waiters_.front());
        w.of_ = nullptr;
        w.wake();
    }
}

} // namespace cotun
