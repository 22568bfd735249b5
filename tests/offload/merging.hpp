// SPDX-License-Identifier: Apache-2.0
//
// What must hold of every batch that a coalescer has merged, whatever the packets were.
#pragma once

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cotun/offload/coalescer.hpp"
#include "cotun/offload/segments.hpp"
#include "packets.hpp"

namespace cotun::test {

// All pieces of a superpacket, as writev would write them: with the virtio-net header.
inline bytes gather(const offload::superpacket& from) {
    bytes result;
    for (const iovec& piece : from.pieces) {
        const auto* at = static_cast<const std::byte*>(piece.iov_base);
        result.insert(result.end(), at, at + piece.iov_len);
    }
    return result;
}

// Two packets are the same, but for the identification of IPv4 and what follows from it, if it may be lost.
inline bool same_packet(std::span<const std::byte> a, std::span<const std::byte> b, bool ids_count,
                        std::size_t network) {
    if (a.size() != b.size()) return false;
    const bool v4 = a.size() >= network + 20 && std::to_integer<unsigned>(a[network]) >> 4 == 4;
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (a[i] == b[i]) continue;
        const std::size_t at = i - network;
        const bool is_id = i >= network && (at == 4 || at == 5 || at == 10 || at == 11);
        if (!v4 || ids_count || !is_id) return false;
    }
    return true;
}

// What tells the packets of one flow from others; empty for fragments, which do not tell. Malformed packets have a flow
// of their own.
inline std::optional<std::string> flow_of(std::span<const std::byte> p, std::size_t network) {
    if (p.size() < network + 20) return "?";
    const auto text = [&](std::size_t at, std::size_t size) {
        return std::string(reinterpret_cast<const char*>(p.data() + at), size);
    };
    const std::span<const std::byte> ip = p.subspan(network);
    const unsigned version = std::to_integer<unsigned>(ip[0]) >> 4;
    if (version == 4) {
        const std::size_t header = 4 * (std::to_integer<std::size_t>(ip[0]) & 15);
        if ((get16(ip, 6) & 0x3fff) != 0) return std::nullopt;
        if (header < 20 || ip.size() < header + 8) return "?";
        return "4" + text(network + 12, 8) + text(network + 9, 1) + text(network + header, 4);
    }
    if (version != 6 || ip.size() < 48) return "?";
    std::size_t at = 40;
    unsigned protocol = std::to_integer<unsigned>(ip[6]);
    while (protocol == 0 || protocol == 43 || protocol == 60) {
        if (ip.size() < at + 8) return "?";
        protocol = std::to_integer<unsigned>(ip[at]);
        at += 8 * (std::to_integer<std::size_t>(ip[at + 1]) + 1);
        if (ip.size() < at + 8) return "?";
    }
    if (protocol == 44) return std::nullopt;
    return "6" + text(network + 8, 32) + static_cast<char>(protocol) + text(network + at, 4);
}

struct batch_facts {
    std::size_t superpackets = 0; // of more than one packet
    std::size_t packets_in_them = 0;
};

// Throws std::logic_error, with what is wrong, unless: each packet is in one result; a result of one packet is that
// packet; a merged one is a right superpacket whose segments are its packets; results are in the order of their first
// packets, and each flow's packets in order.
inline batch_facts check_merged(std::span<const offload::superpacket> results, std::span<const bytes> packets,
                                std::span<const offload::offload_state> states,
                                const offload::coalescer_options& options) {
    const auto wrong = [](const std::string& what) -> void { throw std::logic_error(what); };
    batch_facts facts;
    const bool ids_count = options.id == offload::id_rule::incrementing;
    std::vector<int> seen(packets.size(), 0);
    std::vector<std::uint32_t> order;
    bytes one;
    std::optional<std::uint32_t> first_before;
    for (const offload::superpacket& result : results) {
        if (result.packets.empty()) wrong("a result of no packets");
        if (first_before && *first_before >= result.packets[0]) wrong("results out of order");
        first_before = result.packets[0];
        for (const std::uint32_t index : result.packets) {
            if (index >= packets.size() || seen[index]++ != 0) wrong("packet " + std::to_string(index) + " again");
            order.push_back(index);
        }
        const bytes all = gather(result);
        const std::span<const std::byte> whole = std::span{all}.subspan(options.virtio_header_size);
        if (whole.size() != result.size) wrong("a wrong size");
        const auto header =
            offload::read_virtio_header(std::span{all}.first<offload::virtio_header_size>(), options.order);
        if (header != offload::to_virtio_header(result.state)) wrong("another header than the state");
        if (!result.is_merged()) {
            const bytes& packet = packets[result.packets[0]];
            if (!std::equal(whole.begin(), whole.end(), packet.begin(), packet.end())) wrong("a packet was changed");
            if (!states.empty() && result.state != states[result.packets[0]]) wrong("a packet's state was changed");
            continue;
        }
        ++facts.superpackets;
        facts.packets_in_them += result.packets.size();
        if (whole.size() - options.network_offset > options.most_bytes) wrong("a superpacket too large");
        const auto checked = offload::check_offload(header, whole, options.network_offset);
        if (!checked) wrong("a superpacket that is refused: " + std::string(offload::text(checked.refusal)));
        if (checked.state != result.state) wrong("another state than the packet's");
        const offload::segmenter plan = offload::segments(whole, result.state, options.network_offset);
        if (plan.size() != result.packets.size()) wrong("another number of segments");
        for (const offload::segment& s : plan) {
            one.resize(s.size());
            const std::uint32_t index = result.packets[s.index()];
            bytes original = packets[index];
            if (!states.empty() && states[index].needs_checksum) {
                offload::offload_state state = states[index];
                static_cast<void>(offload::complete_checksum(original, state));
                // A packet's sum of 0 is written as 0xffff, as the kernel does it; a TCP segment's as it is, as well.
                const std::size_t field = std::size_t{states[index].checksum_start} + states[index].checksum_offset;
                if (states[index].checksum_offset == 16 && get16(original, field) == 0xffff) set16(original, field, 0);
            }
            if (!same_packet(s.write(one), original, ids_count, options.network_offset))
                wrong("packet " + std::to_string(index) + " comes back as\n  " + hex(one) + "\nand was\n  " +
                      hex(original));
        }
    }
    if (order.size() != packets.size()) wrong("packets were lost");

    // Each flow in order; and a packet of an unknown flow might be of any.
    std::vector<std::pair<std::string, std::uint32_t>> latest;
    std::uint32_t newest = 0;
    std::optional<std::uint32_t> barrier;
    for (const std::uint32_t index : order) {
        if (barrier && index < *barrier) wrong("a packet was overtaken by one of an unknown flow");
        const auto flow = flow_of(packets[index], options.network_offset);
        if (!flow) {
            if (index < newest) wrong("a packet of an unknown flow was overtaken");
            barrier = index;
        } else {
            const auto known = std::find_if(latest.begin(), latest.end(), [&](auto& l) { return l.first == *flow; });
            if (known == latest.end()) {
                latest.emplace_back(*flow, index);
            } else {
                if (known->second > index) wrong("packet " + std::to_string(index) + " was overtaken in its flow");
                known->second = index;
            }
        }
        newest = std::max(newest, index);
    }
    return facts;
}

} // namespace cotun::test
