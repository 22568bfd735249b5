// SPDX-License-Identifier: Apache-2.0
#include "cotun/offload/virtio_header.hpp"

#include <catch2/catch_test_macros.hpp>

#include "cotun/offload/segments.hpp"
#include "packets.hpp"

using namespace cotun;
using namespace cotun::offload;
using namespace cotun::test;

namespace {

fields some(bool tcp = true, bool v6 = false) {
    fields f;
    f.tcp = tcp, f.v6 = v6;
    f.payload.assign(3000, std::byte{7});
    return f;
}

virtio_header header_of(const fields& f, std::size_t segment_size = 1000) {
    return to_virtio_header(superpacket_state(f, segment_size));
}

// What the header and the packet are refused for; segments() must agree, whatever the state.
refusal refused(const virtio_header& header, const bytes& packet, std::size_t network = 0) {
    // An allocation of this very size, for the sanitizer.
    const bytes exact{packet.begin(), packet.end()};
    const checked_offload checked = check_offload(header, exact, network);
    if (!checked)
        CHECK(checked.state == offload_state{});
    else
        CHECK(segments(exact, checked.state, network));
    return checked.refusal;
}

refusal refused(const fields& f, void (*change)(bytes&), std::size_t segment_size = 1000) {
    bytes packet = make_packet(f, true);
    change(packet);
    return refused(header_of(f, segment_size), packet);
}

} // namespace

TEST_CASE("a virtio-net header is read and written in either order", "[offload][virtio]") {
    const virtio_header header{.flags = 1,
                               .type = 0x81,
                               .header_length = 0x0102,
                               .segment_size = 0x0304,
                               .checksum_start = 0x0506,
                               .checksum_offset = 0x0708};
    std::array<std::byte, virtio_header_size> raw{};
    write_virtio_header(raw, header, std::endian::little);
    constexpr std::array<std::uint8_t, 10> little{1, 0x81, 2, 1, 4, 3, 6, 5, 8, 7};
    CHECK(std::equal(raw.begin(), raw.end(), reinterpret_cast<const std::byte*>(little.data())));
    CHECK(read_virtio_header(raw, std::endian::little) == header);
    write_virtio_header(raw, header, std::endian::big);
    constexpr std::array<std::uint8_t, 10> big{1, 0x81, 1, 2, 3, 4, 5, 6, 7, 8};
    CHECK(std::equal(raw.begin(), raw.end(), reinterpret_cast<const std::byte*>(big.data())));
    CHECK(read_virtio_header(raw, std::endian::big) == header);
    write_virtio_header(raw, header);
    CHECK(read_virtio_header(raw) == header);
}

TEST_CASE("what a header says of a superpacket is kept, its length found anew", "[offload][virtio]") {
    for (const bool v6 : {false, true})
        for (const bool tcp : {false, true}) {
            fields f = some(tcp, v6);
            if (tcp) f.flags |= cwr;
            virtio_header header = header_of(f);
            CHECK(header.type == (tcp ? (v6 ? 0x84 : 0x81) : 5));
            for (const int length : {0, 1, 66, 65535}) {
                header.header_length = static_cast<std::uint16_t>(length);
                const checked_offload checked = check_offload(header, make_packet(f, true));
                REQUIRE(checked.refusal == refusal::none);
                CHECK(checked.state == superpacket_state(f, 1000));
            }
            CHECK(to_virtio_header(check_offload(header, make_packet(f, true)).state) == header_of(f));
        }
}

TEST_CASE("plain packets may be anything, with a place for a checksum inside of them", "[offload][virtio]") {
    const bytes anything(20, std::byte{0xff});
    CHECK(check_offload({}, {}).refusal == refusal::none);
    CHECK(check_offload({.segment_size = 5}, anything).state == offload_state{}); // the type says that it means nothing
    CHECK(check_offload({.flags = virtio_header::data_valid}, anything).state.data_valid);
    CHECK(to_virtio_header({.data_valid = true}).flags == virtio_header::data_valid);
    virtio_header header{.flags = virtio_header::needs_checksum, .checksum_start = 10, .checksum_offset = 8};
    CHECK(check_offload(header, anything).state.needs_checksum);
    CHECK(to_virtio_header(check_offload(header, anything).state) == header);
    header.checksum_offset = 9;
    CHECK(refused(header, anything) == refusal::checksum_place);
    CHECK(refused({.flags = 1, .checksum_start = 65535, .checksum_offset = 65535}, anything) ==
          refusal::checksum_place);
    bytes packet = anything;
    offload_state state{.checksum_start = 10, .checksum_offset = 9, .needs_checksum = true};
    CHECK(complete_checksum(packet, state) == refusal::checksum_place);
    CHECK(segments(packet, state).refusal() == refusal::checksum_place);
    const bytes large(2000, std::byte{1});
    state.checksum_offset = 1000;
    CHECK(segments(large, state).refusal() == refusal::headers_too_long);
    state = {.segment_size = 10, .type = segment_type::tcp4, .needs_checksum = true};
    CHECK(complete_checksum(packet, state) == refusal::is_superpacket);
    CHECK(packet == anything);
}

TEST_CASE("headers are refused by name", "[offload][virtio]") {
    const fields f = some();
    const bytes packet = make_packet(f, true);
    const auto with = [&](auto change) {
        virtio_header header = header_of(f);
        change(header);
        return refused(header, packet);
    };
    CHECK(with([](auto&) {}) == refusal::none);
    CHECK(with([](auto& h) { h.flags |= 4; }) == refusal::receive_coalescing);
    CHECK(with([](auto& h) { h.flags |= 8; }) == refusal::unknown_flag);
    CHECK(with([](auto& h) { h.flags |= 0x80; }) == refusal::unknown_flag);
    CHECK(with([](auto& h) { h.type = 3; }) == refusal::fragmentation);
    CHECK(with([](auto& h) { h.type |= 0x20; }) == refusal::udp_tunnel);
    CHECK(with([](auto& h) { h.type |= 0x40; }) == refusal::udp_tunnel);
    CHECK(with([](auto& h) { h.type = 2; }) == refusal::unknown_type);
    CHECK(with([](auto& h) { h.type = 6; }) == refusal::unknown_type);
    CHECK(with([](auto& h) { h.type = 0x80; }) == refusal::ecn_without_tcp);
    CHECK(with([](auto& h) { h.type = 0x85; }) == refusal::ecn_without_tcp);
    CHECK(with([](auto& h) { h.segment_size = 0; }) == refusal::zero_segment_size);
    CHECK(with([](auto& h) { h.segment_size = 3000; }) == refusal::none); // a single segment
    CHECK(with([](auto& h) { h.segment_size = 3001; }) == refusal::segment_beyond_data);
    CHECK(with([](auto& h) { h.segment_size = 0xffff; }) == refusal::segment_beyond_data); // the kernel's GSO_BY_FRAGS
    CHECK(with([](auto& h) { h.flags = 0; }) == refusal::checksum_not_partial);
    CHECK(with([](auto& h) { h.flags = 2; }) == refusal::checksum_not_partial);
    CHECK(with([](auto& h) { h.checksum_start = 19; }) == refusal::checksum_place);
    CHECK(with([](auto& h) { h.checksum_offset = 6; }) == refusal::checksum_place);
    CHECK(with([](auto& h) { h.checksum_start = 60000; }) == refusal::checksum_place);
    CHECK(with([](auto& h) { h.type = 4; }) == refusal::wrong_version);
    CHECK(with([](auto& h) { h.type = 5; }) == refusal::wrong_protocol);
    CHECK(refused(header_of(f), packet, 100) != refusal::none);
    CHECK(refused(header_of(f), packet, 1 << 20) != refusal::none);
    for (int why = 0; why <= static_cast<int>(refusal::is_superpacket); ++why)
        CHECK(text(static_cast<refusal>(why)) != "an unknown reason");
    CHECK(text(static_cast<refusal>(255)) == "an unknown reason");
}

TEST_CASE("malformed IPv4 superpackets are refused", "[offload][virtio]") {
    const fields f = some();
    CHECK(refused(f, [](bytes& p) { p[0] = std::byte{0x44}; }) == refusal::ip_header_length);
    CHECK(refused(f, [](bytes& p) { p[0] = std::byte{0x40}; }) == refusal::ip_header_length);
    CHECK(refused(f, [](bytes& p) { p[0] = std::byte{0x4f}; }) != refusal::none); // TCP would lie elsewhere
    CHECK(refused(f, [](bytes& p) { p[0] = std::byte{0x35}; }) == refusal::not_ip);
    CHECK(refused(f, [](bytes& p) { p[0] = std::byte{0x65}; }) != refusal::none);
    CHECK(refused(f, [](bytes& p) { p.push_back({}); }) == refusal::ip_length);
    CHECK(refused(f, [](bytes& p) { p.pop_back(); }) == refusal::ip_length);
    CHECK(refused(f, [](bytes& p) { set16(p, 6, 0x2000); }) == refusal::fragment);
    CHECK(refused(f, [](bytes& p) { set16(p, 6, 0x4001); }) == refusal::fragment);
    CHECK(refused(f, [](bytes& p) { p[9] = std::byte{1}; }) == refusal::other_protocol);
    CHECK(refused(f, [](bytes& p) { p[9] = std::byte{4}; }) == refusal::other_protocol); // nested
    CHECK(refused(f, [](bytes& p) { p[9] = std::byte{17}; }) == refusal::wrong_protocol);
    CHECK(refused(f, [](bytes& p) { p[32] = std::byte{0x40}; }) == refusal::tcp_header_length);
    CHECK(refused(f, [](bytes& p) { p[33] = std::byte{syn | ack}; }) == refusal::tcp_flags);
    CHECK(refused(f, [](bytes& p) { p[33] = std::byte{rst}; }) == refusal::tcp_flags);
    const fields u = some(false);
    CHECK(refused(u, [](bytes& p) { set16(p, 24, 3007); }) == refusal::udp_length);
    CHECK(refused(u, [](bytes& p) { set16(p, 24, 0); }) == refusal::udp_length);
    CHECK(refused(
              u, [](bytes&) {}, 24) == refusal::none);
    CHECK(refused(
              u, [](bytes&) {}, 23) == refusal::too_many_segments);
    fields tiny = some();
    tiny.payload.resize(4);
    CHECK(refused(
              tiny, [](bytes& p) { p[32] = std::byte{0x70}; }, 4) == refusal::truncated); // options beyond the end
    CHECK(refused(
              tiny, [](bytes& p) { p[32] = std::byte{0x60}; }, 4) == refusal::segment_beyond_data);
}

TEST_CASE("malformed IPv6 superpackets are refused", "[offload][virtio]") {
    fields f = some(true, true);
    CHECK(refused(f, [](bytes& p) { set16(p, 4, 0); }) == refusal::ip_length); // a jumbogram
    CHECK(refused(f, [](bytes& p) { p[6] = std::byte{44}; }) == refusal::fragment);
    CHECK(refused(f, [](bytes& p) { p[6] = std::byte{59}; }) == refusal::other_protocol);
    CHECK(refused(f, [](bytes& p) { p[6] = std::byte{50}; }) == refusal::other_protocol);
    CHECK(refused(f, [](bytes& p) { p[6] = std::byte{41}; }) == refusal::other_protocol); // nested
    f.ip_options = extension_headers(3, 6);
    CHECK(refused(f, [](bytes&) {}) == refusal::none);
    CHECK(refused(f, [](bytes& p) { p[6] = std::byte{0}; }) == refusal::none);              // hop-by-hop, first
    CHECK(refused(f, [](bytes& p) { p[40] = std::byte{0}; }) == refusal::extension_header); // second
    CHECK(refused(f, [](bytes& p) { p[48] = std::byte{44}; }) == refusal::fragment);
    CHECK(refused(f, [](bytes& p) { p[41] = std::byte{100}; }) == refusal::headers_too_long);
    f.payload.resize(10);
    CHECK(refused(
              f, [](bytes& p) { p[57] = std::byte{255}; }, 10) == refusal::truncated);
    f.ip_options = extension_headers(59, 6);
    CHECK(refused(
              f, [](bytes&) {}, 10) == refusal::headers_too_long);
    // A chain that ends within an extension header, or without one.
    bytes chain(40, std::byte{0});
    chain[0] = std::byte{0x60}, chain[6] = std::byte{60};
    virtio_header header{.flags = 1, .type = 4, .segment_size = 1, .checksum_start = 0, .checksum_offset = 16};
    for (std::size_t more = 0; more < 30; ++more) {
        set16(chain, 4, more);
        CHECK(refused(header, chain) == refusal::truncated);
        chain.push_back(std::byte{more % 8 == 0 ? std::uint8_t{60} : std::uint8_t{0}});
    }
}

TEST_CASE("superpackets cut short anywhere are refused", "[offload][virtio]") {
    for (const bool v6 : {false, true})
        for (const bool tcp : {false, true}) {
            fields f = some(tcp, v6);
            f.ip_options = v6 ? extension_headers(2, tcp ? 6 : 17) : bytes(8, std::byte{1});
            f.payload.resize(20);
            const bytes whole = make_packet(f, true);
            for (std::size_t size = 0; size < whole.size(); ++size) {
                bytes cut{whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)};
                CHECK(refused(header_of(f, 10), cut) != refusal::none);
                // Also where the IP header agrees.
                if (size < (v6 ? 40U : 20U)) continue;
                set16(cut, v6 ? 4 : 2, v6 ? size - 40 : size);
                const refusal why = refused(header_of(f, 10), cut);
                if (size < f.header_size() + 10 || !tcp) CHECK(why != refusal::none);
            }
        }
}
