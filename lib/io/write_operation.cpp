// SPDX-License-Identifier: Apache-2.0
#include <cotun/io/write_operation.hpp>

#include "io/outbox.hpp"
#include "io/packet_port.hpp"

#include <cerrno>

namespace cotun::detail {

// While it waits, an operation keeps its port: the device's handle may go before it.
void write_waiter::leave() noexcept {
    unlink();
    into_->port().drop();
}

bool write_waiter::await_ready() {
    if (!into_->may_write()) {
        failure_ = into_->failure();
        return failure_ != 0; // else others wait already: behind them
    }
    if (into_->is_closed()) {
        failure_ = ECANCELED;
        return true;
    }
    return into_->offer(next_, end_);
}

void write_waiter::await_suspend(std::coroutine_handle<> who) noexcept {
    coroutine = who;
    holds_port_ = true;
    into_->port().hold();
    into_->wait(*this);
}

void write_waiter::throw_failure() const { into_->throw_failure(failure_); }

flush_waiter::flush_waiter(outbox& of) noexcept : of_(&of), until_(of.accepted()) {}

flush_waiter::~flush_waiter() {
    if (!holds_port_) return;
    unlink();
    of_->port().drop();
}

bool flush_waiter::await_ready() const noexcept { return of_->written(until_); }

void flush_waiter::await_suspend(std::coroutine_handle<> who) noexcept {
    coroutine = who;
    holds_port_ = true;
    of_->port().hold();
    of_->wait(*this);
}

void flush_waiter::await_resume() {
    if (const int error = of_->take_first_failure()) of_->throw_failure(error);
}

} // namespace cotun::detail
