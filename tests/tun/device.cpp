// SPDX-License-Identifier: Apache-2.0
//
// Opening real devices: what `ip` shows of them is what was asked for.
#include <cotun/tun/device.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <linux/if_ether.h>

#include <array>
#include <memory>

#include "traffic.hpp"

using namespace test;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;

namespace {

std::string shown(const std::string& name) { return output_of("ip -j address show dev " + name); }

} // namespace

TEST_CASE("a device is opened by its name", "[tun][open]") {
    tun_namespace here;
    cotun::reactor io;
    {
        cotun::device dev = cotun::open_tun(
            io, {.name = "abcdefghijklmno", .addresses = {"10.9.0.1/24", "10.9.1.1/32", "fd09::1/64"}, .mtu = 1400});
        CHECK(dev.name() == "abcdefghijklmno");
        CHECK(dev.index() == if_nametoindex("abcdefghijklmno"));
        CHECK(dev.mtu() == 1400);
        CHECK_FALSE(dev.is_tap());
        const std::string ip = shown(dev.name());
        CHECK_THAT(ip, ContainsSubstring("\"mtu\":1400") && ContainsSubstring("\"UP\"") &&
                           ContainsSubstring("\"link_type\":\"none\""));
        CHECK_THAT(ip, ContainsSubstring("\"local\":\"10.9.0.1\",\"prefixlen\":24") &&
                           ContainsSubstring("\"local\":\"10.9.1.1\",\"prefixlen\":32") &&
                           ContainsSubstring("\"local\":\"fd09::1\",\"prefixlen\":64"));
        CHECK_THAT(ip, !ContainsSubstring("tentative"));
        CHECK_THAT(output_of("ip route show"), ContainsSubstring("10.9.0.0/24 dev abcdefghijklmno"));
    }
    CHECK_FALSE(has_interface("abcdefghijklmno"));
}

namespace {

constexpr const char* own_v6 = "fd09::1";

sockaddr_in6 v6_endpoint(const char* ip) {
    sockaddr_in6 a{};
    a.sin6_family = AF_INET6;
    a.sin6_port = htons(traffic_port);
    inet_pton(AF_INET6, ip, &a.sin6_addr);
    return a;
}

// UDP over IPv6 from fd09::2 to fd09::1.
void write_datagram(std::span<std::byte> packet) {
    constexpr std::size_t header = 40;
    std::fill(packet.begin(), packet.end(), std::byte{0});
    const auto put = [&](std::size_t at, unsigned value) {
        packet[at] = static_cast<std::byte>(value >> 8);
        packet[at + 1] = static_cast<std::byte>(value);
    };
    const auto length = static_cast<std::uint16_t>(packet.size() - header);
    put(0, 0x6000);
    put(4, length);
    put(6, IPPROTO_UDP << 8 | 64);
    std::memcpy(&packet[8], v6_endpoint("fd09::2").sin6_addr.s6_addr, 16);
    std::memcpy(&packet[24], v6_endpoint(own_v6).sin6_addr.s6_addr, 16);
    put(header, traffic_port);
    put(header + 2, traffic_port);
    put(header + 4, length);
    const auto pseudo = cotun::wire::add_to_sum(length, IPPROTO_UDP);
    put(header + 6, cotun::wire::finish_checksum(cotun::wire::add_to_sum(packet.subspan(8), pseudo)));
}

// How many of `rounds` fresh devices had a datagram delivered to their IPv6 address that was written at once.
cotun::task<unsigned> deliver_at_once(cotun::reactor& io, unsigned rounds) {
    unsigned delivered = 0;
    for (unsigned i = 0; i < rounds; ++i) {
        cotun::device dev = cotun::open_tun(io, {.name = "six", .addresses = {"fd09::1/64"}});
        const int receiver = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        const sockaddr_in6 own = v6_endpoint(own_v6);
        const bool bound = bind(receiver, reinterpret_cast<const sockaddr*>(&own), sizeof own) == 0;
        cotun::packet pkt = co_await io.allocate(40 + 8 + 16);
        write_datagram(pkt.bytes());
        co_await dev.write_packet(std::move(pkt));
        co_await dev.flush();
        std::array<std::byte, 64> got{};
        const ssize_t size = recv(receiver, got.data(), got.size(), 0);
        close(receiver);
        if (bound && size == 16) ++delivered;
        co_await dev.close();
    }
    co_return delivered;
}

} // namespace

TEST_CASE("a packet written to a device that was just opened reaches its IPv6 address", "[tun][open]") {
    tun_namespace here;
    cotun::reactor io;
    CHECK(run_bounded(io, deliver_at_once(io, 50)) == 50);
}

TEST_CASE("a device gets the first free number for %d, and a name when it has none", "[tun][open]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device first = cotun::open_tun(io, {.name = "vpn%d"});
    cotun::device second = cotun::open_tun(io, {.name = "vpn%d"});
    cotun::device inner = cotun::open_tun(io, {.name = "a%db"});
    cotun::device tun = cotun::open_tun(io);
    cotun::device tap = cotun::open_tap(io);
    CHECK(first.name() == "vpn0");
    CHECK(second.name() == "vpn1");
    CHECK(inner.name() == "a0b");
    CHECK(tun.name() == "tun0");
    CHECK(tap.name() == "tap0");
    for (const cotun::device* d : {&first, &second, &inner, &tun, &tap}) {
        INFO(d->name());
        CHECK(d->index() == if_nametoindex(d->name().c_str()));
        CHECK(d->mtu() == 1500);
    }
    first = std::move(second);
    CHECK_FALSE(has_interface("vpn0"));
    CHECK(has_interface("vpn1"));
    CHECK(first.name() == "vpn1");
}

TEST_CASE("a TAP device is an Ethernet interface", "[tun][open]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tap(io, {.name = "tap7", .addresses = {"10.9.0.1/24"}, .mtu = 9000});
    CHECK(dev.is_tap());
    CHECK(dev.mtu() == 9000);
    CHECK_THAT(shown("tap7"), ContainsSubstring("\"link_type\":\"ether\"") && ContainsSubstring("\"mtu\":9000"));
}

TEST_CASE("a device can be left down", "[tun][open]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "quiet", .addresses = {"10.9.0.1/24"}, .up = false});
    CHECK_THAT(shown("quiet"), !ContainsSubstring("\"UP\"") && ContainsSubstring("10.9.0.1"));
}

TEST_CASE("the bounds of the MTU", "[tun][open]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device least = cotun::open_tun(io, {.name = "least", .addresses = {"10.9.0.1/24"}, .mtu = 68});
    cotun::device most = cotun::open_tun(io, {.name = "most", .addresses = {"fd09::1/64"}, .mtu = 65535});
    cotun::device v6 = cotun::open_tun(io, {.name = "six", .addresses = {"fd0a::1/64"}, .mtu = 1280});
    CHECK_THAT(shown("least"), ContainsSubstring("\"mtu\":68"));
    CHECK_THAT(shown("most"), ContainsSubstring("\"mtu\":65535"));
    CHECK_THAT(shown("six"), ContainsSubstring("\"mtu\":1280"));
}

TEST_CASE("a device is opened in another namespace, and the thread stays where it was", "[tun][open][netns]") {
    tun_namespace here;
    const named_namespace there("open");
    const bool by_path = GENERATE(false, true);
    CAPTURE(by_path);
    const auto home = current_namespace();
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "far",
                                             .addresses = {"10.9.0.1/24", "fd09::1/64"},
                                             .mtu = 1300,
                                             .netns = by_path ? there.path() : there.name()});
    CHECK(current_namespace() == home);
    CHECK_FALSE(has_interface("far"));
    there.inside([&] {
        CHECK(if_nametoindex("far") == dev.index());
        CHECK_THAT(shown("far"), ContainsSubstring("\"mtu\":1300") && ContainsSubstring("10.9.0.1") &&
                                     ContainsSubstring("fd09::1") && ContainsSubstring("\"UP\""));
    });
    run_bounded(io, dev.close());
    CHECK(current_namespace() == home);
    there.inside([] { CHECK_FALSE(has_interface("far")); });
}

namespace {

cotun::task<bool> see_arp(cotun::device& dev, const plain_socket& socket) {
    socket.send(1, "10.9.0.2");
    for (int i = 0; i < 100; ++i) {
        const cotun::packet frame = co_await dev.read_packet();
        const auto bytes = frame.bytes();
        if (bytes.size() < 42 || bytes[12] != std::byte{0x08} || bytes[13] != std::byte{0x06}) continue;
        const std::array<std::byte, 4> target{std::byte{10}, std::byte{9}, std::byte{0}, std::byte{2}};
        co_return std::equal(target.begin(), target.end(), bytes.begin() + 38);
    }
    co_return false;
}

// Answers ARP for every address, and echoes each IPv4 frame's UDP payload to where it came from.
cotun::task<> be_a_host(cotun::device& dev) {
    for (;;) {
        cotun::packet frame = co_await dev.read_packet();
        auto b = frame.bytes();
        if (b.size() < 42) continue;
        const std::array<std::byte, 6> own{std::byte{2}, {}, {}, {}, {}, std::byte{9}};
        std::copy_n(b.begin() + 6, 6, b.begin());
        std::copy_n(own.begin(), 6, b.begin() + 6);
        if (b[13] == std::byte{0x06}) {
            std::array<std::byte, 4> asked{};
            std::copy_n(b.begin() + 38, 4, asked.begin());
            b[21] = std::byte{2}; // reply
            std::copy_n(b.begin() + 22, 10, b.begin() + 32);
            std::copy_n(own.begin(), 6, b.begin() + 22);
            std::copy_n(asked.begin(), 4, b.begin() + 28);
        } else if (b[12] == std::byte{0x08} && b[13] == std::byte{0} && b[23] == std::byte{17}) {
            std::swap_ranges(b.begin() + 26, b.begin() + 30, b.begin() + 30); // same ports: the checksums stand
        } else {
            continue;
        }
        co_await dev.write_packet(std::move(frame));
    }
}

cotun::task<std::uint64_t> count_echoes(cotun::reactor& io, const plain_socket& socket, std::uint64_t count) {
    for (std::uint64_t n = 0; n < count; ++n) {
        socket.send(n, "10.9.0.2", 1000);
        std::uint64_t got = 0;
        while (recv(socket.descriptor(), &got, sizeof got, MSG_DONTWAIT) < 0) co_await io.sleep_for(200us);
        if (got != n) co_return n;
    }
    co_return count;
}

} // namespace

TEST_CASE("TAP frames: ARP is seen, and what is answered arrives", "[tun][tap]") {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    CAPTURE(name_of(mode));
    cotun::reactor io;
    cotun::device dev = cotun::open_tap(io, {.name = "tap0", .addresses = {"10.9.0.1/24"}, .read = mode});
    const plain_socket socket;
    SECTION("ARP") {
        const bool seen = run_bounded(io, see_arp(dev, socket));
        CHECK(seen);
    }
    SECTION("a host behind it") {
        io.spawn(be_a_host(dev));
        const std::uint64_t echoes = run_bounded(io, count_echoes(io, socket, 500));
        CHECK(echoes == 500);
    }
}

namespace {

cotun::task<std::uint64_t> first_number(cotun::device& dev) {
    for (;;) {
        const cotun::packet pkt = co_await dev.read_packet();
        if (const auto number = number_of(pkt.bytes())) co_return *number;
    }
}

} // namespace

TEST_CASE("reading by multishot, where the kernel has it, and by poll and read(2) where not", "[tun][fallback]") {
    tun_namespace here;
    const cotun::read_mode mode = GENERATE(cotun::read_mode::automatic, cotun::read_mode::poll);
    CAPTURE(name_of(mode));
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24"}, .read = mode});
    const plain_socket socket;
    socket.send(7, "10.9.0.2");
    const std::uint64_t number = run_bounded(io, first_number(dev));
    CHECK(number == 7);
    CHECK(dev.uses_multishot() == (mode == cotun::read_mode::automatic && kernel_reads_multishot()));
}

TEST_CASE("multishot that was asked for and is not there is refused by name", "[tun][fallback]") {
    tun_namespace here;
    if (kernel_reads_multishot()) SKIP("this kernel has multishot reads");
    cotun::reactor io;
    const std::error_code code = refusal(
        [&] {
            cotun::device dev = cotun::open_tun(io, {.name = "tun0", .read = cotun::read_mode::multishot});
            run_bounded(io, first_number(dev));
        },
        {"tun0", "multishot"});
    CHECK(code == std::errc::invalid_argument);
    CHECK_FALSE(has_interface("tun0"));
}

namespace {

cotun::task<> answer_pings(cotun::device& dev) {
    for (;;) {
        cotun::packet pkt = co_await dev.read_packet();
        if (cotun::wire::reply_to_echo(pkt.bytes())) co_await dev.write_packet(std::move(pkt));
    }
}

cotun::task<int> status_of(cotun::reactor& io, program& p) {
    while (p.running()) co_await io.sleep_for(5ms);
    co_return p.wait();
}

} // namespace

TEST_CASE("ping is answered", "[tun][ping]") {
    tun_namespace here;
    if (!is_installed("ping")) SKIP("no ping(8)");
    const cotun::read_mode mode = each_read_mode();
    const std::string to = GENERATE("10.9.0.7", "fd09::7");
    CAPTURE(name_of(mode), to);
    cotun::reactor io;
    cotun::device dev =
        cotun::open_tun(io, {.name = "ping0", .addresses = {"10.9.0.1/24", "fd09::1/64"}, .read = mode});
    CHECK(dev.uses_multishot() == (mode == cotun::read_mode::poll ? false : kernel_reads_multishot()));
    program ping({"ping", "-c", "50", "-i", "0.01", "-s", "1000", "-W", "5", to});
    io.spawn(answer_pings(dev));
    const int status = run_bounded(io, status_of(io, ping));
    INFO(ping.output());
    CHECK(status == 0);
    CHECK_THAT(ping.output(), ContainsSubstring(" 0% packet loss"));
    CHECK(dev.writes().packets == 50);
}

TEST_CASE("a child process that lets go of its copy leaves the device to the parent", "[tun][fork]") {
    tun_namespace here;
    if (!is_installed("ping")) SKIP("no ping(8)");
    const cotun::read_mode mode = each_read_mode();
    CAPTURE(name_of(mode));
    auto io = std::make_unique<cotun::reactor>();
    auto dev = std::make_unique<cotun::device>(
        cotun::open_tun(*io, {.name = "fork0", .addresses = {"10.9.0.1/24"}, .read = mode}));
    const std::string remains = in_child([&] {
        dev.reset();
        io.reset();
        return std::string(has_interface("fork0") ? "remains" : "gone");
    });
    CHECK(remains == "remains");
    program ping({"ping", "-c", "20", "-i", "0.01", "-W", "5", "10.9.0.7"});
    io->spawn(answer_pings(*dev));
    CHECK(run_bounded(*io, status_of(*io, ping)) == 0);
    CHECK(dev->writes().packets == 20);
    dev.reset();
    CHECK_FALSE(has_interface("fork0"));
}
