// SPDX-License-Identifier: Apache-2.0
#include "io/helper_threads.hpp"

#include <csignal>
#include <utility>

namespace cotun::detail {

std::thread start_quiet_thread(std::function<void()> body) {
    struct all_blocked { // and inherited
        all_blocked() noexcept {
            sigset_t all;
            sigfillset(&all);
            pthread_sigmask(SIG_SETMASK, &all, &before);
        }
        all_blocked(const all_blocked&) = delete;
        all_blocked& operator=(const all_blocked&) = delete;
        ~all_blocked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
        sigset_t before;
    } const blocked;
    return std::thread(std::move(body));
}

void helper_threads::start(std::shared_ptr<helper_work> work) {
    const std::lock_guard lock(mutex_);
    line_.push_back(std::move(work));
    if (running_ == most_) return;
    try {
        start_quiet_thread([self = shared_from_this()] { self->serve(); }).detach();
        ++running_;
    } catch (const std::system_error&) {
        if (running_ != 0) return; // one of those comes to it
        line_.pop_back();
        throw;
    }
}

void helper_threads::drop(const helper_work& work) noexcept {
    std::shared_ptr<helper_work> dropped; // destroyed without the lock
    const std::lock_guard lock(mutex_);
    for (auto i = line_.begin(); i != line_.end(); ++i) {
        if (i->get() != &work) continue;
        dropped = std::move(*i);
        line_.erase(i);
        return;
    }
}

void helper_threads::serve() noexcept {
    while (const std::shared_ptr<helper_work> work = next()) work->work();
}

// The thread that finds the line empty is counted out under the same lock: whoever comes later starts another.
std::shared_ptr<helper_work> helper_threads::next() noexcept {
    const std::lock_guard lock(mutex_);
    if (line_.empty()) {
        --running_;
        return nullptr;
    }
    std::shared_ptr<helper_work> first = std::move(line_.front());
    line_.pop_front();
    return first;
}

unsigned helper_threads::running() const noexcept {
    const std::lock_guard lock(mutex_);
    return running_;
}

std::size_t helper_threads::in_line() const noexcept {
    const std::lock_guard lock(mutex_);
    return line_.size();
}

} // namespace cotun::detail
