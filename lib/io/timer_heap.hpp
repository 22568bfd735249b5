// SPDX-License-Identifier: Apache-2.0
//
// The reactor's timers: a heap that knows the place of each, so that any of them can be taken out.
//
// Each node has four children, and the times stand in the heap itself: a comparison touches no timer, and of a million
// the way to the top is ten steps. Timers of the same time go off in no particular order.
#pragma once

#include <cotun/coro/timer.hpp>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <optional>
#include <vector>

namespace cotun::detail {

class timer_heap {
public:
    using clock = timer::clock;

    void arm(timer& t, clock::time_point when) {
        assert(!t.armed());
        heap_.push_back({when, &t});
        t.when_ = when;
        up(heap_.size() - 1, {when, &t});
    }

    void disarm(timer& t) noexcept {
        if (!t.armed()) return;
        const std::size_t hole = t.place_;
        t.place_ = timer::unarmed;
        const entry last = heap_.back();
        heap_.pop_back();
        if (hole == heap_.size()) return;
        if (hole > 0 && last.when < heap_[parent_of(hole)].when)
            up(hole, last);
        else
            down(hole, last);
    }

    bool empty() const noexcept { return heap_.empty(); }
    std::size_t size() const noexcept { return heap_.size(); }
    std::optional<clock::time_point> next() const noexcept {
        return heap_.empty() ? std::nullopt : std::optional(heap_.front().when);
    }

    /// Takes out one timer whose time has come, or returns nullptr.
    timer* pop_due(clock::time_point now) noexcept {
        if (heap_.empty() || heap_.front().when > now) return nullptr;
        timer* t = heap_.front().of;
        disarm(*t);
        return t;
    }

private:
    static constexpr std::size_t arity = 4;

    struct entry {
        clock::time_point when;
        timer* of;
    };

    static std::size_t parent_of(std::size_t place) noexcept { return (place - 1) / arity; }

    void put(std::size_t place, const entry& e) noexcept {
        heap_[place] = e;
        e.of->place_ = place;
    }

    // Moves the hole at `place` to where `e` may stand, and puts it there.
    void up(std::size_t place, const entry& e) noexcept {
        while (place > 0) {
            const std::size_t parent = parent_of(place);
            if (heap_[parent].when <= e.when) break;
            put(place, heap_[parent]);
            place = parent;
        }
        put(place, e);
    }

    void down(std::size_t place, const entry& e) noexcept {
        for (;;) {
            const std::size_t first = arity * place + 1;
            if (first >= heap_.size()) break;
            std::size_t child = first;
            if (first + arity <= heap_.size()) { // by pairs: no branch to mispredict
                const std::size_t a = first + (heap_[first + 1].when < heap_[first].when ? 1 : 0);
                const std::size_t b = first + 2 + (heap_[first + 3].when < heap_[first + 2].when ? 1 : 0);
                child = heap_[b].when < heap_[a].when ? b : a;
            } else {
                for (std::size_t i = first + 1; i < heap_.size(); ++i)
                    if (heap_[i].when < heap_[child].when) child = i;
            }
            if (e.when <= heap_[child].when) break;
            put(place, heap_[child]);
            place = child;
        }
        put(place, e);
    }

    std::vector<entry> heap_;
};

} // namespace cotun::detail
