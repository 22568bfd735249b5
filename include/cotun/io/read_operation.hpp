// SPDX-License-Identifier: Apache-2.0
//
// co_await dev.read_packet(), dev.read_packets() and their like on sockets.
//
// Lifetime: destroying the wait (with the task that it is part of) takes nothing from the stream: a packet that was
// kept for it goes to the next. So does stopping it (coro/stop.hpp), which throws std::errc::operation_canceled. The
// device or socket may be closed or destroyed meanwhile; the wait then ends with std::errc::operation_canceled. Thread:
// the reactor's. Several coroutines may wait on one device; packets are given to them in the order in which they came.
#pragma once

#include <cotun/coro/stop.hpp>
#include <cotun/io/packet.hpp>
#include <cotun/io/packet_batch.hpp>

#include <coroutine>
#include <utility>

namespace cotun {

namespace detail {

class inbox;

/// A wait for the next packet of an inbox.
class read_waiter : stoppable_wait {
public:
    explicit read_waiter(inbox& from) noexcept : from_(&from) {}
    read_waiter(read_waiter&& other) noexcept : stoppable_wait(std::move(other)), from_(other.from_) {}
    ~read_waiter() {
        if (holds_port_) leave();
    }

    bool await_ready() const noexcept;
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const await_context& context);

protected:
    /// The packet, or the exception.
    packet take();
    /// Whether take() would throw that error.
    bool would_throw(int error) const noexcept;
    /// The packets that came with it, as long as there is room.
    void take_more(packet_batch& into);

private:
    friend class inbox;
    void leave() noexcept;

    inbox* from_;
    bool promised_ = false; // a packet of the queue is kept for it
    int failure_ = 0;
    bool holds_port_ = false;
};

} // namespace detail

/// Yields the next packet. Throws std::system_error once the stream has ended; cotun::is_final() says so of its code.
class [[nodiscard]] read_packet_operation : public detail::read_waiter {
public:
    using read_waiter::read_waiter;
    packet await_resume() { return take(); }
};

/// Yields all packets that have come, at least one and at most packet_batch::capacity, in order. Throws as above.
class [[nodiscard]] read_packets_operation : public detail::read_waiter {
public:
    using read_waiter::read_waiter;
    packet_batch await_resume() {
        packet_batch batch;
        batch.push_back(take());
        take_more(batch);
        return batch;
    }
};

} // namespace cotun
