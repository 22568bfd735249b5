// SPDX-License-Identifier: Apache-2.0
//
// What a socket makes of a packet that came from a device with its offload still to be done.
#pragma once

#include <cotun/offload/segments.hpp>

#include "io/packet_pool.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <span>
#include <sys/uio.h>

namespace cotun::detail {

/// How a superpacket is cut, whatever stands in front of its IP header: each segment begins with that, too.
inline offload::segmenter plan_of(const packet_pool& pool, packet_slot& slot) noexcept {
    const std::span<const std::byte> packet(slot.base + slot.offset, slot.size);
    const offload::offload_state state = pool.offload_of(slot);
    return offload::segments(packet, state, offload::find_network(packet, state));
}

/// Segments as pieces for sendmsg(2): the headers of each are made here, the payload stays where it is.
class segment_pieces {
public:
    /// Makes the pieces of `count` segments from `first` on: two for each. False: there is no memory.
    bool make(const offload::segmenter& plan, std::size_t first, std::size_t count) noexcept {
        if (!fits(plan.header_size() * count, 2 * count)) return false;
        std::span<std::byte> room(headers_.get(), headers_size_);
        for (std::size_t i = 0; i < count; ++i) {
            const offload::segment segment = plan[first + i];
            const std::span<const std::byte> header = segment.write_header(room);
            const std::span<const std::byte> payload = segment.payload();
            pieces_[2 * i] = {room.data(), header.size()};
            pieces_[2 * i + 1] = {const_cast<std::byte*>(payload.data()), payload.size()};
            room = room.subspan(header.size());
        }
        return true;
    }

    /// Those of segment number `index` of them, and of the `count` - 1 behind it.
    std::span<iovec> of(std::size_t index, std::size_t count) noexcept {
        return std::span(pieces_.get(), pieces_size_).subspan(2 * index, 2 * count);
    }

    segment_pieces* next_free = nullptr;

private:
    // As much for the next one, likely.
    bool fits(std::size_t headers, std::size_t pieces) noexcept {
        if (headers > headers_size_) {
            headers_size_ = 0;
            headers_.reset(new (std::nothrow) std::byte[headers]);
            if (!headers_) return false;
            headers_size_ = headers;
        }
        if (pieces > pieces_size_) {
            pieces_size_ = 0;
            pieces_.reset(new (std::nothrow) iovec[pieces]);
            if (!pieces_) return false;
            pieces_size_ = pieces;
        }
        return true;
    }

    std::unique_ptr<std::byte[]> headers_;
    std::size_t headers_size_ = 0;
    std::unique_ptr<iovec[]> pieces_;
    std::size_t pieces_size_ = 0;
};

} // namespace cotun::detail
