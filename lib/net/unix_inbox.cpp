// SPDX-License-Identifier: Apache-2.0
#include "net/unix_inbox.hpp"

#include "io/packet_port.hpp"
#include "io/passed_descriptors.hpp"
#include "io/reactor_core.hpp"
#include "net/unix_address.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <new>
#include <sys/time.h>

namespace cotun::detail {
namespace {

using ring::kernel::recvmsg_out;

constexpr std::size_t name_room = 112; // struct sockaddr_un, and whole words
static_assert(name_room > sizeof(sockaddr_un));

// Not CMSG_SPACE: in its padding the kernel would put one more.
std::size_t control_room(const unix_kind& kind) noexcept {
    std::size_t size = kind.connected ? CMSG_SPACE(sizeof(timeval)) : 0;
    if (kind.descriptors > 0) size += CMSG_LEN(kind.descriptors * sizeof(int));
    return size;
}

std::size_t name_size(const unix_kind& kind) noexcept { return kind.connected ? 0 : name_room; }

} // namespace

std::size_t unix_inbox::payload_offset(const unix_kind& kind) noexcept {
    return sizeof(recvmsg_out) + name_size(kind) + control_room(kind);
}

unix_inbox::unix_inbox(packet_port& port, reactor_core& core, size_class c, read_mode mode, const unix_kind& kind)
    : inbox(port, core, c, mode, ring::feature::receive_multishot),
      kind_(kind),
      payload_offset_(payload_offset(kind)),
      control_offset_(sizeof(recvmsg_out) + name_size(kind)) {
    shape_.msg_namelen = static_cast<socklen_t>(name_size(kind));
    shape_.msg_controllen = control_room(kind);
    shape_.msg_flags = MSG_CMSG_CLOEXEC;
}

void unix_inbox::arm(ring::token request, std::uint16_t group) {
    core().driver().receive_multishot(request, port().file(), shape_, group);
}

recvmsg_out unix_inbox::head_of(const packet_slot& slot) const noexcept {
    recvmsg_out head{};
    std::memcpy(&head, slot.pool->space(slot).data(), sizeof head);
    return head;
}

std::span<const std::byte> unix_inbox::control_of(const packet_slot& slot) const noexcept {
    const std::size_t size = std::min<std::size_t>(head_of(slot).control_size, shape_.msg_controllen);
    return std::span<const std::byte>(slot.pool->space(slot)).subspan(control_offset_, size);
}

bool unix_inbox::place(packet_slot& slot, std::int32_t result) {
    const auto filled = static_cast<std::size_t>(result);
    if (filled < payload_offset_ || filled > core().pool().space(slot).size()) return false;
    const recvmsg_out head = head_of(slot);
    if (kind_.connected && filled == payload_offset_ && head.control_size == 0) { // not even the time: no record
        end_of_input(reset_ ? ECONNRESET : ENODATA);
        return false;
    }
    const auto cut_off = static_cast<std::uint32_t>(kind_.descriptors > 0 ? MSG_TRUNC | MSG_CTRUNC : MSG_TRUNC);
    if ((head.flags & cut_off) != 0) {
        ++statistics_.truncated;
        close_descriptors(control_of(slot));
        return false;
    }
    if (kind_.descriptors > 0) {
        try {
            std::vector<unique_fd> descriptors = descriptors_in(control_of(slot));
            if (!descriptors.empty()) brought_.push_back({&slot, std::move(descriptors)});
        } catch (const std::bad_alloc&) {
            ++statistics_.truncated;
            return false;
        }
    }
    slot.origin_size = 0;
    slot.ancillary = ancillary_state::none;
    slot.offset = core().pool().headroom() + static_cast<std::uint32_t>(payload_offset_);
    slot.size = static_cast<std::uint32_t>(filled - payload_offset_);
    slot.forget_what_the_device_told();
    return true;
}

void unix_inbox::discard(packet_slot& slot, std::int32_t result) noexcept {
    if (kind_.descriptors > 0 && static_cast<std::size_t>(result) >= payload_offset_)
        close_descriptors(control_of(slot));
}

void unix_inbox::dropped(packet_slot& slot) noexcept {
    const auto its = std::find_if(brought_.begin(), brought_.end(), [&](const brought& b) { return b.slot == &slot; });
    if (its != brought_.end()) brought_.erase(its);
}

// It comes before what can still be read.
void unix_inbox::failed(int error) noexcept {
    if (kind_.connected && error == ECONNRESET) reset_ = true;
}

ssize_t unix_inbox::read_now(packet_slot& slot) {
    const std::span<std::byte> space = core().pool().space(slot);
    iovec payload{space.data() + payload_offset_, space.size() - payload_offset_};
    msghdr message = shape_;
    if (!kind_.connected) message.msg_name = space.data() + sizeof(recvmsg_out);
    message.msg_control = space.data() + control_offset_;
    message.msg_iov = &payload;
    message.msg_iovlen = 1;
    const ssize_t result = core().driver().receive_now(port().file(), message);
    if (result < 0) return result;
    recvmsg_out head{};
    head.name_size = message.msg_namelen;
    head.control_size = static_cast<std::uint32_t>(message.msg_controllen);
    head.payload_size = static_cast<std::uint32_t>(result);
    head.flags = static_cast<std::uint32_t>(message.msg_flags);
    std::memcpy(space.data(), &head, sizeof head);
    return result + static_cast<ssize_t>(payload_offset_);
}

// --- what a packet brought -----------------------------------------------------------------------------------------

std::string unix_inbox::sender_of(const packet& taken) const {
    if (kind_.connected) return {};
    const packet_slot& slot = *packet_pool::look(taken);
    const std::size_t size = std::min<std::size_t>(head_of(slot).name_size, name_room);
    return unix_name_of(std::span<const std::byte>(slot.pool->space(slot)).subspan(sizeof(recvmsg_out), size));
}

// Packets are taken in order.
std::vector<unique_fd> unix_inbox::take_descriptors(const packet& taken) noexcept {
    if (brought_.empty() || brought_.front().slot != packet_pool::look(taken)) return {};
    std::vector<unique_fd> its = std::move(brought_.front().descriptors);
    brought_.pop_front();
    return its;
}

} // namespace cotun::detail
