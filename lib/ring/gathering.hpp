// SPDX-License-Identifier: Apache-2.0
//
// gathering: how long the next wait gathers packets before it ends.
//
// A reactor that keeps up sleeps until a packet comes, forwards that one, and sleeps again: a sleep and a wake-up a
// packet. While packets come fast, its waits gather them for a moment first, as a network card moderates its
// interrupts. How fast they come is measured over spans of time, not counted from one wait to the next: where each
// wait ends with one packet, that count would always say that there are few.
//
// Packets may also come fast but one by one, each an answer to the one before. Then gathering only delays them: where
// waits have brought too few, that is tried again after a pause, with a few waits, and each pause is longer: what a
// program that answers one request at a time feels of it is some requests in ten thousand.
#pragma once

#include "ring/driver.hpp"

#include <algorithm>
#include <chrono>

namespace cotun::ring {

class gathering {
public:
    using microseconds = std::chrono::microseconds;

    static constexpr std::chrono::milliseconds span{2};         // that the rate is measured over, at the least
    static constexpr std::chrono::milliseconds first_pause{20}; // after waits that were in vain
    static constexpr std::chrono::milliseconds longest_pause{320};
    static constexpr unsigned trial = 4;   // waits, after a pause
    static constexpr unsigned worth = 4;   // packets a wait, for it to gather: more than one and the answer to it
    static constexpr unsigned enough = 16; // packets: a wait that brings as many costs little for each

    /// `most`: how long a wait may gather; 0: not at all.
    explicit gathering(microseconds most) noexcept : most_(most) {}

    void arrived() noexcept { ++arrived_; }

    /// For a wait that begins now.
    microseconds next(clock::time_point now) noexcept {
        if (now - since_ >= span || (pause_.count() > 0 && waits_ >= trial && in_vain())) decide(now);
        if (length_ > microseconds(0)) ++waits_;
        return length_;
    }

private:
    bool in_vain() const noexcept { return arrived_ < worth * waits_; }

    void decide(clock::time_point now) noexcept {
        const clock::duration passed = now - since_;
        if (length_ > microseconds(0)) {
            pause_ = in_vain() ? std::clamp(2 * pause_, first_pause, longest_pause) : pause_.zero();
            if (in_vain()) resume_ = now + pause_;
        }
        if (now >= resume_ && arrived_ * most_ >= worth * passed)
            length_ = std::min(most_, std::chrono::ceil<microseconds>(enough * passed / std::max(arrived_, 1U)));
        else
            length_ = microseconds(0);
        arrived_ = 0;
        waits_ = 0;
        since_ = now;
    }

    microseconds most_;
    microseconds length_{0}; // of the waits at present
    clock::time_point since_{};
    clock::time_point resume_{};
    std::chrono::milliseconds pause_{0}; // the last, if the waits before it were in vain
    unsigned arrived_ = 0;               // packets since then
    unsigned waits_ = 0;                 // that gathered, since then
};

} // namespace cotun::ring
