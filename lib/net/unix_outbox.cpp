// SPDX-License-Identifier: Apache-2.0
#include "net/unix_outbox.hpp"

#include "io/fail.hpp"
#include "io/packet_port.hpp"
#include <cotun/net/unix_message.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <poll.h>
#include <utility>

namespace cotun::detail {
namespace {

constexpr std::chrono::milliseconds pause_time{1};
constexpr std::uint8_t pointer_size = sizeof(unix_attachment*);
static_assert(pointer_size <= sizeof(packet_slot::origin));

void check(const packet& p, const std::vector<unique_fd>& descriptors) {
    if (!p && !descriptors.empty())
        fail(EINVAL,
             "Unix socket: sending descriptors with an empty packet (moved from?): they need a message to go with, "
             "which may have no bytes: co_await io.allocate(0)");
    check_passed(descriptors, "Unix socket");
}

bool has_peer(int descriptor) noexcept {
    sockaddr_un peer{};
    socklen_t size = sizeof peer;
    return getpeername(descriptor, reinterpret_cast<sockaddr*>(&peer), &size) == 0;
}

} // namespace

unix_outbox::unix_outbox(packet_port& port, reactor_core& core, bool connected)
    : outbox(port, core), connected_(connected), poll_(*this), pause_(*this) {}

// --- what goes with a message --------------------------------------------------------------------------------------

unix_attachment* unix_outbox::attach(const packet& p, std::string_view to, std::vector<unique_fd> descriptors) {
    unix_address address;
    if (!to.empty()) address = unix_address_of(to);
    check(p, descriptors);
    if (!p || (to.empty() && descriptors.empty())) return nullptr;
    if (free_ == nullptr) free_ = &attachments_.emplace_back();
    unix_attachment& a = *free_;
    a.to = address;
    a.descriptors = descriptors_to_send(std::move(descriptors));
    free_ = std::exchange(a.next_free, nullptr);
    return &a;
}

void unix_outbox::address_to_peer(const packet& p) noexcept {
    if (p) packet_pool::look(p)->origin_size = 0;
}

void unix_outbox::address(const packet& p, unix_attachment* attached) noexcept {
    if (attached == nullptr) return address_to_peer(p);
    packet_slot& slot = *packet_pool::look(p);
    slot.origin_size = pointer_size;
    std::memcpy(slot.origin.data(), &attached, sizeof attached);
}

unix_attachment* unix_outbox::attachment_of(const packet_slot& slot) noexcept {
    unix_attachment* attached = nullptr;
    if (slot.origin_size != 0) std::memcpy(&attached, slot.origin.data(), sizeof attached);
    return attached;
}

void unix_outbox::detach(packet_slot& slot) noexcept {
    unix_attachment* attached = attachment_of(slot);
    if (attached == nullptr) return;
    slot.origin_size = 0;
    attached->descriptors.clear();
    attached->next_free = std::exchange(free_, attached);
}

void unix_outbox::withdraw(const packet& p) noexcept {
    if (p) detach(*packet_pool::look(p));
}

// --- sending -------------------------------------------------------------------------------------------------------

// Once it is closed, nothing of it is prepared any more: at its last step nothing may be left that a pass would do.
void unix_outbox::submit() {
    if (awaits_room()) return;
    if (!is_closed())
        core().prepare_later(*this);
    else
        write_out();
}

void unix_outbox::closing() {
    if (!core().forked()) write_out(); // else the parent does
    core().forget(*this);
}

void unix_outbox::write_out() {
    while (unwritten() > 0 && failure() == 0 && !awaits_room()) {
        const int result = write_some();
        if (result == -EAGAIN) {
            await_room();
        } else if (result != -EINTR && result < 0) {
            detach(unwritten(0));
            written_first(result);
        }
        advance();
    }
    if (shutting_ == shutting::asked && unwritten() == 0 && !has_waiters() && failure() == 0) {
        shutting_ = shutting::done;
        core().driver().shutdown_send(port().file());
    }
}

int unix_outbox::write_some() {
    if (core().pool().is_superpacket(unwritten(0))) return write_segments();
    std::array<mmsghdr, at_once> messages; // NOLINT: filled as far as they are used
    std::array<iovec, at_once> payloads;   // NOLINT
    std::size_t count = 0;
    for (; count < std::min(unwritten(), at_once); ++count) {
        packet_slot& slot = unwritten(count);
        if (core().pool().is_superpacket(slot)) break;
        core().pool().complete_checksum(slot);
        payloads[count] = {slot.base + slot.offset, slot.size};
        messages[count].msg_hdr = header_of(slot, {&payloads[count], 1}, true);
    }
    const int sent = core().driver().send_now(port().file(), {messages.data(), count});
    for (int i = 0; i < sent; ++i) {
        detach(unwritten(0));
        written_first(static_cast<std::int32_t>(messages[static_cast<std::size_t>(i)].msg_len));
    }
    return sent;
}

// Each segment of a superpacket is a message; what goes with it goes with the first.
int unix_outbox::write_segments() {
    packet_slot& slot = unwritten(0);
    const offload::segmenter plan = plan_of(core().pool(), slot);
    const std::size_t first = next_segment_;
    const std::size_t count = std::min(plan.size() - first, at_once);
    int sent = plan ? -ENOMEM : -EINVAL;
    if (plan && segments_.make(plan, first, count)) {
        std::array<mmsghdr, at_once> messages; // NOLINT: filled as far as they are used
        for (std::size_t i = 0; i < count; ++i)
            messages[i].msg_hdr = header_of(slot, segments_.of(i, 1), first + i == 0);
        sent = core().driver().send_now(port().file(), {messages.data(), count});
    }
    if (sent == -EAGAIN || sent == -EINTR) return sent;
    next_segment_ = sent < 0 ? 0 : first + static_cast<std::size_t>(sent);
    if (sent < 0 || next_segment_ < plan.size()) return sent;
    next_segment_ = 0;
    ++statistics_.segmented;
    detach(slot);
    written_first(whole(slot));
    return sent;
}

msghdr unix_outbox::header_of(const packet_slot& slot, std::span<iovec> pieces, bool brings_descriptors) noexcept {
    msghdr header{};
    header.msg_iov = pieces.data();
    header.msg_iovlen = pieces.size();
    unix_attachment* attached = attachment_of(slot);
    if (attached == nullptr) return header;
    if (attached->to.size != 0) {
        header.msg_name = &attached->to.bytes;
        header.msg_namelen = attached->to.size;
    }
    if (brings_descriptors && !attached->descriptors.empty()) {
        header.msg_control = attached->descriptors.control();
        header.msg_controllen = attached->descriptors.control_size();
    }
    return header;
}

// That one receiver has ended its side is not the end of a socket that sends to any. Nor is a descriptor that somebody
// has closed though it was the message's.
int unix_outbox::meaning_of(int error) const noexcept {
    if (error == EPIPE && !connected_) return ECONNREFUSED;
    return error == EBADF ? EINVAL : error;
}

// --- room ----------------------------------------------------------------------------------------------------------

// Room is short in the send buffer, or in the queue of the receiver. POLLOUT tells of the first, and waits for the
// connected peer's queue too, which is of no interest where another is the receiver. For another receiver's queue there
// is a socket that is connected to it, just to be polled; a new one each time, since another program may have the name
// by now.
void unix_outbox::await_room() {
    unix_attachment* attached = attachment_of(unwritten(0));
    if (attached == nullptr || attached->to.size == 0) return poll(port().descriptor());
    if (send_buffer_is_full()) return has_peer(port().descriptor()) ? pause() : poll(port().descriptor());
    probe_ = unique_fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (probe_ && ::connect(probe_.get(), attached->to.get(), attached->to.size) == 0) return poll(probe_.get());
    probe_.reset();
    pause();
}

bool unix_outbox::send_buffer_is_full() {
    int most = 0;
    socklen_t size = sizeof most;
    getsockopt(port().descriptor(), SOL_SOCKET, SO_SNDBUF, &most, &size);
    return core().driver().unsent_bytes(port().file()) >= most;
}

void unix_outbox::pause() { core().arm_reserved(pause_, core().driver().now() + pause_time); }

void unix_outbox::poll(int descriptor) {
    poll_.request = core().begin(poll_, 0, true);
    if (poll_.request == 0) return pause();
    ++in_flight_;
    core().driver().poll(poll_.request, {descriptor, -1}, POLLOUT, false);
}

void unix_outbox::polled() {
    poll_.request = 0;
    probe_.reset();
    --in_flight_;
    retry();
    port().progress();
}

void unix_outbox::cancel_own() noexcept {
    core().disarm(pause_);
    if (poll_.request != 0) core().driver().cancel(poll_.request);
}

// --- the end -------------------------------------------------------------------------------------------------------

void unix_outbox::shut_down() {
    if (shutting_ != shutting::no || is_closed()) return;
    shutting_ = shutting::asked;
    refuse(EPIPE);
    core().prepare_later(*this);
}

} // namespace cotun::detail
