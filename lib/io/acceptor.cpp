// SPDX-License-Identifier: Apache-2.0
#include "io/acceptor.hpp"

#include "io/fail.hpp"
#include "io/stream_hub.hpp"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <unistd.h>
#include <utility>

namespace cotun::detail {

acceptor::acceptor(reactor_core& core, int descriptor, std::string name, admission* places)
    : core_(&core),
      places_(places),
      descriptor_(descriptor),
      name_(std::move(name)),
      multishot_(core.driver().supports(ring::feature::accept_multishot)) {
    core.refuse_child("listening");
    if (places_ == nullptr) places_ = &core.streams();
    core.add_listener();
    core.add_open(*this);
}

acceptor::~acceptor() {
    if (descriptor_ >= 0) close_now();
}

// --- those who wait ------------------------------------------------------------------------------------------------

bool acceptor::try_take(accept_waiter& w) noexcept {
    if (core_ != nullptr) core_->check_thread("accept()");
    if (failure_ != 0 || closing_) {
        w.failure_ = closing_ ? ECANCELED : failure_;
        return true;
    }
    if (!waiters_.empty() || accepted_.empty() || held_back_) return false;
    try {
        if (!places_->admit()) return false;
    } catch (const std::system_error& refused) { // no memory for buffers
        w.failure_ = refused.code().value();
        hold_back();
        return true;
    }
    w.descriptor_ = accepted_.front();
    accepted_.pop_front();
    return true;
}

void acceptor::wait(accept_waiter& w) noexcept {
    waiters_.push_back(w);
    serve();
    arm();
}

void acceptor::serve() noexcept {
    while (!waiters_.empty() && !accepted_.empty() && !held_back_) {
        auto& w = static_cast<accept_waiter&>(waiters_.front());
        try {
            if (!places_->admit()) {
                ++statistics_.admissions_awaited;
                return places_->await_admission(*this);
            }
            w.descriptor_ = accepted_.front();
            accepted_.pop_front();
        } catch (const std::system_error& refused) {
            w.failure_ = refused.code().value();
            hold_back();
        }
        core_->make_ready(w);
    }
    arm();
}

void acceptor::put_back(int descriptor, bool unusable) noexcept {
    if (closing_)
        ::close(descriptor);
    else
        keep(descriptor, true);
    if (core_ == nullptr) return;
    if (unusable && !closing_) hold_back();
    places_->dismiss();
    if (!closing_) serve();
}

void acceptor::hold_back() noexcept {
    held_back_ = true;
    rest();
}

void acceptor::rest() noexcept {
    pause_ = std::clamp(2 * pause_, first_pause, longest_pause);
    core_->disarm(*this);
    core_->arm_reserved(*this, core_->now() + pause_);
}

void acceptor::on_time() {
    held_back_ = false;
    serve();
}

void acceptor::left() noexcept {
    if (waiters_.empty()) static_cast<link<admission_kind>&>(*this).leave();
}

// Out of memory, the connection is lost.
void acceptor::keep(int descriptor, bool first) noexcept {
    try {
        first ? accepted_.push_front(descriptor) : accepted_.push_back(descriptor);
    } catch (const std::bad_alloc&) {
        ::close(descriptor);
        ++statistics_.exhausted;
    }
}

void acceptor::throw_failure(int error) const {
    const char* why = error == ECANCELED ? "the listener was closed by this program"
                      : error == ENOMEM  ? "no memory for receive buffers: raise `ulimit -l`"
                      : error == EINVAL  ? "the socket does not listen any more"
                                         : "the kernel refused";
    detail::fail(error, fmt::format("{}: accepting: {}", name_, why));
}

void acceptor::fail(int error) noexcept {
    failure_ = error;
    while (!waiters_.empty()) {
        auto& w = static_cast<accept_waiter&>(waiters_.front());
        w.failure_ = error;
        core_->make_ready(w);
    }
}

// --- the kernel's side ---------------------------------------------------------------------------------------------

void acceptor::arm() noexcept {
    if (request_ != 0 || armed() || closing_ || failure_ != 0 || waiters_.empty() || !accepted_.empty()) return;
    request_ = core_->begin(*this, 0, true);
    if (request_ == 0) return core_->arm_reserved(*this, core_->now() + first_pause); // one is kept for it: never seen
    core_->reserve_requests(-1);
    cancelled_ = false;
    armed_multishot_ = multishot_;
    core_->driver().accept(request_, {descriptor_, -1}, multishot_);
}

void acceptor::cancel() noexcept {
    if (request_ != 0 && !std::exchange(cancelled_, true)) core_->driver().cancel(request_);
}

void acceptor::on_completion(std::uint32_t, const ring::completion& done) {
    if (!done.more) {
        request_ = 0;
        core_->reserve_requests(1);
    }
    if (done.result >= 0) {
        if (closing_) {
            ::close(done.result);
        } else {
            ++statistics_.accepted;
            pause_ = std::chrono::milliseconds(0);
            keep(done.result, false);
        }
    } else if (!closing_) {
        ended(-done.result);
    }
    if (closing_) {
        if (request_ == 0) finish_close();
        return;
    }
    serve();
    if (accepted_.size() >= bound) cancel();
}

void acceptor::ended(int error) {
    switch (error) {
    case ECANCELED:
        if (cancelled_) return;
        break;
    case EINVAL:
        if (!armed_multishot_) break;
        multishot_ = false;
        core_->driver().lacks(ring::feature::accept_multishot);
        return;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS: ++statistics_.exhausted; break;
    default: ++statistics_.failed;
    }
    if (is_final(error) || error == EINVAL) return fail(error);
    rest();
}

// --- the end -------------------------------------------------------------------------------------------------------

void acceptor::begin_close() noexcept {
    if (std::exchange(closing_, true)) return;
    core_->check_thread("close()");
    core_->disarm(*this);
    owned_.reset();
    fail(ECANCELED);
    static_cast<link<admission_kind>&>(*this).leave();
    while (!accepted_.empty()) {
        ::close(accepted_.front());
        accepted_.pop_front();
    }
    cancel();
    if (request_ == 0) finish_close();
}

void acceptor::finish_close() noexcept {
    ::close(std::exchange(descriptor_, -1));
    core_->remove_listener();
    while (!closers_.empty()) core_->make_ready(closers_.front());
}

void acceptor::close_now() {
    begin_close();
    while (descriptor_ >= 0) core_->turn_or_end();
}

void acceptor::reactor_ends() {
    close_now();
    static_cast<link<open_kind>&>(*this).leave();
    core_ = nullptr;
}

namespace {

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

task<> acceptor::close(counted<acceptor> of) {
    of->begin_close();
    if (of->descriptor_ < 0) co_return;
    closing_wait wait(of->closers_);
    co_await wait;
}

// --- what waits ----------------------------------------------------------------------------------------------------

accept_waiter::~accept_waiter() {
    unlink();
    if (descriptor_ >= 0) from_->put_back(std::exchange(descriptor_, -1), false);
    if (!holds_) return;
    from_->left();
    from_->drop();
}

bool accept_waiter::await_ready() noexcept { return from_->try_take(*this); }

bool accept_waiter::suspend(std::coroutine_handle<> who, const await_context& context) {
    if (!start_waiting(who, from_->core(), context.stop)) return false;
    holds_ = true;
    from_->hold();
    from_->wait(*this);
    return true;
}

int accept_waiter::take() {
    throw_if_stopped();
    if (failure_ != 0) from_->throw_failure(failure_);
    return std::exchange(descriptor_, -1);
}

void accept_waiter::put_back(int descriptor) noexcept { from_->put_back(descriptor, true); }

} // namespace cotun::detail
