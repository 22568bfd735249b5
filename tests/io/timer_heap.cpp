// SPDX-License-Identifier: Apache-2.0
#include "io/timer_heap.hpp"

#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <cstddef>
#include <map>
#include <random>
#include <vector>

using namespace std::chrono_literals;
using cotun::detail::timer;
using cotun::detail::timer_heap;

namespace {

struct counter final : timer {
    void on_time() override {}
};

timer::clock::time_point at(std::uint32_t ms) { return timer::clock::time_point(std::chrono::milliseconds(ms)); }

} // namespace

TEST_CASE("timer heap: as a sorted list, whatever is armed, disarmed and taken out") {
    std::minstd_rand random(20);
    for (const std::size_t size : {1UL, 2UL, 5UL, 6UL, 21UL, 22UL, 400UL}) {
        std::vector<counter> timers(size);
        timer_heap heap;
        std::multimap<timer::clock::time_point, timer*> model;
        const auto forget = [&model](const timer* t) {
            for (auto i = model.begin(); i != model.end(); ++i)
                if (i->second == t) {
                    model.erase(i);
                    return;
                }
        };
        for (int step = 0; step < 20'000; ++step) {
            counter& t = timers[random() % size];
            switch (random() % 4) {
            case 0:
            case 1:
                if (t.armed()) break;
                heap.arm(t, at(static_cast<std::uint32_t>(random() % 50))); // many of the same time
                model.emplace(t.when(), &t);
                break;
            case 2:
                heap.disarm(t);
                forget(&t);
                break;
            default: {
                const auto now = at(static_cast<std::uint32_t>(random() % 50));
                timer* const due = heap.pop_due(now);
                REQUIRE((due != nullptr) == (!model.empty() && model.begin()->first <= now));
                if (due == nullptr) break;
                REQUIRE(due->when() == model.begin()->first);
                REQUIRE_FALSE(due->armed());
                forget(due);
            }
            }
            REQUIRE(heap.size() == model.size());
            REQUIRE(heap.empty() == model.empty());
            if (!model.empty()) REQUIRE(*heap.next() == model.begin()->first);
        }
        for (counter& t : timers) heap.disarm(t);
        CHECK_FALSE(heap.next());
    }
}
