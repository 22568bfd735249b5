// SPDX-License-Identifier: Apache-2.0
#include "net/udp_outbox.hpp"

#include "io/packet_port.hpp"
#include "net/udp_inbox.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <numeric>
#include <poll.h>

namespace cotun::detail {
namespace {

constexpr std::chrono::milliseconds pause_time{1};

template <std::size_t count>
constexpr std::array<std::uint32_t, count> make_indices() {
    std::array<std::uint32_t, count> all{};
    std::iota(all.begin(), all.end(), 0U);
    return all;
}

} // namespace

udp_outbox::udp_outbox(packet_port& port, reactor_core& core, udp_inbox& reader)
    : outbox(port, core),
      reader_(reader),
      messages_(usual_window),
      payloads_(usual_window),
      poll_(*this),
      pause_(*this) {
    learn_limit();
    tries_ = true;
}

void udp_outbox::learn_limit() noexcept {
    socklen_t size = sizeof send_buffer_;
    getsockopt(port().descriptor(), SOL_SOCKET, SO_SNDBUF, &send_buffer_, &size);
}

// What the kernel may charge for a datagram (skb->truesize): headers and shared info, and up to twice the size. A
// datagram larger than the path's MTU is charged so for each fragment; 1 KiB is less than any MTU's payload.
std::size_t udp_outbox::charge(std::size_t size) noexcept { return 2 * size + 1280 * (1 + size / 1024); }

// --- what goes out -------------------------------------------------------------------------------------------------

// Once it is closed, nothing of it is prepared any more.
void udp_outbox::submit() {
    if (is_closed()) return outbox::submit();
    core().prepare_later(*this);
}

void udp_outbox::prepare() noexcept {
    outbox::submit();
    go_on();
}

void udp_outbox::closing() {
    if (!core().forked()) outbox::submit(); // else the parent does
    core().forget(*this);
}

bool udp_outbox::submit_next() {
    if (alone_ && in_flight_ != 0) return false; // its end brings us back
    alone_ = in_turn_ = false;
    packet_slot& first = unwritten(0);
    if (core().pool().is_superpacket(first)) return submit_superpacket();
    const std::size_t count = count_alike();
    return count > 1 ? submit_alike(count) : outbox::submit_next();
}

void udp_outbox::transmit(ring::token request, std::size_t place, packet_slot& slot) {
    note_charge(place, charge(slot.size));
    ++singles_;
    core().pool().complete_checksum(slot);
    if (is_bare(slot))
        core().driver().try_send(request, port().file(), {slot.base + slot.offset, slot.size});
    else
        core().driver().try_send_message(request, port().file(), header_for(place, slot));
}

// The estimate was wrong, or the kernel's bound has changed.
void udp_outbox::transmit_waiting(ring::token request, std::size_t place, packet_slot& slot) {
    note_charge(place, charge(slot.size));
    core().pool().complete_checksum(slot);
    if (is_bare(slot))
        core().driver().send(request, port().file(), {slot.base + slot.offset, slot.size});
    else
        core().driver().send_message(request, port().file(), header_for(place, slot));
}

// Neither an address nor anything else goes with it.
bool udp_outbox::is_bare(const packet_slot& slot) noexcept {
    return slot.origin_size == 0 && slot.ancillary != ancillary_state::to_send;
}

const msghdr& udp_outbox::header_for(std::size_t place, packet_slot& slot) noexcept {
    payloads_[place] = {slot.base + slot.offset, slot.size};
    msghdr& header = messages_[place].header;
    address(header, slot, {&payloads_[place], 1});
    if (slot.ancillary == ancillary_state::to_send) {
        add_control(controls_[place], slot, 0);
        attach(header, controls_[place]);
    }
    return header;
}

void udp_outbox::address(msghdr& header, packet_slot& slot, std::span<iovec> pieces) noexcept {
    header = msghdr{};
    if (slot.origin_size != 0) {
        header.msg_name = slot.origin.data();
        header.msg_namelen = slot.origin_size;
    }
    header.msg_iov = pieces.data();
    header.msg_iovlen = pieces.size();
}

void udp_outbox::add_control(send_control& control, const packet_slot& slot, std::size_t segment_size) noexcept {
    control.clear();
    if (slot.ancillary == ancillary_state::to_send) control.write(core().pool().ancillary_of(slot));
    if (segment_size != 0) control.add_segment_size(static_cast<std::uint16_t>(segment_size));
}

void udp_outbox::attach(msghdr& header, send_control& control) noexcept {
    header.msg_control = control.data();
    header.msg_controllen = control.size();
}

// The interface that one datagram was to leave by is not there; of a device's write it would be the end.
int udp_outbox::meaning_of(int error) const noexcept { return error == ENODEV ? ENETUNREACH : error; }

void udp_outbox::note_charge(std::size_t place, std::size_t bytes) noexcept {
    messages_[place].charge = bytes;
    submitted_charge_ += bytes;
}

void udp_outbox::left(std::size_t place) noexcept {
    message& m = messages_[place];
    submitted_charge_ -= std::exchange(m.charge, 0);
    if (m.segments != nullptr) give_pieces(std::exchange(m.segments, nullptr));
}

// --- several at once -----------------------------------------------------------------------------------------------

// How many of the next have one size and one way; the last may be shorter.
std::size_t udp_outbox::count_alike() {
    packet_slot& first = unwritten(0);
    const std::size_t most = std::min({unwritten(), most_segments, usual_window - first_place()});
    if (most < 2 || first.size == 0 || !takes_segments(first.size)) return 1;
    std::size_t bytes = first.size;
    for (std::size_t count = 1; count < most; ++count) {
        const packet_slot& next = unwritten(count);
        bytes += next.size;
        if (next.size == 0 || next.size > first.size || bytes > most_bytes || !goes_with(first, next)) return count;
        if (next.size < first.size) return count + 1;
    }
    return most;
}

bool udp_outbox::goes_with(const packet_slot& first, const packet_slot& next) noexcept {
    const packet_pool& pool = core().pool();
    if (pool.is_superpacket(next)) return false;
    if (next.origin_size != first.origin_size ||
        !std::equal(first.origin.begin(), first.origin.begin() + first.origin_size, next.origin.begin()))
        return false;
    const bool told = first.ancillary == ancillary_state::to_send;
    if (told != (next.ancillary == ancillary_state::to_send)) return false;
    return !told || pool.ancillary_of(first) == pool.ancillary_of(next);
}

bool udp_outbox::submit_alike(std::size_t count) {
    static constexpr auto indices = make_indices<most_segments>();
    const std::size_t place = first_place();
    packet_slot& first = unwritten(0);
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < count; ++i) {
        packet_slot& slot = unwritten(i);
        core().pool().complete_checksum(slot);
        payloads_[place + i] = {slot.base + slot.offset, slot.size};
        bytes += slot.size;
    }
    message& m = messages_[place];
    if (!admits(charge_together(bytes))) return false;
    if (core().requests_left() == 0) return core().await_room(*this), false;
    note_charge(place, charge_together(bytes));
    address(m.header, first, {&payloads_[place], count});
    add_control(controls_[place], first, first.size);
    attach(m.header, controls_[place]);
    submit_batch(count);
    const ring::token request = submit_several(count, std::span(indices).first(count));
    core().driver().try_send_message(request, port().file(), m.header);
    alone_ = first.size > proven_segment_;
    return true;
}

void udp_outbox::went_together(std::size_t first) noexcept {
    ++statistics_.superpackets;
    proven_segment_ = std::max<std::size_t>(proven_segment_, in_window(first).size);
}

// An error that waited on the socket is that of the whole send, of which nothing went out.
std::size_t udp_outbox::fail_together(std::size_t first, std::size_t count, int error) {
    if (!step_down(error, in_window(first).size)) return count;
    in_turn_ = true;
    return 0;
}

// Those that were refused for want of room wait for it with the kernel. Others may be too large for what room there is
// (see admits()), and wait here.
bool udp_outbox::go_again(std::size_t place, packet_slot& slot, std::int32_t& result) {
    if (core().pool().is_superpacket(slot)) return cut(place, slot, result);
    if (in_turn_ && !admits(slot)) return true;
    return outbox::go_again(place, slot, result);
}

bool udp_outbox::takes_segments(std::size_t size) noexcept {
    if (controls_.empty()) {
        try {
            allow_ancillary();
        } catch (const std::bad_alloc&) {
            return false;
        }
    }
    if (size > largest_segment_ && singles_ >= singles_until_trial) largest_segment_ = no_limit;
    return size <= largest_segment_;
}

// Whether the kernel may take the datagrams of a send that it has refused, one by one.
bool udp_outbox::step_down(int error, std::size_t segment_size) noexcept {
    switch (error) {
    case EIO: // no checksums by the link, or IPsec
    case EOPNOTSUPP: largest_segment_ = 0; break;
    case EINVAL: // a segment is larger than the MTU
    case EMSGSIZE: largest_segment_ = std::min(largest_segment_, segment_size - 1); break;
    default: return false;
    }
    proven_segment_ = std::min(proven_segment_, largest_segment_);
    singles_ = 0;
    ++statistics_.offload_refused;
    return true;
}

// --- room in the send buffer ---------------------------------------------------------------------------------------

bool udp_outbox::admits(std::size_t needed) {
    if (poll_.request != 0 || pause_.armed()) return false;
    if (!has_room_for(needed)) ask();
    if (has_room_for(needed)) {
        in_use_ += needed;
        return true;
    }
    if (in_flight_ == 0) await_send_buffer(); // else a completion brings us back
    return false;
}

bool udp_outbox::has_room_for(std::size_t needed) const noexcept {
    return in_use_ == 0 || (in_use_ < limit() && in_use_ + needed <= 2 * limit());
}

// The program may have set another bound (udp_socket::native_handle()).
void udp_outbox::misjudged() noexcept {
    learn_limit();
    in_use_ = limit(); // ask
}

void udp_outbox::ask() {
    const ssize_t unsent = core().driver().unsent_bytes(port().file());
    in_use_ = (unsent < 0 ? 0 : static_cast<std::size_t>(unsent)) + submitted_charge_;
}

// POLLOUT comes when less than half of the buffer is in use; nothing tells of less.
void udp_outbox::await_send_buffer() {
    if (in_use_ < limit() / 2) return pause();
    poll_.request = core().begin(poll_, 0, true);
    ++in_flight_;
    core().driver().poll(poll_.request, port().file(), POLLOUT, false);
}

void udp_outbox::pause() { core().arm_reserved(pause_, core().driver().now() + pause_time); }

// An error that waits on the socket ends every poll at once, and the reader that would take it may have ended or have
// no buffer.
void udp_outbox::polled(std::int32_t events) {
    poll_.request = 0;
    --in_flight_;
    if (events > 0 && (events & POLLERR) != 0 && core().driver().take_error(port().file()) != 0)
        reader_.count_refusal();
    if (events > 0 && (events & POLLOUT) != 0)
        room_again();
    else if (failure() == 0)
        pause();
    port().progress();
}

void udp_outbox::room_again() {
    in_use_ = limit(); // ask
    retry();
}

void udp_outbox::cancel_own() noexcept {
    core().disarm(pause_);
    if (poll_.request != 0) core().driver().cancel(poll_.request);
}

} // namespace cotun::detail
