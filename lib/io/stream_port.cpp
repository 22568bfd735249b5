// SPDX-License-Identifier: Apache-2.0
#include "io/stream_port.hpp"

#include "io/fail.hpp"
#include "io/stream_hub.hpp"

#include <cerrno>
#include <chrono>
#include <fmt/format.h>
#include <unistd.h>
#include <utility>

namespace cotun::detail {
namespace {

// How long bytes that were accepted may take to be sent when the stream is closed.
constexpr std::chrono::seconds drain_time{1};

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

stream_port::stream_port(reactor_core& core, int descriptor) noexcept
    : core_(&core), hub_(&core.streams()), descriptor_(descriptor) {
    core.add_open(*this);
}

stream_port::~stream_port() {
    if (state_ != state::closed) close_now();
}

void stream_port::schedule() noexcept {
    if (state_ != state::closed) hub_->schedule(*this);
}

void stream_port::begin_close() {
    if (state_ != state::open) return;
    core_->check_thread("close()");
    state_ = state::draining;
    reader_.close();
    writer_.close();
    if (writer_.settled() || core_->forked()) // what a child's copy has accepted, the parent sends
        begin_cancel();
    else
        core_->arm_reserved(*this, core_->now() + drain_time);
}

void stream_port::begin_cancel() {
    core_->disarm(*this);
    state_ = state::cancelling;
    reader_.cancel();
    writer_.cancel();
    progress();
}

void stream_port::progress() {
    if (state_ == state::draining && writer_.settled()) begin_cancel();
    if (state_ != state::cancelling || !reader_.idle() || !writer_.idle()) return;
    state_ = state::closed;
    ::close(std::exchange(descriptor_, -1));
    static_cast<link<open_kind>&>(*this).leave();
    static_cast<link<scheduled_kind>&>(*this).leave();
    hub_->dismiss();
    while (!closers_.empty()) core_->make_ready(closers_.front());
}

void stream_port::close_now() {
    begin_close();
    while (state_ != state::closed) core_->turn_or_end();
}

task<> stream_port::close(counted<stream_port> port) {
    port->begin_close();
    if (port->state_ == state::closed) co_return;
    closing_wait wait(port->closers_);
    co_await wait;
}

void stream_port::throw_failure(int error, const char* doing) const {
    fail(error, fmt::format("{}: {}: {}", describe(), doing, explain(error)));
}

std::string stream_port::explain(int error) const {
    switch (error) {
    case ECANCELED: return "the stream was closed by this program";
    case EINVAL:
        return "a superpacket cannot be written to a stream: write its segments (cotun/offload/segments.hpp), or open "
               "the "
               "device with no_offload";
    case ECONNRESET: return "the peer has reset the connection: it ended, or closed it with bytes unread";
    case EPIPE: return "nothing more can be sent: the peer has closed the connection, or shutdown_send() was called";
    case ECONNABORTED:
        return "an earlier write was stopped when a part of it had been sent, so that nothing may follow: close the "
               "stream";
    case ETIMEDOUT: return "the peer does not answer any more";
    case EHOSTUNREACH:
    case ENETUNREACH: return "there is no route to the peer any more";
    case ENOMEM:
    case ENOBUFS: return "memory is short";
    case EBADF: return "a descriptor was closed that belongs to the stream, or to what it was to pass on";
    case ETOOMANYREFS:
        return "more descriptors are on their way than this user may have open (`ulimit -n`): the receivers do not "
               "take "
               "them";
    default: return "the kernel refused";
    }
}

} // namespace cotun::detail
