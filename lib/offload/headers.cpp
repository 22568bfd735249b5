// SPDX-License-Identifier: Apache-2.0
#include "offload/headers.hpp"

namespace cotun::offload {

namespace {

struct network_end {
    std::size_t transport = 0;
    std::uint8_t protocol = 0;
};

refusal find_end_v4(std::span<const std::byte> packet, std::size_t network, network_end& end) noexcept {
    const std::byte* ip = packet.data() + network;
    const std::size_t size = packet.size() - network;
    if (size < ipv4::header_size) return refusal::truncated;
    const std::size_t header = std::size_t{4} * (get_byte(ip) & 0x0fU);
    if (header < ipv4::header_size) return refusal::ip_header_length;
    if (get_word(ip + ipv4::total_length) != size) return refusal::ip_length;
    if (size < header) return refusal::truncated;
    if ((get_word(ip + ipv4::fragment) & ipv4::fragmented) != 0) return refusal::fragment;
    end = {network + header, get_byte(ip + ipv4::protocol)};
    return refusal::none;
}

refusal skip_extension_headers(std::span<const std::byte> packet, network_end& end) noexcept {
    for (bool first = true;; first = false) {
        switch (end.protocol) {
        case ipv6::hop_by_hop:
            if (!first) return refusal::extension_header;
            break;
        case ipv6::routing:
        case ipv6::destination_options: break;
        case ipv6::fragment: return refusal::fragment;
        default: return refusal::none;
        }
        if (packet.size() - end.transport < 8) return refusal::truncated;
        const std::byte* extension = packet.data() + end.transport;
        const std::size_t size = std::size_t{8} * (get_byte(extension + 1) + 1U);
        if (packet.size() - end.transport < size) return refusal::truncated;
        end = {end.transport + size, get_byte(extension)};
        if (end.transport > longest_headers) return refusal::headers_too_long;
    }
}

refusal find_end_v6(std::span<const std::byte> packet, std::size_t network, network_end& end) noexcept {
    const std::byte* ip = packet.data() + network;
    const std::size_t size = packet.size() - network;
    if (size < ipv6::header_size) return refusal::truncated;
    if (get_word(ip + ipv6::payload_length) != size - ipv6::header_size) return refusal::ip_length;
    end = {network + ipv6::header_size, get_byte(ip + ipv6::next_header)};
    return skip_extension_headers(packet, end);
}

} // namespace

refusal find_headers(std::span<const std::byte> packet, std::size_t network, headers& found) noexcept {
    if (packet.size() <= network) return refusal::truncated;
    if (network > longest_headers) return refusal::headers_too_long;
    const std::uint8_t version = get_byte(packet.data() + network) >> 4;
    if (version != 4 && version != 6) return refusal::not_ip;
    found.v6 = version == 6;
    network_end end;
    const refusal why = found.v6 ? find_end_v6(packet, network, end) : find_end_v4(packet, network, end);
    if (why != refusal::none) return why;
    if (end.protocol != tcp::protocol && end.protocol != udp::protocol) return refusal::other_protocol;

    found.tcp = end.protocol == tcp::protocol;
    found.options = end.transport - network != (found.v6 ? ipv6::header_size : ipv4::header_size);
    const std::size_t left = packet.size() - end.transport;
    std::size_t header = found.tcp ? tcp::header_size : udp::header_size;
    if (left < header) return refusal::truncated;
    if (found.tcp) {
        header = std::size_t{4} * (get_byte(packet.data() + end.transport + tcp::offset) >> 4U);
        if (header < tcp::header_size) return refusal::tcp_header_length;
        if (left < header) return refusal::truncated;
    }
    if (end.transport + header > longest_headers) return refusal::headers_too_long;
    found.network = static_cast<std::uint16_t>(network);
    found.transport = static_cast<std::uint16_t>(end.transport);
    found.payload = static_cast<std::uint16_t>(end.transport + header);
    return refusal::none;
}

} // namespace cotun::offload
