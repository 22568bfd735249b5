// SPDX-License-Identifier: Apache-2.0
//
// Splitting what was merged gives the stream back, and merging what was split the superpacket. COTUN_CASES says for how
// many random cases (10'000'000 is a matter of minutes); COTUN_SEED repeats the first of a run that failed.
#include <catch2/catch_test_macros.hpp>

#include <cstdio>
#include <cstdlib>

#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"
#include "merging.hpp"
#include "streams.hpp"

using namespace cotun;
using namespace cotun::offload;
using namespace cotun::test;

namespace {

std::uint64_t cases() {
    if (const char* given = std::getenv("COTUN_CASES")) return std::strtoull(given, nullptr, 10);
    return scaled(sanitized ? 10'000 : 60'000);
}

// Each case has a seed of its own, the first one and then one more each time: the one that fails is repeated alone.
template <class Case>
void for_all_cases(Case one) {
    const std::uint64_t first = test::seed(), count = std::getenv("COTUN_SEED") != nullptr ? 1 : cases();
    std::fprintf(stderr, "%llu cases from COTUN_SEED=%llu on\n", static_cast<unsigned long long>(count),
                 static_cast<unsigned long long>(first));
    for (std::uint64_t i = 0; i < count; ++i) {
        try {
            one(first + i);
        } catch (const std::logic_error& wrong) {
            FAIL("COTUN_SEED=" << first + i << ": " << wrong.what());
        }
    }
}

} // namespace

TEST_CASE("splitting after merging gives the stream back", "[offload][merge][round trip]") {
    constexpr std::size_t kinds = 4;
    std::vector<coalescer_options> options(kinds);
    options[0].id = id_rule::incrementing;
    options[2].id = id_rule::any;
    options[2].most_datagrams = 3, options[2].most_tcp_segments = 5;
    options[2].virtio_header_size = 12, options[2].order = std::endian::big;
    options[3].udp4 = options[3].tcp6 = options[3].ecn = false;
    options[3].most_bytes = 400;
    std::vector<coalescer> merging;
    for (const auto& o : options) merging.emplace_back(o);
    std::vector<bytes> packets;
    std::vector<offload_state> states;
    std::uint64_t sent = 0;
    batch_facts all;
    for_all_cases([&](std::uint64_t seed) {
        quick_dice roll{seed};
        const std::size_t kind = roll(kinds);
        stream_maker<quick_dice> maker{roll};
        packets.clear(), states.clear();
        coalescer& m = merging[kind];
        for (std::size_t left = 1 + roll(24); left > 0; --left) {
            packets.push_back(maker.next());
            states.push_back(maker.state());
        }
        m.begin();
        for (std::size_t i = 0; i < packets.size(); ++i) m.add(packets[i], states[i]);
        const batch_facts facts = check_merged(m.finish(), packets, states, options[kind]);
        sent += packets.size();
        all.superpackets += facts.superpackets, all.packets_in_them += facts.packets_in_them;
    });
    std::fprintf(stderr, "%llu packets, of which %zu were merged into %zu\n", static_cast<unsigned long long>(sent),
                 all.packets_in_them, all.superpackets);
    if (std::getenv("COTUN_SEED") == nullptr) CHECK(all.packets_in_them > sent / 4); // else it tests nothing
}

TEST_CASE("merging after splitting gives the superpacket back", "[offload][merge][round trip]") {
    coalescer merging{{.id = id_rule::incrementing, .most_datagrams = 128}};
    std::vector<bytes> packets;
    for_all_cases([&](std::uint64_t seed) {
        quick_dice roll{seed};
        fields f;
        f.v6 = roll(2) == 0, f.tcp = roll(2) == 0;
        f.tos = static_cast<std::uint8_t>(roll(256)), f.ttl = static_cast<std::uint8_t>(roll(256));
        f.id = static_cast<std::uint16_t>(roll(65536)), f.fragment = roll(2) == 0 ? 0x4000 : 0;
        f.flow_label = static_cast<std::uint32_t>(roll(1 << 20));
        f.sequence = static_cast<std::uint32_t>(roll.next());
        f.window = static_cast<std::uint16_t>(roll(65536));
        f.flags = static_cast<std::uint8_t>(ack | (roll.next() & (psh | fin | ece | cwr)));
        if (f.tcp) f.tcp_options.assign(4 * roll(11), static_cast<std::byte>(roll(256)));
        if (f.v6 && roll(3) == 0) f.ip_options = extension_headers(roll(4), f.tcp ? 6 : 17);
        const std::size_t segment_size = 1 + roll(roll(8) == 0 ? 1400 : 40);
        const std::size_t count = 2 + roll(roll(16) == 0 ? 126 : 6);
        f.payload.resize(
            std::min<std::size_t>((count - 1) * segment_size + 1 + roll(segment_size), 65535 - f.header_size()));
        for (std::byte& b : f.payload) b = static_cast<std::byte>(roll.next());
        const bytes packet = make_packet(f, true);
        const offload_state state = superpacket_state(f, std::min(segment_size, f.payload.size() - 1));

        packets.clear();
        for (const segment& s : segments(packet, state)) {
            packets.emplace_back(s.size());
            s.write(packets.back());
        }
        merging.begin();
        for (const bytes& p : packets) merging.add(p);
        const auto results = merging.finish();
        if (results.size() != 1) throw std::logic_error(std::to_string(results.size()) + " packets, not one");
        if (results[0].state != state) throw std::logic_error("another state");
        const bytes got = gather(results[0]);
        if (!std::equal(got.begin() + 10, got.end(), packet.begin(), packet.end()))
            throw std::logic_error("another packet:\n  " + hex(std::span{got}.subspan(10)) + "\n  " + hex(packet));
    });
}
