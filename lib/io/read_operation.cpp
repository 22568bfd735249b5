// SPDX-License-Identifier: Apache-2.0
#include <cotun/io/read_operation.hpp>

#include "io/inbox.hpp"
#include "io/packet_port.hpp"
#include "io/reactor_core.hpp"

namespace cotun::detail {

// While it waits, an operation keeps its port: the device's handle may go before it.
void read_waiter::leave() noexcept {
    unlink();
    if (promised_) from_->decline();
    from_->port().drop();
}

bool read_waiter::await_ready() const noexcept {
    from_->port().check_thread("a read");
    return from_->can_take();
}

bool read_waiter::suspend(std::coroutine_handle<> who, const await_context& context) {
    if (!start_waiting(who, from_->port().core(), context.stop)) return false;
    holds_port_ = true;
    from_->port().hold();
    from_->wait(*this);
    return true;
}

packet read_waiter::take() {
    if (std::exchange(promised_, false)) return from_->take_promised();
    throw_if_stopped();
    if (failure_ != 0) from_->throw_failure(failure_);
    return from_->take();
}

bool read_waiter::would_throw(int error) const noexcept {
    if (promised_ || stopped()) return false;
    return failure_ != 0 ? failure_ == error : from_->failed_with(error);
}

void read_waiter::take_more(packet_batch& into) {
    while (!into.full() && from_->has_packet()) into.push_back(from_->take());
}

} // namespace cotun::detail
