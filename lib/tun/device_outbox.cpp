// SPDX-License-Identifier: Apache-2.0
#include "tun/device_outbox.hpp"

#include <cotun/offload/segments.hpp>

#include "tun/device_port.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <netinet/in.h>
#include <new>
#include <utility>

namespace cotun::detail {
namespace {

using offload::offload_state;
using offload::segment_type;

std::uint16_t protocol_of(const packet_slot& slot) noexcept {
    if (slot.protocol != 0 || slot.size == 0) return slot.protocol;
    return std::to_integer<unsigned>(slot.base[slot.offset] >> 4) == 6 ? ETH_P_IPV6 : ETH_P_IP;
}

std::span<std::byte> bytes_of(packet_slot& slot) noexcept { return {slot.base + slot.offset, slot.size}; }
std::span<const std::byte> bytes_of(const packet_slot& slot) noexcept { return {slot.base + slot.offset, slot.size}; }

bool* of_type(superpacket_kinds& kinds, segment_type type) noexcept {
    switch (type) {
    case segment_type::none: break;
    case segment_type::tcp4: return &kinds.tcp4;
    case segment_type::tcp6: return &kinds.tcp6;
    case segment_type::udp4:
    case segment_type::udp6: return &kinds.udp;
    }
    return nullptr;
}

// A packet that is no superpacket is of every kind.
bool among(superpacket_kinds kinds, const offload_state& state) noexcept {
    if (!state.is_superpacket()) return true;
    const bool* const of = of_type(kinds, state.type);
    return of != nullptr && *of && (!state.ecn || kinds.ecn);
}

// Of a superpacket of a known type.
unsigned bit_of(const offload_state& state) noexcept {
    return 1U << (2 * static_cast<unsigned>(state.type) + (state.ecn ? 1 : 0));
}

} // namespace

device_outbox::device_outbox(device_port& port, reactor_core& core, front_shape shape, bool bounded,
                             superpacket_kinds whole, const merge_options& merging)
    : outbox(port, core),
      device_(port),
      shape_(shape),
      bounded_(bounded),
      alone_(bounded),
      whole_(whole),
      merging_(merging) {
    prefix_ = static_cast<unsigned>(shape.size());
    if (prefix_ != 0) fronts_ = std::make_unique<in_pieces[]>(usual_window);
    if (!shape.virtio) whole_ = superpacket_kinds::none();
    if (!merging.enabled || !shape.virtio || shape.information || bounded) return;
    merged_states_ = std::make_unique<offload_state[]>(usual_window);
    make_coalescer();
}

bool device_outbox::is_cut(const packet_slot& slot) const noexcept {
    return slot.has_offload && !among(whole_, device_.core().pool().offload_of(slot));
}

// --- a pass ---------------------------------------------------------------------------------------------------------

// Merging waits for all that the pass accepts. Once it is closed, nothing of it is prepared any more.
void device_outbox::submit() {
    if (coalescer_ == nullptr || is_closed()) return outbox::submit();
    core().prepare_later(*this);
}

void device_outbox::prepare() noexcept {
    outbox::submit();
    go_on();
}

void device_outbox::closing() {
    if (coalescer_ == nullptr) return;
    if (!core().forked()) outbox::submit(); // else the parent does
    core().forget(*this);
}

bool device_outbox::submit_next() {
    if (is_cut(unwritten(0))) return submit_cut();
    if (coalescer_ != nullptr && unwritten() > 1 && alone_left_ == 0) return submit_merged();
    return submit_one();
}

bool device_outbox::submit_one() {
    if (!outbox::submit_next()) return false;
    if (alone_left_ > 0) --alone_left_;
    return true;
}

// --- merging -------------------------------------------------------------------------------------------------------

void device_outbox::make_coalescer() {
    offload::coalescer_options options;
    options.tcp4 = whole_.tcp4;
    options.tcp6 = whole_.tcp6;
    options.udp4 = options.udp6 = whole_.udp;
    options.ecn = whole_.ecn;
    options.id = merging_.ids;
    options.checksums = merging_.checksums;
    options.network_offset = shape_.ethernet ? ETH_HLEN : 0;
    coalescer_ = std::make_unique<offload::coalescer>(options, usual_window);
}

bool device_outbox::submit_merged() {
    std::size_t worth = 0;
    std::size_t count = mergeable(worth);
    if (worth < 2) {
        alone_left_ = count;
        return submit_one();
    }
    if (in_flight_ != 0) return false; // its end brings us back
    count = std::min<std::size_t>(count, core().requests_left());
    if (count == 0) return core().await_room(*this), false;
    try {
        if (std::exchange(remake_, false)) make_coalescer();
        count = merge(count);
    } catch (const std::bad_alloc&) {
        return submit_one();
    }
    submit_batch(count);
    for (const offload::superpacket& s : merged_) {
        const std::size_t place = place_in_batch(count, s.packets.front());
        const ring::token request = submit_several(count, s.packets);
        merged_states_[place] = s.state;
        if (s.is_merged())
            core().driver().write_gathered(request, port().file(), s.pieces);
        else
            transmit(request, place, in_window(place));
    }
    return true;
}

// How many of the next can be looked at together: up to one that is cut, or that is no IP packet. And how many of them
// are worth it: a superpacket is one already, and an acknowledgement has nothing to merge.
std::size_t device_outbox::mergeable(std::size_t& worth) noexcept {
    constexpr std::size_t least = 80;
    std::size_t count = 0;
    for (; count < std::min<std::size_t>(unwritten(), usual_window); ++count) {
        const packet_slot& slot = unwritten(count);
        if (is_cut(slot)) break;
        worth += slot.size > least && !core().pool().is_superpacket(slot);
        if (!shape_.ethernet) continue;
        const std::uint16_t type = ether_type(bytes_of(slot));
        if (type != ETH_P_IP && type != ETH_P_IPV6) break;
    }
    return count;
}

// The first of a kind that the kernel is given is the last of its batch, and nothing follows before it is over, so that
// none of its flow overtakes it if it is refused. How many packets the batch has then.
std::size_t device_outbox::merge(std::size_t count) {
    for (;;) {
        coalescer_->begin();
        for (std::size_t i = 0; i < count; ++i)
            coalescer_->add(bytes_of(unwritten(i)), core().pool().offload_of(unwritten(i)));
        merged_ = coalescer_->finish();
        std::size_t end = count + 1; // of the unproven one that ends first
        for (const offload::superpacket& s : merged_)
            if (s.state.is_superpacket() && (taken_ & bit_of(s.state)) == 0)
                end = std::min<std::size_t>(end, s.packets.back() + 1);
        alone_ = end <= count;
        if (end >= count) return count;
        count = end;
    }
}

void device_outbox::went_together(std::size_t first) noexcept {
    ++statistics_.superpackets;
    taken_ |= bit_of(merged_states_[first]);
}

std::size_t device_outbox::fail_together(std::size_t first, std::size_t count, int error) {
    if (error == ENOMEM || error == ENOBUFS) return 0;
    if (error != EINVAL) return count;
    switch_off(merged_states_[first]);
    return 0;
}

// --- whole packets -------------------------------------------------------------------------------------------------

// The end of what is under way brings us back.
bool device_outbox::admits(const packet_slot& slot) {
    if (alone_) {
        if (in_flight_ != 0) return false;
        alone_ = bounded_;
    }
    return !slot.has_offload || admits_offload(slot);
}

bool device_outbox::admits_offload(const packet_slot& slot) {
    const offload_state state = core().pool().offload_of(slot);
    if (!among(whole_, state)) return false;
    if (!state.is_superpacket() || (taken_ & bit_of(state)) != 0) return true;
    if (in_flight_ != 0) return false;
    alone_ = true;
    return true;
}

void device_outbox::transmit(ring::token request, std::size_t place, packet_slot& slot) {
    if (prefix_ == 0 && !slot.has_offload)
        return core().driver().write(request, port().file(), {slot.base + slot.offset, slot.size});
    offload_state state = core().pool().offload_of(slot);
    if (state.needs_checksum && !shape_.virtio) static_cast<void>(complete_checksum(bytes_of(slot), state));
    if (slot.offset < prefix_) return transmit_with_front(request, place, slot, state);
    std::byte* const front = slot.base + slot.offset - prefix_;
    put_front(front, slot, state);
    core().driver().write(request, port().file(), {front, slot.size + prefix_});
}

// The packet's own buffer has room for it, unless the program has used that up, or the buffer is shared. Of packet
// information alone: the packet is moved, or, where it fills the buffer, refused as the kernel refuses what is too
// short.
void device_outbox::transmit_with_front(ring::token request, std::size_t place, packet_slot& slot,
                                        const offload_state& state) {
    if (shape_.virtio || core().pool().is_view(slot))
        return core().driver().write_gathered(request, port().file(),
                                              gather(fronts_[place], slot, bytes_of(slot), state));
    if (slot.size + prefix_ > slot.capacity) return core().driver().write(request, port().file(), {slot.base, 0});
    std::memmove(slot.base + prefix_, slot.base + slot.offset, slot.size);
    slot.offset = prefix_;
    put_front(slot.base, slot, state);
    core().driver().write(request, port().file(), {slot.base, slot.size + prefix_});
}

const std::array<iovec, 2>& device_outbox::gather(in_pieces& into, const packet_slot& slot,
                                                  std::span<const std::byte> packet,
                                                  const offload_state& state) const noexcept {
    put_front(into.front.data(), slot, state);
    into.pieces[0] = {into.front.data(), prefix_};
    into.pieces[1] = {const_cast<std::byte*>(packet.data()), packet.size()};
    return into.pieces;
}

void device_outbox::put_front(std::byte* to, const packet_slot& slot, const offload_state& state) const noexcept {
    if (shape_.information) {
        const tun_pi information{0, htons(protocol_of(slot))};
        std::memcpy(to, &information, sizeof information);
        to += sizeof information;
    }
    if (!shape_.virtio) return;
    const std::span<std::byte, offload::virtio_header_size> header(to, offload::virtio_header_size);
    offload::write_virtio_header(header, offload::to_virtio_header(state));
}

// --- segments ------------------------------------------------------------------------------------------------------

bool device_outbox::submit_cut() {
    if (in_flight_ != 0) return false;
    std::int32_t result = 0;
    if (cut(first_place(), unwritten(0), result)) return false;
    written_first(result);
    leave_behind();
    return true;
}

bool device_outbox::cutting::fits(std::size_t needed) noexcept {
    if (needed <= size) return true;
    bytes.reset(new (std::nothrow) std::byte[needed]);
    size = bytes ? needed : 0;
    return bytes != nullptr;
}

// Goes on where it stopped. True: a segment waits, for room in the device or for a request, and the packet is not over.
bool device_outbox::cut(std::size_t place, packet_slot& slot, std::int32_t& result) {
    const std::span<const std::byte> packet = bytes_of(slot);
    const offload::segmenter plan =
        offload::segments(packet, core().pool().offload_of(slot), network_offset(shape_, packet));
    int error = plan ? 0 : EINVAL;
    if (core().forked()) error = ECANCELED; // the device is the parent's
    if (error == 0 && !cutting_.fits(plan.header_size() + plan.payload_size())) error = ENOMEM;
    cutting_.count = plan.size();
    for (; error == 0 && cutting_.next < plan.size(); ++cutting_.next) {
        const std::span<const std::byte> segment = plan[cutting_.next].write(cutting_.memory());
        const std::span<const iovec> pieces = gather(cutting_.written, slot, segment, offload_state());
        const ssize_t written = core().driver().write_now(port().file(), pieces);
        if (written == -EAGAIN) {
            wait_for_room(place, slot);
            return true;
        }
        if (written < 0) error = static_cast<int>(-written);
    }
    result = end_cutting(slot, error);
    return false;
}

// The device's send buffer is full: the ring waits for it, and nothing else is under way meanwhile.
void device_outbox::wait_for_room(std::size_t place, const packet_slot& slot) {
    const bool first = unwritten() > 0 && &unwritten(0) == &slot;
    const ring::token request = first ? submit_first() : submit_again(place);
    if (request == 0) return; // retry()
    alone_ = true;
    cutting_.waits = true;
    core().driver().write_gathered(request, port().file(), cutting_.written.pieces);
}

std::int32_t device_outbox::end_cutting(const packet_slot& slot, int error) noexcept {
    cutting_.next = 0;
    if (error != 0) return -error;
    ++statistics_.segmented;
    return whole(slot);
}

// The result of the last, and of one that fails, is the packet's.
bool device_outbox::segment_ended(const packet_slot& slot, std::int32_t& result) noexcept {
    if (result >= 0 && ++cutting_.next < cutting_.count) return true;
    result = end_cutting(slot, result < 0 ? -result : 0);
    return false;
}

bool device_outbox::goes_again(packet_slot& slot, std::int32_t& result) {
    if (std::exchange(cutting_.waits, false)) return segment_ended(slot, result);
    const offload_state state = core().pool().offload_of(slot);
    if (!state.is_superpacket()) return false;
    if (result >= 0) {
        ++statistics_.superpackets;
        taken_ |= bit_of(state);
    }
    if (result != -EINVAL || !is_sound(slot, state)) return false;
    if (among(whole_, state) && failure() == 0) switch_off(state);
    return true;
}

bool device_outbox::go_again(std::size_t place, packet_slot& slot, std::int32_t& result) {
    if (core().pool().is_superpacket(slot)) return cut(place, slot, result);
    return outbox::go_again(place, slot, result);
}

// Whether the kernel had no reason to refuse it.
bool device_outbox::is_sound(packet_slot& slot, const offload_state& state) const noexcept {
    const std::span<const std::byte> packet = bytes_of(slot);
    return shape_.virtio && static_cast<bool>(offload::segments(packet, state, network_offset(shape_, packet)));
}

// Several of them may be under way when the first is refused.
void device_outbox::switch_off(const offload_state& refused) {
    ++statistics_.offload_refused;
    (refused.ecn ? whole_.ecn : *of_type(whole_, refused.type)) = false;
    remake_ = coalescer_ != nullptr;
    device_.on_offload_refused();
}

} // namespace cotun::detail
