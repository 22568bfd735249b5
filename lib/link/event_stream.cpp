// SPDX-License-Identifier: Apache-2.0
#include "link/event_stream.hpp"

#include <poll.h>
#include <utility>

namespace cotun::link {

event_stream::event_stream(detail::reactor_core& core, event_socket&& socket, const char* call)
    : event_source(call), core_(&core), socket_(std::move(socket)) {
    core.refuse_child(call);
    core.add_open(*this);
}

event_stream::~event_stream() {
    if (socket_) close_now();
}

// Where there is none because of all that is told of other things, the poll that follows ends at once.
void event_stream::fill() {
    for (int i = 0; events_.empty() && i < turn; ++i) {
        read_.clear();
        const bool more = socket_->read(read_);
        events_.insert(events_.end(), read_.begin(), read_.end());
        if (!more) break;
    }
}

void event_stream::expect_more() noexcept {
    if (request_ != 0 || armed()) return;
    request_ = core_->begin(*this, 0);
    if (request_ == 0) return core_->arm_reserved(*this, core_->now() + pause);
    core_->driver().poll(request_, {socket_->descriptor(), -1}, POLLIN, false);
}

void event_stream::on_completion(std::uint32_t, const ring::completion&) {
    request_ = 0;
    if (has_ended())
        socket_.reset();
    else
        serve();
}

// What was not taken yet is not told any more.
void event_stream::close() noexcept {
    if (has_ended()) return;
    core_->check_thread("closing a link_monitor");
    core_->disarm(*this);
    events_.clear();
    end();
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
