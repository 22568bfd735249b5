// SPDX-License-Identifier: Apache-2.0
//
// What listeners and connects of stream sockets have in common: the waits for a descriptor.
#pragma once

#include <cotun/coro/stop.hpp>

#include <coroutine>
#include <utility>

namespace cotun::detail {

class acceptor;
class connector;

/// A wait for an accepted connection. Destroyed or stopped, it loses none: the next has it.
class accept_waiter : public stoppable_wait {
public:
    bool await_ready() noexcept;
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const await_context& context);

protected:
    explicit accept_waiter(acceptor& from) noexcept : from_(&from) {}
    accept_waiter(accept_waiter&& other) noexcept : stoppable_wait(std::move(other)), from_(other.from_) {}
    ~accept_waiter();

    /// The descriptor of a connection that has its place; throws the failure.
    int take();
    /// It could not be used after all.
    void put_back(int descriptor) noexcept;

    acceptor* from_;

private:
    friend class acceptor;
    int descriptor_ = -1;
    int failure_ = 0;
    bool holds_ = false;
};

/// A wait for a connection to be made. The connector lives on until the kernel is done with it.
class connect_waiter : public waiter, stop_link {
public:
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const await_context& context);

protected:
    explicit connect_waiter(connector* of) noexcept : of_(of) {}
    connect_waiter(connect_waiter&& other) noexcept
        : waiter(), stop_link(), of_(std::exchange(other.of_, nullptr)) {} // only before it is awaited
    ~connect_waiter();

    /// The descriptor of a connection that has its place; throws the failure.
    int take();

    connector* of_;

private:
    friend class connector;
    void on_stop() noexcept override;
};

} // namespace cotun::detail
