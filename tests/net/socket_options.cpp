// SPDX-License-Identifier: Apache-2.0
//
// Options of sockets, as getsockopt(2), ss(8) and the peer see them; and those that are refused.
#include <catch2/catch_test_macros.hpp>

#include <netinet/in.h>
#include <netinet/ip.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../support/privileges.hpp"
#include "hosts.hpp"
#include "net/socket_options.hpp"

using namespace test;
using namespace std::chrono_literals;
using cotun::path_mtu_discovery;

namespace {

cotun::task<> send_empty(cotun::reactor& io, cotun::udp_socket& s, std::size_t size) {
    cotun::packet p = co_await io.allocate(size);
    co_await s.send(std::move(p));
    co_await s.flush();
}

std::error_code failure_of(cotun::reactor& io, cotun::udp_socket& s, std::size_t size) {
    try {
        io.run(send_empty(io, s, size));
    } catch (const std::system_error& e) {
        CHECK_FALSE(cotun::is_final(e.code()));
        return e.code();
    }
    return {};
}

} // namespace

TEST_CASE("socket options are set", "[net][options]") {
    own_namespace here;
    const int receive_buffer = largest_buffer(SO_RCVBUFFORCE, SO_RCVBUF, 3 << 20);
    const int send_buffer = largest_buffer(SO_SNDBUFFORCE, SO_SNDBUF, 5 << 20);
    if (geteuid() == 0 && has_other_users()) REQUIRE(receive_buffer == 2 * (3 << 20));
    for (const char* local : {"127.0.0.1:0", "[::]:0"}) {
        CAPTURE(local);
        const bool v6 = local[0] == '[';
        cotun::reactor io;
        cotun::udp_options o = bound(local);
        o.socket.device = "lo";
        o.socket.reuse_address = true;
        o.socket.reuse_port = true;
        o.socket.receive_buffer = 3 << 20; // beyond net.core.rmem_max
        o.socket.send_buffer = 5 << 20;
        o.socket.mark = 0x89abcdef;
        o.socket.priority = 5;
        o.socket.ttl = 77;
        o.socket.tos = 0xb9;
        o.socket.mtu_discovery = path_mtu_discovery::probe;
        o.multicast_ttl = 0;
        o.multicast_loop = false;
        o.multicast_interface = "lo";
        cotun::udp_socket s = cotun::open_udp(io, o);
        CHECK(option_of(s, SOL_SOCKET, SO_REUSEADDR) == 1);
        CHECK(option_of(s, SOL_SOCKET, SO_REUSEPORT) == 1);
        CHECK(option_of(s, SOL_SOCKET, SO_RCVBUF) == receive_buffer);
        CHECK(option_of(s, SOL_SOCKET, SO_SNDBUF) == send_buffer);
        CHECK(static_cast<unsigned>(option_of(s, SOL_SOCKET, SO_MARK)) == 0x89abcdef);
        CHECK(option_of(s, SOL_SOCKET, SO_PRIORITY) == 5);
        CHECK(option_of(s, SOL_SOCKET, SO_BINDTOIFINDEX) == 1);
        CHECK(option_of(s, IPPROTO_IP, IP_TTL) == 77);
        CHECK(option_of(s, IPPROTO_IP, IP_TOS) == 0xb9);
        CHECK(option_of(s, IPPROTO_IP, IP_MTU_DISCOVER) == IP_PMTUDISC_PROBE);
        CHECK(option_of(s, IPPROTO_IP, IP_MULTICAST_TTL) == 0);
        CHECK(option_of(s, IPPROTO_IP, IP_MULTICAST_LOOP) == 0);
        CHECK(option_of(s, IPPROTO_IP, IP_MULTICAST_ALL) == 0);
        if (v6) {
            CHECK(option_of(s, IPPROTO_IPV6, IPV6_UNICAST_HOPS) == 77);
            CHECK(option_of(s, IPPROTO_IPV6, IPV6_TCLASS) == 0xb9);
            CHECK(option_of(s, IPPROTO_IPV6, IPV6_MTU_DISCOVER) == IPV6_PMTUDISC_PROBE);
            CHECK(option_of(s, IPPROTO_IPV6, IPV6_MULTICAST_HOPS) == 0);
            CHECK(option_of(s, IPPROTO_IPV6, IPV6_MULTICAST_LOOP) == 0);
            CHECK(option_of(s, IPPROTO_IPV6, IPV6_MULTICAST_IF) == 1);
        }
        const std::string seen = output_of("ss -uaneOm");
        CAPTURE(seen);
        CHECK(has(seen, "fwmark:0x89abcdef"));
        CHECK(has(seen, "rb" + std::to_string(receive_buffer)));
        CHECK(has(seen, "%lo:" + std::to_string(s.local().port())));
    }
}

TEST_CASE("options that are not given stay as the system has them", "[net][options]") {
    own_namespace here;
    cotun::reactor io;
    const cotun::udp_socket s = cotun::open_udp(io, bound("[::1]:0"));
    const int fresh = ::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    REQUIRE(fresh >= 0);
    for (const auto& [level, name] : {std::pair{SOL_SOCKET, SO_REUSEADDR},
                                      {SOL_SOCKET, SO_REUSEPORT},
                                      {SOL_SOCKET, SO_RCVBUF},
                                      {SOL_SOCKET, SO_SNDBUF},
                                      {SOL_SOCKET, SO_MARK},
                                      {SOL_SOCKET, SO_PRIORITY},
                                      {SOL_SOCKET, SO_BINDTOIFINDEX},
                                      {IPPROTO_IP, IP_TTL},
                                      {IPPROTO_IP, IP_TOS},
                                      {IPPROTO_IP, IP_MTU_DISCOVER},
                                      {IPPROTO_IP, IP_PKTINFO},
                                      {IPPROTO_IP, IP_RECVTTL},
                                      {IPPROTO_IPV6, IPV6_UNICAST_HOPS},
                                      {IPPROTO_IPV6, IPV6_TCLASS},
                                      {IPPROTO_IPV6, IPV6_RECVPKTINFO},
                                      {IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
                                      {IPPROTO_IPV6, IPV6_MULTICAST_LOOP}}) {
        CAPTURE(level, name);
        int value = 0;
        socklen_t size = sizeof value;
        CHECK(getsockopt(fresh, level, name, &value, &size) == 0);
        CHECK(option_of(s, level, name) == value);
    }
    close(fresh);
}

TEST_CASE("options of sockets that are not IP's", "[net][options]") {
    const int descriptor = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    REQUIRE(descriptor >= 0);
    cotun::socket_options o;
    o.send_buffer = 100'000;
    o.ttl = 7;
    o.mtu_discovery = path_mtu_discovery::keep;
    cotun::detail::set_options(descriptor, AF_UNIX, o, "a test");
    int value = 0;
    socklen_t size = sizeof value;
    CHECK(getsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &value, &size) == 0);
    CHECK(value == 200'000);
    close(descriptor);
}

TEST_CASE("TTL and TOS of a socket are on the wire", "[net][options]") {
    const two_hosts hosts;
    cotun::reactor io;
    cotun::udp_options o = bound("[::]:4711");
    o.packet_info = true;
    o.socket.ttl = 3;
    o.socket.tos = 0x2f;
    cotun::udp_socket s = cotun::open_udp(io, o);
    const auto peer = hosts.python("for host in '192.0.2.1', '2001:db8::1': say(ask(host, 4711))");
    const auto answer = [](cotun::udp_socket& at) -> cotun::task<> {
        for (int i = 0; i < 2; ++i) {
            cotun::datagram d = co_await at.receive();
            co_await at.reply(std::move(d.payload));
        }
        co_await at.flush();
    };
    run_bounded(io, answer(s));
    CHECK(peer->wait() == 0);
    CHECK(peer->output() == "ask from 192.0.2.1 4711 ttl 3 tos 47\nask from 2001:db8::1 4711 ttl 3 tos 47\n");
}

TEST_CASE("a socket of one interface", "[net][options]") {
    const two_hosts hosts;
    cotun::reactor io;
    cotun::udp_options o = bound("0.0.0.0:4711");
    o.packet_info = true;
    o.socket.device = "near";
    cotun::udp_socket s = cotun::open_udp(io, o);
    cotun::udp_socket local = cotun::open_udp(io, bound("127.0.0.1:0"));
    // What comes over another interface is not for it.
    run_bounded(io, send_one(io, local, "over lo", endpoint::from_string("127.0.0.1:4711")));
    const auto peer = hosts.python("say(ask('192.0.2.2', 4711))");
    const auto answer = [](cotun::udp_socket& at) -> cotun::task<std::string> {
        cotun::datagram d = co_await at.receive();
        const std::string got = text_of(d.payload);
        co_await at.reply(std::move(d.payload));
        co_await at.flush();
        co_return got;
    };
    const std::string got = io.run(answer(s));
    CHECK(got == "ask");
    CHECK(peer->wait() == 0);
    CHECK(peer->output() == "ask from 192.0.2.2 4711 ttl 64 tos 0\n");
    // The interface goes: sends fail, and the socket does not end.
    output_of("ip link delete near");
    std::error_code code = io.run(send_one(io, s, "nowhere", endpoint::from_string("192.0.2.100:4711")));
    CHECK(code);
    CHECK_FALSE(cotun::is_final(code));
    CHECK(s.writes().unreachable == 1);
}

TEST_CASE("two sockets of one address", "[net][options]") {
    own_namespace here;
    cotun::reactor io;
    cotun::udp_options o = bound("127.0.0.1:4711");
    o.socket.reuse_port = true;
    cotun::udp_socket a = cotun::open_udp(io, o);
    cotun::udp_socket b = cotun::open_udp(io, o);
    CHECK(refusal([&] { const auto c = cotun::open_udp(io, bound("127.0.0.1:4711")); }, {"another socket"}) ==
          std::errc::address_in_use);
    // Each flow goes to one of them; of many flows some go to either.
    const auto send = [](cotun::reactor& r) -> cotun::task<> {
        for (int i = 0; i < 64; ++i) {
            cotun::udp_socket from = cotun::open_udp(r, bound("127.0.0.1:0"));
            (void)co_await send_one(r, from, "x", endpoint::from_string("127.0.0.1:4711"));
            co_await from.close();
        }
    };
    run_bounded(io, send(io));
    const auto settle = [](cotun::reactor& r, cotun::udp_socket& one, cotun::udp_socket& other) -> cotun::task<> {
        while (one.reads().packets + other.reads().packets < 64) co_await r.sleep_for(1ms);
    };
    io.run(settle(io, a, b));
    CHECK(a.reads().packets > 0);
    CHECK(b.reads().packets > 0);
}

TEST_CASE("datagrams larger than the path's MTU", "[net][options]") {
    const two_hosts hosts;
    const std::string narrow = "192.0.2.100:4711";
    for (const char* to : {"192.0.2.100:4711", "[2001:db8::100]:4711"}) {
        const bool v6 = to[0] == '[';
        const std::size_t fits = 1500 - (v6 ? 40 : 20) - 8;
        for (const bool dual : {false, true}) {
            CAPTURE(to, dual);
            cotun::reactor io;
            cotun::udp_options o;
            if (dual) o.local = endpoint::from_string("[::]:0");
            o.peer = endpoint::from_string(to);
            for (const path_mtu_discovery mode : {path_mtu_discovery::system, path_mtu_discovery::fragment,
                                                  path_mtu_discovery::discover, path_mtu_discovery::omit}) {
                o.socket.mtu_discovery = mode;
                cotun::udp_socket s = cotun::open_udp(io, o);
                CHECK(s.path_mtu() == 1500U);
                CHECK_FALSE(failure_of(io, s, fits + 1));
            }
            for (const path_mtu_discovery mode : {path_mtu_discovery::keep, path_mtu_discovery::probe}) {
                o.socket.mtu_discovery = mode;
                cotun::udp_socket s = cotun::open_udp(io, o);
                CHECK_FALSE(failure_of(io, s, fits));
                CHECK(failure_of(io, s, fits + 1) == std::errc::message_size);
                CHECK(s.writes().too_large == 1);
            }
        }
    }
    // What is known of the path, and not believed by `probe`.
    output_of("ip route add 192.0.2.100/32 dev near mtu 1300");
    cotun::reactor io;
    cotun::udp_options o;
    o.peer = endpoint::from_string(narrow);
    o.socket.mtu_discovery = path_mtu_discovery::keep;
    cotun::udp_socket keeps = cotun::open_udp(io, o);
    CHECK(keeps.path_mtu() == 1300U);
    CHECK(failure_of(io, keeps, 1300 - 28 + 1) == std::errc::message_size);
    o.socket.mtu_discovery = path_mtu_discovery::probe;
    cotun::udp_socket probes = cotun::open_udp(io, o);
    CHECK_FALSE(failure_of(io, probes, 1500 - 28));
    CHECK_FALSE(cotun::open_udp(io, bound("127.0.0.1:0")).path_mtu());
}

TEST_CASE("options that cannot be", "[net][options][refused]") {
    own_namespace here;
    cotun::reactor io;
    const auto open = [&io](const cotun::udp_options& o) { const cotun::udp_socket s = cotun::open_udp(io, o); };
    const auto with = [](auto change) {
        cotun::udp_options o = bound("127.0.0.1:0");
        change(o);
        return o;
    };
    using options = cotun::udp_options;
    CHECK(refusal([&] { open(with([](options& o) { o.socket.device = "nosuch0"; })); },
                  {"open_udp", "device \"nosuch0\"", "no such interface", "ip link"}) == std::errc::no_such_device);
    CHECK(refusal([&] { open(with([](options& o) { o.socket.device = "a-name-that-is-too-long"; })); },
                  {"open_udp", "a-name-that-is-too-long", "15"}) == std::errc::filename_too_long);
    for (const unsigned ttl : {0U, 256U, ~0U})
        CHECK(refusal([&] { open(with([ttl](options& o) { o.socket.ttl = ttl; })); },
                      {"open_udp", "ttl", std::to_string(ttl), "1 to 255"}) == std::errc::invalid_argument);
    CHECK(refusal([&] { open(with([](options& o) { o.socket.tos = 256; })); },
                  {"open_udp", "tos", "256", "0 to 255"}) == std::errc::invalid_argument);
    CHECK(refusal([&] { open(with([](options& o) { o.multicast_ttl = 256; })); },
                  {"open_udp", "multicast_ttl", "256", "0 to 255"}) == std::errc::invalid_argument);
    CHECK(refusal([&] { open(with([](options& o) { o.multicast_interface = "nosuch0"; })); },
                  {"open_udp", "multicast_interface", "nosuch0"}) == std::errc::no_such_device);
    output_of("ip link add other type veth peer name other-end && ip link set other-end up && ip link set other up");
    CHECK(refusal(
        [&] {
            open(with([](options& o) {
                o.socket.device = "lo";
                o.multicast_interface = "other";
            }));
        },
        {"open_udp", "multicast_interface", "other", "device"}));
}

TEST_CASE("options that need a privilege", "[net][options][refused]") {
    own_namespace here;
    const std::string told = in_child([]() -> std::string {
        if (!give_up_capabilities()) return "not prepared";
        cotun::reactor io;
        std::string all;
        const auto attempt = [&](const cotun::udp_options& o) {
            try {
                const cotun::udp_socket s = cotun::open_udp(io, o);
                all += "it was not refused\n";
            } catch (const std::system_error& e) {
                all += std::to_string(e.code().value()) + ": " + e.what() + "\n";
            }
        };
        cotun::udp_options o = bound("127.0.0.1:0");
        o.socket.mark = 7;
        attempt(o);
        o = bound("127.0.0.1:0");
        o.socket.priority = 7;
        attempt(o);
        o.socket.priority = 6; // needs none
        o.socket.receive_buffer = 1 << 30;
        attempt(o);
        return all;
    });
    CAPTURE(told);
    CHECK(has(told, "1: open_udp: mark 7: needs CAP_NET_ADMIN"));
    CHECK(has(told, "1: open_udp: priority 7: a value beyond 6: needs CAP_NET_ADMIN"));
    CHECK(has(told, "\nit was not refused\n"));
}
