// SPDX-License-Identifier: Apache-2.0
//
// Packets that are nearly right, and any bytes at all: whatever is merged is what it was, and in order.
#include <exception>

#include "../offload/merging.hpp"
#include "input.hpp"

using namespace cotun;
using namespace cotun::offload;
using namespace cotun::test;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    input in{data, size};
    coalescer_options options;
    options.id = static_cast<id_rule>(in(3));
    options.network_offset = in(4) == 0 ? 14 : 0;
    options.most_bytes = in(4) == 0 ? 300 : 65535;
    fields flows[2] = {make_fields(in), make_fields(in)};
    for (fields& f : flows) {
        f.link.resize(options.network_offset);
        f.payload.resize(1 + in(64));
    }
    std::vector<bytes> packets;
    while (!in.empty() && packets.size() < 40) {
        const std::size_t kind = in(8);
        if (kind == 7) {
            packets.emplace_back(in.byte());
            for (std::byte& b : packets.back()) b = static_cast<std::byte>(in.byte());
            continue;
        }
        fields& f = flows[kind % 2];
        packets.push_back(make_packet(f));
        f.sequence += static_cast<std::uint32_t>(f.payload.size());
        f.id++;
        if (kind >= 4) patch(packets.back(), in);
    }
    coalescer merging{options, 4};
    try {
        for (const bytes& p : packets) merging.add(p);
        check_merged(merging.finish(), packets, {}, options);
        // Trusted, packets may change; but nothing may be lost, or read out of bounds.
        options.checksums = checksum_trust::trusted;
        coalescer trusting{options, 4};
        for (const bytes& p : packets) trusting.add(p);
        std::size_t count = 0;
        for (const superpacket& s : trusting.finish()) {
            count += s.packets.size();
            const bytes all = gather(s);
            const auto header = read_virtio_header(std::span{all}.first<virtio_header_size>());
            must(bool(check_offload(header, std::span{all}.subspan(virtio_header_size), options.network_offset)),
                 "a superpacket that is refused");
        }
        must(count == packets.size(), "packets were lost");
    } catch (const std::exception& wrong) {
        fail(wrong.what());
    }
    return 0;
}
