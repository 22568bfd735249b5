// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/stop.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/with_stop.hpp>

#include <cerrno>
#include <exception>
#include <string>
#include <system_error>

namespace cotun::detail {

void throw_stopped() {
    throw std::system_error(ECANCELED, std::generic_category(), "cotun: the task that waited here was asked to stop");
}

bool is_cancellation(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const std::system_error& e) {
        return e.code() == std::errc::operation_canceled;
    } catch (...) {
        return false;
    }
}

void throw_timed_out() {
    throw std::system_error(ETIMEDOUT, std::generic_category(),
                            "with_timeout: the time was up before there was a result");
}

void refuse_foreign_coroutine(const char* what) {
    throw std::system_error(EPERM, std::generic_category(),
                            std::string(what) +
                                ": awaited by a coroutine that is no task of cotun's, or by one that no "
                                "reactor runs; await it from a cotun::task");
}

void bridged_stop::begin(const await_context& context) {
    stop_.nest(context.stop);
    if (token_.stop_requested()) stop_.state.request();
    if (!token_.stop_possible() || stop_.state.requested()) return;
    if (context.loop == nullptr) refuse_foreign_coroutine("with_stop");
    box_ = std::make_shared<mailbox>(mailbox{&stop_.state});
    callback_.emplace(token_, forward{context.loop, box_});
}

void bridged_stop::end() noexcept {
    callback_.reset(); // waits for one that is being called
    if (box_) box_->target = nullptr;
    stop_.leave();
}

void bridged_stop::forward::operator()() const {
    loop->post_if_it_runs([box = box] {
        if (box->target != nullptr) box->target->request();
    });
}

} // namespace cotun::detail
