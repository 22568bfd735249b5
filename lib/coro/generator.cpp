// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/generator.hpp>

#include <cerrno>
#include <memory>
#include <system_error>
#include <utility>

namespace cotun::detail {
namespace {

[[noreturn]] void fail(int error, const char* what) { throw std::system_error(error, std::generic_category(), what); }

} // namespace

void refuse_empty_generator() {
    fail(EINVAL, "generator: next() of an empty generator; was it moved from? Call the coroutine again");
}

void next_wait::throw_gone() { fail(ECANCELED, "generator: it was destroyed while a task waited for its next value"); }

void next_wait::abandon() noexcept {
    of_->awaited_by_ = nullptr;
    of_->stop_.leave();
}

// True: `w` waits. A generator that is still at what an earlier wait began goes on with that, for `w`.
bool generator_promise_base::run(next_wait& w, const await_context& context) {
    if (awaited_by_ != nullptr || starting_)
        fail(EBUSY, "generator: next() while another next() of it waits, or from within it; await one at a time");
    if (running_ && context.loop != loop_)
        fail(EBUSY, "generator: next() on another reactor than the one on which it waits for something");
    if (!running_) {
        if (stop_.state.requested()) { // of an earlier wait
            std::destroy_at(&stop_);
            std::construct_at(&stop_);
        }
        loop_ = context.loop;
        running_ = starting_ = true;
        stop_.nest(context.stop);
        self_.resume();
        starting_ = false;
        if (!running_) return false;
    } else {
        stop_.nest(context.stop);
    }
    awaited_by_ = &w;
    w.waiting_ = true;
    return true;
}

void generator_promise_base::resume_awaiting() noexcept {
    if (awaited_by_ == nullptr) return; // the value is kept
    next_wait* w = std::exchange(awaited_by_, nullptr);
    w->waiting_ = false;
    w->coroutine.resume();
}

generator_promise_base::~generator_promise_base() {
    if (awaited_by_ == nullptr) return;
    awaited_by_->of_ = nullptr;
    awaited_by_->waiting_ = false;
    if (loop_ != nullptr) loop_->make_ready(*awaited_by_);
}

} // namespace cotun::detail
