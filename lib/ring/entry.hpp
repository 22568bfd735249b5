// SPDX-License-Identifier: Apache-2.0
//
// One entry into the kernel: io_uring_enter(2) with what liburing 2.3 does not pass on.
#pragma once

#include <chrono>
#include <liburing.h>
#include <optional>

namespace cotun::ring {

struct entry_wait {
    unsigned completions = 0; // return once there are as many; 0: do not wait
    /// Then as soon as there is any. Needs coalesces().
    std::chrono::microseconds at_least{0};
    /// Then in any case.
    std::optional<std::chrono::nanoseconds> at_most{};
};

/// Whether entry_wait::at_least is known to the kernel: Linux 6.12.
bool coalesces(const io_uring&) noexcept;

/// Looks, without entering the kernel, for completions or for work that would bring some, until `end`. Whether there
/// are any.
bool spin(const io_uring&, std::chrono::steady_clock::time_point end) noexcept;

/// Once, before the first entry: queue entries are submitted in their places, none is ever skipped.
void prepare_entries(io_uring&) noexcept;

/// Submits what is queued, runs the ring's deferred work, and waits. Returns how many were submitted, or a negative
/// errno (ETIME: nothing came, and nothing was submitted).
int enter_ring(io_uring&, const entry_wait&) noexcept;

} // namespace cotun::ring
