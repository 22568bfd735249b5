// SPDX-License-Identifier: Apache-2.0
//
// Superpackets through real devices, with the kernel as the judge: it makes them of what a socket sends, takes them
// apart for sockets, and cuts them for a device without offload, to be compared with how cotun cuts them.
#include <cotun/offload/segments.hpp>
#include <cotun/tun/device.hpp>

#include <linux/if_tun.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "../offload/packets.hpp"
#include "../support/seed.hpp"
#include "traffic.hpp"

using namespace test;
using cotun::offload::offload_state;
using cotun::offload::segment_type;
using cotun::test::bytes;
using cotun::test::dice;
using cotun::test::fields;

namespace {

bool kernel_has_udp_segmentation_on_devices() { return kernel_is_from(6, 2); }

/// Sends `count` datagrams of `size` bytes in one call, as one superpacket: each begins with its number.
void send_run(std::size_t count, std::size_t size, const std::string& to) {
    const plain_socket from;
    const int segment = static_cast<int>(size);
    REQUIRE(setsockopt(from.descriptor(), IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment) == 0);
    bytes run(count * size);
    for (std::uint64_t n = 0; n < count; ++n) std::memcpy(&run[n * size], &n, sizeof n);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(traffic_port);
    inet_pton(AF_INET, to.c_str(), &a.sin_addr);
    REQUIRE(sendto(from.descriptor(), run.data(), run.size(), 0, reinterpret_cast<const sockaddr*>(&a), sizeof a) ==
            static_cast<ssize_t>(run.size()));
}

/// Sends packets as the payload of datagrams of one size, in one call: as a tunnel's peer would.
void send_packets(std::size_t count, const std::string& to, std::uint16_t port) {
    bytes run(count * numbered_size);
    for (std::size_t n = 0; n < count; ++n)
        write_numbered(std::span(run).subspan(n * numbered_size, numbered_size), n,
                       cotun::wire::ipv4_address::from_string("10.9.0.2"),
                       cotun::wire::ipv4_address::from_string("10.9.0.1"));
    const int from = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const int segment = static_cast<int>(numbered_size);
    REQUIRE(setsockopt(from, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment) == 0);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(port);
    inet_pton(AF_INET, to.c_str(), &a.sin_addr);
    const ssize_t sent = sendto(from, run.data(), run.size(), 0, reinterpret_cast<const sockaddr*>(&a), sizeof a);
    close(from);
    REQUIRE(sent == static_cast<ssize_t>(run.size()));
}

cotun::task<cotun::packet> next_of_ours(cotun::device& dev) {
    for (;;) {
        cotun::packet pkt = co_await dev.read_packet();
        if (number_of(pkt.bytes())) co_return pkt;
    }
}

// Turns a packet from 10.9.0.1 to .2 round, so that it comes back to the sender's host. The sums stay what they are.
void turn_round(cotun::packet& pkt) {
    std::array<std::byte, 4> source{};
    std::memcpy(source.data(), &pkt.bytes()[12], 4);
    std::memmove(&pkt.bytes()[12], &pkt.bytes()[16], 4);
    std::memcpy(&pkt.bytes()[16], source.data(), 4);
}

/// A device with superpackets, for every way of reading.
struct superpacket_bench {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    cotun::reactor io{};
    cotun::device dev =
        cotun::open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24"}, .offload = {}, .read = mode});
};

std::string kernel_sum_errors() { return output_of("nstat -asz UdpInCsumErrors TcpInCsumErrors | grep -c ' 0 '"); }

} // namespace

TEST_CASE("a superpacket comes whole, and says what it is", "[tun][superpackets]") {
    superpacket_bench t;
    if (!t.dev.offloads().read.udp) SKIP("this kernel's TUN driver has no UDP segmentation (Linux 6.2)");
    send_run(20, 1000, "10.9.0.2");
    const cotun::packet pkt = run_bounded(t.io, next_of_ours(t.dev));
    CHECK(pkt.size() == 20 + 8 + 20 * 1000);
    const offload_state state = pkt.offload();
    CHECK(state.type == segment_type::udp4);
    CHECK(state.segment_size == 1000);
    CHECK(state.header_length == 28);
    CHECK(state.needs_checksum);
    CHECK(t.dev.reads().superpackets == 1);
    CHECK(t.dev.reads().malformed == 0);
}

TEST_CASE("a packet's offload state moves with its front, and ends where its headers are cut off", "[tun][packets]") {
    cotun::reactor io;
    const auto body = [](cotun::reactor& on) -> cotun::task<> {
        cotun::packet pkt = co_await on.allocate(100);
        CHECK(pkt.offload() == offload_state());
        offload_state state;
        state.needs_checksum = true;
        state.checksum_start = 20;
        state.checksum_offset = 6;
        pkt.set_offload(state);
        CHECK(pkt.offload() == state);
        (void)pkt.prepend(14);
        CHECK(pkt.offload().checksum_start == 34);
        pkt.remove_prefix(14);
        CHECK(pkt.offload() == state);
        pkt.remove_prefix(21);
        CHECK(pkt.offload() == offload_state());
        pkt.set_offload(state);
        pkt.assign(bytes(10));
        CHECK(pkt.offload() == offload_state());
    };
    run_bounded(io, body(io));
}

TEST_CASE("a superpacket that is written arrives as its datagrams", "[tun][superpackets]") {
    if (!kernel_has_udp_segmentation_on_devices()) SKIP("this kernel's TUN driver has no UDP segmentation (Linux 6.2)");
    tun_namespace here;
    cotun::reactor io;
    cotun::device_options options{.name = "tun0", .addresses = {"10.9.0.1/24"}, .offload = {}};
    std::uint64_t whole = 1, segmented = 0;
    SECTION("whole") {}
    SECTION("as segments, where that is asked for") {
        options.offload.write = cotun::superpacket_kinds::none();
        whole = 0;
        segmented = 1;
    }
    SECTION("as segments, with packet information") {
        options.offload.write.udp = false;
        options.packet_information = true;
        whole = 0;
        segmented = 1;
    }
    SECTION("whole, with packet information") { options.packet_information = true; }
    SECTION("as segments, with a bound for the device's send buffer that holds two of them") {
        options.offload.write = cotun::superpacket_kinds::none();
        options.send_buffer = 5000;
        whole = 0;
        segmented = 1;
    }
    cotun::device dev = cotun::open_tun(io, options);
    const auto body = [](cotun::device& on) -> cotun::task<> {
        cotun::packet pkt = co_await next_of_ours(on);
        turn_round(pkt);
        co_await on.write_packet(std::move(pkt));
        co_await on.flush();
    };
    send_run(20, 1000, "10.9.0.2");
    const plain_socket to;
    run_bounded(io, body(dev));
    for (std::uint64_t n = 0; n < 20; ++n) REQUIRE(to.receive() == n);
    CHECK(dev.writes().packets == 1);
    CHECK(dev.writes().superpackets == whole);
    CHECK(dev.writes().segmented == segmented);
    CHECK(dev.writes().failed() == 0);
    CHECK(kernel_sum_errors() == "2\n");
}

TEST_CASE("a device without offload reads packets, and writes superpackets as segments", "[tun][superpackets]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev =
        cotun::open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24"}, .offload = cotun::no_offload});
    CHECK(dev.offloads() ==
          cotun::device_offload{false, cotun::superpacket_kinds::none(), cotun::superpacket_kinds::none()});
    fields f{.tcp = false,
             .source = 2,
             .destination = 1,
             .source_port = traffic_port,
             .destination_port = traffic_port,
             .payload = bytes(7 * 500 + 20)};
    for (std::uint64_t n = 0; n < 8; ++n) std::memcpy(&f.payload[n * 500], &n, sizeof n);
    const plain_socket to;
    const auto body = [](cotun::reactor& on, cotun::device& out, const fields& sent) -> cotun::task<> {
        const bytes whole = cotun::test::make_packet(sent, true);
        cotun::packet pkt = co_await on.allocate(whole.size());
        pkt.assign(whole);
        pkt.set_offload(cotun::test::superpacket_state(sent, 500));
        co_await out.write_packet(std::move(pkt));
        fields single = sent; // and one whose checksum is to be completed
        single.payload.resize(sizeof(std::uint64_t));
        const bytes partial = cotun::test::make_packet(single, true);
        pkt = co_await on.allocate(partial.size());
        pkt.assign(partial);
        offload_state state = cotun::test::superpacket_state(single, 1);
        state.type = segment_type::none;
        state.segment_size = state.header_length = 0;
        pkt.set_offload(state);
        co_await out.write_packet(std::move(pkt));
        co_await out.flush();
    };
    run_bounded(io, body(io, dev, f));
    for (std::uint64_t n = 0; n < 8; ++n) REQUIRE(to.receive() == n);
    CHECK(to.receive() == 0);
    CHECK(dev.writes().segmented == 1);
    CHECK(dev.writes().packets == 2);
    CHECK(kernel_sum_errors() == "2\n");
}

TEST_CASE("datagrams that came as one go to a device each, though there is no room in front of them",
          "[tun][superpackets]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device_options options{.name = "tun0", .addresses = {"10.9.0.1/24"}};
    SECTION("with superpackets") { options.offload = {}; }
    SECTION("with packet information") { options.packet_information = true; }
    SECTION("with both") {
        options.offload = {};
        options.packet_information = true;
    }
    SECTION("with neither") {}
    const auto body = [](cotun::reactor& on, const cotun::device_options& how) -> cotun::task<> {
        cotun::device dev = cotun::open_tun(on, how);
        cotun::udp_options receiving;
        receiving.local = cotun::endpoint::from_string("127.0.0.1:4712");
        receiving.receive_merged = true;
        cotun::udp_socket from = cotun::open_udp(on, receiving);
        send_packets(20, "127.0.0.1", 4712);
        for (std::uint64_t left = 20; left > 0;) {
            cotun::packet_batch batch = co_await from.receive_packets();
            left -= batch.size();
            co_await dev.write_packets(std::move(batch));
        }
        co_await dev.flush();
        CHECK(dev.writes().packets == 20);
        CHECK(dev.writes().failed() == 0);
        co_await from.close();
        co_await dev.close();
    };
    const plain_socket to;
    run_bounded(io, body(io, options));
    for (std::uint64_t n = 0; n < 20; ++n) REQUIRE(to.receive() == n);
    CHECK(io.statistics().large_buffers_free == 64);
    CHECK(io.statistics().small_buffers_free == 1024);
}

TEST_CASE("a superpacket that is none is refused, and the device goes on with others", "[tun][superpackets]") {
    superpacket_bench t;
    fields f{.payload = bytes(3000)};
    const auto body = [](cotun::reactor& on, cotun::device& out, const fields& sent) -> cotun::task<> {
        const bytes whole = cotun::test::make_packet(sent, true);
        cotun::packet pkt = co_await on.allocate(whole.size());
        pkt.assign(whole);
        offload_state state = cotun::test::superpacket_state(sent, 1000);
        state.checksum_offset = 3000;
        state.checksum_start = 3000;
        pkt.set_offload(state);
        co_await out.write_packet(std::move(pkt));
        const auto answer = co_await cotun::as_result(out.flush());
        CHECK(answer.error() == std::errc::invalid_argument);
    };
    run_bounded(t.io, body(t.io, t.dev, f));
    CHECK(t.dev.writes().invalid == 1);
    CHECK(t.dev.writes().offload_refused == 0);
    CHECK(t.dev.offloads().write == cotun::superpacket_kinds());
}

TEST_CASE("a mask that another program left on a device is cleared", "[tun][superpackets]") {
    if (!kernel_has_udp_segmentation_on_devices()) SKIP("this kernel's TUN driver has no UDP segmentation (Linux 6.2)");
    tun_namespace here;
    run("ip tuntap add dev tun0 mode tun");
    {
        const cotun::unique_fd other(open("/dev/net/tun", O_RDWR | O_CLOEXEC));
        ifreq request{};
        std::strcpy(request.ifr_name, "tun0");
        request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
        REQUIRE(ioctl(other.get(), TUNSETIFF, &request) == 0);
        REQUIRE(ioctl(other.get(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | 0x60UL) == 0);
        const int size = 12;
        REQUIRE(ioctl(other.get(), TUNSETVNETHDRSZ, &size) == 0);
    }
    cotun::reactor io;
    cotun::device_options options{
        .name = "tun0", .addresses = {"10.9.0.1/24"}, .existing = cotun::existing_interface::require, .offload = {}};
    std::size_t expected = 20 + 8 + 5 * 1000;
    SECTION("by one without offload, which gets packets") {
        options.offload = cotun::no_offload;
        expected = 20 + 8 + 1000;
    }
    SECTION("by one with, whose header has its own size") {}
    cotun::device dev = cotun::open_tun(io, options);
    send_run(5, 1000, "10.9.0.2");
    const cotun::packet pkt = run_bounded(io, next_of_ours(dev));
    CHECK(pkt.size() == expected);
    const offload_state state = pkt.offload();
    CHECK(state.is_superpacket() == dev.offloads().enabled);
    if (!dev.offloads().enabled) CHECK_FALSE(state.needs_checksum);
}

TEST_CASE("what ethtool says of a device's features is what was asked for", "[tun][superpackets]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device_options options{.name = "tun0", .offload = {}};
    std::string on = "tcp-segmentation-offload: on";
    SECTION("all") {}
    SECTION("none of TCP") {
        options.offload.read.tcp4 = options.offload.read.tcp6 = false;
        on = "tcp-segmentation-offload: off";
    }
    SECTION("none at all") {
        options.offload = cotun::no_offload;
        on = "tcp-segmentation-offload: off";
    }
    const cotun::device dev = cotun::open_tun(io, options);
    CHECK(output_of("ethtool -k tun0").find(on) != std::string::npos);
}

TEST_CASE("queues that are opened later have superpackets too", "[tun][superpackets][queues]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device first =
        cotun::open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24"}, .multi_queue = true, .offload = {}});
    cotun::device second = cotun::adopt_device(io, first.open_queue(), {.offload = {}});
    CHECK(second.offloads() == first.offloads());
    CHECK(second.offloads().enabled);
}

TEST_CASE("devices go without superpackets where large buffers would be short", "[tun][superpackets]") {
    tun_namespace here;
    cotun::reactor io({.pool = {.large_count = 4}});
    cotun::device one = cotun::open_tun(io, {.name = "one", .offload = {}});
    cotun::device two = cotun::open_tun(io, {.name = "two", .offload = {}});
    cotun::device three = cotun::open_tun(io, {.name = "three", .offload = {}});
    CHECK(one.offloads().enabled);
    CHECK(two.offloads().enabled);
    CHECK_FALSE(three.offloads().enabled);
    cotun::reactor without({.pool = {.large_count = 0}});
    const cotun::device four = cotun::open_tun(without, {.name = "four", .offload = {}});
    CHECK_FALSE(four.offloads().enabled);
}

namespace {

fields random_superpacket(dice& roll) {
    fields f{.v6 = roll(2) == 0, .tcp = roll(3) != 0};
    f.tos = static_cast<std::uint8_t>(roll(64) << 2);
    f.ttl = static_cast<std::uint8_t>(2 + roll(250));
    f.id = static_cast<std::uint16_t>(roll(65536));
    f.fragment = roll(2) == 0 ? 0x4000 : 0;
    if (roll(4) == 0 && !f.v6) f.ip_options = bytes(4 * (1 + roll(10)), std::byte{1}); // no operation
    if (roll(4) == 0 && f.v6) f.ip_options = cotun::test::extension_headers(1 + roll(2), f.tcp ? 6 : 17);
    f.flow_label = static_cast<std::uint32_t>(roll(1U << 20));
    f.source_port = static_cast<std::uint16_t>(1 + roll(65535));
    f.destination_port = static_cast<std::uint16_t>(1 + roll(65535));
    f.sequence = static_cast<std::uint32_t>(roll(std::size_t{1} << 32));
    f.acknowledgement = static_cast<std::uint32_t>(roll(std::size_t{1} << 32));
    f.window = static_cast<std::uint16_t>(roll(65536));
    if (roll(2) == 0) f.tcp_options = bytes(4 * (1 + roll(10)), std::byte{1});
    f.flags = cotun::test::ack;
    for (const std::uint8_t flag : {cotun::test::psh, cotun::test::fin, cotun::test::ece, cotun::test::cwr})
        if (roll(4) == 0) f.flags |= flag;
    return f;
}

// For groups and neighbours: from a link-local address, or from none yet.
bool is_the_kernels_own(std::span<const std::byte> packet) {
    return packet[0] >> 4 == std::byte{6} && packet[8] != std::byte{0x20};
}

// The kernel counts down the TTL on the way, and cuts what its other device cannot take whole.
cotun::task<> compare_with_kernel(cotun::reactor& io, cotun::device& in, cotun::device& out, std::uint64_t seed,
                                  unsigned count) {
    dice roll(seed);
    for (unsigned i = 0; i < count; ++i) {
        fields f = random_superpacket(roll);
        // Linux 6.18 finds some too big that have extension headers and segments of nearly the MTU.
        const std::size_t spare = f.v6 && !f.ip_options.empty() ? 64 : 0;
        const std::size_t size = 1 + roll(1500 - f.header_size() - spare);
        const std::size_t segments = 2 + roll(std::min<std::size_t>(62, 65000 / (size + f.header_size())));
        f.payload = cotun::test::random_bytes(roll, (segments - 1) * size + 1 + roll(size));
        const bytes whole = cotun::test::make_packet(f, true);
        cotun::packet pkt = co_await io.allocate(whole.size());
        pkt.assign(whole);
        pkt.set_offload(cotun::test::superpacket_state(f, size));
        co_await in.write_packet(std::move(pkt));
        --f.ttl;
        const bytes sent_on = cotun::test::make_packet(f, true);
        const auto plan = cotun::offload::segments(sent_on, cotun::test::superpacket_state(f, size));
        INFO("superpacket " << i << ": " << segments << " x " << size << " " << cotun::test::hex(whole));
        REQUIRE(plan.size() == segments);
        bytes ours(65536);
        for (const auto& segment : plan) {
            cotun::packet theirs = co_await out.read_packet();
            while (is_the_kernels_own(theirs.bytes())) theirs = co_await out.read_packet();
            const auto made = segment.write(ours);
            INFO("segment " << segment.index() << "\nours   " << cotun::test::hex(made) << "\ntheirs "
                            << cotun::test::hex(theirs.bytes()));
            REQUIRE(std::equal(made.begin(), made.end(), theirs.bytes().begin(), theirs.bytes().end()));
        }
    }
    CHECK(in.writes().superpackets == count);
    CHECK(in.writes().failed() == 0);
}

} // namespace

TEST_CASE("the kernel cuts superpackets as cotun does, byte for byte", "[tun][superpackets]") {
    if (!kernel_has_udp_segmentation_on_devices()) SKIP("this kernel's TUN driver has no UDP segmentation (Linux 6.2)");
    tun_namespace here;
    cotun::reactor io;
    cotun::device in =
        cotun::open_tun(io, {.name = "in", .addresses = {"192.0.2.1/24", "2001:db8:1::1/64"}, .offload = {}});
    cotun::device out = cotun::open_tun(io, {.name = "out", .mtu = 1500, .offload = cotun::no_offload});
    run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 "
        "net.ipv4.conf.in.rp_filter=0");
    run("ip route add 10.9.0.0/24 dev out");
    run("ip -6 route add 2001:db8::/64 dev out");
    const std::uint64_t seed = cotun::test::seed();
    std::fprintf(stderr, "COTUN_SEED=%llu\n", static_cast<unsigned long long>(seed));
    run_bounded(io, compare_with_kernel(io, in, out, seed, static_cast<unsigned>(scaled(500))));
}
