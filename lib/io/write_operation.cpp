// SPDX-License-Identifier: Apache-2.0
#include <cotun/io/write_operation.hpp>

#include "io/outbox.hpp"
#include "io/packet_port.hpp"
#include "io/reactor_core.hpp"

#include <cerrno>

namespace cotun::detail {

// While it waits, an operation keeps its port: the device's handle may go before it.
void write_waiter::leave() noexcept {
    unlink();
    into_->port().drop();
}

bool write_waiter::await_ready() {
    into_->port().check_thread("a write");
    failure_ = into_->failure();
    if (failure_ == 0) failure_ = into_->refusal();
    if (failure_ != 0) return true;
    return into_->may_write() && into_->offer(next_, end_); // else others wait already: behind them
}

bool write_waiter::suspend(std::coroutine_handle<> who, const await_context& context) {
    if (!start_waiting(who, into_->port().core(), context.stop)) return false;
    holds_port_ = true;
    into_->port().hold();
    into_->wait(*this);
    return true;
}

void write_waiter::throw_failure() const { into_->throw_failure(failure_); }

flush_waiter::flush_waiter(outbox& of) noexcept : of_(&of), until_(of.accepted()) {}

flush_waiter::~flush_waiter() {
    if (!holds_port_) return;
    unlink();
    of_->port().drop();
}

bool flush_waiter::await_ready() const noexcept { return of_->written(until_); }

bool flush_waiter::suspend(std::coroutine_handle<> who, const await_context& context) {
    of_->port().check_thread("flush()");
    if (!start_waiting(who, of_->port().core(), context.stop)) return false;
    holds_port_ = true;
    of_->port().hold();
    of_->wait(*this);
    return true;
}

void flush_waiter::await_resume() {
    throw_if_stopped();
    if (const int error = of_->take_first_failure()) of_->throw_failure(error);
}

} // namespace cotun::detail
