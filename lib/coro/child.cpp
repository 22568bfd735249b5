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
    for (std::size_t i = started_; i < entrants_.size(); ++i) one_less(); // decided before they began
    return must_wait();
}

// After a request from further out an operation that has ended decides nothing: it may have been stopped.
void any_group::on_value(std::size_t index) noexcept {
    one_less();
    entrants_[index].ended = true;
    if (decided_ || (!entrants_[index].is_task && stop_.stopped_outside())) return;
    winner_ = index;
    decide();
}

void any_group::on_failure(std::size_t index, std::exception_ptr failure) noexcept {
    one_less();
    entrants_[index].ended = entrants_[index].failed = true;
    if (decided_) return;
    if (!failure_) failure_ = std::move(failure);
    if (!stop_.stopped_outside()) decide();
}

// Operations are let go before tasks are asked to stop: a request would stop them, too, and reach beyond them (into a
// generator, for example).
void any_group::decide() noexcept {
    decided_ = true;
    for (std::size_t i = 0; i < started_; ++i) {
        entrant& e = entrants_[i];
        if (e.ended || e.is_task) continue;
        e.ended = true;
        e.body.destroy();
        let_go(i);
        one_less();
    }
    stop_.state.request();
}

} // namespace cotun::detail
