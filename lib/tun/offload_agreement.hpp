// SPDX-License-Identifier: Apache-2.0
//
// What the kernel is told that this program takes (TUNSETOFFLOAD). It is the interface's, not a queue's, and outlives
// who set it: so it is set anew with each queue, and cleared where superpackets could not be told from packets.
#pragma once

#include <cotun/tun/offload_options.hpp>

namespace cotun::detail {

/// Offers `wanted`, and less where the kernel refuses, down to nothing. Returns what it agreed to. The descriptor must
/// have virtio-net headers.
superpacket_kinds agree_on_offloads(int descriptor, const superpacket_kinds& wanted) noexcept;

/// Of a descriptor without such headers.
void clear_offloads(int descriptor) noexcept;

} // namespace cotun::detail
