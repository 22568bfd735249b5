// SPDX-License-Identifier: Apache-2.0
#include "cotun/offload/coalescer.hpp"

#include <catch2/catch_test_macros.hpp>

#include "../support/allocations.hpp"
#include "merging.hpp"

using namespace cotun;
using namespace cotun::offload;
using namespace cotun::test;

namespace {

using shape = std::vector<std::vector<std::uint32_t>>; // which packets each result has

fields next_of(const fields& f) {
    fields next = f;
    next.sequence += static_cast<std::uint32_t>(f.payload.size());
    next.id++;
    return next;
}

fields some(bool tcp = true, bool v6 = false) {
    fields f;
    f.tcp = tcp, f.v6 = v6;
    f.payload.assign(100, std::byte{7});
    return f;
}

shape merge(const std::vector<bytes>& packets, const coalescer_options& options = {},
            const std::vector<offload_state>& states = {}) {
    coalescer merging{options};
    merging.begin();
    for (std::size_t i = 0; i < packets.size(); ++i)
        merging.add(packets[i], states.empty() ? offload_state{} : states[i]);
    const auto results = merging.finish();
    check_merged(results, packets, states, options);
    shape result;
    for (const superpacket& s : results) result.emplace_back(s.packets.begin(), s.packets.end());
    return result;
}

const shape together{{0, 1}}, apart{{0}, {1}};

// Two packets of a flow, the second of which is changed.
shape second_with(const fields& f, void (*change)(fields&), const coalescer_options& options = {}) {
    fields second = next_of(f);
    change(second);
    return merge({make_packet(f), make_packet(second)}, options);
}

// Three, of which the second is changed: whether it ends the superpacket.
shape middle_with(const fields& f, void (*change)(fields&), const coalescer_options& options = {}) {
    fields second = next_of(f);
    change(second);
    fields third = next_of(second);
    third.flags = f.flags, third.payload = f.payload, third.tos = f.tos;
    return merge({make_packet(f), make_packet(second), make_packet(third)}, options);
}

} // namespace

TEST_CASE("packets that follow each other are one superpacket", "[offload][merge]") {
    for (const bool tcp : {false, true})
        for (const bool v6 : {false, true}) {
            const fields a = some(tcp, v6), b = next_of(a), c = next_of(b);
            const std::vector<bytes> packets{make_packet(a), make_packet(b), make_packet(c)};
            CHECK(merge(packets) == shape{{0, 1, 2}});
            coalescer merging;
            for (int batch = 0; batch < 3; ++batch) { // each the same, whatever was before
                merging.begin();
                for (const bytes& p : packets) merging.add(p);
                const auto results = merging.finish();
                REQUIRE(results.size() == 1);
                CHECK(results[0].state == superpacket_state(a, 100));
                CHECK(results[0].is_merged());
                CHECK(results[0].size == a.header_size() + 300);
                REQUIRE(results[0].pieces.size() == 4);
                CHECK(results[0].pieces[0].iov_len == 10 + a.header_size());
                for (std::size_t i = 0; i < 3; ++i) { // the payload where it lies
                    CHECK(results[0].pieces[i + 1].iov_base == packets[i].data() + a.header_size());
                    CHECK(results[0].pieces[i + 1].iov_len == 100);
                }
                fields whole = a;
                whole.payload.assign(300, std::byte{7});
                const bytes got = gather(results[0]);
                CHECK(bytes(got.begin() + 10, got.end()) == make_packet(whole, true));
            }
        }
    CHECK(merge({}) == shape{});
}

TEST_CASE("TCP: what the header must agree in", "[offload][merge]") {
    for (const bool v6 : {false, true}) {
        const fields f = some(true, v6);
        CHECK(second_with(f, [](fields&) {}) == together);
        CHECK(second_with(f, [](fields& s) { s.sequence++; }) == apart);
        CHECK(second_with(f, [](fields& s) { s.sequence--; }) == apart);
        CHECK(second_with(f, [](fields& s) { s.sequence -= 200; }) == apart); // in front of the first: no prepending
        CHECK(second_with(f, [](fields& s) { s.acknowledgement++; }) == apart);
        CHECK(second_with(f, [](fields& s) { s.window++; }) == apart);
        CHECK(second_with(f, [](fields& s) { s.reserved = 1; }) == apart);
        CHECK(second_with(f, [](fields& s) { s.urgent = 1; }) == apart);
        CHECK(second_with(f, [](fields& s) { s.tcp_options.assign(4, std::byte{1}); }) == apart);
        CHECK(second_with(f, [](fields& s) { s.flags |= ece; }) == apart);
        CHECK(second_with(f, [](fields& s) { s.source_port++; }) == apart);
        CHECK(second_with(f, [](fields& s) { s.destination_port++; }) == apart);
        CHECK(second_with(f, [](fields& s) { s.source++; }) == apart);
        CHECK(second_with(f, [](fields& s) { s.destination++; }) == apart);
        CHECK(second_with(f, [](fields& s) { s.payload.push_back({}); }) == apart); // longer than the first
        CHECK(second_with(f, [](fields& s) { s.tos ^= 1; }) == apart);              // ECN
        CHECK(second_with(f, [](fields& s) { s.tos ^= 0x80; }) == apart);           // DSCP
        CHECK(second_with(f, [](fields& s) { s.ttl--; }) == apart);
        CHECK(second_with(f, [](fields& s) { s.flow_label++; }) == (v6 ? apart : together));
    }
    fields f = some();
    f.tcp_options = {std::byte{1}, std::byte{1}, std::byte{8}, std::byte{10}};
    f.tcp_options.resize(12, std::byte{5});
    CHECK(second_with(f, [](fields&) {}) == together);
    CHECK(second_with(f, [](fields& s) { s.tcp_options[11] = {}; }) == apart); // another time
    f.sequence = 0xffffffff - 50;                                              // goes on behind 0
    CHECK(second_with(f, [](fields&) {}) == together);
}

TEST_CASE("TCP: flags that end, begin or forbid a superpacket", "[offload][merge]") {
    const fields f = some();
    CHECK(middle_with(f, [](fields&) {}) == shape{{0, 1, 2}});
    CHECK(middle_with(f, [](fields& s) { s.flags |= psh; }) == shape{{0, 1}, {2}});
    CHECK(middle_with(f, [](fields& s) { s.flags |= fin; }) == shape{{0, 1}, {2}});
    CHECK(middle_with(f, [](fields& s) { s.flags |= cwr; }) == shape{{0}, {1, 2}});
    CHECK(middle_with(f, [](fields& s) { s.flags |= cwr; }, {.ecn = false}) == shape{{0}, {1}, {2}});
    CHECK(middle_with(f, [](fields& s) { s.flags |= syn; }) == shape{{0}, {1}, {2}});
    CHECK(middle_with(f, [](fields& s) { s.flags |= rst; }) == shape{{0}, {1}, {2}});
    CHECK(middle_with(f, [](fields& s) { s.flags |= urg; }) == shape{{0}, {1}, {2}});
    CHECK(middle_with(f, [](fields& s) { s.flags = 0; }) == shape{{0}, {1}, {2}});
    CHECK(middle_with(f, [](fields& s) { s.payload.clear(); }) == shape{{0}, {1}, {2}}); // a pure acknowledgement
    CHECK(middle_with(f, [](fields& s) { s.payload.resize(99); }) == shape{{0, 1}, {2}});
    fields first = f;
    first.flags |= psh;
    CHECK(second_with(first, [](fields& s) { s.flags = ack; }) == apart);
    first.flags = ack | cwr | ece;
    CHECK(second_with(first, [](fields& s) { s.flags = ack | ece; }) == together);
    CHECK(second_with(first, [](fields&) {}) == apart); // both have CWR
    first.flags = ack | syn;
    CHECK(second_with(first, [](fields&) {}) == apart);
}

TEST_CASE("UDP: lengths and checksums", "[offload][merge]") {
    for (const bool v6 : {false, true}) {
        const fields f = some(false, v6);
        CHECK(middle_with(f, [](fields&) {}) == shape{{0, 1, 2}});
        CHECK(middle_with(f, [](fields& s) { s.payload.resize(1); }) == shape{{0, 1}, {2}});
        CHECK(middle_with(f, [](fields& s) { s.payload.resize(101); }) == shape{{0}, {1, 2}});
        CHECK(middle_with(f, [](fields& s) { s.payload.clear(); }) == shape{{0}, {1}, {2}});
        CHECK(middle_with(f, [](fields& s) { s.zero_checksum = true; }) == shape{{0}, {1}, {2}});
        CHECK(second_with(f, [](fields& s) { s.destination_port++; }) == apart);
        fields second = next_of(f);
        bytes wrong_length = make_packet(second);
        set16(wrong_length, second.transport() + 4, 107);
        CHECK(merge({make_packet(f), wrong_length}, {.checksums = checksum_trust::trusted}) == apart);
    }
}

TEST_CASE("IPv4: identification, don't-fragment, fragments and options", "[offload][merge]") {
    for (const std::uint16_t fragment : {std::uint16_t{0x4000}, std::uint16_t{0}}) {
        fields f = some();
        f.fragment = fragment;
        const bool df = fragment != 0;
        const auto with_ids = [&](std::vector<int> steps, id_rule rule) {
            std::vector<bytes> packets{make_packet(f)};
            fields g = f;
            for (const int step : steps) {
                const auto id = static_cast<std::uint16_t>(g.id + step);
                g = next_of(g);
                g.id = id;
                packets.push_back(make_packet(g));
            }
            return merge(packets, {.id = rule});
        };
        using enum id_rule;
        CHECK(with_ids({1, 1}, incrementing) == shape{{0, 1, 2}});
        CHECK(with_ids({0, 0}, incrementing) == shape{{0}, {1}, {2}});
        CHECK(with_ids({1, 1}, incrementing_or_same) == shape{{0, 1, 2}});
        CHECK(with_ids({0, 0}, incrementing_or_same) == shape{{0, 1, 2}});
        CHECK(with_ids({1, 0, 1}, incrementing_or_same) == shape{{0, 1}, {2, 3}}); // mixed: cut after two
        CHECK(with_ids({0, 1, 1}, incrementing_or_same) == shape{{0, 1}, {2, 3}});
        CHECK(with_ids({2, -1}, incrementing_or_same) == shape{{0}, {1}, {2}});
        CHECK(with_ids({2, -1}, any) == (df ? shape{{0, 1, 2}} : shape{{0}, {1}, {2}}));
        f.id = 0xffff;
        CHECK(with_ids({1, 1}, incrementing) == shape{{0, 1, 2}});
    }
    const fields f = some();
    CHECK(second_with(f, [](fields& s) { s.fragment = 0; }) == apart);
    CHECK(middle_with(f, [](fields& s) { s.fragment = 0xc000; }) == shape{{0}, {1}, {2}}); // the reserved bit
    CHECK(middle_with(f, [](fields& s) { s.ip_options.assign(4, std::byte{1}); }) == shape{{0}, {1}, {2}});
    // A fragment ends other flows' superpackets, too.
    fields other = some(false), fragment = some(false);
    fragment.fragment = 0x2000;
    for (const std::uint16_t bits : {std::uint16_t{0x2000}, std::uint16_t{1}}) {
        fragment.fragment = bits;
        CHECK(merge({make_packet(f), make_packet(other), make_packet(fragment), make_packet(next_of(f)),
                     make_packet(next_of(other))}) == shape{{0}, {1}, {2}, {3}, {4}});
    }
}

TEST_CASE("IPv6: extension headers", "[offload][merge]") {
    fields f = some(true, true);
    f.ip_options = extension_headers(2, 6);
    CHECK(second_with(f, [](fields&) {}) == together);
    CHECK(second_with(f, [](fields&) {}, {.checksums = checksum_trust::trusted}) == together);
    CHECK(second_with(f, [](fields& s) { s.ip_options[3] = std::byte{0}; }) == apart);
    CHECK(second_with(f, [](fields& s) { s.ip_options = extension_headers(1, 6); }) == apart);
    CHECK(second_with(f, [](fields& s) { s.extension = 0; }) == apart);
}

TEST_CASE("checksums are verified, or trusted", "[offload][merge]") {
    for (const bool tcp : {false, true})
        for (const bool v6 : {false, true}) {
            const fields a = some(tcp, v6), b = next_of(a), c = next_of(b);
            for (std::size_t damaged = 0; damaged < 3; ++damaged) {
                std::vector<bytes> packets{make_packet(a), make_packet(b), make_packet(c)};
                packets[damaged].back() ^= std::byte{1};
                CHECK(merge(packets) == (damaged == 0   ? shape{{0}, {1, 2}}
                                         : damaged == 1 ? shape{{0}, {1}, {2}}
                                                        : shape{{0, 1}, {2}}));
                std::vector<offload_state> states(3);
                states[damaged].data_valid = true; // somebody says so
                coalescer merging, trusting{{.checksums = checksum_trust::trusted}};
                for (std::size_t i = 0; i < 3; ++i) merging.add(packets[i], states[i]), trusting.add(packets[i]);
                CHECK(merging.finish().size() == 1);
                CHECK(trusting.finish().size() == 1);
            }
        }
    const fields f = some();
    bytes second = make_packet(next_of(f));
    second[10] ^= std::byte{1}; // the IPv4 header's
    CHECK(merge({make_packet(f), second}) == apart);
}

TEST_CASE("checksums still to be completed are taken for right", "[offload][merge]") {
    const fields a = some(), b = next_of(a), c = next_of(b);
    offload_state partial = superpacket_state(a, 0);
    partial.type = segment_type::none;
    partial.header_length = 0;
    CHECK(merge({make_packet(a, true), make_packet(b), make_packet(c, true)}, {}, {partial, {}, partial}) ==
          shape{{0, 1, 2}});
    CHECK(merge({make_packet(a, true)}, {}, {partial}) == shape{{0}}); // and keeps its state
    offload_state elsewhere = partial;
    elsewhere.checksum_offset = 6;
    CHECK(merge({make_packet(a, true), make_packet(b, true)}, {}, {partial, elsewhere}) == apart);
}

TEST_CASE("superpackets pass through, in order", "[offload][merge]") {
    const fields a = some(), whole = next_of(a), c = next_of(whole), d = next_of(c);
    coalescer merging;
    merging.begin();
    const std::vector<bytes> packets{make_packet(a), make_packet(whole, true), make_packet(c), make_packet(d)};
    const offload_state state = superpacket_state(whole, 50);
    for (std::size_t i = 0; i < 4; ++i) merging.add(packets[i], i == 1 ? state : offload_state{});
    const auto results = merging.finish();
    REQUIRE(results.size() == 3);
    CHECK(results[1].state == state);
    const bytes got = gather(results[1]);
    CHECK(bytes(got.begin() + 10, got.end()) == packets[1]);
    CHECK(read_virtio_header(std::span{got}.first<10>()) == to_virtio_header(state));
    CHECK(results[2].packets.size() == 2);
}

TEST_CASE("flows that mix are merged each on its own, and others pass between", "[offload][merge]") {
    fields a = some(), b = some(false), c = some(true, true);
    bytes icmp = make_packet(some(false));
    icmp[9] = std::byte{1};
    const std::vector<bytes> packets{make_packet(a),          make_packet(b),          icmp, make_packet(c),
                                     make_packet(next_of(a)), make_packet(next_of(c)), icmp, make_packet(next_of(b))};
    CHECK(merge(packets) == shape{{0, 4}, {1, 7}, {2}, {3, 5}, {6}});
    CHECK(merge(packets, {.tcp4 = false}) == shape{{0}, {1, 7}, {2}, {3, 5}, {4}, {6}});
    CHECK(merge(packets, {.tcp6 = false}) == shape{{0, 4}, {1, 7}, {2}, {3}, {5}, {6}});
    CHECK(merge(packets, {.udp4 = false}) == shape{{0, 4}, {1}, {2}, {3, 5}, {6}, {7}});
    CHECK(merge(packets, {.udp6 = false}) == shape{{0, 4}, {1, 7}, {2}, {3, 5}, {6}});
    // Whatever cannot be read ends all.
    for (const bytes& junk :
         {bytes{}, bytes(1), bytes(100), bytes(100, std::byte{0x45}), bytes(100, std::byte{0x60})}) {
        const std::vector<bytes> with_junk{make_packet(a), make_packet(c), junk, make_packet(next_of(a)),
                                           make_packet(next_of(c))};
        CHECK(merge(with_junk) == shape{{0}, {1}, {2}, {3}, {4}});
    }
}

TEST_CASE("more flows than there are places stay in order", "[offload][merge]") {
    std::vector<bytes> packets;
    std::vector<fields> flows;
    for (std::uint16_t i = 0; i < 1000; ++i) {
        flows.push_back(some(i % 2 == 0, i % 3 == 0));
        flows.back().source_port = i;
    }
    for (int round = 0; round < 4; ++round)
        for (fields& f : flows) packets.push_back(make_packet(f)), f = next_of(f);
    const shape result = merge(packets); // checks the order
    CHECK(result.size() < packets.size());
    packets.resize(2000);
    CHECK(merge(packets).size() <= packets.size());
}

TEST_CASE("a superpacket has no more segments and bytes than allowed", "[offload][merge]") {
    const auto stream = [](fields f, std::size_t count) {
        std::vector<bytes> packets;
        for (; packets.size() < count; f = next_of(f)) packets.push_back(make_packet(f));
        return packets;
    };
    const auto sizes = [](const shape& s) {
        std::vector<std::size_t> result;
        for (const auto& one : s) result.push_back(one.size());
        return result;
    };
    using list = std::vector<std::size_t>;
    CHECK(sizes(merge(stream(some(false), 130))) == list{64, 64, 2});
    CHECK(sizes(merge(stream(some(false), 130), {.most_datagrams = 60000})) == list{128, 2});
    CHECK(sizes(merge(stream(some(), 260))) == list{128, 128, 4});
    CHECK(sizes(merge(stream(some(), 5), {.most_tcp_segments = 2})) == list{2, 2, 1});
    CHECK(sizes(merge(stream(some(), 3), {.most_tcp_segments = 0})) == list{1, 1, 1});
    CHECK(sizes(merge(stream(some(), 5), {.most_bytes = 340})) == list{3, 2});
    CHECK(sizes(merge(stream(some(), 5), {.most_bytes = 339})) == list{2, 2, 1});
    CHECK(sizes(merge(stream(some(), 2), {.most_bytes = 139})) == list{1, 1});
    for (const bool v6 : {false, true}) {
        fields large = some(true, v6);
        large.payload.resize(1448);
        CHECK(sizes(merge(stream(large, 50))) == list{45, 5}); // 45 * 1448 + 60 <= 65535
        large.payload.resize((65535 - large.header_size()) / 5);
        CHECK(sizes(merge(stream(large, 6))) == list{5, 1});
    }
}

TEST_CASE("behind an Ethernet header", "[offload][merge]") {
    for (const bool v6 : {false, true}) {
        fields a = some(true, v6);
        a.link.assign(14, std::byte{3});
        fields b = next_of(a), c = next_of(b);
        c.link[5] = std::byte{4}; // to another station
        const fields d = next_of(c);
        CHECK(merge({make_packet(a), make_packet(b), make_packet(c), make_packet(d)}, {.network_offset = 14}) ==
              shape{{0, 1}, {2, 3}});
    }
}

TEST_CASE("nothing is allocated once a coalescer has grown", "[offload][merge]") {
    std::vector<bytes> packets;
    fields a = some(), b = some(false, true);
    for (int i = 0; i < 100; ++i) {
        packets.push_back(make_packet(a)), packets.push_back(make_packet(b));
        a = next_of(a), b = next_of(b);
        if (i % 10 == 0) a.window++;
    }
    coalescer merging;
    for (int batch = 0; batch < 10; ++batch) {
        const auto before = allocations.load();
        merging.begin();
        for (const bytes& p : packets) merging.add(p);
        static_cast<void>(merging.finish());
        if (batch > 0) CHECK(allocations.load() == before);
    }
}
