// SPDX-License-Identifier: Apache-2.0
#include "io/connector.hpp"

#include "io/fail.hpp"
#include "io/stream_hub.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace cotun::detail {

connector::~connector() {
    close_descriptor();
    if (core_ == nullptr) return;
    core_->disarm(*this);
    if (admitted_ != nullptr) admitted_->dismiss();
}

void connector::close_descriptor() noexcept {
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

void connector::note(int error, const std::string& text) {
    error_ = error;
    failures_ += (failures_.empty() ? "" : "; ") + text;
}

admission& connector::places_of(reactor_core& core) { return core.streams(); }

bool connector::start(connect_waiter& w) noexcept {
    started_ = true;
    try {
        core_->refuse_child("connecting");
        admission& places = places_of(*core_);
        if (!places.admit()) {
            note(ENOBUFS, fmt::format("connecting: {}", places.refusal()));
            return false;
        }
        admitted_ = &places;
    } catch (const std::system_error& refused) {
        note(refused.code().value(), refused.what());
        return false;
    }
    waiting_ = &w;
    core_->add_open(*this);
    if (try_next()) return true;
    waiting_ = nullptr;
    return false;
}

// False: there is none.
bool connector::try_next() noexcept {
    for (;;) {
        try {
            close_descriptor();
            const target to = next(descriptor_);
            if (to.address == nullptr) return false;
            cancelled_ = timed_out_ = false;
            if (attempt_.count() > 0) core_->arm_reserved(*this, end_of_attempt());
            request_ = core_->begin(*this, 0);
            if (request_ == 0) {
                core_->disarm(*this);
                note(EAGAIN, "connecting: all requests of the reactor are in flight; raise reactor_options::requests");
                return false;
            }
            core_->driver().connect(request_, {descriptor_, -1}, to.address, to.size);
            return true;
        } catch (const std::system_error& refused) {
            note(refused.code().value(), refused.what());
        }
    }
}

auto connector::end_of_attempt() const noexcept -> clock::time_point {
    const auto now = core_->now();
    const auto longest = std::chrono::floor<std::chrono::milliseconds>(clock::time_point::max() - now);
    return attempt_ < longest ? now + attempt_ : clock::time_point::max();
}

void connector::on_time() {
    timed_out_ = true;
    if (request_ != 0 && !std::exchange(cancelled_, true)) core_->driver().cancel(request_);
}

void connector::stop() noexcept {
    stopping_ = true;
    if (request_ != 0 && !std::exchange(cancelled_, true)) core_->driver().cancel(request_);
}

void connector::on_completion(std::uint32_t, const ring::completion& done) {
    request_ = 0;
    core_->disarm(*this);
    connected_ = done.result == 0;
    if (connected_) return end();
    // EINTR: a thread of the kernel's slept in connect(2), and was woken.
    const bool asked = cancelled_ && (done.result == -ECANCELED || done.result == -EINTR);
    if (stopping_) {
        error_ = ECANCELED;
        return end();
    }
    const int error = asked && timed_out_ ? ETIMEDOUT : -done.result;
    note(error, attempt_failed(error));
    if (!try_next()) end();
}

void connector::end() noexcept {
    if (waiting_ == nullptr) {
        delete this;
        return;
    }
    core_->make_ready(*std::exchange(waiting_, nullptr));
}

int connector::take() {
    if (!connected_ && stopping_) throw_stopped();
    if (!connected_ && failures_.empty()) fail(EDESTADDRREQ, "connecting: there is no address to connect to");
    if (!connected_) fail(error_, failures_);
    admitted_ = nullptr; // the connection's
    return std::exchange(descriptor_, -1);
}

void connector::abandon() noexcept {
    if (request_ == 0) {
        delete this;
        return;
    }
    waiting_ = nullptr;
    stop();
}

// Called until it has left.
void connector::reactor_ends() {
    stop();
    if (request_ != 0) return core_->turn_or_end(); // which may destroy this
    static_cast<link<open_kind>&>(*this).leave();
    close_descriptor();
    if (admission* const places = std::exchange(admitted_, nullptr)) places->dismiss();
    connected_ = false;
    core_ = nullptr;
}

// --- what waits ----------------------------------------------------------------------------------------------------

connect_waiter::~connect_waiter() {
    unlink();
    if (of_ != nullptr) of_->abandon();
}

bool connect_waiter::suspend(std::coroutine_handle<> who, const await_context& context) {
    coroutine = who;
    if (context.stop != nullptr && context.stop->requested()) {
        of_->stop();
        return false;
    }
    if (!of_->start(*this)) return false;
    if (context.stop != nullptr) context.stop->link(*this);
    return true;
}

void connect_waiter::on_stop() noexcept {
    if (!is_ready()) of_->stop();
}

int connect_waiter::take() { return of_->take(); }

} // namespace cotun::detail
