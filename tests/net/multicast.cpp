// SPDX-License-Identifier: Apache-2.0
//
// Multicast groups: joined and left, over the right interface, and no others.
#include <catch2/catch_test_macros.hpp>

#include <netinet/in.h>

#include "hosts.hpp"

using namespace test;
using namespace std::chrono_literals;
using cotun::wire::ip_address;

namespace {

const ip_address four = ip_address::from_string("239.1.2.3");
const ip_address six = ip_address::from_string("ff12::1234"); // of the link

std::string shown(const cotun::datagram& d) {
    return text_of(d.payload) + " to " + (d.info ? d.info->local.to_string() : "?");
}

cotun::task<std::string> hear(cotun::udp_socket& s, std::size_t count) {
    std::string all;
    for (; count > 0; --count) {
        cotun::datagram d = co_await s.receive();
        if (!all.empty()) all += ", ";
        all += shown(d);
    }
    co_return all;
}

cotun::udp_options listening(const std::string& local, read_mode mode = read_mode::automatic) {
    cotun::udp_options o = bound(local, mode);
    o.packet_info = true;
    return o;
}

// Each group once, and then, one after the other on the same path, the end.
std::unique_ptr<program> send_to_groups(const two_hosts& hosts) {
    return hosts.python(R"(
four = open('0.0.0.0'); four.bind(('192.0.2.100', 0))
four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('192.0.2.100'))
six = open('::')
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex('far'))
four.sendto(b'four', ('239.1.2.3', 4711)); four.sendto(b'other', ('239.1.2.4', 4711))
six.sendto(b'six', ('ff12::1234', 4711)); six.sendto(b'other', ('ff12::1235', 4711))
four.sendto(b'end', ('192.0.2.1', 4711))
say('sent')
)");
}

} // namespace

TEST_CASE("a socket hears the groups that it has joined, and no others", "[net][multicast]") {
    const two_hosts hosts;
    for (const read_mode mode : {read_mode::multishot, read_mode::poll}) {
        CAPTURE(name_of(mode));
        cotun::reactor io;
        cotun::udp_options o = listening("[::]:4711", mode);
        o.socket.reuse_port = true;
        cotun::udp_socket s = cotun::open_udp(io, o);
        // Another socket of this host is in the other groups: the kernel takes what is sent there.
        cotun::udp_socket other = cotun::open_udp(io, bound("[::]:4712"));
        other.join(ip_address::from_string("239.1.2.4"), "near");
        other.join(ip_address::from_string("ff12::1235"), hosts.near());
        s.join(four, "near");
        s.join(six, "near");
        auto peer = send_to_groups(hosts);
        std::string heard = run_bounded(io, hear(s, 3));
        CHECK(peer->wait() == 0);
        CHECK(heard == "four to 239.1.2.3, six to ff12::1234, end to 192.0.2.1");
        CHECK(has(output_of("ip maddress show dev near"), "239.1.2.3"));
        s.leave(four, hosts.near());
        CHECK_FALSE(has(output_of("ip maddress show dev near"), "239.1.2.3"));
        peer = send_to_groups(hosts);
        heard = io.run(hear(s, 2));
        CHECK(heard == "six to ff12::1234, end to 192.0.2.1");
        s.leave(six, "near");
        peer = send_to_groups(hosts);
        heard = io.run(hear(s, 1));
        CHECK(heard == "end to 192.0.2.1");
        s.join(four, hosts.near()); // again
        peer = send_to_groups(hosts);
        heard = io.run(hear(s, 2));
        CHECK(heard == "four to 239.1.2.3, end to 192.0.2.1");
    }
}

TEST_CASE("what is sent to a group is answered by unicast", "[net][multicast]") {
    const two_hosts hosts;
    for (const char* local : {"0.0.0.0:4711", "[::]:4711"}) {
        CAPTURE(local);
        const bool v6 = local[0] == '[';
        cotun::reactor io;
        cotun::udp_socket s = cotun::open_udp(io, listening(local));
        s.join(four, "near");
        if (v6) s.join(six, "near");
        const auto peer = hosts.python("say(ask('239.1.2.3', 4711, connected=False))\n" +
                                       std::string(v6 ? "say(ask('ff12::1234%far', 4711, connected=False))" : ""));
        const auto answer = [](cotun::udp_socket& at, int count) -> cotun::task<> {
            for (int i = 0; i < count; ++i) {
                cotun::datagram d = co_await at.receive();
                co_await at.reply(std::move(d.payload));
            }
            co_await at.flush();
        };
        run_bounded(io, answer(s, v6 ? 2 : 1));
        CHECK(peer->wait() == 0);
        CHECK(s.writes().failed() == 0);
        CHECK(has(peer->output(), "ask from 192.0.2.1 4711"));
        CHECK(has(peer->output(), "ask from fe80::1 4711") == v6);
    }
}

TEST_CASE("sending to groups: interface, TTL, and one's own members", "[net][multicast]") {
    const two_hosts hosts;
    output_of("ip link add other type veth peer name other-end && ip link set other-end up && ip link set other up && "
              "ip address add 198.51.100.1/24 dev other");
    for (const bool loop : {true, false}) {
        CAPTURE(loop);
        cotun::reactor io;
        cotun::udp_options o = bound("[::]:0");
        o.multicast_interface = "near"; // no route leads there
        o.multicast_ttl = 4;
        o.multicast_loop = loop;
        cotun::udp_socket s = cotun::open_udp(io, o);
        cotun::udp_socket member = cotun::open_udp(io, listening("[::]:4711"));
        member.join(four, "near");
        member.join(six, "near");
        member.join(four, "other"); // the same group elsewhere is another
        const auto peer = hosts.python(R"(
four = open('0.0.0.0'); four.bind(('0.0.0.0', 4711))
four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton('239.1.2.3') + socket.inet_aton('192.0.2.100'))
six = open('::'); six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); six.bind(('::', 4711))
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, 'ff12::1234') + struct.pack('@I', socket.if_nametoindex('far')))
say('ready'); say(told(four)); say(told(four)); say(told(six))
)");
        REQUIRE(wait_until([&] { return has(peer->output(), "ready"); }));
        const auto send = [](cotun::reactor& r, cotun::udp_socket& from) -> cotun::task<> {
            (void)co_await send_one(r, from, "a", endpoint(four, 4711));
            cotun::datagram_options how;
            how.ttl = 9;
            cotun::packet p = text(r, "b");
            co_await from.send_to(std::move(p), endpoint(four, 4711), how);
            (void)co_await send_one(r, from, "c", endpoint(six, 4711));
            (void)co_await send_one(r, from, "end", endpoint::from_string("127.0.0.1:4711"));
        };
        io.spawn(send(io, s));
        const std::string heard = run_bounded(io, hear(member, loop ? 4 : 1));
        CHECK(peer->wait() == 0);
        const std::string told = peer->output();
        CAPTURE(told);
        CHECK(has(told, "a from 192.0.2.1"));
        CHECK(has(told, "ttl 4 tos 0\nb from 192.0.2.1"));
        CHECK(has(told, "ttl 9 tos 0\nc from fe80::1 "));
        CHECK(told.rfind("ttl 4 tos 0\n") == told.size() - 12);
        CHECK(heard ==
              (loop ? "a to 239.1.2.3, b to 239.1.2.3, c to ff12::1234, end to 127.0.0.1" : "end to 127.0.0.1"));
    }
}

TEST_CASE("a member of groups is closed, by close() and where the reactor ends while it closes", "[net][multicast]") {
    own_namespace here;
    output_of("ip route add 224.0.0.0/4 dev lo");
    const std::ptrdiff_t files = open_files();
    {
        cotun::reactor io;
        cotun::udp_socket s = cotun::open_udp(io, bound("127.0.0.1:4711"));
        s.join(four, "lo");
        const cotun::endpoint local = s.local();
        io.run(s.close()); // on a thread, since it takes rtnl; it is over all the same when close() returns
        CHECK(s.native_handle() == -1);
        CHECK(s.local() == local);
        CHECK_FALSE(has(output_of("ip maddress show dev lo"), "239.1.2.3"));
        cotun::udp_socket again = cotun::open_udp(io, bound("127.0.0.1:4711")); // the port is free
        again.join(four, "lo");
        const auto close_and_go = [](cotun::udp_socket& of) -> cotun::task<> { co_await of.close(); };
        io.spawn(close_and_go(again));
        const auto pass = [](cotun::reactor& r) -> cotun::task<> { co_await r.yield(); };
        io.run(pass(io)); // it is under way, perhaps
    }
    CHECK(open_files() == files);
}

TEST_CASE("groups that cannot be joined or left", "[net][multicast][refused]") {
    own_namespace here;
    output_of("ip link add near type veth peer name near-end && ip link set near-end up && ip link set near up");
    cotun::reactor io;
    for (const char* local : {"0.0.0.0:0", "[::]:0"}) {
        CAPTURE(local);
        cotun::udp_socket s = cotun::open_udp(io, bound(local));
        const std::string who = "UDP socket " + s.local().to_string();
        CHECK(refusal([&] { s.join(ip_address::from_string("192.0.2.1"), "near"); },
                      {who, "joining 192.0.2.1", "not a multicast group"}) == std::errc::invalid_argument);
        CHECK(refusal([&] { s.join(four, "nosuch0"); }, {who, "nosuch0", "ip link"}) == std::errc::no_such_device);
        CHECK(refusal([&] { s.join(four, 9999); }, {who, "239.1.2.3", "9999"}) == std::errc::no_such_device);
        CHECK(refusal([&] { s.join(four); }, {who, "239.1.2.3", "no route", "name the interface"}) ==
              std::errc::no_such_device);
        CHECK(refusal([&] { s.leave(four, "near"); }, {who, "leaving 239.1.2.3", "not a member"}) ==
              std::errc::address_not_available);
        s.join(four, "near");
        CHECK(refusal([&] { s.join(four, "near"); }, {who, "joining 239.1.2.3", "already"}) ==
              std::errc::address_in_use);
        if (local[0] != '[') {
            CHECK(refusal([&] { s.join(six, "near"); }, {who, "ff12::1234", "IPv4 socket"}) ==
                  std::errc::address_family_not_supported);
            const auto join_many = [&] {
                for (unsigned i = 0; i < 100'000; ++i)
                    s.join(cotun::wire::ipv4_address::from_number(0xefff0000U + i), "near");
            };
            CHECK(refusal(join_many, {"too many", "net."}));
        } else {
            s.join(six, "near");
            CHECK(refusal([&] { s.join(six, "near"); }, {who, "ff12::1234", "already"}) == std::errc::address_in_use);
            CHECK(refusal([&] { s.join(six, 9999); }, {who, "9999"}) == std::errc::no_such_device);
            // The interface goes, and the membership with it.
            output_of("ip link delete near");
            CHECK(refusal([&] { s.leave(six, "near"); }, {who, "near"}) == std::errc::no_such_device);
        }
    }
}
