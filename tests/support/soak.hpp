// SPDX-License-Identifier: Apache-2.0
//
// What all soaks over the scripted driver do alike: many steps of each of many seeds, and that nothing is left in the
// end.
#pragma once

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>

#include <cstdint>

#include "process.hpp"
#include "sanitizers.hpp"
#include "scale.hpp"
#include "scripted_port.hpp"
#include "seed.hpp"

namespace cotun::test {

/// Makes a Soak of each seed, takes many step()s of it, and has it finish(). total() is what it has brought about: all
/// of them together more than one for every `steps_for_one` steps.
template <class Soak>
void run_soak(unsigned steps_for_one) {
    const unsigned steps = sanitized ? 5'000 : 50'000;
    const auto files = ::test::open_files();
    std::uint64_t total = 0;
    const unsigned rounds = with_seeds(static_cast<unsigned>(scaled(20)), [&](std::uint64_t seed) {
        INFO("COTUN_SEED=" << seed);
        Soak s(seed);
        for (unsigned n = 0; n < steps; ++n) s.step();
        s.finish();
        total += s.total();
    });
    CHECK(::test::open_files() == files);
    CHECK(total > std::uint64_t{rounds} * steps / steps_for_one);
}

/// All buffers are back, and nothing is under way but one timer: the rig's own.
inline void check_nothing_left(rig& r, unsigned buffers) {
    r.settle();
    CHECK(r.free() == buffers);
    CHECK(r.kernel.in_flight.empty());
    CHECK(r.io.statistics().requests_in_flight == 0);
    CHECK(r.io.statistics().strays == 0);
    CHECK(r.io.statistics().timers == 1);
}

} // namespace cotun::test
