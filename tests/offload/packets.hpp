// SPDX-License-Identifier: Apache-2.0
//
// TCP and UDP packets made field by field, as plainly as possible: what the library makes of superpackets is compared
// with these. Shares no code with it but the states.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iomanip>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "../support/seed.hpp"
#include "cotun/offload/virtio_header.hpp"

namespace cotun::test {

using bytes = std::vector<std::byte>;

inline constexpr std::uint8_t fin = 1, syn = 2, rst = 4, psh = 8, ack = 16, urg = 32, ece = 64, cwr = 128;

inline void add8(bytes& to, std::size_t value) { to.push_back(static_cast<std::byte>(value & 0xff)); }
inline void add16(bytes& to, std::size_t value) { add8(to, value >> 8), add8(to, value); }
inline void add32(bytes& to, std::size_t value) { add16(to, value >> 16), add16(to, value); }
inline void add_all(bytes& to, const bytes& from) { to.insert(to.end(), from.begin(), from.end()); }

inline std::uint64_t plain_sum(std::span<const std::byte> of, std::uint64_t sum = 0) {
    for (std::size_t i = 0; i < of.size(); ++i) sum += std::to_integer<std::uint64_t>(of[i]) << (i % 2 == 0 ? 8 : 0);
    return sum;
}
inline std::uint16_t plain_fold(std::uint64_t sum) {
    while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(sum);
}
inline void set16(bytes& in, std::size_t at, std::size_t value) {
    in[at] = static_cast<std::byte>(value >> 8 & 0xff);
    in[at + 1] = static_cast<std::byte>(value & 0xff);
}
inline std::uint16_t get16(std::span<const std::byte> in, std::size_t at) {
    return static_cast<std::uint16_t>(std::to_integer<unsigned>(in[at]) << 8 | std::to_integer<unsigned>(in[at + 1]));
}

struct fields {
    bool v6 = false;
    bool tcp = true;
    std::uint8_t source = 1, destination = 2; // last bytes of the addresses
    std::uint8_t tos = 0, ttl = 64;
    std::uint16_t id = 0x1234, fragment = 0x4000; // don't fragment
    std::uint32_t flow_label = 0;
    bytes ip_options{}; // of IPv4: a multiple of 4; of IPv6: extension headers, the first of which is `extension`
    std::uint8_t extension = 60;
    std::uint16_t source_port = 1000, destination_port = 2000;
    std::uint32_t sequence = 1, acknowledgement = 77;
    std::uint8_t flags = ack, reserved = 0;
    std::uint16_t window = 500, urgent = 0;
    bytes tcp_options{}; // a multiple of 4
    bytes link{};        // an Ethernet header
    bytes payload{};
    bool zero_checksum = false; // of UDP: none

    std::size_t transport() const { return link.size() + (v6 ? 40 : 20) + ip_options.size(); }
    std::size_t header_size() const { return transport() + (tcp ? 20 + tcp_options.size() : 8); }
    std::size_t checksum_offset() const { return tcp ? 16 : 6; }
    offload::segment_type type() const {
        using enum offload::segment_type;
        return v6 ? (tcp ? tcp6 : udp6) : (tcp ? tcp4 : udp4);
    }
};

// The packet, with its checksum complete, or of the pseudo header alone.
inline bytes make_packet(const fields& f, bool partial = false) {
    const std::size_t length = f.header_size() - f.transport() + f.payload.size();
    const std::size_t protocol = f.tcp ? 6 : 17;
    bytes addresses;
    if (f.v6) {
        for (const std::uint8_t last : {f.source, f.destination}) {
            add32(addresses, 0x20010db8), add32(addresses, 0), add32(addresses, 0), add32(addresses, last);
        }
    } else {
        add32(addresses, 0x0a090000U | f.source), add32(addresses, 0x0a090000U | f.destination);
    }
    bytes p = f.link;
    if (f.v6) {
        add32(p, 0x60000000U | std::uint32_t{f.tos} << 20 | f.flow_label);
        add16(p, f.ip_options.size() + length), add8(p, f.ip_options.empty() ? protocol : f.extension), add8(p, f.ttl);
    } else {
        add8(p, 0x45 + f.ip_options.size() / 4), add8(p, f.tos), add16(p, 20 + f.ip_options.size() + length);
        add16(p, f.id), add16(p, f.fragment), add8(p, f.ttl), add8(p, protocol), add16(p, 0);
    }
    add_all(p, addresses);
    add_all(p, f.ip_options);
    if (!f.v6) {
        const std::span<const std::byte> header{p.data() + f.link.size(), p.size() - f.link.size()};
        set16(p, f.link.size() + 10, 0xffffU & ~plain_fold(plain_sum(header)));
    }
    add16(p, f.source_port), add16(p, f.destination_port);
    if (f.tcp) {
        add32(p, f.sequence), add32(p, f.acknowledgement);
        add8(p, (5 + f.tcp_options.size() / 4) << 4 | f.reserved), add8(p, f.flags), add16(p, f.window);
        add16(p, 0), add16(p, f.urgent);
        add_all(p, f.tcp_options);
    } else {
        add16(p, length), add16(p, 0);
    }
    add_all(p, f.payload);
    const std::uint16_t pseudo = plain_fold(plain_sum(addresses, protocol + length));
    std::size_t checksum = pseudo;
    if (!partial) {
        checksum = 0xffffU & ~plain_fold(plain_sum(std::span{p}.subspan(f.transport()), pseudo));
        if (!f.tcp && checksum == 0) checksum = 0xffff;
    }
    if (f.zero_checksum) checksum = 0;
    set16(p, f.transport() + f.checksum_offset(), checksum);
    return p;
}

inline offload::offload_state superpacket_state(const fields& f, std::size_t segment_size) {
    offload::offload_state state;
    state.type = f.type();
    state.segment_size = static_cast<std::uint16_t>(segment_size);
    state.header_length = static_cast<std::uint16_t>(f.header_size());
    state.checksum_start = static_cast<std::uint16_t>(f.transport());
    state.checksum_offset = static_cast<std::uint16_t>(f.checksum_offset());
    state.needs_checksum = true;
    state.ecn = f.tcp && (f.flags & cwr) != 0;
    return state;
}

// The packets that a superpacket of these fields stands for, each made on its own.
inline std::vector<bytes> make_segments(const fields& whole, std::size_t segment_size) {
    std::vector<bytes> segments;
    for (std::size_t at = 0; at < whole.payload.size(); at += segment_size) {
        fields f = whole;
        const bool last = at + segment_size >= whole.payload.size();
        const auto begin = whole.payload.begin() + static_cast<std::ptrdiff_t>(at);
        f.payload.assign(begin, last ? whole.payload.end() : begin + static_cast<std::ptrdiff_t>(segment_size));
        f.id = static_cast<std::uint16_t>(whole.id + segments.size());
        f.sequence = static_cast<std::uint32_t>(whole.sequence + at);
        if (at > 0) f.flags &= static_cast<std::uint8_t>(~cwr);
        if (!last) f.flags &= static_cast<std::uint8_t>(~(fin | psh));
        segments.push_back(make_packet(f));
    }
    return segments;
}

inline bytes random_bytes(dice& roll, std::size_t size) {
    bytes result(size);
    // Bytes of 0 and 255 are frequent, where sums have their two zeros.
    const std::size_t kind = roll(8);
    for (std::byte& b : result)
        b = kind == 0 ? std::byte{0} : kind == 1 ? std::byte{0xff} : static_cast<std::byte>(roll(256));
    return result;
}

// Extension headers that say nothing: destination options (60) full of padding, one behind the other.
inline bytes extension_headers(std::size_t count, std::uint8_t protocol) {
    bytes result;
    for (std::size_t i = 0; i < count; ++i) {
        add8(result, i + 1 < count ? 60 : protocol), add8(result, 0), add8(result, 1), add8(result, 4),
            add32(result, 0);
    }
    return result;
}

inline std::string hex(std::span<const std::byte> of, std::size_t most = 128) {
    std::ostringstream text;
    for (std::size_t i = 0; i < of.size() && i < most; ++i)
        text << (i % 4 == 0 && i > 0 ? " " : "") << std::hex << std::setw(2) << std::setfill('0')
             << std::to_integer<unsigned>(of[i]);
    text << std::dec << " (" << of.size() << " bytes)";
    return text.str();
}

} // namespace cotun::test
