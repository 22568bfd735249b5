// SPDX-License-Identifier: Apache-2.0
//
// packet: a move-only lease on one buffer of the reactor's pool.
//
// The bytes lie in the middle of the buffer, so that a header can be put in front of them and a trailer behind them
// without moving them:
//
//     | headroom | bytes | tailroom |
//
// What a device or a socket read into the buffer, another can send from it: nothing is copied.
//
// A packet may be a superpacket, or one whose checksum is still to be completed: offload() says so. Devices, UDP and
// Unix sockets know what to do with it; streams refuse superpackets. Who takes the bytes elsewhere cuts it up
// (offload/segments.hpp), or opens the device with no_offload (tun/offload_options.hpp).
//
// Lifetime: the buffer goes back to its pool when the packet is destroyed or handed to a write. A packet may outlive
// its reactor: the pool's memory stays until the last lease is back.
// Thread: the reactor's.
// Errors: the functions that need room throw std::system_error(no_buffer_space) when there is not enough.
#pragma once

#include <cotun/offload/virtio_header.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace cotun {

namespace detail {

class packet_pool;

/// Whether there is more to be told of a packet than its origin, in the pool's table beside the slots, and to whom.
enum class ancillary_state : std::uint8_t { none, received, to_send };

// A buffer's header, one cache line. It lies outside the buffer: neither the kernel nor a user's write past the end
// reaches it.
struct alignas(64) packet_slot {
    std::byte* base = nullptr;
    packet_pool* pool = nullptr;
    std::uint32_t capacity = 0; // of the buffer, bytes
    std::uint32_t offset = 0;   // of the packet in the buffer
    std::uint32_t size = 0;     // of the packet
    std::uint8_t origin_size = 0;
    ancillary_state ancillary = ancillary_state::none;
    std::array<std::byte, 28> origin{}; // a struct sockaddr_in or sockaddr_in6
    std::uint16_t next = 0;             // of the slot behind it in a stream's queue
    std::uint16_t protocol = 0;         // EtherType, where a device tells it; 0: by the packet's first byte
    bool has_offload = false;           // its state stands in the pool's table beside the slots

    void forget_what_the_device_told() noexcept {
        protocol = 0;
        has_offload = false;
    }
};
static_assert(sizeof(packet_slot) == 64);

void release(packet_slot*) noexcept;

} // namespace detail

class packet {
public:
    using bound_to_thread = void; // cross_channel refuses it: its pool is the reactor's

    /// An empty handle: no buffer.
    packet() noexcept = default;
    packet(packet&& other) noexcept : slot_(std::exchange(other.slot_, nullptr)) {}
    packet& operator=(packet&& other) noexcept {
        if (this != &other) {
            reset();
            slot_ = std::exchange(other.slot_, nullptr);
        }
        return *this;
    }
    ~packet() { reset(); }

    /// Whether there is a buffer: false for a default-made packet and for one that was moved from. All functions below
    /// but reset() need one.
    explicit operator bool() const noexcept { return slot_ != nullptr; }

    std::span<std::byte> bytes() noexcept { return {slot_->base + slot_->offset, slot_->size}; }
    std::span<const std::byte> bytes() const noexcept { return {slot_->base + slot_->offset, slot_->size}; }
    std::size_t size() const noexcept { return slot_->size; }

    /// Bytes that prepend() and append() can still take.
    std::size_t headroom() const noexcept { return slot_->offset; }
    std::size_t tailroom() const noexcept { return slot_->capacity - slot_->offset - slot_->size; }

    /// Makes the packet longer by `count` bytes at its front; returns them, their content unspecified.
    std::span<std::byte> prepend(std::size_t count);
    /// Makes the packet longer by `count` bytes at its end; returns them, their content unspecified.
    std::span<std::byte> append(std::size_t count);
    /// Takes `count` bytes off the front or the end; what was there becomes headroom or tailroom. `count` <= size(),
    /// else std::system_error(invalid_argument).
    void remove_prefix(std::size_t count);
    void remove_suffix(std::size_t count);
    /// Replaces the content by a copy of `content`, and with it restores the pool's usual headroom.
    void assign(std::span<const std::byte> content);

    /// Where a datagram came from, as the kernel's sockaddr; empty for what a device or the program made. See sender().
    std::span<const std::byte> origin() const noexcept { return {slot_->origin.data(), slot_->origin_size}; }

    /// The packet's EtherType, host byte order, where it was read from a device with packet information
    /// (device_options::packet_information), or was set; else 0.
    std::uint16_t protocol() const noexcept { return slot_->protocol; }
    /// What such a device is told to write it as; 0: as IPv4 or IPv6, by its first byte.
    void set_protocol(std::uint16_t ether_type) noexcept { slot_->protocol = ether_type; }

    /// What is known of the packet besides its bytes: that it is a superpacket, that its checksum is to be completed.
    /// It moves with the packet's front: prepend() and remove_prefix() keep it right.
    offload::offload_state offload() const noexcept {
        return slot_->has_offload ? told_offload() : offload::offload_state();
    }
    /// For programs that make superpackets, or that have completed a checksum.
    void set_offload(const offload::offload_state& state) noexcept;

    /// Gives the buffer back.
    void reset() noexcept {
        if (slot_ != nullptr) detail::release(std::exchange(slot_, nullptr));
    }

private:
    friend class detail::packet_pool;
    explicit packet(detail::packet_slot* slot) noexcept : slot_(slot) {}
    offload::offload_state told_offload() const noexcept;
    void shift_offload(int bytes) noexcept;

    detail::packet_slot* slot_ = nullptr;
};

} // namespace cotun
