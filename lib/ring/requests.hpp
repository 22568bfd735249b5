// SPDX-License-Identifier: Apache-2.0
//
// The table of requests in flight: who is told of a completion, and whether there is room for one more.
//
// A token is the slot's index and its generation. A slot is retired by its request's last completion and by nothing
// else, so a completion can never reach the wrong owner: one that names a retired generation is a stray, and counted.
#pragma once

#include "ring/driver.hpp"

#include <cassert>
#include <cstdint>
#include <memory>

namespace cotun::ring {

/// What completions are delivered to. Must live until the last completion of each of its requests.
class request_owner {
public:
    /// `cookie` is what begin() was given. When `done.more` is false the request is over: its slot is free again.
    virtual void on_completion(std::uint32_t cookie, const completion& done) = 0;

protected:
    ~request_owner() = default;
};

class request_table {
public:
    explicit request_table(unsigned capacity) : slots_(std::make_unique<slot[]>(capacity)), capacity_(capacity) {
        for (unsigned i = 0; i < capacity; ++i) slots_[i].next_free = i + 1;
    }

    /// A token for a new request, or 0 when as many are in flight as there may be. Those that are `set_aside` are
    /// counted by themselves, too.
    token begin(request_owner& owner, std::uint32_t cookie, bool set_aside = false) noexcept {
        if (first_free_ == capacity_) return 0;
        const unsigned index = first_free_;
        slot& s = slots_[index];
        first_free_ = s.next_free;
        s.owner = &owner;
        s.cookie = cookie;
        s.set_aside = set_aside;
        ++in_flight_;
        set_aside_ += set_aside;
        return (std::uint64_t{s.generation} << 32) | (index + 1);
    }

    /// Tells the request's owner. Returns false for a stray.
    bool deliver(const completion& done) {
        const unsigned index = index_of(done.request);
        if (index >= capacity_) return false;
        slot& s = slots_[index];
        if (s.owner == nullptr || s.generation != done.request >> 32) return false;
        request_owner* owner = s.owner;
        const std::uint32_t cookie = s.cookie;
        if (!done.more) retire(index);
        owner->on_completion(cookie, done);
        return true;
    }

    /// Brings the request's slot into the cache.
    void prefetch(token request) const noexcept {
        if (const unsigned index = index_of(request); index < capacity_) __builtin_prefetch(&slots_[index]);
    }

    /// The driver can no longer be asked: tells every owner that its request is over.
    void end_all(int error) {
        for (unsigned i = 0; i < capacity_; ++i)
            if (slots_[i].owner != nullptr)
                deliver({std::uint64_t{slots_[i].generation} << 32 | (i + 1), -error, 0, false, false});
    }

    unsigned in_flight() const noexcept { return in_flight_; }
    unsigned set_aside() const noexcept { return set_aside_; } // of those
    unsigned capacity() const noexcept { return capacity_; }
    bool has_room() const noexcept { return first_free_ != capacity_; }

private:
    struct slot {
        request_owner* owner = nullptr; // nullptr: free
        union {
            std::uint32_t cookie;
            std::uint32_t next_free = 0;
        };
        std::uint32_t generation : 31 = 0;
        std::uint32_t set_aside : 1 = 0;
    };

    // Of token 0, which names none: beyond any capacity.
    static unsigned index_of(token request) noexcept { return static_cast<unsigned>(request) - 1; }

    void retire(unsigned index) noexcept {
        slot& s = slots_[index];
        s.owner = nullptr;
        ++s.generation;
        s.next_free = first_free_;
        first_free_ = index;
        assert(in_flight_ > 0);
        --in_flight_;
        set_aside_ -= s.set_aside;
    }

    std::unique_ptr<slot[]> slots_;
    unsigned capacity_;
    unsigned first_free_ = 0;
    unsigned in_flight_ = 0;
    unsigned set_aside_ = 0;
};

} // namespace cotun::ring
