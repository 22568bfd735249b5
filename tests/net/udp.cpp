// SPDX-License-Identifier: Apache-2.0
//
// UDP sockets over loopback and veth pairs, in namespaces of their own.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <cstring>
#include <optional>

#include "../support/privileges.hpp"
#include "../support/scale.hpp"
#include "sockets.hpp"

using namespace test;
using namespace std::chrono_literals;

TEST_CASE("datagrams arrive with their sender", "[net][udp]") {
    own_namespace here;
    const read_mode mode = GENERATE(from_range(modes));
    const std::string host = GENERATE("127.0.0.1", "[::1]");
    CAPTURE(name_of(mode), host);
    cotun::reactor io;
    cotun::udp_socket a = cotun::open_udp(io, bound(host + ":0", mode));
    cotun::udp_socket b = cotun::open_udp(io, bound(host + ":0", mode));
    CHECK(a.local().port() != 0);
    CHECK_FALSE(a.peer());
    CHECK(a.uses_multishot() == (mode != read_mode::poll));
    const std::string from_a = " from " + a.local().to_string();
    std::string got = run_bounded(io, exchange(io, a, b, "one", b.local()));
    CHECK(got == "one" + from_a);
    got = io.run(exchange(io, a, b, "", b.local())); // zero length
    CHECK(got == from_a);
    a.connect(b.local());
    CHECK(a.peer() == b.local());
    got = io.run(exchange(io, a, b, "two", {}));
    CHECK(got == "two" + from_a);
    got = io.run(exchange(io, b, a, "three", a.local()));
    CHECK(got == "three from " + b.local().to_string());
    cotun::udp_socket c = cotun::open_udp(io, bound(host + ":0", mode)); // not a's peer: a does not hear it
    std::error_code code = io.run(send_one(io, c, "stranger", a.local()));
    CHECK_FALSE(code);
    got = io.run(exchange(io, b, a, "friend", a.local()));
    CHECK(got == "friend from " + b.local().to_string());
    code = io.run(send_one(io, b, "nobody", {})); // not connected
    CHECK(code == std::errc::destination_address_required);
    CHECK(a.writes().packets == 3);
    CHECK(b.writes().failed() == 1);
    CHECK(sender(text(io, "made here")) == endpoint());
    // What was received from one is sent on to the peer, not back.
    const auto relay = [](cotun::reactor& r, cotun::udp_socket& first, cotun::udp_socket& middle,
                          cotun::udp_socket& last) -> cotun::task<std::string> {
        (void)co_await send_one(r, first, "onward", middle.local());
        cotun::datagram d = co_await middle.receive();
        middle.connect(last.local());
        co_await middle.send(std::move(d.payload));
        co_return co_await next(last);
    };
    cotun::udp_socket middle = cotun::open_udp(io, bound(host + ":0", mode));
    got = io.run(relay(io, c, middle, b));
    CHECK(got == "onward from " + middle.local().to_string());
}

TEST_CASE("a dual-stack socket shows IPv4 peers as IPv4", "[net][udp]") {
    own_namespace here;
    const read_mode mode = GENERATE(from_range(modes));
    CAPTURE(name_of(mode));
    cotun::reactor io;
    cotun::udp_socket both = cotun::open_udp(io, bound("[::]:0", mode));
    cotun::udp_socket v4 = cotun::open_udp(io, bound("127.0.0.1:0", mode));
    cotun::udp_socket v6 = cotun::open_udp(io, bound("[::1]:0", mode));
    std::string got = run_bounded(io, exchange(io, v4, both, "four", at("127.0.0.1", both.local())));
    CHECK(got == "four from " + v4.local().to_string());
    got = io.run(exchange(io, v6, both, "six", at("[::1]", both.local())));
    CHECK(got == "six from " + v6.local().to_string());
    got = io.run(exchange(io, both, v4, "back", v4.local()));
    CHECK(got == "back from " + at("127.0.0.1", both.local()).to_string());
    both.connect(v4.local());
    got = io.run(exchange(io, both, v4, "connected", {}));
    CHECK(got == "connected from " + at("127.0.0.1", both.local()).to_string());
    cotun::udp_options only = bound("[::]:0", mode);
    only.v6_only = true;
    cotun::udp_socket six = cotun::open_udp(io, only);
    const std::error_code code = io.run(send_one(io, six, "no", v4.local()));
    CHECK(code);
    CHECK_FALSE(cotun::is_final(code));
}

TEST_CASE("50,000 datagrams arrive in order, none lost", "[net][udp][order]") {
    own_namespace here;
    const read_mode mode = GENERATE(from_range(modes));
    const bool batches = GENERATE(true, false);
    const bool connected = GENERATE(true, false);
    CAPTURE(name_of(mode), batches, connected);
    const std::uint64_t count = cotun::test::scaled(50'000);
    cotun::reactor io;
    cotun::udp_options options = bound("127.0.0.1:0", mode);
    options.socket.receive_buffer = 8 << 20;
    cotun::udp_socket to = cotun::open_udp(io, options);
    options = bound("127.0.0.1:0", mode);
    if (connected) options.peer = to.local();
    cotun::udp_socket from = cotun::open_udp(io, options);
    std::uint64_t received = 0;
    io.spawn(send_numbers(io, from, count, received, 1000, batches, 100,
                          connected ? std::optional<endpoint>() : to.local()));
    run_bounded(io, receive_numbers(to, count, received, batches));
    CHECK(received == count);
    CHECK(to.reads().packets == count);
    CHECK(to.reads().bytes == count * 100);
    CHECK(io.statistics().strays == 0);
}

TEST_CASE("the largest datagram, and larger ones than asked for", "[net][udp]") {
    own_namespace here;
    const read_mode mode = GENERATE(from_range(modes));
    CAPTURE(name_of(mode));
    cotun::reactor io;
    cotun::udp_options options = bound("127.0.0.1:0", mode);
    options.largest_datagram = 65535;
    cotun::udp_socket large = cotun::open_udp(io, options);
    cotun::udp_socket small = cotun::open_udp(io, bound("127.0.0.1:0", mode));
    const std::string most(65507, 'x');
    std::string got = run_bounded(io, exchange(io, small, large, most, large.local()));
    CHECK((got == most + " from " + small.local().to_string()));
    std::error_code code = io.run(send_one(io, small, most + "x", large.local()));
    CHECK(code == std::errc::message_size);
    CHECK(small.writes().too_large == 1);
    for (int i = 0; i < 3; ++i) {
        code = io.run(send_one(io, large, std::string(20'000, 'y'), small.local()));
        CHECK_FALSE(code);
    }
    got = io.run(exchange(io, large, small, std::string(1500, 'z'), small.local()));
    CHECK((got == std::string(1500, 'z') + " from " + large.local().to_string()));
    CHECK(small.reads().truncated == 3);
    CHECK(small.reads().packets == 1);
}

TEST_CASE("a peer that is not there is not the end", "[net][udp][refused]") {
    own_namespace here;
    const read_mode mode = GENERATE(from_range(modes));
    const int datagrams = GENERATE(1, 20, 500);
    CAPTURE(name_of(mode), datagrams);
    cotun::reactor io;
    cotun::udp_socket ours = cotun::open_udp(io, bound("127.0.0.1:0", mode));
    std::optional<cotun::udp_socket> theirs(cotun::open_udp(io, bound("127.0.0.1:0", mode)));
    const endpoint there = theirs->local();
    theirs.reset();
    ours.connect(there);
    const auto knock = [](cotun::reactor& r, cotun::udp_socket& s, int count) -> cotun::task<> {
        for (int i = 0; i < count; ++i) {
            (void)co_await send_one(r, s, "knock", {});
            if (i % 2 == 0) co_await r.sleep_for(100us); // the refusal goes to the reader, or to the next send
        }
    };
    std::string got;
    const auto listen = [](cotun::udp_socket& s, std::string& what) -> cotun::task<> { what = co_await next(s); };
    io.spawn(listen(ours, got));
    run_bounded(io, knock(io, ours, datagrams));
    CHECK(ours.reads().refused + ours.writes().refused > 0);
    theirs.emplace(cotun::open_udp(io, bound(there.to_string(), mode)));
    (void)io.run(send_one(io, ours, "a refusal may have waited", {}));
    const std::error_code code = io.run(send_one(io, *theirs, "here I am", ours.local()));
    CHECK_FALSE(code);
    const auto wait = [](cotun::reactor& r, const std::string& what) -> cotun::task<> {
        for (int i = 0; i < 5000 && what.empty(); ++i) co_await r.sleep_for(1ms);
    };
    io.run(wait(io, got));
    CHECK(got == "here I am from " + there.to_string());
}

TEST_CASE("closing ends who waits, and frees the port", "[net][udp][close]") {
    own_namespace here;
    const read_mode mode = GENERATE(from_range(modes));
    const bool by_destructor = GENERATE(false, true);
    CAPTURE(name_of(mode), by_destructor);
    cotun::reactor io;
    const std::ptrdiff_t files = open_files();
    const auto wait = [](cotun::udp_socket& s, std::error_code& end) -> cotun::task<> {
        try {
            (void)co_await s.receive();
        } catch (const std::system_error& e) {
            end = e.code();
        }
    };
    const auto pass = [](cotun::reactor& r) -> cotun::task<> {
        co_await r.yield();
        co_await r.yield();
    };
    for (int round = 0; round < 50; ++round) {
        std::error_code end;
        {
            cotun::udp_socket s = cotun::open_udp(io, bound("127.0.0.1:4711", mode));
            io.spawn(wait(s, end));
            io.run(pass(io));
            if (!by_destructor) io.run(s.close());
        }
        io.run(pass(io));
        CHECK(end == std::errc::operation_canceled);
    }
    CHECK(open_files() == files);
}

TEST_CASE("sockets that cannot be", "[net][udp][refused]") {
    own_namespace here;
    cotun::reactor io;
    const auto open = [&io](const cotun::udp_options& o) { const cotun::udp_socket s = cotun::open_udp(io, o); };
    const cotun::udp_socket taken = cotun::open_udp(io, bound("127.0.0.1:4711"));
    CHECK(refusal([&] { open(bound("127.0.0.1:4711")); }, {"open_udp", "127.0.0.1:4711", "another socket"}) ==
          std::errc::address_in_use);
    CHECK(refusal([&] { open(bound("192.0.2.1:4711")); }, {"open_udp", "192.0.2.1:4711", "no interface"}) ==
          std::errc::address_not_available);
    cotun::udp_options o = bound("127.0.0.1:0");
    o.peer = endpoint::from_string("[::1]:4711");
    const std::error_code family = refusal([&] { open(o); }, {"[::1]:4711", "family"});
    CHECK(family == std::errc::address_family_not_supported);
    o = {};
    o.peer = endpoint::from_string("192.0.2.1:4711");
    CHECK(refusal([&] { open(o); }, {"192.0.2.1:4711", "no route"}) == std::errc::network_unreachable);
    for (const unsigned largest : {0U, 65536U}) {
        o = bound("127.0.0.1:0");
        o.largest_datagram = largest;
        CHECK(refusal([&] { open(o); }, {"largest_datagram", std::to_string(largest), "1 to 65535"}) ==
              std::errc::invalid_argument);
    }
    cotun::udp_socket s = cotun::open_udp(io, bound("0.0.0.0:0"));
    std::error_code code = run_bounded(io, send_one(io, s, "no route", endpoint::from_string("192.0.2.1:1")));
    CHECK(code == std::errc::network_unreachable);
    CHECK(s.writes().unreachable == 1);
    code = io.run(send_one(io, s, "other family", endpoint::from_string("[::1]:1")));
    CHECK(code);
    CHECK_FALSE(cotun::is_final(code));
    code = io.run(send_one(io, s, "still works", taken.local()));
    CHECK_FALSE(code);
}

TEST_CASE("a port below 1024 without the privilege", "[net][udp][refused]") {
    own_namespace here;
    const std::string told = in_child([]() -> std::string {
        if (!give_up_capabilities()) return "not prepared";
        cotun::reactor io;
        try {
            const cotun::udp_socket s = cotun::open_udp(io, bound("127.0.0.1:53"));
        } catch (const std::system_error& e) {
            return std::to_string(e.code().value()) + ": " + e.what();
        }
        return "it was not refused";
    });
    CAPTURE(told);
    CHECK(told.find(std::to_string(EACCES) + ": ") == 0);
    CHECK(told.find("127.0.0.1:53") != std::string::npos);
    CHECK(told.find("CAP_NET_BIND_SERVICE") != std::string::npos);
}

TEST_CASE("an echo server that is not ours", "[net][udp]") {
    if (!is_installed("socat")) SKIP("no socat(1)");
    own_namespace here;
    const std::string host = GENERATE("127.0.0.1", "[::1]");
    const read_mode mode = GENERATE(from_range(modes));
    CAPTURE(host, name_of(mode));
    const bool v6 = host != "127.0.0.1";
    program echo({"socat", std::string(v6 ? "UDP6-LISTEN" : "UDP4-LISTEN") + ":4711,bind=" + host, "EXEC:cat"});
    cotun::reactor io;
    cotun::udp_options o;
    o.local = endpoint::from_string(host + ":0");
    o.peer = endpoint::from_string(host + ":4711");
    o.read = mode;
    cotun::udp_socket s = cotun::open_udp(io, o);
    std::string got;
    const auto ask = [](cotun::reactor& r, cotun::udp_socket& from, std::string& answer) -> cotun::task<> {
        for (int i = 0; i < 2000 && answer.empty(); ++i) { // until it listens
            (void)co_await send_one(r, from, "hello", {});
            co_await r.sleep_for(10ms);
        }
    };
    const auto listen = [](cotun::udp_socket& from, std::string& what) -> cotun::task<> { what = co_await next(from); };
    io.spawn(listen(s, got));
    run_bounded(io, ask(io, s, got));
    CHECK(got.find("hello") == 0);
    CHECK(got.find(" from " + host + ":4711") != std::string::npos);
}

TEST_CASE("nc asks and is answered, over UDP", "[net][udp]") {
    if (!is_installed("nc")) SKIP("no nc(1)");
    own_namespace here;
    const std::string host = GENERATE("127.0.0.1", "[::1]");
    CAPTURE(host);
    cotun::reactor io;
    cotun::udp_socket s = cotun::open_udp(io, bound(host + ":0"));
    const std::string to = (host == "[::1]" ? "::1" : host) + " " + std::to_string(s.local().port());
    program nc({"sh", "-c", "printf hello | nc -u -w 3 " + to});
    const auto answer = [](cotun::reactor& r, cotun::udp_socket& at, program& asker) -> cotun::task<std::string> {
        cotun::datagram d = co_await at.receive();
        const std::string question(reinterpret_cast<const char*>(d.payload.bytes().data()), d.payload.size());
        co_await at.send_to(std::move(d.payload), d.sender);
        for (int i = 0; i < 20'000 && asker.output().empty(); ++i) co_await r.sleep_for(1ms);
        co_return question;
    };
    CHECK(run_bounded(io, answer(io, s, nc)) == "hello");
    CHECK(nc.output() == "hello");
}
