// SPDX-License-Identifier: Apache-2.0
#include "net/udp_inbox.hpp"

#include "io/packet_port.hpp"
#include "io/reactor_core.hpp"

#include <algorithm>
#include <cstring>

namespace cotun::detail {

using ring::kernel::recvmsg_out;

udp_inbox::udp_inbox(packet_port& port, reactor_core& core, size_class c, read_mode mode, wanted what)
    : inbox(port, core, c, mode, ring::feature::receive_multishot, usual_quota,
            what.merged ? packet_pool::most_views : 1),
      wanted_(what),
      payload_offset_(what.payload_offset()) {
    shape_.msg_namelen = name_size;
    shape_.msg_controllen = what.control_size();
}

void udp_inbox::arm(ring::token request, std::uint16_t group) {
    core().driver().receive_multishot(request, port().file(), shape_, group);
}

bool udp_inbox::place(packet_slot& slot, std::int32_t result) {
    const packet_pool& pool = core().pool();
    const std::span<const std::byte> space = pool.space(slot);
    const auto filled = static_cast<std::size_t>(result);
    recvmsg_out head{};
    if (filled < payload_offset_ || filled > space.size()) return false;
    std::memcpy(&head, space.data(), sizeof head);
    // Without its control message, several datagrams would be taken for one.
    if ((head.flags & MSG_TRUNC) != 0 || (wanted_.merged && (head.flags & MSG_CTRUNC) != 0)) {
        ++statistics_.truncated;
        return false;
    }
    slot.origin_size = static_cast<std::uint8_t>(std::min<std::size_t>(head.name_size, name_size));
    std::memcpy(slot.origin.data(), space.data() + name_offset, slot.origin_size);
    slot.ancillary = ancillary_state::none;
    const std::span<const std::byte> control =
        space.subspan(control_offset, std::min<std::size_t>(head.control_size, shape_.msg_controllen));
    if (wanted_.packet_info && read_control(control, pool.ancillary_of(slot)))
        slot.ancillary = ancillary_state::received;
    slot.offset = pool.headroom() + static_cast<std::uint32_t>(payload_offset_);
    slot.size = static_cast<std::uint32_t>(filled - payload_offset_);
    slot.forget_what_the_device_told();
    if (!wanted_.merged) return true;
    if (const std::uint32_t size = size_of_merged(control); size != 0 && size < slot.size) several(size);
    return true;
}

ssize_t udp_inbox::read_now(packet_slot& slot) {
    const std::span<std::byte> space = core().pool().space(slot);
    iovec payload{space.data() + payload_offset_, space.size() - payload_offset_};
    msghdr message = shape_;
    message.msg_name = space.data() + name_offset;
    message.msg_control = space.data() + control_offset;
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

} // namespace cotun::detail
