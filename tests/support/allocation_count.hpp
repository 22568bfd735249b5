// SPDX-License-Identifier: Apache-2.0
//
// What a test program has taken from the heap, where one of its source files includes allocations.hpp.
#pragma once

#include <atomic>
#include <cstddef>

namespace cotun::test {

inline std::atomic<std::size_t> allocations{0}; // since the start
inline std::atomic<std::size_t> live{0};        // allocated, and not freed yet

} // namespace cotun::test
