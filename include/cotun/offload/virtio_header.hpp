// SPDX-License-Identifier: Apache-2.0
//
// The header that lies before each packet of a device with IFF_VNET_HDR, and what it says of the packet.
//
// The kernel hands over packets whose checksum is still to be completed, and superpackets: many TCP segments or UDP
// datagrams of one flow, as one packet of up to 64 KiB that would be cut only at the end of its way. It takes the same
// from a program. An `offload_state` is what is known of one packet; it is small enough to travel with it, so that a
// superpacket can be passed on whole.
//
// The layout is that of struct virtio_net_hdr, whose definition in linux/virtio_net.h is not C++ in newer kernels.
//
// Pure functions over bytes: any thread, no allocation, no exception. Nothing out of bounds is read, whatever the bytes
// are: they may come from an enemy.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include <cotun/offload/refusal.hpp>

namespace cotun::offload {

/// Bytes before each packet; devices have this size unless TUNSETVNETHDRSZ says otherwise. In a larger one the rest is
/// for others, and zero.
inline constexpr std::size_t virtio_header_size = 10;

/// The order of the bytes in its numbers: the machine's own, unless TUNSETVNETLE or TUNSETVNETBE says otherwise.
inline constexpr std::endian virtio_order = std::endian::native;

/// The fields as they are, not yet checked against anything.
struct virtio_header {
    static constexpr std::uint8_t needs_checksum = 1, data_valid = 2, receive_coalescing = 4; // flags
    static constexpr std::uint8_t none = 0, tcp4 = 1, fragmentation = 3, tcp6 = 4, udp = 5;   // type
    static constexpr std::uint8_t udp_tunnel4 = 0x20, udp_tunnel6 = 0x40, ecn = 0x80;         // bits of type

    std::uint8_t flags = 0;
    std::uint8_t type = 0;
    std::uint16_t header_length = 0;
    std::uint16_t segment_size = 0;
    std::uint16_t checksum_start = 0;
    std::uint16_t checksum_offset = 0;

    friend bool operator==(const virtio_header&, const virtio_header&) noexcept = default;
};

[[nodiscard]] virtio_header read_virtio_header(std::span<const std::byte, virtio_header_size> from,
                                               std::endian order = virtio_order) noexcept;
void write_virtio_header(std::span<std::byte, virtio_header_size> to, const virtio_header& header,
                         std::endian order = virtio_order) noexcept;

enum class segment_type : std::uint8_t { none, tcp4, tcp6, udp4, udp6 };

/// What is known of a packet besides its bytes. The default: nothing; a packet like those of a plain device.
struct offload_state {
    /// Bytes of payload in each segment, but for the last, which may have fewer. 0 if it is no superpacket.
    std::uint16_t segment_size = 0;
    /// From the packet's first byte to its payload. 0 if it is no superpacket.
    std::uint16_t header_length = 0;
    /// Where the checksum begins, and where it is to be put, from there. Only with needs_checksum.
    std::uint16_t checksum_start = 0;
    std::uint16_t checksum_offset = 0;
    segment_type type = segment_type::none;
    /// The checksum field holds the sum of the pseudo header alone; whoever puts the packet on a wire completes it.
    bool needs_checksum = false;
    /// Somebody has verified the checksum.
    bool data_valid = false;
    /// The first TCP segment has CWR set (RFC 3168), and the others shall not.
    bool ecn = false;

    [[nodiscard]] bool is_superpacket() const noexcept { return type != segment_type::none; }
    friend bool operator==(const offload_state&, const offload_state&) noexcept = default;
};
static_assert(sizeof(offload_state) == 12);

struct checked_offload {
    offload_state state;
    offload::refusal refusal = offload::refusal::none;

    explicit operator bool() const noexcept { return refusal == offload::refusal::none; }
};

/// Checks a header against the packet behind it. `packet` begins with the IP header, or has it at `network_offset` (14
/// behind an Ethernet header); its size is what was read. Of a superpacket all headers are checked, and header_length
/// is found anew: the kernel's own is wrong for forwarded packets. Of others only the place of the checksum is.
[[nodiscard]] checked_offload check_offload(const virtio_header& header, std::span<const std::byte> packet,
                                            std::size_t network_offset = 0) noexcept;

/// The header to write before a packet of this state.
[[nodiscard]] virtio_header to_virtio_header(const offload_state& state) noexcept;

/// Completes the checksum of a packet that is no superpacket, where the state asks for it, and notes so in the state.
/// A sum of 0 is written as 0xffff, which is the same for TCP and means "a checksum" for UDP. A superpacket is
/// refused, with is_superpacket: its segments have a checksum each.
[[nodiscard]] refusal complete_checksum(std::span<std::byte> packet, offload_state& state) noexcept;

} // namespace cotun::offload
