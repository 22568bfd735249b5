// SPDX-License-Identifier: Apache-2.0
//
// The slab: all packet buffers of a reactor, in two size classes, taken and given back in last-in first-out order so
// that the hot ones stay in the cache. Neither touches the buffer's slot, which a read has put out of the cache by
// then.
//
// The pool outlives its reactor while packets are still leased; the last one to come back frees it.
#pragma once

#include <cotun/io/packet.hpp>
#include <cotun/io/reactor.hpp>

#include <array>
#include <cstdint>
#include <memory>

namespace cotun::detail {

/// What a datagram socket has received with a packet beside its origin, or is to send it with: what control messages
/// carry (recvmsg(2)). It has no place in packet_slot, which is one cache line, full, and every packet's; so it stands
/// in a table of the pool's, one entry a buffer, that is made for the first socket that wants it.
struct alignas(32) ancillary {
    enum field : std::uint8_t { has_address = 1, has_ttl = 2, has_tos = 4 };

    std::array<std::byte, 16> address{};    // where it was sent to, or is to be sent from; IPv4: the first four
    std::array<std::byte, 4> answer_from{}; // received, IPv4: this host's address, where that is a group or broadcast
    std::uint32_t interface = 0;            // index; 0: any
    bool is_v6 = false;
    std::uint8_t fields = 0;
    std::uint8_t ttl = 0;
    std::uint8_t tos = 0;

    friend bool operator==(const ancillary&, const ancillary&) noexcept = default;
};
static_assert(sizeof(ancillary) == 32);

enum size_class : std::uint8_t { small_packets, large_packets };
inline constexpr std::size_t size_classes = 2;

class packet_pool {
public:
    /// Throws std::system_error(invalid_argument) for options out of range, or not_enough_memory.
    explicit packet_pool(const pool_options& options);
    packet_pool(const packet_pool&) = delete;
    packet_pool& operator=(const packet_pool&) = delete;

    /// What stands behind the reactor: told when a buffer of a class comes back that somebody waits for.
    class listener {
    public:
        virtual void on_buffer_returned(size_class) noexcept = 0;
        /// In builds without NDEBUG, ends the program if this is not the reactor's thread.
        virtual void check_thread(const char* what) const noexcept = 0;

    protected:
        ~listener() = default;
    };
    void listen(listener& l) noexcept { listener_ = &l; }
    /// Asks for one call of the listener at the next return to `c`.
    void want(size_class c) noexcept { classes_[c].wanted = true; }

    /// The reactor is done with the pool: it frees itself with its last lease.
    void abandon() noexcept;

    /// A buffer, or nullptr. What its packet is has to be said: by start(), or by a read's place().
    packet_slot* take(size_class c) noexcept;
    /// The packet is the first `size` bytes of space().
    void start(packet_slot& slot, std::size_t size) const noexcept {
        slot.offset = headroom_;
        slot.size = static_cast<std::uint32_t>(size);
        slot.origin_size = 0;
        slot.ancillary = ancillary_state::none;
        slot.forget_what_the_device_told();
    }
    void give(packet_slot* slot) noexcept;
    /// From a packet's owner.
    void give_back(packet_slot* slot) noexcept {
        if (!abandoned_ && listener_ != nullptr) listener_->check_thread("letting go of a packet");
        give(slot);
    }
    static packet lease(packet_slot* slot) noexcept { return packet(slot); }
    /// Takes the buffer out of a packet.
    static packet_slot* unwrap(packet&& p) noexcept { return std::exchange(p.slot_, nullptr); }
    static packet_slot* look(const packet& p) noexcept { return p.slot_; }

    /// Makes the table of ancillary data, if there is none yet. Throws std::bad_alloc, std::system_error.
    void keep_ancillary();
    /// The slot's entry in the table, which must be there. It holds what slot.ancillary says.
    ancillary& ancillary_of(const packet_slot& slot) const noexcept {
        return is_view(slot) ? view_ancillary_[view_index(slot)] : ancillary_[index_of(slot)];
    }

    /// What is known of a packet beyond its bytes: a default state if nothing is.
    offload::offload_state offload_of(const packet_slot& slot) const noexcept {
        return slot.has_offload ? state_of(slot) : offload::offload_state();
    }
    void set_offload(packet_slot& slot, const offload::offload_state& state) noexcept {
        slot.has_offload = true;
        state_of(slot) = state;
    }

    bool is_superpacket(const packet_slot& slot) const noexcept {
        return slot.has_offload && state_of(slot).is_superpacket();
    }
    /// What the kernel was to do of a device's packet, nobody does behind a socket. Not of a superpacket.
    void complete_checksum(packet_slot& slot) const noexcept;

    // --- views ------------------------------------------------------------------------------------------------------

    // Several packets that were read into one buffer, each as a packet of its own, without a copy. Such a one has
    // neither headroom nor tailroom, since there are others beside it; prepend() and append() move it into a buffer of
    // its own. The buffer comes back with the last of its views.

    static constexpr unsigned most_views =
        128; // of a buffer: as many as the kernel receives at once (UDP_MAX_SEGMENTS)

    /// Makes the tables, if there are none yet; memory that is touched as it is used. Throws std::system_error.
    void keep_views();
    /// View number `index` of a large buffer, its bytes `size` from `offset` of the buffer on. It is a packet like that
    /// of `whole`, of whose origin and kind it has a copy.
    packet_slot* view(packet_slot& whole, unsigned index, std::uint32_t offset, std::uint32_t size) noexcept;
    bool is_view(const packet_slot& slot) const noexcept {
        return reinterpret_cast<std::uintptr_t>(&slot) - reinterpret_cast<std::uintptr_t>(views_) < views_bytes_;
    }
    /// Of a view, its buffer's; of any other, itself.
    const packet_slot& buffer_of(const packet_slot& slot) const noexcept {
        return is_view(slot) ? slots_[classes_[large_packets].first + view_index(slot) / most_views] : slot;
    }
    /// Moves a view into a buffer of its own, with the usual headroom. Throws std::system_error(no_buffer_space).
    packet_slot* unshare(packet_slot* view);

    packet_slot& slot(std::uint16_t index) noexcept { return slots_[index]; }
    void prefetch(std::uint16_t index) const noexcept { __builtin_prefetch(&slots_[index], 1); }

    /// The smallest class whose packets can have `size` bytes; throws std::errc::message_size if none can.
    size_class class_for(std::size_t size) const;
    /// The bytes that a packet of the class can have, headroom and tailroom left over.
    std::size_t payload(size_class c) const noexcept { return classes_[c].size - headroom_ - tailroom_; }
    /// Where a read may put bytes: the buffer without headroom and tailroom.
    std::span<std::byte> space(const packet_slot& slot) const noexcept {
        const std::uint16_t index = index_of(slot);
        const buffer_class& c = classes_[class_of(index)];
        return {c.memory + (index - c.first) * c.stride + headroom_, c.size - headroom_ - tailroom_};
    }
    std::uint16_t index_of(const packet_slot& slot) const noexcept {
        return static_cast<std::uint16_t>(&slot - slots_.get());
    }
    unsigned headroom() const noexcept { return headroom_; }
    unsigned count(size_class c) const noexcept { return classes_[c].count; }
    unsigned available(size_class c) const noexcept { return classes_[c].available; }

private:
    struct buffer_class {
        unsigned count = 0;
        unsigned size = 0;  // of a buffer
        unsigned first = 0; // index of its first slot
        unsigned available = 0;
        bool wanted = false;
        std::unique_ptr<std::uint16_t[]> free; // indices of `available` slots, the last given back last
        std::byte* memory = nullptr;
        std::size_t stride = 0; // from one buffer to the next
        std::size_t bytes = 0;  // of memory
    };

    ~packet_pool();
    std::size_t view_index(const packet_slot& slot) const noexcept { return static_cast<std::size_t>(&slot - views_); }
    std::size_t view_count() const noexcept { return std::size_t{classes_[large_packets].count} * most_views; }
    offload::offload_state& state_of(const packet_slot& slot) const noexcept {
        return is_view(slot) ? view_offload_[view_index(slot)] : offload_[index_of(slot)];
    }
    void give_view(const packet_slot& view) noexcept;
    void keep_view_ancillary();
    void make_class(size_class c, unsigned count, unsigned size);
    bool all_back() const noexcept;
    size_class class_of(std::uint16_t index) const noexcept {
        return index < classes_[large_packets].first ? small_packets : large_packets;
    }

    std::array<buffer_class, size_classes> classes_;
    std::unique_ptr<packet_slot[]> slots_;
    std::unique_ptr<ancillary[]> ancillary_;
    std::unique_ptr<offload::offload_state[]> offload_;
    packet_slot* views_ = nullptr; // most_views of each large buffer, one behind the other
    std::size_t views_bytes_ = 0;
    offload::offload_state* view_offload_ = nullptr;
    ancillary* view_ancillary_ = nullptr;        // of each view, once there are both
    std::unique_ptr<std::uint8_t[]> live_views_; // of each large buffer
    unsigned made_ = 0;
    unsigned headroom_;
    unsigned tailroom_;
    listener* listener_ = nullptr;
    bool abandoned_ = false;
};

} // namespace cotun::detail
