// SPDX-License-Identifier: Apache-2.0
#include "cotun/offload/refusal.hpp"

namespace cotun::offload {

std::string_view text(refusal why) noexcept {
    switch (why) {
    case refusal::none: return "nothing is wrong";
    case refusal::unknown_flag: return "an unknown flag in the virtio-net header";
    case refusal::receive_coalescing: return "receive coalescing (RSC_INFO), which was not asked for";
    case refusal::fragmentation: return "UDP fragmentation offload (the legacy UFO)";
    case refusal::udp_tunnel: return "segments inside of a UDP tunnel, which were not asked for";
    case refusal::unknown_type: return "an unknown type of segments";
    case refusal::ecn_without_tcp: return "the ECN bit without TCP segments";
    case refusal::zero_segment_size: return "segments of no bytes";
    case refusal::checksum_not_partial: return "segments without a checksum to complete";
    case refusal::checksum_place: return "a checksum outside of the packet, or of its transport header";
    case refusal::truncated: return "a packet that ends before its headers do";
    case refusal::not_ip: return "neither IPv4 nor IPv6";
    case refusal::wrong_version: return "an IP version other than that of the type of segments";
    case refusal::ip_header_length: return "an IPv4 header length below 20 bytes";
    case refusal::ip_length: return "a length in the IP header that is not the packet's";
    case refusal::fragment: return "a fragment";
    case refusal::extension_header: return "a hop-by-hop header that is not the first extension header";
    case refusal::headers_too_long: return "headers of more than 512 bytes";
    case refusal::other_protocol: return "neither TCP nor UDP";
    case refusal::wrong_protocol: return "a protocol other than that of the type of segments";
    case refusal::tcp_header_length: return "a TCP header length below 20 bytes";
    case refusal::tcp_flags: return "SYN or RST on a superpacket";
    case refusal::udp_length: return "a length in the UDP header that is not the datagram's";
    case refusal::segment_beyond_data: return "segments larger than the payload";
    case refusal::too_many_segments: return "more than 128 datagrams in one packet";
    case refusal::is_superpacket: return "a superpacket, whose segments have a checksum each";
    }
    return "an unknown reason";
}

} // namespace cotun::offload
