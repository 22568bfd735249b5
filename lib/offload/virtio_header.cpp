// SPDX-License-Identifier: Apache-2.0
#include "cotun/offload/virtio_header.hpp"

#include <type_traits>

#include "cotun/wire/checksum.hpp"
#include "offload/superpacket.hpp"

namespace cotun::offload {

static_assert(std::is_trivially_copyable_v<offload_state> && std::is_trivially_destructible_v<offload_state>);

namespace {

std::uint16_t get(const std::byte* at, std::endian order) noexcept {
    const std::uint16_t big = get_word(at);
    return order == std::endian::big ? big : static_cast<std::uint16_t>(big << 8 | big >> 8);
}

void put(std::byte* at, std::uint16_t value, std::endian order) noexcept {
    put_word(at, order == std::endian::big ? value : static_cast<std::uint16_t>(value << 8 | value >> 8));
}

bool checksum_is_inside(std::span<const std::byte> packet, const offload_state& state) noexcept {
    return std::size_t{state.checksum_start} + state.checksum_offset + 2 <= packet.size();
}

refusal check_flags(const virtio_header& header) noexcept {
    if ((header.flags & virtio_header::receive_coalescing) != 0) return refusal::receive_coalescing;
    if ((header.flags & ~(virtio_header::needs_checksum | virtio_header::data_valid)) != 0)
        return refusal::unknown_flag;
    return refusal::none;
}

// The version of UDP segments is not in the header; it is taken from the packet.
refusal find_type(const virtio_header& header, std::span<const std::byte> packet, std::size_t network,
                  segment_type& type) noexcept {
    if ((header.type & (virtio_header::udp_tunnel4 | virtio_header::udp_tunnel6)) != 0) return refusal::udp_tunnel;
    const bool ecn = (header.type & virtio_header::ecn) != 0;
    switch (header.type & ~virtio_header::ecn) {
    case virtio_header::tcp4: type = segment_type::tcp4; return refusal::none;
    case virtio_header::tcp6: type = segment_type::tcp6; return refusal::none;
    case virtio_header::fragmentation: return refusal::fragmentation;
    case virtio_header::udp:
        if (packet.size() <= network) return refusal::truncated;
        type = get_byte(packet.data() + network) >> 4 == 6 ? segment_type::udp6 : segment_type::udp4;
        return ecn ? refusal::ecn_without_tcp : refusal::none;
    case virtio_header::none: return ecn ? refusal::ecn_without_tcp : refusal::none;
    default: return refusal::unknown_type;
    }
}

} // namespace

virtio_header read_virtio_header(std::span<const std::byte, virtio_header_size> from, std::endian order) noexcept {
    const std::byte* at = from.data();
    return {get_byte(at),       get_byte(at + 1),   get(at + 2, order),
            get(at + 4, order), get(at + 6, order), get(at + 8, order)};
}

void write_virtio_header(std::span<std::byte, virtio_header_size> to, const virtio_header& header,
                         std::endian order) noexcept {
    std::byte* at = to.data();
    put_byte(at, header.flags);
    put_byte(at + 1, header.type);
    put(at + 2, header.header_length, order);
    put(at + 4, header.segment_size, order);
    put(at + 6, header.checksum_start, order);
    put(at + 8, header.checksum_offset, order);
}

refusal check_superpacket(std::span<const std::byte> packet, std::size_t network, const offload_state& state,
                          headers& found) noexcept {
    if (state.segment_size == 0) return refusal::zero_segment_size;
    if (!state.needs_checksum) return refusal::checksum_not_partial;
    if (const refusal why = find_headers(packet, network, found); why != refusal::none) return why;
    if (found.v6 != is_v6(state.type)) return refusal::wrong_version;
    if (found.tcp != is_tcp(state.type)) return refusal::wrong_protocol;
    if (state.checksum_start != found.transport || state.checksum_offset != found.checksum() - found.transport)
        return refusal::checksum_place;
    const std::size_t payload = packet.size() - found.payload;
    if (state.segment_size > payload) return refusal::segment_beyond_data;
    if (found.tcp) {
        const std::uint8_t flags = get_byte(packet.data() + found.transport + tcp::flags);
        return (flags & (tcp::syn | tcp::rst)) != 0 ? refusal::tcp_flags : refusal::none;
    }
    if (state.ecn) return refusal::ecn_without_tcp;
    if (get_word(packet.data() + found.transport + udp::length) != packet.size() - found.transport)
        return refusal::udp_length;
    return payload > most_datagrams * state.segment_size ? refusal::too_many_segments : refusal::none;
}

checked_offload check_offload(const virtio_header& header, std::span<const std::byte> packet,
                              std::size_t network_offset) noexcept {
    checked_offload result;
    // What nearly all packets of a device without superpackets in flight have.
    if (header.flags == 0 && header.type == virtio_header::none) return result;
    offload_state& state = result.state;
    result.refusal = check_flags(header);
    if (!result) return result;
    segment_type type = segment_type::none;
    result.refusal = find_type(header, packet, network_offset, type);
    if (!result) return result;

    state.type = type;
    if ((header.flags & virtio_header::needs_checksum) == 0) {
        state.data_valid = (header.flags & virtio_header::data_valid) != 0;
    } else {
        state.needs_checksum = true;
        state.checksum_start = header.checksum_start;
        state.checksum_offset = header.checksum_offset;
        if (!checksum_is_inside(packet, state)) result.refusal = refusal::checksum_place;
    }
    if (result && type != segment_type::none) {
        state.segment_size = header.segment_size;
        state.ecn = (header.type & virtio_header::ecn) != 0;
        headers found;
        result.refusal = check_superpacket(packet, network_offset, state, found);
        state.header_length = found.payload;
    }
    if (!result) state = {};
    return result;
}

virtio_header to_virtio_header(const offload_state& state) noexcept {
    virtio_header header;
    if (state.needs_checksum) {
        header.flags = virtio_header::needs_checksum;
        header.checksum_start = state.checksum_start;
        header.checksum_offset = state.checksum_offset;
    } else if (state.data_valid) {
        header.flags = virtio_header::data_valid;
    }
    if (!state.is_superpacket()) return header;
    header.type = state.type == segment_type::tcp4   ? virtio_header::tcp4
                  : state.type == segment_type::tcp6 ? virtio_header::tcp6
                                                     : virtio_header::udp;
    if (state.ecn) header.type |= virtio_header::ecn;
    header.segment_size = state.segment_size;
    header.header_length = state.header_length;
    return header;
}

refusal complete_checksum(std::span<std::byte> packet, offload_state& state) noexcept {
    if (state.is_superpacket()) return refusal::is_superpacket;
    if (!state.needs_checksum) return refusal::none;
    if (!checksum_is_inside(packet, state)) return refusal::checksum_place;
    const std::uint16_t sum = wire::checksum(packet.subspan(state.checksum_start));
    put_word(packet.data() + state.checksum_start + state.checksum_offset, sum != 0 ? sum : std::uint16_t{0xffff});
    state = {};
    state.data_valid = true;
    return refusal::none;
}

} // namespace cotun::offload
