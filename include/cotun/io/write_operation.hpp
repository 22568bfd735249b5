// SPDX-License-Identifier: Apache-2.0
//
// co_await dev.write_packet(...), dev.write_packets(...), dev.flush() and their like on sockets.
//
// A write is done when it is accepted: the packet belongs to the reactor from then on, and is written with the next
// kernel entry, in order. The coroutine waits only while the window is full. What became of a packet is counted
// (write_statistics), and thrown by flush(); once the device or socket is gone, the next write throws.
//
// Lifetime: destroying the wait drops the packets that had not been accepted; stopping it (coro/stop.hpp) does so, too,
// and throws std::errc::operation_canceled.
// Thread: the reactor's. Several coroutines may write; each has its turn in the order in which they came.
#pragma once

#include <cotun/coro/stop.hpp>
#include <cotun/io/packet.hpp>
#include <cotun/io/packet_batch.hpp>

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace cotun {

namespace detail {

class outbox;

/// A wait for room in an outbox, for the packets that the derived class holds.
class write_waiter : stoppable_wait {
public:
    bool await_ready();
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const await_context& context);
    void await_resume() {
        throw_if_stopped();
        if (failure_ != 0) throw_failure();
    }

protected:
    explicit write_waiter(outbox& into) noexcept : into_(&into) {}
    write_waiter(write_waiter&& other) noexcept : stoppable_wait(std::move(other)), into_(other.into_) {}
    ~write_waiter() {
        if (holds_port_) leave();
    }
    /// The packets to write, from `next` to `end`.
    void hold(packet* next, packet* end) noexcept {
        next_ = next;
        end_ = end;
    }

private:
    friend class outbox;
    void leave() noexcept;
    [[noreturn]] void throw_failure() const;

    outbox* into_;
    packet* next_ = nullptr;
    packet* end_ = nullptr;
    int failure_ = 0;
    bool holds_port_ = false;
};

/// A wait until all that has been accepted is written.
class flush_waiter : stoppable_wait {
public:
    explicit flush_waiter(outbox& of) noexcept;
    flush_waiter(flush_waiter&& other) noexcept
        : stoppable_wait(std::move(other)), of_(other.of_), until_(other.until_) {}
    ~flush_waiter();

    bool await_ready() const noexcept;
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const await_context& context);
    void await_resume();

private:
    friend class outbox;
    outbox* of_;
    std::uint64_t until_;
    bool holds_port_ = false;
};

} // namespace detail

class [[nodiscard]] write_packet_operation : public detail::write_waiter {
public:
    write_packet_operation(detail::outbox& into, packet&& written) noexcept
        : write_waiter(into), packet_(std::move(written)) {
        hold(&packet_, &packet_ + 1);
    }
    write_packet_operation(write_packet_operation&& other) noexcept
        : write_waiter(std::move(other)), packet_(std::move(other.packet_)) {
        hold(&packet_, &packet_ + 1);
    }

private:
    packet packet_;
};

class [[nodiscard]] write_packets_operation : public detail::write_waiter {
public:
    write_packets_operation(detail::outbox& into, packet_batch&& written) noexcept
        : write_waiter(into), batch_(std::move(written)) {
        hold(batch_.begin(), batch_.end());
    }
    write_packets_operation(write_packets_operation&& other) noexcept
        : write_waiter(std::move(other)), batch_(std::move(other.batch_)) {
        hold(batch_.begin(), batch_.end());
    }

private:
    packet_batch batch_;
};

/// Throws the first failure since the last flush.
class [[nodiscard]] flush_operation final : public detail::flush_waiter {
public:
    using flush_waiter::flush_waiter;
};

} // namespace cotun
