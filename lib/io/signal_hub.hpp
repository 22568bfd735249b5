// SPDX-License-Identifier: Apache-2.0
//
// The reactor's signals: one signalfd, one poll of it, and who waits for what.
#pragma once

#include <cotun/coro/waiter.hpp>
#include <cotun/io/signal.hpp>

#include "ring/driver.hpp"
#include "ring/requests.hpp"

#include <array>
#include <cstdint>
#include <thread>

namespace cotun::detail {

class reactor_core;

class signal_hub final : ring::request_owner {
public:
    explicit signal_hub(reactor_core& core) noexcept : core_(&core) {}
    signal_hub(const signal_hub&) = delete;
    signal_hub& operator=(const signal_hub&) = delete;
    /// Restores the mask. idle() must hold, or the driver be gone.
    ~signal_hub();

    /// Blocks what is not blocked yet, and reads it from now on.
    void add(const signal_set& more);
    /// The lowest of these signals that has come and was kept; 0: none.
    int take(const signal_set& any);
    void wait(signal_operation& w) noexcept { waiters_.push_back(w); }
    /// A wait that was told of `number` has taken it, or goes without.
    void taken(int number) noexcept;
    void declined(int number) noexcept;

    /// Arms the poll if it is not.
    void arm() noexcept;
    void cancel() noexcept;
    bool idle() const noexcept { return request_ == 0; }

private:
    static constexpr int most = 64;

    void on_completion(std::uint32_t cookie, const ring::completion& done) override;
    void read_all() noexcept;
    void came(int number) noexcept;
    void block(std::uint64_t bits);
    void unblock() noexcept;

    reactor_core* core_;
    int descriptor_ = -1;
    ring::token request_ = 0;
    bool ending_ = false;
    std::uint64_t caught_ = 0;  // what the descriptor reads
    std::uint64_t blocked_ = 0; // of them, those that this hub holds blocked, on thread_
    std::thread::id thread_;
    std::uint64_t kept_ = 0;                        // came while nobody waited for them
    std::array<std::uint32_t, most + 1> told_{};    // by signal: waits that were told and have not resumed yet
    std::array<bool, most + 1> taken_since_told_{}; // whether one of those has
    waiter_list waiters_;
};

} // namespace cotun::detail
