// SPDX-License-Identifier: Apache-2.0
#include "tun/offload_agreement.hpp"

#include <cotun/offload/virtio_header.hpp>

#include <linux/if_tun.h>
#include <sys/ioctl.h>

#ifndef TUN_F_USO4 // Linux 6.2
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

namespace cotun::detail {
namespace {

// ECN without TCP, and one USO without the other, are refused whatever the kernel.
unsigned mask_of(const superpacket_kinds& kinds) noexcept {
    unsigned mask = TUN_F_CSUM;
    if (kinds.tcp4) mask |= TUN_F_TSO4;
    if (kinds.tcp6) mask |= TUN_F_TSO6;
    if (kinds.ecn && (kinds.tcp4 || kinds.tcp6)) mask |= TUN_F_TSO_ECN;
    if (kinds.udp) mask |= TUN_F_USO4 | TUN_F_USO6;
    return mask;
}

bool offer(int descriptor, unsigned mask) noexcept {
    return ioctl(descriptor, TUNSETOFFLOAD, static_cast<unsigned long>(mask)) == 0;
}

} // namespace

superpacket_kinds agree_on_offloads(int descriptor, const superpacket_kinds& wanted) noexcept {
    int size = offload::virtio_header_size; // one that another program has set stays with the interface
    ioctl(descriptor, TUNSETVNETHDRSZ, &size);
    superpacket_kinds offered = wanted;
    offered.ecn = wanted.ecn && (wanted.tcp4 || wanted.tcp6);
    if (offer(descriptor, mask_of(offered))) return offered;
    offered.udp = false;
    if (offer(descriptor, mask_of(offered))) return offered;
    offered.ecn = false;
    if (offer(descriptor, mask_of(offered))) return offered;
    offered = superpacket_kinds::none();
    if (!offer(descriptor, TUN_F_CSUM)) offer(descriptor, 0);
    return offered;
}

void clear_offloads(int descriptor) noexcept { offer(descriptor, 0); }

} // namespace cotun::detail
