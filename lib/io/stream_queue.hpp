// SPDX-License-Identifier: Apache-2.0
//
// Buffers of a stream in order, linked through their slots: a queue takes no memory, however long it gets.
#pragma once

#include <cotun/io/packet.hpp>

#include "io/packet_pool.hpp"

#include <cstddef>
#include <cstdint>

namespace cotun::detail {

class stream_queue {
public:
    bool empty() const noexcept { return size_ == 0; }
    std::size_t size() const noexcept { return size_; }

    void push_back(packet_pool& pool, packet_slot& slot) noexcept {
        const std::uint16_t index = pool.index_of(slot);
        if (size_++ == 0)
            first_ = index;
        else
            pool.slot(last_).next = index;
        last_ = index;
    }
    packet_slot& front(packet_pool& pool) const noexcept { return pool.slot(first_); }
    packet_slot& back(packet_pool& pool) const noexcept { return pool.slot(last_); }
    packet_slot& pop_front(packet_pool& pool) noexcept {
        packet_slot& slot = pool.slot(first_);
        --size_;
        first_ = slot.next;
        return slot;
    }

private:
    std::uint16_t first_ = 0;
    std::uint16_t last_ = 0;
    std::uint32_t size_ = 0;
};

} // namespace cotun::detail
