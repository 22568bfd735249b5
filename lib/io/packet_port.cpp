// SPDX-License-Identifier: Apache-2.0
#include "io/packet_port.hpp"

#include "io/inbox.hpp"
#include "io/outbox.hpp"
#include "io/reactor_core.hpp"

#include <cerrno>
#include <chrono>
#include <system_error>
#include <unistd.h>

namespace cotun::detail {
namespace {

// How long accepted packets may take to be written when the port closes. A TUN device takes them at once; a socket
// may have to wait for its link.
constexpr std::chrono::seconds drain_time{1};

// co_await until the port has come a step further.
struct closing_wait : waiter {
    explicit closing_wait(waiter_list& list) noexcept : closers(&list) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> who) noexcept {
        coroutine = who;
        closers->push_back(*this);
    }
    void await_resume() const noexcept {}
    waiter_list* closers;
};

} // namespace

void packet_port::open() {
    file_ = core_->driver().attach(descriptor_);
    try {
        core_->add_port(*this);
        in().start();
    } catch (...) {
        in().release();
        core_->remove_port(*this);
        core_->driver().detach(file_);
        throw;
    }
    state_ = state::open;
}

void packet_port::check_thread_of_core(const char* what) const noexcept { core_->check_thread(what); }

void packet_port::begin_close() {
    if (state_ != state::open) return;
    core_->check_thread("close()");
    state_ = state::draining;
    leaving();
    in().close();
    out().close();
    if (out().settled())
        begin_cancel();
    else
        core_->arm_reserved(*this, core_->driver().now() + drain_time);
}

void packet_port::on_time() { begin_cancel(); }

void packet_port::begin_cancel() {
    core_->disarm(*this);
    state_ = state::cancelling;
    in().cancel();
    out().cancel();
    progress();
}

void packet_port::progress() {
    if (state_ == state::draining && out().settled()) begin_cancel();
    if (state_ != state::cancelling || !in().idle() || !out().idle()) return;
    state_ = state::released;
    in().release();
    core_->driver().detach(file_);
    core_->remove_port(*this);
    wake_closers();
}

void packet_port::wake_closers() noexcept {
    while (!closers_.empty()) core_->make_ready(closers_.pop_front());
}

void packet_port::close_descriptor() noexcept {
    if (state_ != state::released) return;
    ::close(std::exchange(descriptor_, -1));
    state_ = state::closing;
    gone();
}

void packet_port::gone() noexcept {
    if (state_ != state::closing) return;
    state_ = state::closed;
    left();
    wake_closers();
}

// close(2) on a device waits for the kernel's readers (RCU), tens of milliseconds at times: not on the reactor's
// thread. Whoever asked for it may be gone when it ends; the port is not.
void packet_port::close_elsewhere() {
    state_ = state::closing;
    const int descriptor = std::exchange(descriptor_, -1);
    auto ended = [port = port_reference(this)] { port->gone(); };
    closing_ =
        core_->run_blocking([descriptor] { ::close(descriptor); }, std::move(ended), reactor_core::turn_in_line::last);
}

void packet_port::wait_for_close() {
    while (state_ == state::closing && tells_when_gone() && !core_->forked() && core_->turn_beside(closing_)) {}
    if (state_ == state::closing) core_->finish_blocking(closing_);
}

void packet_port::close_now() {
    begin_close();
    while (state_ == state::draining || state_ == state::cancelling) {
        if (core_->forked()) { // the device or socket goes on in the parent; here there is nothing to wait for
            if (state_ == state::draining) begin_cancel();
            core_->end_requests();
            continue;
        }
        try {
            core_->turn();
        } catch (const std::system_error& refused) { // EEXIST: the ring's thread has ended; anything else is fatal
            if (refused.code().value() != EEXIST) throw;
            if (state_ == state::draining) begin_cancel();
            core_->end_requests();
        }
    }
    if (state_ == state::released && closes_slowly() && tells_when_gone() && !core_->forked()) close_elsewhere();
    wait_for_close();
    close_descriptor();
}

task<> packet_port::close(port_reference port) {
    port->begin_close();
    for (;;) {
        if (port->state_ == state::released) port->closes_slowly() ? port->close_elsewhere() : port->close_descriptor();
        if (port->state_ == state::closed) break;
        closing_wait wait(port->closers_);
        co_await wait;
    }
}

} // namespace cotun::detail
