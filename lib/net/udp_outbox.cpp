// SPDX-License-Identifier: Apache-2.0
#include "net/udp_outbox.hpp"

#include "io/packet_port.hpp"
#include "io/reactor_core.hpp"
#include "net/udp_inbox.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <poll.h>

namespace cotun::detail {
namespace {

constexpr std::chrono::milliseconds pause_time{1};

// What the kernel may charge for a datagram (skb->truesize): headers and shared info, and up to twice the size. A
// datagram larger than the path's MTU is charged so for each fragment; 1 KiB is less than any MTU's payload.
std::size_t charge(std::size_t size) noexcept { return 2 * size + 1280 * (1 + size / 1024); }

} // namespace

udp_outbox::udp_outbox(packet_port& port, reactor_core& core, udp_inbox& reader)
    : outbox(port, core), reader_(reader), messages_(usual_window), poll_(*this), pause_(*this) {
    learn_limit();
    tries_ = true;
}

void udp_outbox::learn_limit() noexcept {
    socklen_t size = sizeof send_buffer_;
    getsockopt(port().descriptor(), SOL_SOCKET, SO_SNDBUF, &send_buffer_, &size);
}

void udp_outbox::transmit(ring::token request, std::size_t place, packet_slot& slot) {
    submitted_charge_ += charge(slot.size);
    if (is_bare(slot))
        core().driver().try_send(request, port().file(), {slot.base + slot.offset, slot.size});
    else
        core().driver().try_send_message(request, port().file(), header_for(place, slot));
}

// The estimate was wrong, or the kernel's bound has changed.
void udp_outbox::transmit_waiting(ring::token request, std::size_t place, packet_slot& slot) {
    if (is_bare(slot))
        core().driver().send(request, port().file(), {slot.base + slot.offset, slot.size});
    else
        core().driver().send_message(request, port().file(), header_for(place, slot));
}

// Neither an address nor anything else goes with it.
bool udp_outbox::is_bare(const packet_slot& slot) noexcept {
    return slot.origin_size == 0 && slot.ancillary != ancillary_state::to_send;
}

const msghdr& udp_outbox::header_for(std::size_t place, packet_slot& slot) {
    message& m = messages_[place];
    m.payload = {slot.base + slot.offset, slot.size};
    m.header = msghdr{};
    if (slot.origin_size != 0) {
        m.header.msg_name = slot.origin.data();
        m.header.msg_namelen = slot.origin_size;
    }
    m.header.msg_iov = &m.payload;
    m.header.msg_iovlen = 1;
    if (slot.ancillary == ancillary_state::to_send) {
        assert(place < controls_.size()); // allow_ancillary()
        send_control& control = controls_[place];
        control.write(core().pool().ancillary_of(slot));
        m.header.msg_control = control.data();
        m.header.msg_controllen = control.size();
    }
    return m.header;
}

// The interface that one datagram was to leave by is not there; of a device's write it would be the end.
int udp_outbox::meaning_of(int error) const noexcept { return error == ENODEV ? ENETUNREACH : error; }

// --- room in the send buffer ---------------------------------------------------------------------------------------

bool udp_outbox::admits(const packet_slot& slot) {
    if (poll_.request != 0 || pause_.armed()) return false;
    const std::size_t needed = charge(slot.size);
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

void udp_outbox::left(std::size_t size) noexcept { submitted_charge_ -= std::min(submitted_charge_, charge(size)); }

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
