// SPDX-License-Identifier: Apache-2.0
//
// The part of udp_outbox that sends superpackets.
#include "net/udp_outbox.hpp"

#include "io/fail.hpp"
#include "io/packet_port.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace cotun::detail {

// Where one send takes all of it; else it is cut, when nothing is under way.
bool udp_outbox::submit_superpacket() {
    const std::size_t place = first_place();
    packet_slot& slot = unwritten(0);
    const offload::segmenter plan = plan_of(core().pool(), slot);
    const std::size_t segment_size = plan.header_size() + plan.payload_size();
    if (plan && plan.size() <= most_segments && plan.total_size() <= most_bytes && takes_segments(segment_size)) {
        if (!admits(charge_together(plan.total_size()))) return false;
        segment_pieces* const pieces = take_pieces();
        if (pieces != nullptr && pieces->make(plan, 0, plan.size())) {
            const ring::token request = submit_first();
            if (request == 0) return give_pieces(pieces), false;
            message& m = messages_[place];
            m.segments = pieces;
            note_charge(place, charge_together(plan.total_size()));
            address(m.header, slot, pieces->of(0, plan.size()));
            add_control(controls_[place], slot, segment_size);
            attach(m.header, controls_[place]);
            core().driver().try_send_message(request, port().file(), m.header);
            alone_ = segment_size > proven_segment_;
            return true;
        }
        if (pieces != nullptr) give_pieces(pieces); // no memory
    }
    if (in_flight_ != 0 || pause_.armed()) return false;
    std::int32_t result = 0;
    if (cut(place, slot, result)) return false;
    written_first(result);
    leave_behind();
    return true;
}

segment_pieces* udp_outbox::take_pieces() noexcept {
    if (free_pieces_ != nullptr) return std::exchange(free_pieces_, free_pieces_->next_free);
    try {
        return &pieces_.emplace_back();
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

void udp_outbox::give_pieces(segment_pieces* pieces) noexcept {
    pieces->next_free = std::exchange(free_pieces_, pieces);
}

// --- in several steps ----------------------------------------------------------------------------------------------

// Goes on where it stopped. True: some segments wait, for room or for a request, and the packet is not over. What one
// segment fails with is the packet's failure; those behind it go out all the same.
bool udp_outbox::cut(std::size_t place, packet_slot& slot, std::int32_t& result) {
    const offload::segmenter plan = plan_of(core().pool(), slot);
    if (!plan || core().forked()) { // then the socket is the parent's
        result = plan ? -ECANCELED : -EINVAL;
        return false;
    }
    const std::size_t size = plan.header_size() + plan.payload_size();
    cutting_.count = plan.size();
    cutting_.size = size;
    while (cutting_.next < cutting_.count) {
        const std::size_t each =
            takes_segments(size) ? std::clamp<std::size_t>(most_bytes / size, 1, most_segments) : 1;
        const int sent = send_segments(plan, slot, each);
        if (sent == -EAGAIN) return await_turn(place, slot), true;
        if (sent > 0) cutting_.next += static_cast<std::size_t>(sent);
        if (sent >= 0 || sent == -EINTR || (each > 1 && step_down(-sent, size))) continue;
        if (cutting_.failure == 0) cutting_.failure = -sent;
        cutting_.next = detail::is_final(-sent) ? cutting_.count : cutting_.next + each;
    }
    result = end_cutting(slot);
    return false;
}

// Several sends of `each` segments. How many segments have gone, or a negative errno; the first send is then ready to
// be made again.
int udp_outbox::send_segments(const offload::segmenter& plan, packet_slot& slot, std::size_t each) {
    const std::size_t count = std::min(cutting_.count - cutting_.next, std::max(each, most_segments / 2) * 2);
    if (!cutting_.segments.make(plan, cutting_.next, count)) return -ENOMEM;
    const std::size_t size = each > 1 ? plan.header_size() + plan.payload_size() : 0;
    if (each > 1 || slot.ancillary == ancillary_state::to_send) add_control(cutting_.control, slot, size);
    std::array<mmsghdr, most_segments> messages; // NOLINT: filled as far as they are used
    std::size_t sends = 0;
    for (std::size_t at = 0; at < count && sends < messages.size(); at += each) {
        msghdr& header = messages[sends++].msg_hdr;
        address(header, slot, cutting_.segments.of(at, std::min(each, count - at)));
        if (each > 1 || slot.ancillary == ancillary_state::to_send) attach(header, cutting_.control);
    }
    cutting_.header = messages[0].msg_hdr;
    cutting_.tried = std::min(each, count);
    const int sent = core().driver().send_now(port().file(), std::span(messages).first(sends));
    return sent <= 0 ? sent : static_cast<int>(std::min(static_cast<std::size_t>(sent) * each, count));
}

// The ring waits for room, and nothing else is under way meanwhile.
void udp_outbox::await_turn(std::size_t place, const packet_slot& slot) {
    const bool first = unwritten() > 0 && &unwritten(0) == &slot;
    const ring::token request = first ? submit_first() : submit_again(place);
    if (request == 0) return; // retry()
    cutting_.waiting = cutting_.tried;
    core().driver().send_message(request, port().file(), cutting_.header);
}

bool udp_outbox::goes_again(packet_slot& slot, std::int32_t& result) {
    if (!core().pool().is_superpacket(slot)) return false;
    if (cutting_.waiting != 0) return segments_ended(slot, result);
    const offload::segmenter plan = plan_of(core().pool(), slot);
    if (!plan) return false;
    const std::size_t segment_size = plan.header_size() + plan.payload_size();
    if (result < 0) return step_down(-result, segment_size);
    ++statistics_.superpackets;
    proven_segment_ = std::max(proven_segment_, segment_size);
    result = whole(slot);
    return false;
}

bool udp_outbox::segments_ended(const packet_slot& slot, std::int32_t& result) noexcept {
    const std::size_t count = std::exchange(cutting_.waiting, 0);
    if (result < 0 && count > 1 && step_down(-result, cutting_.size)) return true;
    if (result < 0 && cutting_.failure == 0) cutting_.failure = -result;
    cutting_.next += count;
    if (cutting_.next < cutting_.count && (result >= 0 || !detail::is_final(-result))) return true;
    result = end_cutting(slot);
    return false;
}

std::int32_t udp_outbox::end_cutting(const packet_slot& slot) noexcept {
    cutting_.next = 0;
    if (const int error = std::exchange(cutting_.failure, 0)) return -error;
    ++statistics_.segmented;
    return whole(slot);
}

} // namespace cotun::detail
