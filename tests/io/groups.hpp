// SPDX-License-Identifier: Apache-2.0
//
// What the tests of groups of reactors share.
#pragma once

#include "reactors.hpp"

#include "../support/process.hpp"

#include <atomic>
#include <cstddef>
#include <sched.h>
#include <sys/resource.h>

namespace cotun::test {

inline void need_ring() {
    if (const auto why = ring_refused()) SKIP(*why);
}

inline std::ptrdiff_t open_descriptors() { return ::test::open_files(); }

struct note_atomic_end {
    explicit note_atomic_end(std::atomic<int>& n) noexcept : count(&n) {}
    note_atomic_end(const note_atomic_end&) = delete;
    note_atomic_end& operator=(const note_atomic_end&) = delete;
    ~note_atomic_end() { ++*count; }
    std::atomic<int>* count;
};

} // namespace cotun::test
