// SPDX-License-Identifier: Apache-2.0
#include <cotun/io/interval.hpp>

#include "io/fail.hpp"
#include "io/reactor_core.hpp"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>

namespace cotun {

interval::interval(reactor& io, clock::duration period) : interval(io, period, io.core().driver().now()) {}

interval::interval(reactor& io, clock::duration period, clock::time_point start)
    : core_(&io.core()), period_(period), last_(std::max(start, clock::time_point())) { // so that no sum overflows
    if (period <= clock::duration::zero())
        detail::fail(
            EINVAL, fmt::format("interval: a period of {} ns; it must be longer than 0, such as 10ms", period.count()));
}

interval::clock::time_point interval::due() const noexcept {
    return last_ < clock::time_point::max() - period_ ? last_ + period_ : clock::time_point::max();
}

std::uint64_t interval::ended() const noexcept {
    const clock::time_point now = core_->driver().now();
    return due() <= now ? static_cast<std::uint64_t>((now - last_) / period_) : 0;
}

tick_operation::~tick_operation() {
    if (!waits_) return;
    of_->core_->disarm(*this);
    of_->awaited_ = false;
}

bool tick_operation::await_ready() {
    if (of_->awaited_)
        detail::fail(EBUSY, "interval: another task waits for it; give each task an interval of its own");
    return of_->ended() > 0;
}

bool tick_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    if (!start_waiting(who, *of_->core_, context.stop)) return false;
    of_->core_->arm(*this, of_->due());
    waits_ = of_->awaited_ = true;
    return true;
}

// The clock may be behind by what it takes to get here; never by a period.
std::uint64_t tick_operation::await_resume() {
    if (std::exchange(waits_, false)) of_->awaited_ = false;
    throw_if_stopped();
    const std::uint64_t periods = std::max<std::uint64_t>(of_->ended(), 1);
    of_->last_ += static_cast<interval::clock::rep>(periods) * of_->period_;
    return periods;
}

void tick_operation::on_time() { of_->core_->make_ready(*this); }
void tick_operation::give_up() noexcept { of_->core_->disarm(*this); }

} // namespace cotun
