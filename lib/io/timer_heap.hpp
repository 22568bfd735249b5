// SPDX-License-Identifier: Apache-2.0
//
// The reactor's timers: a binary heap that knows the place of each, so that any of them can be taken out.
// Timers of the same time go off in no particular order.
#pragma once

#include <cotun/coro/timer.hpp>

#include <cassert>
#include <optional>
#include <vector>

namespace cotun::detail {

class timer_heap {
public:
    using clock = timer::clock;

    void arm(timer& t, clock::time_point when) {
        assert(!t.armed());
        heap_.push_back(&t);
        t.when_ = when;
        t.place_ = heap_.size() - 1;
        up(t.place_);
    }

    void disarm(timer& t) noexcept {
        if (!t.armed()) return;
        const std::size_t hole = t.place_;
        t.place_ = timer::unarmed;
        timer* last = heap_.back();
        heap_.pop_back();
        if (last == &t) return;
        put(hole, last);
        up(hole);
        down(last->place_);
    }

    bool empty() const noexcept { return heap_.empty(); }
    std::size_t size() const noexcept { return heap_.size(); }
    std::optional<clock::time_point> next() const noexcept {
        return heap_.empty() ? std::nullopt : std::optional(heap_.front()->when_);
    }

    /// Takes out one timer whose time has come, or returns nullptr.
    timer* pop_due(clock::time_point now) noexcept {
        if (heap_.empty() || heap_.front()->when_ > now) return nullptr;
        timer* t = heap_.front();
        disarm(*t);
        return t;
    }

private:
    void put(std::size_t place, timer* t) noexcept {
        heap_[place] = t;
        t->place_ = place;
    }

    void up(std::size_t place) noexcept {
        timer* t = heap_[place];
        while (place > 0) {
            const std::size_t parent = (place - 1) / 2;
            if (heap_[parent]->when_ <= t->when_) break;
            put(place, heap_[parent]);
            place = parent;
        }
        put(place, t);
    }

    void down(std::size_t place) noexcept {
        timer* t = heap_[place];
        for (;;) {
            std::size_t child = 2 * place + 1;
            if (child >= heap_.size()) break;
            if (child + 1 < heap_.size() && heap_[child + 1]->when_ < heap_[child]->when_) ++child;
            if (t->when_ <= heap_[child]->when_) break;
            put(place, heap_[child]);
            place = child;
        }
        put(place, t);
    }

    std::vector<timer*> heap_;
};

} // namespace cotun::detail
