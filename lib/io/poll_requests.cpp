// SPDX-License-Identifier: Apache-2.0
#include "io/poll_requests.hpp"

#include <cotun/io/readiness.hpp>

#include "io/fail.hpp"
#include "io/reactor_core.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <poll.h>

namespace cotun::detail {

void poll_request::on_completion(std::uint32_t, const ring::completion& done) {
    token = 0;
    --all->in_flight_;
    all->ended(*this, done.result);
}

void poll_requests::start(readiness_operation& wait) {
    core_->refuse_child("waiting for a descriptor");
    const std::size_t most = core_->request_capacity() / 2;
    if (used_ >= most)
        fail(EAGAIN, fmt::format("reactor: {} waits for descriptors are as many as may be, half of {} requests; raise "
                                 "reactor_options::requests",
                                 used_, core_->request_capacity()));
    if (first_free_ == nullptr) {
        requests_.emplace_back(*this);
        first_free_ = &requests_.back();
    }
    poll_request& r = *first_free_;
    first_free_ = r.next_free;
    ++used_;
    r.wait = &wait;
    r.cancelled = false;
    wait.request_ = &r;
    if (!waiting_.empty() || !submit(wait)) waiting_.push_back(wait);
}

bool poll_requests::submit(readiness_operation& wait) {
    poll_request& r = *wait.request_;
    r.token = core_->begin(r, 0);
    if (r.token == 0) return false;
    ++in_flight_;
    core_->driver().poll(r.token, {wait.descriptor_, -1}, wait.events_, false);
    return true;
}

void poll_requests::retry() {
    while (!waiting_.empty()) {
        auto& wait = static_cast<readiness_operation&>(waiting_.front());
        if (!submit(wait)) return;
        waiting_.pop_front();
    }
}

void poll_requests::leave(readiness_operation& wait) noexcept {
    poll_request& r = *wait.request_;
    r.wait = nullptr;
    if (r.token != 0)
        cancel(r);
    else
        free(r);
}

void poll_requests::stop(readiness_operation& wait) noexcept {
    poll_request& r = *wait.request_;
    if (r.token != 0)
        cancel(r);
    else
        ended(r, -ECANCELED);
}

// A request has one cancel at most.
void poll_requests::cancel(poll_request& r) noexcept {
    if (!std::exchange(r.cancelled, true)) core_->driver().cancel(r.token);
}

void poll_requests::ended(poll_request& r, std::int32_t result) noexcept {
    if (r.wait != nullptr) {
        r.wait->result_ = result;
        r.wait->request_ = nullptr;
        core_->make_ready(*r.wait);
    }
    free(r);
}

void poll_requests::free(poll_request& r) noexcept {
    r.wait = nullptr;
    r.next_free = first_free_;
    first_free_ = &r;
    --used_;
}

void poll_requests::cancel_all() noexcept {
    for (poll_request& r : requests_)
        if (r.token != 0) cancel(r);
}

} // namespace cotun::detail

namespace cotun {

readiness_operation::~readiness_operation() {
    if (request_ != nullptr) core_->polls().leave(*this);
}

bool readiness_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    coroutine = who;
    if (descriptor_ < 0 || (context.stop != nullptr && context.stop->requested())) {
        result_ = descriptor_ < 0 ? -EBADF : -ECANCELED;
        return false;
    }
    core_->polls().start(*this);
    if (context.stop != nullptr) context.stop->link(*this);
    return true;
}

void readiness_operation::on_stop() noexcept {
    if (request_ != nullptr) core_->polls().stop(*this); // else the result has come, and wins
}

void readiness_operation::await_resume() const {
    if (result_ >= 0) return;
    if (result_ == -ECANCELED) detail::throw_stopped();
    const char* const call = (events_ & POLLIN) != 0 ? "readable" : "writable";
    if (result_ == -EBADF)
        detail::fail(EBADF, fmt::format("{}({}): this is no open descriptor that can be waited for; was it closed?",
                                        call, descriptor_));
    detail::fail(-result_, fmt::format("{}({}): waiting for the descriptor", call, descriptor_));
}

readiness_operation reactor::readable(int descriptor) noexcept { return {core(), descriptor, POLLIN}; }
readiness_operation reactor::writable(int descriptor) noexcept { return {core(), descriptor, POLLOUT}; }

} // namespace cotun
