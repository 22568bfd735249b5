// SPDX-License-Identifier: Apache-2.0
//
// Options of TCP sockets, as getsockopt(2) and the peer see them, at all three: the listener, what it accepts, and what
// connects; and those that are refused.
#include <cotun/coro/result.hpp>
#include <cotun/net/tcp.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <initializer_list>
#include <optional>
#include <utility>

#include "hosts.hpp"

using namespace test;
using namespace std::chrono_literals;
using cotun::tcp_stream;

namespace {

struct both_ends {
    std::optional<tcp_stream> client;
    std::optional<tcp_stream> server;
};

cotun::task<> accept_into(cotun::tcp_listener& from, std::optional<tcp_stream>& into) {
    tcp_stream s = co_await from.accept();
    into.emplace(std::move(s));
}

cotun::task<> connect_into(cotun::reactor& io, cotun::tcp_listener& from, const endpoint& to,
                           const cotun::connect_options& options, both_ends& into) {
    auto accepting = accept_into(from, into.server);
    tcp_stream s = co_await cotun::connect_tcp(io, to, options);
    into.client.emplace(std::move(s));
    co_await std::move(accepting);
}

endpoint at_port(const char* address, const cotun::tcp_listener& of) {
    return endpoint::from_string(address + std::to_string(of.local().port()));
}

cotun::tcp_options some_tcp_options() {
    cotun::tcp_options o;
    o.keep_alive = 17s;
    o.keep_alive_interval = 3s;
    o.keep_alive_probes = 5;
    o.user_timeout = 4567ms;
    o.congestion_control = "reno";
    return o;
}

cotun::socket_options some_socket_options() {
    cotun::socket_options o;
    o.device = "lo";
    o.receive_buffer = 300'000;
    o.send_buffer = 500'000;
    o.mark = 0x89abcdef;
    o.ttl = 77;
    o.tos = 0xb8; // the lower two bits are TCP's
    o.priority = 5;
    o.mtu_discovery = cotun::path_mtu_discovery::keep;
    return o;
}

template <class Socket>
void check_tcp_options(const Socket& s) {
    CHECK(option_of(s, IPPROTO_TCP, TCP_NODELAY) == 1);
    CHECK(option_of(s, SOL_SOCKET, SO_KEEPALIVE) == 1);
    CHECK(option_of(s, IPPROTO_TCP, TCP_KEEPIDLE) == 17);
    CHECK(option_of(s, IPPROTO_TCP, TCP_KEEPINTVL) == 3);
    CHECK(option_of(s, IPPROTO_TCP, TCP_KEEPCNT) == 5);
    CHECK(option_of(s, IPPROTO_TCP, TCP_USER_TIMEOUT) == 4567);
    std::array<char, 16> control{};
    socklen_t size = control.size();
    CHECK(getsockopt(s.native_handle(), IPPROTO_TCP, TCP_CONGESTION, control.data(), &size) == 0);
    CHECK(std::string(control.data()) == "reno");
}

template <class Socket>
void check_socket_options(const Socket& s, bool carries_v4, bool v6) {
    CHECK(option_of(s, SOL_SOCKET, SO_BINDTOIFINDEX) == 1);
    CHECK(option_of(s, SOL_SOCKET, SO_RCVBUF) == 600'000);
    CHECK(option_of(s, SOL_SOCKET, SO_SNDBUF) == 1'000'000);
    CHECK(static_cast<unsigned>(option_of(s, SOL_SOCKET, SO_MARK)) == 0x89abcdef);
    CHECK(option_of(s, SOL_SOCKET, SO_PRIORITY) == 5);
    if (carries_v4) {
        CHECK(option_of(s, IPPROTO_IP, IP_TTL) == 77);
        CHECK(option_of(s, IPPROTO_IP, IP_TOS) == 0xb8);
        CHECK(option_of(s, IPPROTO_IP, IP_MTU_DISCOVER) == IP_PMTUDISC_DO);
    }
    if (v6) {
        CHECK(option_of(s, IPPROTO_IPV6, IPV6_UNICAST_HOPS) == 77);
        CHECK(option_of(s, IPPROTO_IPV6, IPV6_TCLASS) == 0xb8);
        CHECK(option_of(s, IPPROTO_IPV6, IPV6_MTU_DISCOVER) == IPV6_PMTUDISC_DO);
    }
}

} // namespace

TEST_CASE("tcp: options are set on the listener, on what it accepts, and on what connects", "[net][tcp][options]") {
    own_namespace here;
    cotun::reactor io;
    for (const auto& [local, to] :
         {std::pair{"127.0.0.1:0", "127.0.0.1:"}, {"[::]:0", "[::1]:"}, {"[::]:0", "127.0.0.1:"}}) {
        CAPTURE(local, to);
        const bool listens_v6 = local[0] == '[';
        const bool v6 = to[0] == '[';
        cotun::tcp_listener listener = cotun::listen_tcp(
            io, {.local = endpoint::from_string(local), .stream = some_tcp_options(), .socket = some_socket_options()});
        CHECK(option_of(listener, SOL_SOCKET, SO_REUSEADDR) == 1);
        check_socket_options(listener, true, listens_v6);
        cotun::connect_options options;
        options.stream = some_tcp_options();
        options.socket = some_socket_options();
        both_ends ends;
        io.run(connect_into(io, listener, at_port(to, listener), options, ends));
        check_tcp_options(*ends.client);
        check_socket_options(*ends.client, !v6, v6);
        check_tcp_options(*ends.server);
        check_socket_options(*ends.server, !v6, v6);
        const std::string seen = output_of("ss -tenomi");
        CAPTURE(seen);
        CHECK(has(seen, "fwmark:0x89abcdef"));
        CHECK(has(seen, "timer:(keepalive,1"));
        CHECK(has(seen, "reno"));
        io.run(ends.client->close());
        CHECK(ends.client->native_handle() == -1);
    }
}

TEST_CASE("tcp: options that are not given stay as the system has them", "[net][tcp][options]") {
    own_namespace here;
    cotun::reactor io;
    cotun::tcp_listener listener = cotun::listen_tcp(io, {.local = endpoint::from_string("127.0.0.1:0")});
    both_ends ends;
    cotun::connect_options options;
    options.stream.no_delay = false;
    io.run(connect_into(io, listener, listener.local(), options, ends));
    const int fresh = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(fresh >= 0);
    for (const auto& [level, name] : {std::pair{SOL_SOCKET, SO_REUSEADDR},
                                      {SOL_SOCKET, SO_REUSEPORT},
                                      {SOL_SOCKET, SO_MARK},
                                      {SOL_SOCKET, SO_PRIORITY},
                                      {SOL_SOCKET, SO_KEEPALIVE},
                                      {SOL_SOCKET, SO_BINDTOIFINDEX},
                                      {IPPROTO_IP, IP_TTL},
                                      {IPPROTO_IP, IP_TOS},
                                      {IPPROTO_IP, IP_MTU_DISCOVER},
                                      {IPPROTO_TCP, TCP_NODELAY},
                                      {IPPROTO_TCP, TCP_KEEPIDLE},
                                      {IPPROTO_TCP, TCP_KEEPINTVL},
                                      {IPPROTO_TCP, TCP_KEEPCNT},
                                      {IPPROTO_TCP, TCP_USER_TIMEOUT}}) {
        CAPTURE(level, name);
        int value = 0;
        socklen_t size = sizeof value;
        CHECK(getsockopt(fresh, level, name, &value, &size) == 0);
        CHECK(option_of(*ends.client, level, name) == value);
    }
    close(fresh);
}

TEST_CASE("tcp: a silent peer is asked, and given up", "[net][tcp][options]") {
    const two_hosts hosts;
    cotun::reactor io;
    const bool sends = GENERATE(false, true);
    const auto peer = hosts.python("s = socket.create_server(('192.0.2.100', 4711)); say('listens'); "
                                   "c, _ = s.accept(); say('accepted'); time.sleep(60)");
    REQUIRE(wait_until([&] { return has(peer->output(), "listens"); }));
    const auto ends_with = [](cotun::reactor& r, const std::string& where, bool sending) -> cotun::task<int> {
        cotun::connect_options o;
        o.stream.keep_alive = 1s;
        o.stream.keep_alive_interval = 1s;
        o.stream.keep_alive_probes = 1;
        o.stream.user_timeout = 1000ms;
        tcp_stream s = co_await cotun::connect_tcp(r, endpoint::from_string("192.0.2.100:4711"), o);
        output_of("ip -n " + where + " address flush dev far"); // it hears us, and does not answer
        if (sending) co_await s.write("x");
        std::array<std::byte, 1> byte{};
        const auto got = co_await cotun::as_result(s.read_some(byte));
        co_return got ? 0 : got.error().value();
    };
    CHECK(run_bounded(io, ends_with(io, hosts.peer().name(), sends)) == ETIMEDOUT);
}

TEST_CASE("tcp: options that cannot be", "[net][tcp][options][refused]") {
    own_namespace here;
    cotun::reactor io;
    const auto refused = [&io](auto change, std::initializer_list<const char*> words) {
        cotun::listen_options l;
        l.local = endpoint::from_string("127.0.0.1:0");
        change(l.stream, l.socket);
        const std::error_code listening = refusal([&] { const auto s = cotun::listen_tcp(io, l); }, {"listen_tcp"});
        cotun::connect_options c;
        change(c.stream, c.socket);
        const auto connect = [](cotun::reactor& r, const cotun::connect_options& o) -> cotun::task<> {
            (void)co_await cotun::connect_tcp(r, endpoint::from_string("127.0.0.1:9"), o);
        };
        std::vector<std::string> all(words.begin(), words.end());
        const std::error_code connecting = refusal([&] { io.run(connect(io, c)); }, all);
        CHECK(listening == connecting);
        return connecting;
    };
    using tcp = cotun::tcp_options;
    using socket = cotun::socket_options;
    for (const std::chrono::seconds wrong : {0s, -1s, 32768s, std::chrono::seconds::max()}) {
        CHECK(refused([wrong](tcp& t, socket&) { t.keep_alive = wrong; },
                      {"connecting to 127.0.0.1:9", "keep_alive is", "1 to 32767"}) == std::errc::invalid_argument);
        if (wrong == 0s) continue;
        CHECK(refused([wrong](tcp& t, socket&) { t.keep_alive_interval = wrong; },
                      {"keep_alive_interval is", "1 to 32767"}) == std::errc::invalid_argument);
    }
    CHECK(refused([](tcp& t, socket&) { t.keep_alive_probes = 128; }, {"keep_alive_probes is 128", "1 to 127"}) ==
          std::errc::invalid_argument);
    for (const std::chrono::milliseconds wrong : {-1ms, std::chrono::milliseconds(1LL << 31)})
        CHECK(refused([wrong](tcp& t, socket&) { t.user_timeout = wrong; }, {"user_timeout is", "1 to 2147483647"}) ==
              std::errc::invalid_argument);
    CHECK(refused([](tcp& t, socket&) { t.congestion_control = "nosuch"; },
                  {"congestion_control \"nosuch\"", "tcp_available_congestion_control"}) ==
          std::errc::no_such_file_or_directory);
    CHECK(refused([](tcp&, socket& s) { s.ttl = 0; }, {"ttl is 0", "1 to 255"}) == std::errc::invalid_argument);
    CHECK(refused([](tcp&, socket& s) { s.device = "nosuch0"; }, {"nosuch0", "ip link"}) == std::errc::no_such_device);
    CHECK(io.statistics().requests_in_flight == 0);
}
