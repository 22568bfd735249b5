// SPDX-License-Identifier: Apache-2.0
//
// packet_port: what a device's queue and a datagram socket have in common: a descriptor, an inbox, an outbox, and an
// orderly end.
//
// The end, in this order: nothing more is accepted, and whoever waits is told; what was accepted is written, for a
// second at most; requests are cancelled and their last completions awaited; the buffers and the descriptor's place in
// the ring are given back; the descriptor is closed, a device's on a thread of its own. close() does it as a task,
// close_now() by turning the reactor. Both are over when close(2) is, or when what the descriptor kept is gone for all
// the others to see, if the kernel tells of that earlier (gone()): the thread goes on then, and the reactor's
// destructor waits for it.
//
// A port is counted by its handle and by the operations that wait on it, so that either may go first.
#pragma once

#include <cotun/coro/task.hpp>
#include <cotun/coro/timer.hpp>
#include <cotun/coro/waiter.hpp>

#include "ring/driver.hpp"

#include <string>
#include <utility>

namespace cotun::detail {

class inbox;
class outbox;
class reactor_core;
class port_reference;

class packet_port : timer {
public:
    packet_port(const packet_port&) = delete;
    packet_port& operator=(const packet_port&) = delete;

    /// What errors call it: `device "tun0"`, `UDP socket 0.0.0.0:5000`.
    virtual std::string describe() const = 0;
    /// The words for a failure that ended reading or writing.
    virtual std::string explain(int error) const = 0;
    virtual inbox& in() noexcept = 0;
    virtual outbox& out() noexcept = 0;

    reactor_core& core() noexcept { return *core_; }
    /// In builds without NDEBUG, ends the program if the reactor runs on another thread. Closed, the port may be
    /// without a reactor.
    void check_thread([[maybe_unused]] const char* what) const noexcept {
#ifndef NDEBUG
        if (is_open()) check_thread_of_core(what);
#endif
    }
    ring::file file() const noexcept { return file_; }
    int descriptor() const noexcept { return descriptor_; }
    bool is_open() const noexcept { return state_ == state::open; }

    static task<> close(port_reference port);
    void close_now();

    /// A counted reference, for operations that wait; see port_reference.
    void hold() noexcept { ++references_; }
    void drop() noexcept {
        if (--references_ == 0) delete this;
    }

    /// Called by inbox and outbox when a request of theirs has ended while the port closes.
    void progress();

protected:
    /// Takes the descriptor over once the derived class is whole: see open().
    packet_port(reactor_core& core, int descriptor) noexcept : core_(&core), descriptor_(descriptor) {}
    virtual ~packet_port() { close_descriptor(); }
    /// Whether close(2) of such a descriptor may take long: then it is called on a thread of its own.
    virtual bool closes_slowly() const noexcept { return false; }
    /// Whether gone() may be called before close(2) has ended.
    virtual bool tells_when_gone() const noexcept { return false; }
    /// What the descriptor kept is gone. Takes no notice of it before close(2) is under way.
    void gone() noexcept;
    /// The port begins to close; its descriptor is open still.
    virtual void leaving() noexcept {}
    /// It is closed.
    virtual void left() noexcept {}
    /// Joins the reactor. Until it returns, the descriptor is the caller's; then it is the port's.
    void open();

private:
    enum class state : std::uint8_t { made, open, draining, cancelling, released, closing, closed };

    void on_time() override;
    void begin_close();
    void begin_cancel();
    void close_elsewhere();
    void wait_for_close();
    void close_descriptor() noexcept;
    void check_thread_of_core(const char* what) const noexcept;
    void wake_closers() noexcept;

    reactor_core* core_;
    int descriptor_;
    ring::file file_;
    state state_ = state::made;
    waiter_list closers_;       // until it is closed
    std::uint64_t closing_ = 0; // the close(2) on a thread of its own
    unsigned references_ = 0;
};

/// Keeps a port from being destroyed. Not for threads.
class port_reference {
public:
    port_reference() noexcept = default;
    explicit port_reference(packet_port* port) noexcept : port_(port) {
        if (port_ != nullptr) port_->hold();
    }
    port_reference(const port_reference& other) noexcept : port_reference(other.port_) {}
    port_reference(port_reference&& other) noexcept : port_(std::exchange(other.port_, nullptr)) {}
    port_reference& operator=(port_reference other) noexcept {
        std::swap(port_, other.port_);
        return *this;
    }
    ~port_reference() {
        if (port_ != nullptr) port_->drop();
    }
    packet_port* operator->() const noexcept { return port_; }
    packet_port& operator*() const noexcept { return *port_; }
    explicit operator bool() const noexcept { return port_ != nullptr; }

private:
    packet_port* port_ = nullptr;
};

} // namespace cotun::detail
