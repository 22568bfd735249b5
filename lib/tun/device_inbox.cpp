// SPDX-License-Identifier: Apache-2.0
#include "tun/device_inbox.hpp"

#include <cstring>
#include <netinet/in.h>

namespace cotun::detail {
namespace {

void skip(packet_slot& slot, std::size_t bytes) noexcept {
    slot.offset += static_cast<std::uint32_t>(bytes);
    slot.size -= static_cast<std::uint32_t>(bytes);
}

} // namespace

bool device_inbox::take_information(packet_slot& slot) noexcept {
    tun_pi information;
    if (slot.size < sizeof information) return false;
    std::memcpy(&information, slot.base + slot.offset, sizeof information);
    if ((information.flags & TUN_PKT_STRIP) != 0) {
        ++statistics_.truncated;
        return false;
    }
    skip(slot, sizeof information);
    slot.protocol = ntohs(information.proto);
    return true;
}

// A header that does not fit its packet would have to be explained to whoever gets it next; so the packet ends here.
bool device_inbox::take_virtio_header(packet_slot& slot) noexcept {
    constexpr std::size_t size = offload::virtio_header_size;
    if (slot.size < size) return false;
    const std::span<const std::byte, size> front(slot.base + slot.offset, size);
    const offload::virtio_header header = offload::read_virtio_header(front);
    skip(slot, size);
    if (header.flags == 0 && header.type == offload::virtio_header::none) return true;
    const std::span<const std::byte> packet(slot.base + slot.offset, slot.size);
    const offload::checked_offload checked = offload::check_offload(header, packet, network_offset(shape_, packet));
    if (!checked) {
        ++statistics_.malformed;
        return false;
    }
    if (checked.state.is_superpacket()) ++statistics_.superpackets;
    core().pool().set_offload(slot, checked.state);
    return true;
}

} // namespace cotun::detail
