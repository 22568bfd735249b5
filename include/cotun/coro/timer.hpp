// SPDX-License-Identifier: Apache-2.0
//
// timer: a point in time at which the reactor calls back. Ten thousand of them are ten thousand entries of the
// reactor's heap and one deadline of its kernel entry.
#pragma once

#include <chrono>
#include <cstddef>

namespace cotun::detail {

class timer {
public:
    using clock = std::chrono::steady_clock;

    timer() noexcept = default;
    timer(const timer&) = delete;
    timer& operator=(const timer&) = delete;

    bool armed() const noexcept { return place_ != unarmed; }
    clock::time_point when() const noexcept { return when_; }

    /// Called on the reactor's thread once the time has come; the timer is no longer armed then.
    virtual void on_time() = 0;

protected:
    ~timer() = default; // whoever derives takes it off the heap first

private:
    friend class timer_heap;
    static constexpr std::size_t unarmed = ~std::size_t{0};
    clock::time_point when_;
    std::size_t place_ = unarmed;
};

} // namespace cotun::detail
