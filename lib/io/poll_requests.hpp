// SPDX-License-Identifier: Apache-2.0
//
// The polls of descriptors that are not cotun's. A request belongs to the reactor, not to the wait: that may go at any
// time, and then the request is cancelled and ends for itself.
#pragma once

#include <cotun/coro/waiter.hpp>

#include "ring/driver.hpp"
#include "ring/requests.hpp"

#include <cstddef>
#include <deque>

namespace cotun {
class readiness_operation;
}

namespace cotun::detail {

class reactor_core;
class poll_requests;

struct poll_request final : ring::request_owner {
    explicit poll_request(poll_requests& of) noexcept : all(&of) {}
    void on_completion(std::uint32_t cookie, const ring::completion& done) override;

    poll_requests* all;
    ring::token token = 0;               // 0: not with the kernel
    readiness_operation* wait = nullptr; // nullptr: it has gone
    bool cancelled = false;
    poll_request* next_free = nullptr;
};

class poll_requests {
public:
    explicit poll_requests(reactor_core& core) noexcept : core_(&core) {}
    poll_requests(const poll_requests&) = delete;
    poll_requests& operator=(const poll_requests&) = delete;

    /// Throws std::errc::resource_unavailable_try_again when as many wait as may.
    void start(readiness_operation& wait);
    /// The wait is destroyed.
    void leave(readiness_operation& wait) noexcept;
    /// The wait is to end. It does at once, or with the last completion.
    void stop(readiness_operation& wait) noexcept;

    bool awaits_room() const noexcept { return !waiting_.empty(); }
    /// There may be room among the requests again.
    void retry();

    /// Before the end of the reactor: cancels all. Until idle() there are completions to come.
    void cancel_all() noexcept;
    bool idle() const noexcept { return in_flight_ == 0; }

private:
    friend struct poll_request;
    bool submit(readiness_operation& wait);
    void cancel(poll_request& r) noexcept;
    void ended(poll_request& r, std::int32_t result) noexcept;
    void free(poll_request& r) noexcept;

    reactor_core* core_;
    std::deque<poll_request> requests_; // never shrinks
    poll_request* first_free_ = nullptr;
    waiter_list waiting_; // for room among the reactor's requests
    std::size_t used_ = 0;
    std::size_t in_flight_ = 0;
};

} // namespace cotun::detail
