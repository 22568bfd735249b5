// SPDX-License-Identifier: Apache-2.0
#include "link/event_stream.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <poll.h>
#include <system_error>
#include <utility>

namespace cotun::link {

event_stream::event_stream(detail::reactor_core& core, event_socket&& socket, const char* call)
    : core_(&core), call_(call), socket_(std::move(socket)) {
    core.refuse_child(call);
    core.add_open(*this);
}

event_stream::~event_stream() {
    if (socket_) close_now();
}

// --- who waits -----------------------------------------------------------------------------------------------------

bool event_stream::try_take(link_event_operation& w) {
    if (core_ != nullptr) core_->check_thread(call_);
    if (closing_) {
        w.failure_ = closed_failure();
        return true;
    }
    if (!waiters_.empty() || !fill()) return false;
    w.came_ = events_.front();
    events_.pop_front();
    return true;
}

void event_stream::wait(link_event_operation& w) {
    waiters_.push_back(w);
    serve();
}

void event_stream::put_back(const link_event& event) noexcept {
    if (closing_) return;
    events_.push_front(event);
    serve();
}

std::exception_ptr event_stream::closed_failure() const {
    return std::make_exception_ptr(
        std::system_error(ECANCELED, std::generic_category(), fmt::format("{}: it was closed by this program", call_)));
}

// Whether there is an event now. Where there is none because of all that is told of other things, the poll that follows
// ends at once.
bool event_stream::fill() {
    for (int i = 0; events_.empty() && i < turn; ++i) {
        read_.clear();
        const bool more = socket_->read(read_);
        events_.insert(events_.end(), read_.begin(), read_.end());
        if (!more) break;
    }
    return !events_.empty();
}

void event_stream::serve() noexcept {
    if (closing_) return;
    try {
        while (!waiters_.empty() && fill()) {
            auto& w = static_cast<link_event_operation&>(waiters_.front());
            w.came_ = events_.front();
            events_.pop_front();
            core_->make_ready(w);
        }
    } catch (...) {
        return fail(std::current_exception());
    }
    arm();
}

void event_stream::fail(const std::exception_ptr& why) noexcept {
    while (!waiters_.empty()) {
        auto& w = static_cast<link_event_operation&>(waiters_.front());
        w.failure_ = why;
        core_->make_ready(w);
    }
}

// --- the kernel's side ---------------------------------------------------------------------------------------------

void event_stream::arm() noexcept {
    if (request_ != 0 || armed() || waiters_.empty()) return;
    request_ = core_->begin(*this, 0);
    if (request_ == 0) return core_->arm_reserved(*this, core_->now() + pause);
    core_->driver().poll(request_, {socket_->descriptor(), -1}, POLLIN, false);
}

void event_stream::on_completion(std::uint32_t, const ring::completion&) {
    request_ = 0;
    if (closing_)
        socket_.reset();
    else
        serve();
}

void event_stream::close() noexcept {
    if (std::exchange(closing_, true)) return;
    core_->check_thread(call_);
    core_->disarm(*this);
    fail(closed_failure());
    events_.clear();
    if (request_ != 0)
        core_->driver().cancel(request_);
    else
        socket_.reset();
}

void event_stream::close_now() {
    close();
    while (socket_) core_->turn_or_end();
}

void event_stream::reactor_ends() {
    close_now();
    static_cast<detail::link<detail::open_kind>&>(*this).leave();
    core_ = nullptr;
}

} // namespace cotun::link

namespace cotun {

link_event_operation::~link_event_operation() {
    unlink();
    if (came_) from_->put_back(*came_);
    if (holds_) from_->drop();
}

bool link_event_operation::await_ready() { return from_->try_take(*this); }

bool link_event_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    if (!start_waiting(who, *from_->core_, context.stop)) return false;
    from_->hold();
    holds_ = true;
    from_->wait(*this);
    return true;
}

link_event link_event_operation::await_resume() {
    throw_if_stopped();
    if (failure_) std::rethrow_exception(failure_);
    const link_event event = *came_;
    came_.reset();
    return event;
}

} // namespace cotun
