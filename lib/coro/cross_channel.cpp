// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/cross_channel.hpp>

namespace cotun::detail {

void cross_waiter::finish(channel_outcome how) noexcept {
    outcome = how;
    if (loop_ == nullptr) {
        finished_.notify_one();
        return;
    }
    auto self = shared_from_this();
    loop_->post_if_it_runs([self] {
        if (self->task != nullptr) self->task->wake();
    });
}

channel_outcome cross_waiter::block(std::unique_lock<std::mutex>& locked) {
    finished_.wait(locked, [this] { return outcome != channel_outcome::pending; });
    return outcome;
}

// A stop: nobody hands over any more. What was handed over already is found when the task runs, and wins.
void cross_wait::give_up() noexcept {
    record_->task = nullptr;
    const std::lock_guard guard(record_->core->lock);
    record_->unlink();
}

} // namespace cotun::detail
