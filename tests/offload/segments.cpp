// SPDX-License-Identifier: Apache-2.0
#include "cotun/offload/segments.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>

#include "../support/scale.hpp"
#include "packets.hpp"

using namespace cotun;
using namespace cotun::offload;
using namespace cotun::test;

namespace {

std::vector<bytes> split(const bytes& packet, const offload_state& state, std::size_t network = 0) {
    std::vector<bytes> result;
    const segmenter plan = segments(packet, state, network);
    for (const segment& s : plan) {
        bytes one(s.size());
        bool right = s.write(one).size() == one.size();
        bytes header(s.header_size());
        const auto made = s.write_header(header);
        right = right && std::equal(made.begin(), made.end(), one.begin());
        right = right && std::equal(s.payload().begin(), s.payload().end(),
                                    one.begin() + static_cast<std::ptrdiff_t>(s.header_size()));
        if (!right) FAIL("segment " << s.index() << " is not its header and its payload");
        result.push_back(std::move(one));
    }
    return result;
}

void check_same(const std::vector<bytes>& got, const std::vector<bytes>& wanted) {
    if (got.size() != wanted.size()) FAIL(got.size() << " segments, not " << wanted.size());
    for (std::size_t i = 0; i < got.size(); ++i)
        if (got[i] != wanted[i])
            FAIL("segment " << i << "\n  got    " << hex(got[i]) << "\n  wanted " << hex(wanted[i]));
}

fields with_payload(std::size_t size, bool tcp = true, bool v6 = false) {
    fields f;
    f.tcp = tcp, f.v6 = v6;
    dice roll{size};
    f.payload = random_bytes(roll, size);
    return f;
}

} // namespace

TEST_CASE("segments of TCP over IPv4, by hand", "[offload][split]") {
    fields f = with_payload(2500);
    f.flags = ack | psh | fin | cwr | ece;
    f.id = 0xffff;           // goes on with 0
    f.sequence = 0xfffffc00; // the same
    const bytes packet = make_packet(f, true);
    const auto got = split(packet, superpacket_state(f, 1000));
    REQUIRE(got.size() == 3);
    CHECK(got[0].size() == 1040);
    CHECK(got[2].size() == 540);
    CHECK(get16(got[0], 2) == 1040);
    CHECK(get16(got[2], 2) == 540);
    CHECK(get16(got[0], 4) == 0xffff);
    CHECK(get16(got[1], 4) == 0);
    CHECK(get16(got[2], 4) == 1);
    CHECK((get16(got[0], 24) << 16 | get16(got[0], 26)) == static_cast<int>(0xfffffc00));
    CHECK((get16(got[1], 24) << 16 | get16(got[1], 26)) == static_cast<int>(0xffffffe8));
    CHECK((get16(got[2], 24) << 16 | get16(got[2], 26)) == 0x000003d0);
    CHECK(std::to_integer<int>(got[0][33]) == (ack | cwr | ece));
    CHECK(std::to_integer<int>(got[1][33]) == (ack | ece));
    CHECK(std::to_integer<int>(got[2][33]) == (ack | ece | psh | fin));
    check_same(got, make_segments(f, 1000));
}

TEST_CASE("segments of every protocol, with options and extension headers", "[offload][split]") {
    for (const bool v6 : {false, true})
        for (const bool tcp : {false, true})
            for (const std::size_t options : {0, 1, 3})
                for (const std::size_t link : {0, 14}) {
                    fields f = with_payload(5000, tcp, v6);
                    f.link.assign(link, std::byte{0x5b});
                    if (tcp) f.tcp_options.assign(4 * options, std::byte{1});
                    f.ip_options = v6 ? extension_headers(options, tcp ? 6 : 17) : bytes(4 * options, std::byte{1});
                    const bytes packet = make_packet(f, true);
                    INFO("v6 " << v6 << ", tcp " << tcp << ", options " << options << ", link " << link);
                    check_same(split(packet, superpacket_state(f, 1400), link), make_segments(f, 1400));
                }
}

TEST_CASE("a UDP checksum of 0 is sent as 0xffff, one of TCP as it is", "[offload][split]") {
    for (const bool tcp : {false, true}) {
        fields f = with_payload(8, tcp);
        f.payload.assign(8, std::byte{0});
        // Payload that makes the sum of the second segment 0xffff.
        fields second = f;
        second.id++, second.sequence += 4;
        second.payload.resize(4);
        const bytes plain = make_packet(second);
        set16(f.payload, 4, get16(plain, second.transport() + second.checksum_offset()));
        const auto got = split(make_packet(f, true), superpacket_state(f, 4));
        REQUIRE(got.size() == 2);
        CHECK(get16(got[1], f.transport() + f.checksum_offset()) == (tcp ? 0 : 0xffff));
        check_same(got, make_segments(f, 4));
    }
}

TEST_CASE("with a source route the pseudo header's sum is the sender's", "[offload][split]") {
    fields f = with_payload(3000, true, true);
    f.extension = 43;
    f.ip_options = extension_headers(1, 6);
    bytes packet = make_packet(f, true);
    // The last hop's address differs from the header's by one: so do all checksums.
    const auto plus_one = [&](bytes& p, int by) {
        const std::uint16_t before = get16(p, f.transport() + 16);
        set16(p, f.transport() + 16, plain_fold(before + static_cast<std::uint64_t>(by)));
    };
    plus_one(packet, 1);
    auto wanted = make_segments(f, 1000);
    for (bytes& w : wanted) plus_one(w, 0xfffe); // minus one
    check_same(split(packet, superpacket_state(f, 1000)), wanted);
}

TEST_CASE("a packet that is no superpacket is one segment", "[offload][split]") {
    const bytes anything = {std::byte{0xff}, std::byte{1}, std::byte{2}};
    check_same(split(anything, {}), {anything});
    check_same(split({}, {}), {bytes{}});

    fields f = with_payload(333, false);
    offload_state state = superpacket_state(f, 0);
    state.type = segment_type::none;
    state.segment_size = state.header_length = 0;
    const bytes partial = make_packet(f, true);
    check_same(split(partial, state), {make_packet(f)});
    bytes in_place = partial;
    CHECK(complete_checksum(in_place, state) == refusal::none);
    CHECK(in_place == make_packet(f));
    CHECK(!state.needs_checksum);
    CHECK(complete_checksum(in_place, state) == refusal::none); // nothing left to do
    CHECK(in_place == make_packet(f));

    // A place at an odd offset makes no sense, but the same one in both ways.
    dice roll{9};
    for (int round = 0; round < 200; ++round) {
        bytes odd = random_bytes(roll, 60);
        state = {};
        state.needs_checksum = true;
        state.checksum_start = static_cast<std::uint16_t>(roll(40));
        state.checksum_offset = static_cast<std::uint16_t>(roll(19));
        const auto got = split(odd, state);
        CHECK(complete_checksum(odd, state) == refusal::none);
        check_same(got, {odd});
    }
}

TEST_CASE("a run is written as far as there is room, with gaps that are left alone", "[offload][split]") {
    const fields f = with_payload(10'500, false, true);
    const bytes packet = make_packet(f, true);
    const auto wanted = make_segments(f, 1000);
    const segmenter plan = segments(packet, superpacket_state(f, 1000));
    REQUIRE(plan.size() == 11);
    CHECK(plan.total_size(7) == 10'500 + 11 * (48 + 7));
    for (const std::size_t prefix : {0, 1, 64}) {
        const std::size_t stride = prefix + 1048;
        for (const std::size_t room :
             {std::size_t{0}, stride - 1, stride, 3 * stride + 5, 11 * stride - 501, 11 * stride - 500, 20 * stride}) {
            std::size_t index = 0;
            for (;;) {
                bytes out(room, std::byte{0xa5});
                const segment_run run = write_segments(out, plan, {.prefix = prefix, .first = index, .most = 4});
                CHECK(run.stride == stride);
                if (run.count == 0) break;
                const std::size_t left = 11 - index, whole = room / stride;
                const bool last_fits = whole + 1 == left && room % stride >= stride - 500;
                CHECK(run.count == std::min<std::size_t>({4, left, whole + (last_fits ? 1 : 0)}));
                std::size_t at = 0;
                for (std::size_t i = 0; i < run.count; ++i) {
                    for (std::size_t k = 0; k < prefix; ++k)
                        if (out[at + k] != std::byte{0xa5}) FAIL("the gap was written to");
                    at += prefix;
                    const bytes& w = wanted[index + i];
                    REQUIRE(std::equal(w.begin(), w.end(), out.begin() + static_cast<std::ptrdiff_t>(at)));
                    at += w.size();
                }
                CHECK(at == run.size);
                CHECK(std::all_of(out.begin() + static_cast<std::ptrdiff_t>(at), out.end(),
                                  [](std::byte b) { return b == std::byte{0xa5}; }));
                index += run.count;
            }
            CHECK(index == (room < stride ? 0U : 11U));
        }
    }
    CHECK(write_segments({}, plan, {.first = 11}).count == 0);
    CHECK(write_segments({}, plan, {.first = 99}).count == 0);
}

TEST_CASE("random superpackets are cut into the packets they stand for", "[offload][split]") {
    const std::uint64_t seed = test::seed();
    INFO("COTUN_SEED=" << seed);
    dice roll{seed};
    for (std::uint64_t round = 0; round < scaled(20'000); ++round) {
        fields f;
        f.v6 = roll(2) == 0, f.tcp = roll(2) == 0;
        f.source = static_cast<std::uint8_t>(roll(256)), f.destination = static_cast<std::uint8_t>(roll(256));
        f.tos = static_cast<std::uint8_t>(roll(256)), f.ttl = static_cast<std::uint8_t>(roll(256));
        f.id = static_cast<std::uint16_t>(roll(65536)), f.fragment = roll(2) == 0 ? 0x4000 : 0;
        f.flow_label = static_cast<std::uint32_t>(roll(1 << 20));
        f.source_port = static_cast<std::uint16_t>(roll(65536));
        f.sequence = static_cast<std::uint32_t>(roll(std::size_t{1} << 32));
        f.acknowledgement = static_cast<std::uint32_t>(roll(std::size_t{1} << 32));
        f.flags = static_cast<std::uint8_t>(roll(256) & static_cast<unsigned>(~(syn | rst)));
        f.reserved = static_cast<std::uint8_t>(roll(16));
        f.window = static_cast<std::uint16_t>(roll(65536)), f.urgent = static_cast<std::uint16_t>(roll(65536));
        if (f.tcp) f.tcp_options = random_bytes(roll, 4 * roll(11));
        if (roll(3) == 0) f.ip_options = f.v6 ? extension_headers(roll(5), f.tcp ? 6 : 17) : bytes(4 * roll(11));
        const std::size_t segment_size = 1 + roll(roll(2) == 0 ? 20 : 1500);
        f.payload =
            random_bytes(roll, std::min<std::size_t>(segment_size * roll(100) + 1 + roll(segment_size), 60'000));
        const std::size_t size = std::min(segment_size, f.payload.size());
        INFO("round " << round);
        check_same(split(make_packet(f, true), superpacket_state(f, size)), make_segments(f, size));
    }
}
