// SPDX-License-Identifier: Apache-2.0
//
// Any header before any bytes: what is accepted is cut into well-formed packets, and nothing is read out of bounds.
#include "cotun/offload/segments.hpp"

#include <algorithm>

#include "input.hpp"

using namespace cotun;
using namespace cotun::offload;
using namespace cotun::test;

namespace {

// That a segment is what its own headers say, by other code than the library's.
void check_segment(const bytes& s, const segmenter& plan, const segment& cut, const offload_state& state,
                   std::size_t network) {
    const bool v6 = state.type == segment_type::tcp6 || state.type == segment_type::udp6;
    const bool tcp = state.type == segment_type::tcp4 || state.type == segment_type::tcp6;
    const std::span<const std::byte> ip = std::span{s}.subspan(network);
    const std::size_t transport = state.checksum_start - network;
    must(std::equal(cut.payload().begin(), cut.payload().end(),
                    s.end() - static_cast<std::ptrdiff_t>(cut.payload().size())),
         "a segment's payload");
    must((v6 ? get16(ip, 4) + 40U : get16(ip, 2)) == ip.size(), "a segment's length");
    if (!v6) must(plain_fold(plain_sum(ip.first(transport))) == 0xffff, "a segment's IP checksum");
    if (!tcp) must(get16(ip, transport + 4) == ip.size() - transport && get16(ip, transport + 6) != 0, "a UDP header");
    const std::uint8_t flags = tcp ? std::to_integer<std::uint8_t>(ip[transport + 13]) : std::uint8_t{0};
    must(cut.index() == 0 || (flags & cwr) == 0, "CWR on the first only");
    must(cut.index() + 1 == plan.size() || (flags & (fin | psh)) == 0, "FIN and PSH on the last only");
    // With options the sum of the addresses is the sender's, who may be wrong.
    if (transport != (v6 ? 40U : 20U)) return;
    const auto addresses = v6 ? ip.subspan(8, 32) : ip.subspan(12, 8);
    const std::uint64_t pseudo = plain_sum(addresses, (tcp ? 6U : 17U) + ip.size() - transport);
    must(plain_fold(plain_sum(ip.subspan(transport), pseudo)) == 0xffff, "a segment's checksum");
}

void cut(const bytes& packet, const offload_state& state, std::size_t network, input& in) {
    const segmenter plan = segments(packet, state, network);
    if (!plan) {
        must(plan.empty() && plan.begin() == plan.end() && plan.total_size() == 0, "a refused packet has no segments");
        return;
    }
    const std::size_t prefix = in(2) * in(40);
    must(plan.total_size(prefix) < (std::size_t{1} << 28), "a total size");
    std::size_t index = 0, payload = 0;
    while (index < plan.size()) {
        const std::size_t room = (prefix + plan.header_size() + plan.payload_size()) * (1 + in(8)) + in(20);
        bytes out(room, std::byte{0xa5});
        const segment_run run = write_segments(out, plan, {.prefix = prefix, .first = index});
        must(run.count > 0 && run.size <= out.size(), "a run");
        std::size_t at = 0;
        for (std::size_t i = 0; i < run.count; ++i, ++index) {
            const segment one = plan[index];
            must(std::all_of(out.begin() + static_cast<std::ptrdiff_t>(at),
                             out.begin() + static_cast<std::ptrdiff_t>(at + prefix),
                             [](std::byte b) { return b == std::byte{0xa5}; }),
                 "a gap");
            at += prefix;
            const bytes written(out.begin() + static_cast<std::ptrdiff_t>(at),
                                out.begin() + static_cast<std::ptrdiff_t>(at + one.size()));
            bytes alone(one.size());
            one.write(alone);
            must(alone == written, "a segment alone is as in a run");
            if (state.is_superpacket()) check_segment(alone, plan, one, state, network);
            at += one.size();
            payload += one.payload().size();
        }
        must(at == run.size, "a run's size");
    }
    must(payload + plan.header_size() == packet.size(), "all payload");
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    input in{data, size};
    const std::size_t mode = in(4);
    virtio_header header;
    bytes packet;
    std::size_t network = 0;
    if (mode == 0) { // anything
        network = in(4) == 0 ? in(64) : 0;
        header = {.flags = static_cast<std::uint8_t>(in(4)),
                  .type = static_cast<std::uint8_t>(in.byte()),
                  .header_length = static_cast<std::uint16_t>(in.word()),
                  .segment_size = static_cast<std::uint16_t>(in.word()),
                  .checksum_start = static_cast<std::uint16_t>(in.word()),
                  .checksum_offset = static_cast<std::uint16_t>(in.word())};
        packet = in.rest();
    } else { // nearly right
        fields f = make_fields(in);
        network = f.link.size();
        const std::size_t segment_size = 1 + in.byte();
        f.payload.resize(1 + in(mode == 1 ? 300 : 3000));
        packet = make_packet(f, true);
        header = to_virtio_header(superpacket_state(f, std::min(segment_size, f.payload.size() + in(2))));
        if (in(3) == 0) header.type = static_cast<std::uint8_t>(in.byte());
        if (in(3) == 0) header.checksum_start += static_cast<std::uint16_t>(in(3));
        patch(packet, in);
    }
    const checked_offload checked = check_offload(header, packet, network);
    must(!text(checked.refusal).empty(), "a text for each refusal");
    if (checked) {
        const virtio_header again = to_virtio_header(checked.state);
        must(check_offload(again, packet, network).state == checked.state, "a state survives its header");
        must(bool(segments(packet, checked.state, network)) || !checked.state.is_superpacket(),
             "what was checked is cut");
        cut(packet, checked.state, network, in);
        offload_state state = checked.state;
        bytes whole = packet;
        if (complete_checksum(whole, state) == refusal::none) must(!state.needs_checksum, "a completed checksum");
    }
    // A state that nobody has checked.
    offload_state state;
    state.segment_size = header.segment_size;
    state.header_length = header.header_length;
    state.checksum_start = header.checksum_start;
    state.checksum_offset = header.checksum_offset;
    state.type = static_cast<segment_type>(header.type % 5);
    state.needs_checksum = in(4) != 0;
    cut(packet, state, network, in);
    bytes whole = packet;
    static_cast<void>(complete_checksum(whole, state));
    return 0;
}
