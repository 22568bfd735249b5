// SPDX-License-Identifier: Apache-2.0
//
// The rules that a superpacket's state and bytes must keep to, for those who read it and those who cut it.
#pragma once

#include "cotun/offload/virtio_header.hpp"
#include "offload/headers.hpp"

namespace cotun::offload {

constexpr bool is_tcp(segment_type type) noexcept { return type == segment_type::tcp4 || type == segment_type::tcp6; }
constexpr bool is_v6(segment_type type) noexcept { return type == segment_type::tcp6 || type == segment_type::udp6; }

// Finds the headers, and refuses what cannot be cut into segments as the state says. Its header_length is not looked
// at.
refusal check_superpacket(std::span<const std::byte> packet, std::size_t network, const offload_state& state,
                          headers& found) noexcept;

} // namespace cotun::offload
