// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/semaphore.hpp>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

namespace cotun {
namespace {

[[noreturn]] void fail(int error, const std::string& what) {
    throw std::system_error(error, std::generic_category(), "semaphore: " + what);
}

} // namespace

// --- who waits -----------------------------------------------------------------------------------------------------

bool acquire_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    if (context.loop == nullptr) detail::refuse_foreign_coroutine("semaphore: acquire");
    if (!start_waiting(who, *context.loop, context.stop)) return false;
    state_ = state::waiting;
    of_->waiters_.push_back(*this);
    return true;
}

void acquire_operation::end_wait() {
    if (state_ == state::gone) fail(ECANCELED, "it was destroyed while a task waited for it");
    if (state_ != state::granted) detail::throw_stopped();
    grant_.unlink();
    state_ = state::taken;
}

// Destroyed, or stopped. Those behind it may have wished for less.
void acquire_operation::leave() noexcept {
    unlink();
    grant_.unlink();
    if (state_ == state::granted) of_->available_ += std::min(units_, of_->most_ - of_->available_);
    state_ = state::made;
    of_->serve();
}

// --- the units -----------------------------------------------------------------------------------------------------

semaphore::semaphore(std::size_t units, std::size_t most) : available_(units), most_(most) {
    if (most == 0 || units > most)
        fail(EINVAL, "made with " + std::to_string(units) + " units of at most " + std::to_string(most) +
                         "; there must be room for one, and for those that it is made with");
}

semaphore::~semaphore() {
    while (!granted_.empty()) // they have their units, and nobody to give them back to
        static_cast<acquire_operation::grant&>(granted_.pop_front()).of->state_ = acquire_operation::state::taken;
    while (!waiters_.empty()) {
        auto& w = static_cast<acquire_operation&>(waiters_.front());
        w.state_ = acquire_operation::state::gone;
        w.wake();
    }
}

void semaphore::refuse(std::size_t units) const {
    fail(EINVAL, "acquire of " + std::to_string(units) + " units; it must be 1 to " + std::to_string(most_));
}

void semaphore::refuse_release(std::size_t units) const {
    fail(EOVERFLOW, "release of " + std::to_string(units) + " units where " + std::to_string(available_) +
                        " of at most " + std::to_string(most_) +
                        " are there; was something released that was not acquired?");
}

void semaphore::serve() noexcept {
    while (!waiters_.empty()) {
        auto& w = static_cast<acquire_operation&>(waiters_.front());
        if (w.units_ > available_) return;
        available_ -= w.units_;
        w.state_ = acquire_operation::state::granted;
        granted_.push_back(w.grant_);
        w.wake();
    }
}

} // namespace cotun
