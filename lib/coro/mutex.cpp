// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/mutex.hpp>

#include <cerrno>
#include <system_error>

namespace cotun {

bool lock_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    if (context.loop == nullptr) detail::refuse_foreign_coroutine("mutex: lock");
    if (!start_waiting(who, *context.loop, context.stop)) return false;
    of_->waiters_.push_back(*this);
    return true;
}

void lock_operation::refuse() const {
    throw_if_stopped();
    throw std::system_error(ECANCELED, std::generic_category(), "mutex: it was destroyed while a task waited for it");
}

void mutex::hand_on() noexcept {
    auto& next = static_cast<lock_operation&>(waiters_.front());
    next.got_.hold(*this);
    next.wake();
}

// Guards learn of it, and a task that was handed the lock, which then has nothing to hold.
mutex::~mutex() {
    if (holder_ != nullptr) holder_->of_ = nullptr;
    while (!waiters_.empty()) static_cast<lock_operation&>(waiters_.front()).wake();
}

} // namespace cotun
