// SPDX-License-Identifier: Apache-2.0
//
// process_mark: whether this is still the process that something was made in, or a child that fork(2) made of it.
//
// A ring's queues are memory that a child shares with its parent: what the child wrote there would be the parent's. So
// everything that touches a ring asks first; it costs two loads.
#pragma once

#include <cstdint>

namespace cotun::ring {

class process_mark {
public:
    process_mark() noexcept;
    /// Whether this is a child of the process that the mark was made in.
    bool forked() const noexcept { return __atomic_load_n(page_, __ATOMIC_RELAXED) != value_; }

private:
    const std::uint64_t* page_;
    std::uint64_t value_;
};

/// Unlike a thread's id, never used again in the process.
std::uint64_t this_thread_number() noexcept;

/// Throws std::errc::operation_not_permitted: `what` was called in a child of the reactor's process.
[[noreturn]] void refuse_forked(const char* what);

} // namespace cotun::ring
