// SPDX-License-Identifier: Apache-2.0
//
// The writing half of a device.
//
// A superpacket goes as it is, where the device has virtio-net headers and its kind is not switched off. Otherwise it
// is cut, and its segments are written one by one, without the ring: each is made in the same memory, and is over when
// the next is made. They keep their place among the others, so this waits until no write is under way.
//
// A kernel that refuses a superpacket as invalid (EINVAL: some releases do) gets the same one as segments, and further
// ones of its kind, too. The first of a kind goes alone, so that nothing overtakes it if it is refused. Should the
// kernel take one and refuse a later one, then those that were under way with that are in front of its segments.
//
// Packets of one flow that a pass has accepted are merged into superpackets at its end (offload/coalescer.hpp), and
// written from where they lie. A batch is merged when no write is under way: what was made of the last one is the
// kernel's until then. A superpacket that is refused, or for which the kernel has no memory, goes again as the packets
// that it was made of: behind those that were under way with it, as above.
#pragma once

#include "io/outbox.hpp"
#include "io/reactor_core.hpp"
#include "tun/virtio_front.hpp"

#include <cotun/offload/coalescer.hpp>
#include <cotun/tun/offload_options.hpp>

#include <array>
#include <memory>
#include <span>

namespace cotun::detail {

class device_port;

class device_outbox final : public outbox, public prepared {
public:
    /// `bounded`: the device's send buffer has a bound.
    device_outbox(device_port& port, reactor_core& core, front_shape shape, bool bounded, superpacket_kinds whole,
                  const merge_options& merging);

    /// The kinds that are written as they are.
    const superpacket_kinds& written_whole() const noexcept { return whole_; }

    void prepare() noexcept override;

private:
    // A packet that is written together with what stands in front of it, which has no room in its buffer.
    struct in_pieces {
        std::array<std::byte, longest_front> front{};
        std::array<iovec, 2> pieces{};
    };

    // A superpacket that is being cut.
    struct cutting {
        std::size_t next = 0; // segment
        std::size_t count = 0;
        bool waits = false; // the segment, for room in the device
        in_pieces written{};
        std::unique_ptr<std::byte[]> bytes{}; // of a segment
        std::size_t size = 0;                 // of the memory

        /// Makes the memory large enough.
        bool fits(std::size_t needed) noexcept;
        std::span<std::byte> memory() noexcept { return {bytes.get(), size}; }
    };

    void transmit(ring::token request, std::size_t place, packet_slot& slot) override;
    bool admits(const packet_slot& slot) override;
    bool goes_again(packet_slot& slot, std::int32_t& result) override;
    bool go_again(std::size_t place, packet_slot& slot, std::int32_t& result) override;
    void transmit_waiting(ring::token request, std::size_t place, packet_slot& slot) override {
        transmit(request, place, slot);
    }
    std::size_t fail_together(std::size_t first, std::size_t count, int error) override;
    void went_together(std::size_t first) noexcept override;
    void submit() override;
    bool submit_next() override;
    void closing() override;

    bool admits_offload(const packet_slot& slot);
    bool is_cut(const packet_slot& slot) const noexcept;
    void transmit_with_front(ring::token request, std::size_t place, packet_slot& slot,
                             const offload::offload_state& state);
    const std::array<iovec, 2>& gather(in_pieces& into, const packet_slot& slot, std::span<const std::byte> packet,
                                       const offload::offload_state& state) const noexcept;
    void put_front(std::byte* to, const packet_slot& slot, const offload::offload_state& state) const noexcept;
    bool submit_cut();
    bool submit_merged();
    std::size_t merge(std::size_t count);
    bool submit_one();
    std::size_t mergeable(std::size_t& worth) noexcept;
    void make_coalescer();
    bool cut(std::size_t place, packet_slot& slot, std::int32_t& result);
    void wait_for_room(std::size_t place, const packet_slot& slot);
    std::int32_t end_cutting(const packet_slot& slot, int error) noexcept;
    bool segment_ended(const packet_slot& slot, std::int32_t& result) noexcept;
    bool is_sound(packet_slot& slot, const offload::offload_state& state) const noexcept;
    void switch_off(const offload::offload_state& refused);

    device_port& device_;
    const front_shape shape_;
    // A write to a TUN device never waits, unless its send buffer was given a bound: then a later one could overtake
    // one that does.
    const bool bounded_;
    bool alone_; // what is submitted next waits until nothing is under way
    superpacket_kinds whole_;
    unsigned taken_ = 0; // a bit for each type, with ECN and without, of which the kernel has taken one
    cutting cutting_;
    const merge_options merging_;
    bool remake_ = false;                                       // the coalescer: there are fewer kinds
    std::size_t alone_left_ = 0;                                // of the next, those that are not worth looking at
    std::unique_ptr<offload::coalescer> coalescer_;             // nullptr: nothing is merged
    std::span<const offload::superpacket> merged_{};            // the last batch
    std::unique_ptr<offload::offload_state[]> merged_states_{}; // of what goes with the first packet, at its place
    std::unique_ptr<in_pieces[]> fronts_; // one for each place in the window, if anything stands in front of packets
};

} // namespace cotun::detail
