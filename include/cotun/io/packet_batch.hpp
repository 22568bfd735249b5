// SPDX-License-Identifier: Apache-2.0
//
// packet_batch: up to 64 packets, in order, moved from place to place as one. It owns its packets and allocates
// nothing.
//
// A packet may be moved out of its place (`co_await dev.write_packet(std::move(pkt))` in a range-for): an empty handle
// stays there, which writes skip.
//
// Thread: the reactor's.
#pragma once

#include <cotun/io/packet.hpp>

#include <algorithm>
#include <array>
#include <cstddef>

namespace cotun {

class packet_batch {
public:
    using bound_to_thread = void; // as packets are

    /// The most packets that a batch holds. 64 is also as many as one kernel entry should carry to a TUN device, whose
    /// writes run the network stack inline.
    static constexpr std::size_t capacity = 64;

    using iterator = packet*;
    using const_iterator = const packet*;

    packet_batch() noexcept = default;
    packet_batch(packet_batch&& other) noexcept { take(other); }
    packet_batch& operator=(packet_batch&& other) noexcept {
        if (this != &other) {
            clear();
            take(other);
        }
        return *this;
    }
    ~packet_batch() = default;

    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    bool full() const noexcept { return size_ == capacity; }

    iterator begin() noexcept { return packets_.data(); }
    iterator end() noexcept { return packets_.data() + size_; }
    const_iterator begin() const noexcept { return packets_.data(); }
    const_iterator end() const noexcept { return packets_.data() + size_; }
    packet& operator[](std::size_t index) noexcept { return packets_[index]; }
    const packet& operator[](std::size_t index) const noexcept { return packets_[index]; }
    packet& front() noexcept { return packets_[0]; }
    packet& back() noexcept { return packets_[size_ - 1]; }

    /// Adds a packet at the end; the batch must not be full.
    void push_back(packet&& added) noexcept { packets_[size_++] = std::move(added); }

    /// Drops the packets for which `drop(packet&)` is true; the others keep their order.
    template <class Predicate>
    void remove_if(Predicate drop) {
        iterator kept = std::remove_if(begin(), end(), std::move(drop));
        while (end() != kept) packets_[--size_].reset();
    }

    void clear() noexcept {
        while (size_ > 0) packets_[--size_].reset();
    }

private:
    void take(packet_batch& other) noexcept {
        std::move(other.begin(), other.end(), begin());
        size_ = std::exchange(other.size_, 0);
    }

    std::array<packet, capacity> packets_{};
    std::size_t size_ = 0;
};

} // namespace cotun
