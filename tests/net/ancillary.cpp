// SPDX-License-Identifier: Apache-2.0
//
// Control messages: written and read beside the C library's own macros, cut off anywhere, and with a kernel that the
// test plays.
#include <cotun/net/udp.hpp>

#include "../support/scripted_port.hpp"
#include "net/ancillary.hpp"
#include "net/sockaddr.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <netinet/ip.h>
#include <poll.h>

#include <optional>
#include <random>

using namespace cotun;
using namespace cotun::test;
using detail::ancillary;
using kind = ring::scripted::kind;

namespace {

// Control messages as the kernel would send them, by the C library's macros.
class messages {
public:
    template <class Value>
    messages& add(int level, int type, const Value& value) {
        std::vector<std::byte> one(CMSG_SPACE(sizeof value));
        cmsghdr header{};
        header.cmsg_len = CMSG_LEN(sizeof value);
        header.cmsg_level = level;
        header.cmsg_type = type;
        std::memcpy(one.data(), &header, sizeof header);
        std::memcpy(one.data() + CMSG_LEN(0), &value, sizeof value);
        bytes.insert(bytes.end(), one.begin(), one.end());
        return *this;
    }
    messages& add(const messages& others) {
        bytes.insert(bytes.end(), others.bytes.begin(), others.bytes.end());
        return *this;
    }
    std::vector<std::byte> bytes;
};

in_pktinfo v4_info(const char* local, const char* own, int interface) {
    in_pktinfo info{};
    std::memcpy(&info.ipi_addr, wire::ipv4_address::from_string(local).bytes().data(), 4);
    std::memcpy(&info.ipi_spec_dst, wire::ipv4_address::from_string(own).bytes().data(), 4);
    info.ipi_ifindex = interface;
    return info;
}

in6_pktinfo v6_info(const char* local, unsigned interface) {
    in6_pktinfo info{};
    std::memcpy(&info.ipi6_addr, wire::ipv6_address::from_string(local).bytes().data(), 16);
    info.ipi6_ifindex = interface;
    return info;
}

messages of_v4() {
    messages m;
    m.add(IPPROTO_IP, IP_PKTINFO, v4_info("192.0.2.255", "192.0.2.1", 7));
    m.add(IPPROTO_IP, IP_TTL, 63).add(IPPROTO_IP, IP_TOS, std::uint8_t{0xb9});
    return m;
}

messages of_v6() {
    messages m;
    m.add(IPPROTO_IPV6, IPV6_PKTINFO, v6_info("2001:db8::1", 9));
    m.add(IPPROTO_IPV6, IPV6_HOPLIMIT, 62).add(IPPROTO_IPV6, IPV6_TCLASS, 0x2e);
    return m;
}

std::vector<std::byte> address(const char* text, bool v6 = false) {
    const detail::socket_address a = detail::to_sockaddr(endpoint::from_string(text), v6);
    return {a.bytes.begin(), a.bytes.begin() + a.size};
}

// A socket with packet info over a kernel that the test plays.
struct info_rig : rig {
    explicit info_rig(const rig_options& options = {}, bool packet_info = true)
        : rig(options), socket(open(packet_info)) {
        kernel.writes_complete = false;
        settle();
        descriptor = kernel.in_flight.front().descriptor; // of its read
    }

    udp_socket open(bool packet_info) {
        udp_options o;
        o.local = endpoint::from_string("127.0.0.1:0");
        o.packet_info = packet_info;
        return open_udp(io, o);
    }

    void arrive(const std::vector<std::byte>& control, const char* from = "192.0.2.9:1000") {
        if (kernel.find(kind::receive_multishot, descriptor) != nullptr) {
            REQUIRE(kernel.deliver(descriptor, numbered(7), false, address(from), control));
        } else {
            kernel.immediates[descriptor].push_back({0, numbered(7), address(from), control});
            REQUIRE(kernel.find(kind::poll, descriptor) != nullptr);
            kernel.complete(kernel.find(kind::poll, descriptor)->name, POLLIN, true);
        }
    }

    datagram receive() {
        static constexpr auto body = [](udp_socket& s, std::optional<datagram>& into) -> task<> {
            into = co_await s.receive();
        };
        std::optional<datagram> got;
        io.spawn(body(socket, got));
        settle();
        REQUIRE(got);
        CHECK(number_of(got->payload) == 7);
        return std::move(*got);
    }

    void reply(packet p) {
        static constexpr auto body = [](udp_socket& s, packet answer) -> task<> {
            co_await s.reply(std::move(answer));
        };
        io.spawn(body(socket, std::move(p)));
        settle();
    }

    udp_socket socket;
    int descriptor = -1;
};

} // namespace

TEST_CASE("control messages are read as the C library writes them", "[net][ancillary]") {
    ancillary a;
    REQUIRE(detail::read_control(of_v4().bytes, a));
    CHECK_FALSE(a.is_v6);
    CHECK(a.interface == 7);
    CHECK(a.ttl == 63);
    CHECK(a.tos == 0xb9);
    CHECK(a.address[3] == std::byte{255});
    CHECK(a.answer_from[3] == std::byte{1});
    REQUIRE(detail::read_control(of_v6().bytes, a));
    CHECK(a.is_v6);
    CHECK(a.interface == 9);
    CHECK(a.ttl == 62);
    CHECK(a.tos == 0x2e);
    // IPv4 on an IPv6 socket, in whichever order.
    messages mapped;
    mapped.add(IPPROTO_IPV6, IPV6_PKTINFO, v6_info("::ffff:192.0.2.255", 7));
    messages both = mapped;
    both.add(of_v4());
    messages reversed = of_v4();
    reversed.add(mapped);
    for (const messages& m : {both, reversed}) {
        REQUIRE(detail::read_control(m.bytes, a));
        CHECK(m.bytes.size() <= detail::received_control_size);
        CHECK_FALSE(a.is_v6);
        CHECK(a.answer_from[3] == std::byte{1});
    }
    // Others between them.
    messages strange;
    strange.add(SOL_SOCKET, SO_TIMESTAMP, timeval{}).add(IPPROTO_IP, 99, std::uint8_t{1});
    strange.add(of_v4());
    CHECK(detail::read_control(strange.bytes, a));
    CHECK_FALSE(detail::read_control({}, a));
}

TEST_CASE("control messages that are cut off, misaligned or nonsense", "[net][ancillary]") {
    const std::vector<std::byte> whole = GENERATE(true, false) ? of_v4().bytes : of_v6().bytes;
    std::size_t found = 0;
    for (std::size_t size = 0; size <= whole.size(); ++size) {
        for (std::size_t shift = 0; shift < 8; ++shift) { // exactly as many bytes as there are, for the sanitizer
            const auto copy = std::make_unique<std::byte[]>(shift + size);
            std::copy_n(whole.begin(), size, copy.get() + shift);
            ancillary a;
            const bool there = detail::read_control({copy.get() + shift, size}, a);
            if (shift == 0) found += there ? 1 : 0;
            CHECK(there == (size >= CMSG_LEN(whole == of_v4().bytes ? sizeof(in_pktinfo) : sizeof(in6_pktinfo))));
        }
    }
    CHECK(found > 0);
    std::mt19937 random(1); // NOLINT: the same every time
    for (int round = 0; round < 20'000; ++round) {
        const auto copy = std::make_unique<std::byte[]>(whole.size());
        std::copy(whole.begin(), whole.end(), copy.get());
        for (unsigned changes = random() % 4 + 1; changes > 0; --changes)
            copy[random() % whole.size()] = static_cast<std::byte>(random());
        ancillary a;
        (void)detail::read_control({copy.get(), random() % (whole.size() + 1)}, a);
    }
    messages endless; // lengths that lead nowhere
    endless.add(IPPROTO_IP, IP_TTL, 1);
    for (const std::size_t length : {std::size_t{0}, std::size_t{1}, sizeof(cmsghdr) - 1, ~std::size_t{0}}) {
        std::memcpy(endless.bytes.data(), &length, sizeof length);
        ancillary a;
        CHECK_FALSE(detail::read_control(endless.bytes, a));
    }
}

TEST_CASE("control messages are written as the C library reads them", "[net][ancillary]") {
    const bool v6 = GENERATE(false, true);
    const bool address = GENERATE(false, true);
    const bool ttl = GENERATE(false, true);
    const bool tos = GENERATE(false, true);
    ancillary a;
    a.is_v6 = v6;
    a.fields = static_cast<std::uint8_t>((address ? ancillary::has_address : 0) | (ttl ? ancillary::has_ttl : 0) |
                                         (tos ? ancillary::has_tos : 0));
    a.address[0] = std::byte{10};
    a.address[3] = std::byte{3};
    a.interface = address ? 5 : 0;
    a.ttl = 200;
    a.tos = 255;
    detail::send_control control;
    control.write(a);
    msghdr m{};
    m.msg_control = control.data();
    m.msg_controllen = control.size();
    unsigned seen = 0;
    for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
        CHECK(c->cmsg_level == (v6 ? IPPROTO_IPV6 : IPPROTO_IP));
        int value = 0;
        if (c->cmsg_len == CMSG_LEN(sizeof value)) std::memcpy(&value, CMSG_DATA(c), sizeof value);
        if (c->cmsg_type == (v6 ? IPV6_HOPLIMIT : IP_TTL)) CHECK((ttl && value == 200));
        if (c->cmsg_type == (v6 ? IPV6_TCLASS : IP_TOS)) CHECK((tos && value == 255));
        if (c->cmsg_type == (v6 ? IPV6_PKTINFO : IP_PKTINFO)) {
            CHECK(address);
            in_pktinfo four{};
            in6_pktinfo six{};
            if (v6)
                std::memcpy(&six, CMSG_DATA(c), sizeof six);
            else
                std::memcpy(&four, CMSG_DATA(c), sizeof four);
            CHECK((v6 ? six.ipi6_ifindex : static_cast<unsigned>(four.ipi_ifindex)) == 5);
            CHECK((v6 ? std::memcmp(&six.ipi6_addr, a.address.data(), 16)
                      : std::memcmp(&four.ipi_spec_dst, a.address.data(), 4)) == 0);
        }
        ++seen;
    }
    CHECK(seen == unsigned{address} + unsigned{ttl} + unsigned{tos});
}

TEST_CASE("a datagram comes with what was told of it, and is answered accordingly", "[net][ancillary]") {
    info_rig r(GENERATE(true, false) ? rig_options{} : polled());
    r.arrive(of_v4().bytes);
    datagram d = r.receive();
    CHECK(d.sender == endpoint::from_string("192.0.2.9:1000"));
    REQUIRE(d.info);
    CHECK(d.info->local == wire::ip_address::from_string("192.0.2.255"));
    CHECK(d.info->answer_from == wire::ip_address::from_string("192.0.2.1"));
    CHECK(d.info->interface == 7);
    CHECK(d.info->ttl == 63);
    CHECK(d.info->tos == 0xb9);
    r.reply(std::move(d.payload));
    const ring::scripted::request* sent = r.kernel.find(kind::send_message, r.descriptor);
    REQUIRE(sent != nullptr);
    CHECK(sent->address == address("192.0.2.9:1000"));
    messages expected; // by the routes, with the socket's own TTL and TOS
    expected.add(IPPROTO_IP, IP_PKTINFO, in_pktinfo{0, v4_info("0.0.0.0", "192.0.2.1", 0).ipi_spec_dst, {}});
    CHECK(sent->control == expected.bytes);
}

TEST_CASE("a datagram of which nothing was told is answered by the kernel's choice", "[net][ancillary]") {
    info_rig r(GENERATE(true, false) ? rig_options{} : polled());
    const bool cut = GENERATE(true, false);
    std::vector<std::byte> control; // none
    if (cut) {
        control = of_v4().bytes;
        control.resize(20);
    }
    r.arrive(of_v4().bytes); // so that there is something stale
    (void)r.receive();
    r.arrive(control);
    datagram d = r.receive();
    CHECK_FALSE(d.info);
    r.reply(std::move(d.payload));
    const ring::scripted::request* sent = r.kernel.find(kind::send_message, r.descriptor);
    REQUIRE(sent != nullptr);
    CHECK(sent->address == address("192.0.2.9:1000"));
    CHECK(sent->control.empty());
}

TEST_CASE("more control messages than there is room for", "[net][ancillary]") {
    info_rig r(GENERATE(true, false) ? rig_options{} : polled());
    messages m = of_v4();
    while (m.bytes.size() <= detail::received_control_size) m.add(SOL_SOCKET, 99, 1);
    r.arrive(m.bytes);
    CHECK(r.receive().info);
    messages late;
    while (late.bytes.size() <= detail::received_control_size - 16) late.add(SOL_SOCKET, 99, 1);
    late.add(m);
    r.arrive(late.bytes);
    CHECK_FALSE(r.receive().info);
    CHECK(r.socket.reads().packets == 2);
    CHECK(r.socket.reads().truncated == 0);
}

TEST_CASE("without packet info there is no room for control messages", "[net][ancillary]") {
    info_rig r({}, false);
    const ring::scripted::request* read = r.kernel.find(kind::receive_multishot, r.descriptor);
    REQUIRE(read != nullptr);
    CHECK(read->control_size == 0);
    r.arrive(of_v4().bytes);
    datagram d = r.receive();
    CHECK_FALSE(d.info);
    CHECK_FALSE(info_of(d.payload));
    CHECK(d.payload.headroom() == pool_options{}.headroom + 16 + 28);
    r.reply(std::move(d.payload));
    const ring::scripted::request* sent = r.kernel.find(kind::send_message, r.descriptor);
    REQUIRE(sent != nullptr);
    CHECK(sent->control.empty());
}

TEST_CASE("what a buffer was told of one packet is not told of the next", "[net][ancillary]") {
    info_rig r(with_buffers(1));
    r.arrive(of_v4().bytes);
    datagram d = r.receive();
    CHECK(info_of(d.payload));
    d.payload.reset();
    // The one buffer goes back to the reader at once; another reader's packet in it is one that was made.
    r.socket = udp_socket(r.open(false));
    r.settle();
    const int descriptor = r.kernel.in_flight.back().descriptor;
    REQUIRE(r.kernel.deliver(descriptor, numbered(7), false, address("192.0.2.8:1")));
    const datagram plain = r.receive();
    CHECK_FALSE(plain.info);
    CHECK(plain.sender == endpoint::from_string("192.0.2.8:1"));
}
