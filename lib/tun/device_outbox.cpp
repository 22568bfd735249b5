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

} // namespace

device_outbox::device_outbox(device_port& port, reactor_core& core, front_shape shape, bool bounded,
                             superpacket_kinds whole)
    : outbox(port, core), device_(port), shape_(shape), bounded_(bounded), whole_(whole) {
    prefix_ = static_cast<unsigned>(shape.size());
    if (!shape.virtio) whole_ = superpacket_kinds::none();
}

bool device_outbox::goes_whole(const offload_state& state) const noexcept {
    if (state.ecn && !whole_.ecn) return false;
    switch (state.type) {
    case segment_type::none: return true;
    case segment_type::tcp4: return whole_.tcp4;
    case segment_type::tcp6: return whole_.tcp6;
    case segment_type::udp4:
    case segment_type::udp6: return whole_.udp;
    }
    return false;
}

bool device_outbox::is_cut(const packet_slot& slot) const noexcept {
    return slot.has_offload && !goes_whole(device_.core().pool().offload_of(slot));
}

// --- whole packets -------------------------------------------------------------------------------------------------

bool device_outbox::admits(const packet_slot& slot) { return (!bounded_ || in_flight_ == 0) && !is_cut(slot); }

void device_outbox::transmit(ring::token request, std::size_t, packet_slot& slot) {
    if (prefix_ == 0 && !slot.has_offload)
        return core().driver().write(request, port().file(), {slot.base + slot.offset, slot.size});
    offload_state state = core().pool().offload_of(slot);
    if (state.needs_checksum && !shape_.virtio) static_cast<void>(complete_checksum(bytes_of(slot), state));
    if (slot.offset < prefix_) make_room_in_front(slot);
    if (slot.offset < prefix_) return core().driver().write(request, port().file(), {slot.base, 0});
    std::byte* const front = slot.base + slot.offset - prefix_;
    put_front(front, slot, state);
    core().driver().write(request, port().file(), {front, slot.size + prefix_});
}

// The packet's own buffer has room for it, unless the program has used that up; then the packet is moved, or, where it
// fills the buffer, refused as the kernel refuses what is too short.
void device_outbox::make_room_in_front(packet_slot& slot) noexcept {
    if (slot.size + prefix_ > slot.capacity) return;
    std::memmove(slot.base + prefix_, slot.base + slot.offset, slot.size);
    slot.offset = prefix_;
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

void device_outbox::submit() {
    outbox::submit();
    while (unwritten() > 0 && failure() == 0 && in_flight_ == 0 && is_cut(unwritten(0))) {
        std::int32_t result = 0;
        if (cut(first_place(), unwritten(0), result)) return;
        written_first(result);
        leave_behind();
        outbox::submit();
    }
}

bool device_outbox::cutting::fits(std::size_t needed) noexcept {
    if (needed <= size) return true;
    bytes.reset(new (std::nothrow) std::byte[needed]);
    size = bytes ? needed : 0;
    return bytes != nullptr;
}

// True: a segment waits, for room in the device or for a request, and the packet is not over.
bool device_outbox::cut(std::size_t place, packet_slot& slot, std::int32_t& result) {
    const std::span<const std::byte> packet = bytes_of(slot);
    const offload::segmenter plan =
        offload::segments(packet, core().pool().offload_of(slot), network_offset(shape_, packet));
    int error = plan ? cutting_.error : EINVAL;
    if (error == 0 && !cutting_.fits(plan.header_size() + plan.payload_size())) error = ENOMEM;
    for (; error == 0 && cutting_.next < plan.size(); ++cutting_.next) {
        const std::span<const std::byte> segment = plan[cutting_.next].write(cutting_.memory());
        put_front(cutting_.front.data(), slot, offload_state());
        cutting_.pieces[0] = {cutting_.front.data(), prefix_};
        cutting_.pieces[1] = {const_cast<std::byte*>(segment.data()), segment.size()};
        const ssize_t written = core().driver().write_now(port().file(), cutting_.pieces);
        if (written == -EAGAIN) {
            wait_for_room(place, slot);
            return true;
        }
        if (written < 0) error = static_cast<int>(-written);
    }
    if (error == 0) ++statistics_.segmented;
    result = error != 0 ? -error : whole(slot);
    cutting_.next = 0;
    cutting_.error = 0;
    return false;
}

// The device's send buffer is full: the ring waits for it. Such a device has one request under way.
void device_outbox::wait_for_room(std::size_t place, const packet_slot& slot) {
    const bool first = unwritten() > 0 && &unwritten(0) == &slot;
    const ring::token request = first ? submit_first() : submit_again(place);
    if (request == 0) return; // retry()
    cutting_.waits = true;
    core().driver().write_gathered(request, port().file(), cutting_.pieces);
}

bool device_outbox::goes_on(std::size_t place, packet_slot& slot, std::int32_t& result) {
    const offload_state state = core().pool().offload_of(slot);
    if (!state.is_superpacket()) return false;
    if (std::exchange(cutting_.waits, false)) {
        cutting_.error = result < 0 ? -result : 0;
        ++cutting_.next;
    } else {
        if (result >= 0) ++statistics_.superpackets;
        if (result != -EINVAL || !is_sound(slot, state)) return false;
        if (goes_whole(state)) switch_off(state);
    }
    return cut(place, slot, result);
}

// Whether the kernel had no reason to refuse it.
bool device_outbox::is_sound(packet_slot& slot, const offload_state& state) const noexcept {
    const std::span<const std::byte> packet = bytes_of(slot);
    return shape_.virtio && static_cast<bool>(offload::segments(packet, state, network_offset(shape_, packet)));
}

// Several of them may be under way when the first is refused.
void device_outbox::switch_off(const offload_state& refused) {
    ++statistics_.offload_refused;
    if (refused.ecn && whole_.ecn) {
        whole_.ecn = false;
    } else {
        switch (refused.type) {
        case segment_type::none: break;
        case segment_type::tcp4: whole_.tcp4 = false; break;
        case segment_type::tcp6: whole_.tcp6 = false; break;
        case segment_type::udp4:
        case segment_type::udp6: whole_.udp = false; break;
        }
    }
    device_.on_offload_refused();
}

} // namespace cotun::detail
