// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/child.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_any.hpp>

#include <cerrno>
#include <system_error>

namespace cotun::detail {

void child_group::begin(std::coroutine_handle<> who, const await_context& context, std::size_t count) {
    if (context.loop == nullptr) refuse_foreign_coroutine("when_all or when_any");
    coroutine = who;
    loop_ = context.loop;
    running_ = count;
    stop_.nest(context.stop);
}

// --- when_any ------------------------------------------------------------------------------------------------------

bool any_group::run(std::coroutine_handle<> who, const await_context& context, std::span<entrant> entrants) {
    if (entrants.empty())
        throw std::system_error(EINVAL, std::generic_category(), "when_any: of nothing at all; give it a task");
    begin(who, context, entrants.size());
    entrants_ = entrants;
    while (started_ < entrants_.size() && !decided_) entrants_[started_++].body.start();
    for (std::size_t i = started_; i < entrants_.size(); ++i) ended(i); // decided before they began
    return must_wait();
}

std::size_t any_group::winner() {
    stop_.leave();
    if (!winner_) std::rethrow_exception(std::move(failure_));
    return *winner_;
}

void any_group::on_value(std::size_t index) noexcept {
    ended(index);
    if (decided_) return;
    winner_ = index;
    decide();
}

// What the request of somebody further out makes a child throw decides nothing: another may yet have a result.
void any_group::on_failure(std::size_t index, std::exception_ptr failure) noexcept {
    ended(index);
    if (decided_) return;
    if (!failure_) failure_ = std::move(failure);
    if (!stop_.stopped_outside()) decide();
}

void any_group::ended(std::size_t index) noexcept {
    entrants_[index].ended = true;
    one_less();
}

// Operations are let go before tasks are asked to stop, since a request would stop them, too.
void any_group::decide() noexcept {
    decided_ = true;
    for (std::size_t i = 0; i < started_; ++i) {
        if (entrants_[i].ended || entrants_[i].is_task) continue;
        entrants_[i].body.destroy();
        ended(i);
    }
    stop_.state.request();
}

} // namespace cotun::detail
