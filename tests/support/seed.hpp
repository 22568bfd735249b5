// SPDX-License-Identifier: Apache-2.0
//
// The seed of a random test: a new one each time, or COTUN_SEED. Print it (INFO) where the test fails.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace cotun::test {

inline std::uint64_t seed() {
    const char* given = std::getenv("COTUN_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device()();
}

/// Calls `body` with `rounds` seeds, or with COTUN_SEED alone; returns how many. Each is printed before, so that it is
/// known also where the program ends there and then.
template <class Body>
unsigned with_seeds(unsigned rounds, Body body) {
    if (std::getenv("COTUN_SEED") != nullptr) rounds = 1;
    const std::uint64_t first = seed();
    for (unsigned i = 0; i < rounds; ++i) {
        std::fprintf(stderr, "COTUN_SEED=%llu\n", static_cast<unsigned long long>(first + i));
        body(first + i);
    }
    return rounds;
}

class dice {
public:
    explicit dice(std::uint64_t seed) : engine_(seed) {}
    /// 0 to `below` - 1.
    std::size_t operator()(std::size_t below) {
        return std::uniform_int_distribution<std::size_t>(0, below - 1)(engine_);
    }

private:
    std::mt19937_64 engine_;
};

} // namespace cotun::test
