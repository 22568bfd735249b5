// SPDX-License-Identifier: Apache-2.0
//
// How much a long test does. On a slow machine, such as an emulated one, COTUN_TEST_SCALE divides it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace cotun::test {

/// `all` rounds, divided by COTUN_TEST_SCALE (from 1 on); `least` at least.
inline std::uint64_t scaled(std::uint64_t all, std::uint64_t least = 1) {
    static const std::uint64_t divisor = [] {
        const char* given = std::getenv("COTUN_TEST_SCALE");
        return given != nullptr ? std::max<std::uint64_t>(std::strtoull(given, nullptr, 10), 1) : 1;
    }();
    return std::max(all / divisor, std::min(all, least));
}

} // namespace cotun::test
