// SPDX-License-Identifier: Apache-2.0
//
// Which address a datagram was sent to, and answering from there, with a peer that is not ours.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <sstream>

#include "../support/scale.hpp"
#include "hosts.hpp"

using namespace test;
using namespace std::chrono_literals;
using cotun::wire::ip_address;

namespace {

cotun::udp_options informed(const std::string& local, read_mode mode = read_mode::automatic) {
    cotun::udp_options o = bound(local, mode);
    o.packet_info = true;
    return o;
}

std::string shown(const cotun::datagram& d) {
    std::string said = text_of(d.payload);
    if (!d.info) return said + ": nothing is known";
    return said + ": to " + d.info->local.to_string() + " over " + std::to_string(d.info->interface) + " ttl " +
           std::to_string(d.info->ttl) + " tos " + std::to_string(d.info->tos) + ", answer from " +
           d.info->answer_from.to_string();
}

enum class answer { reply, another, batch, to_sender };

// Answers `count` datagrams with their own text, and says what was told of each.
cotun::task<std::vector<std::string>> serve(cotun::reactor& io, cotun::udp_socket& s, int count, answer how) {
    std::vector<std::string> all;
    while (static_cast<int>(all.size()) < count) {
        cotun::datagram d = co_await s.receive();
        all.push_back(shown(d));
        if (how == answer::reply) co_await s.reply(std::move(d.payload));
        if (how == answer::to_sender) co_await s.send_to(std::move(d.payload), d.sender);
        if (how == answer::another) {
            cotun::packet other = text(io, text_of(d.payload));
            co_await s.reply(std::move(other), d.payload);
        }
        if (how == answer::batch) {
            cotun::packet_batch batch;
            batch.push_back(std::move(d.payload));
            co_await s.reply_packets(std::move(batch));
        }
    }
    co_await s.flush();
    co_return all;
}

std::string failure_of(cotun::reactor& io, cotun::udp_socket& s) {
    const auto flush = [](cotun::udp_socket& of) -> cotun::task<> { co_await of.flush(); };
    try {
        io.run(flush(s));
    } catch (const std::system_error& e) {
        CHECK_FALSE(cotun::is_final(e.code()));
        return e.what();
    }
    return {};
}

cotun::task<> send_with(cotun::reactor& io, cotun::udp_socket& s, std::string words, endpoint to,
                        cotun::datagram_options how) {
    cotun::packet p = text(io, words);
    co_await s.send_to(std::move(p), to, how);
    co_await s.flush();
}

// Waits until the peer's program has printed so many lines, and gives them.
std::vector<std::string> lines_of(program& p, std::size_t count = 0) {
    const auto lines = [&p] {
        std::vector<std::string> all;
        std::istringstream in(p.output());
        for (std::string line; std::getline(in, line);) all.push_back(line);
        return all;
    };
    if (count == 0)
        p.wait();
    else
        wait_until([&] { return lines().size() >= count || !p.running(); });
    return lines();
}

} // namespace

namespace {

// The peer asks at several addresses, with sockets that are connected: they hear nobody else.
void ask_and_answer(const two_hosts& hosts, const std::string& local, read_mode mode, answer how) {
    CAPTURE(name_of(mode), local, static_cast<int>(how));
    std::vector<std::string> at{"192.0.2.2", "192.0.2.1", "192.0.2.3"};
    if (local[0] == '[') at = {"192.0.2.2", "2001:db8::2", "fe80::1", "2001:db8::1", "192.0.2.3"};
    cotun::reactor io;
    cotun::udp_socket s = cotun::open_udp(io, informed(local, mode));
    std::vector<std::string> told_expected, heard_expected;
    std::string list;
    for (const std::string& a : at) {
        list += "'" + a + (a == "fe80::1" ? "%far" : "") + "',";
        told_expected.push_back("ask: to " + a + " over " + std::to_string(hosts.near()) +
                                " ttl 37 tos 185, answer from " + a);
        heard_expected.push_back("ask from " + a + " 4711 ttl 64 tos 0");
    }
    const auto peer = hosts.python("for host in [" + list + "]: say(ask(host, 4711, ttl=37, tos=0xb9))");
    const std::vector<std::string> told = run_bounded(io, serve(io, s, static_cast<int>(at.size()), how));
    CHECK(told == told_expected);
    CHECK(lines_of(*peer) == heard_expected);
    CHECK(s.writes().failed() == 0);
}

} // namespace

TEST_CASE("a server with several addresses answers from the one that it was asked at", "[net][udp][info]") {
    const two_hosts hosts;
    for (const read_mode mode : {read_mode::multishot, read_mode::poll})
        for (const char* local : {"0.0.0.0:4711", "[::]:4711"})
            for (const answer how : {answer::reply, answer::another, answer::batch})
                ask_and_answer(hosts, local, mode, how);
}

TEST_CASE("what the others do: an answer to the sender comes from another address", "[net][udp][info]") {
    const two_hosts hosts;
    const bool packet_info = GENERATE(false, true);
    CAPTURE(packet_info);
    cotun::reactor io;
    cotun::udp_options o = bound("0.0.0.0:4711");
    o.packet_info = packet_info;
    cotun::udp_socket s = cotun::open_udp(io, o);
    const auto peer =
        hosts.python("say(ask('192.0.2.2', 4711, connected=False)); say(ask('192.0.2.2', 4711, timeout=0.3))");
    const std::vector<std::string> told =
        run_bounded(io, serve(io, s, 2, packet_info ? answer::to_sender : answer::reply));
    CHECK(has(told[0], packet_info ? "to 192.0.2.2" : "nothing is known"));
    const std::vector<std::string> heard = lines_of(*peer);
    REQUIRE(heard.size() == 2);
    CHECK(heard[0] == "ask from 192.0.2.1 4711 ttl 64 tos 0");
    CHECK(heard[1] == "nothing");
}

TEST_CASE("socat hears the answer only if it comes from where it asked", "[net][udp][info]") {
    if (!is_installed("socat")) SKIP("no socat(1)");
    const two_hosts hosts;
    cotun::reactor io;
    cotun::udp_socket s = cotun::open_udp(io, informed("[::]:4711"));
    for (const char* to : {"UDP4:192.0.2.3:4711", "UDP6:[2001:db8::3]:4711", "UDP6:[fe80::1%far]:4711"}) {
        CAPTURE(to);
        program socat({"ip", "netns", "exec", hosts.peer().name(), "sh", "-c",
                       std::string("exec socat -t10 STDIO,ignoreeof ") + to + " <<E\nhello\nE\n"});
        const auto once = [](cotun::udp_socket& from) -> cotun::task<> {
            cotun::datagram d = co_await from.receive();
            co_await from.reply(std::move(d.payload));
            co_await from.flush();
        };
        io.run(once(s));
        CHECK(wait_until([&] { return socat.output() == "hello\n"; }));
    }
}

TEST_CASE("a broadcast is answered from the address of the interface", "[net][udp][info]") {
    const two_hosts hosts;
    for (const read_mode mode : {read_mode::multishot, read_mode::poll}) {
        for (const char* local : {"0.0.0.0:4711", "[::]:4711"}) {
            CAPTURE(name_of(mode), local);
            cotun::reactor io;
            cotun::udp_socket s = cotun::open_udp(io, informed(local, mode));
            const auto peer = hosts.python("say(ask('192.0.2.255', 4711, connected=False))");
            const std::vector<std::string> told = run_bounded(io, serve(io, s, 1, answer::reply));
            CHECK(has(told[0], "ask: to 192.0.2.255 over " + std::to_string(hosts.near())));
            CHECK(has(told[0], "answer from 192.0.2.1"));
            CHECK(lines_of(*peer) == std::vector<std::string>{"ask from 192.0.2.1 4711 ttl 64 tos 0"});
        }
    }
}

TEST_CASE("datagrams of one's own host", "[net][udp][info]") {
    own_namespace here;
    output_of("ip address add 169.254.7.7/16 dev lo && ip address add 10.1.2.3/32 dev lo");
    const read_mode mode = GENERATE(read_mode::multishot, read_mode::poll);
    CAPTURE(name_of(mode));
    cotun::reactor io;
    cotun::udp_socket server = cotun::open_udp(io, informed("[::]:4711", mode));
    for (const char* at : {"127.0.0.1", "127.0.0.9", "10.1.2.3", "169.254.7.7", "[::1]"}) {
        CAPTURE(at);
        cotun::udp_options o;
        o.peer = endpoint::from_string(std::string(at) + ":4711");
        cotun::udp_socket client = cotun::open_udp(io, o);
        const auto ask = [](cotun::reactor& r, cotun::udp_socket& c, cotun::udp_socket& s) -> cotun::task<std::string> {
            (void)co_await send_one(r, c, "ask", {});
            cotun::datagram d = co_await s.receive();
            co_await s.reply(std::move(d.payload));
            co_return co_await next(c);
        };
        const std::string got = io.run(ask(io, client, server));
        CHECK(got == std::string("ask from ") + at + ":4711");
    }
}

TEST_CASE("what is known of a packet stays whatever is put in front of it", "[net][udp][info]") {
    own_namespace here;
    const read_mode mode = GENERATE(read_mode::multishot, read_mode::poll);
    cotun::reactor io;
    cotun::udp_socket s = cotun::open_udp(io, informed("[::]:4711", mode));
    cotun::udp_socket c = cotun::open_udp(io, bound("127.0.0.1:0"));
    const auto ask = [](cotun::reactor& r, cotun::udp_socket& from, cotun::udp_socket& at) -> cotun::task<std::string> {
        (void)co_await send_one(r, from, "ask", endpoint::from_string("127.0.0.5:4711"));
        cotun::datagram d = co_await at.receive();
        for (std::byte& b : d.payload.prepend(d.payload.headroom())) b = std::byte{0xff};
        const std::string known = cotun::info_of(d.payload) ? cotun::info_of(d.payload)->local.to_string() : "nothing";
        co_await at.reply(std::move(d.payload));
        cotun::datagram back = co_await from.receive();
        co_return known + ", " + back.sender.to_string();
    };
    const std::string got = run_bounded(io, ask(io, c, s));
    CHECK(got == "127.0.0.5, 127.0.0.5:4711");
}

TEST_CASE("datagrams sent from a given address, with TTL and TOS", "[net][udp][info]") {
    const two_hosts hosts;
    const std::string local = GENERATE("0.0.0.0:0", "[::]:0");
    CAPTURE(local);
    cotun::reactor io;
    cotun::udp_socket s = cotun::open_udp(io, bound(local)); // packet_info is for receiving
    const auto listen = [&](const std::string& host, int count) {
        return hosts.python("s = open('" + host + "'); s.setsockopt(41, 26, 1) if ':' in '" + host + "' else None\n" +
                            "s.bind(('" + host + "', 4711)); say('ready')\n" + "for i in range(" +
                            std::to_string(count) + "): say(told(s))");
    };
    const std::string port = " " + std::to_string(s.local().port());
    const auto four = listen("0.0.0.0", 5);
    REQUIRE(lines_of(*four, 1).size() == 1);
    const endpoint there = endpoint::from_string("192.0.2.100:4711");
    cotun::datagram_options how;
    run_bounded(io, send_with(io, s, "as usual", there, how));
    how.from = ip_address::from_string("192.0.2.3");
    io.run(send_with(io, s, "from", there, how));
    how.ttl = 1;
    how.tos = 255;
    io.run(send_with(io, s, "all", there, how));
    how = {};
    how.tos = 1; // ECT(1)
    how.interface = hosts.near();
    io.run(send_with(io, s, "ecn", there, how));
    how = {};
    how.from = ip_address::from_string("::ffff:192.0.2.2");
    io.run(send_with(io, s, "mapped", there, how));
    CHECK(lines_of(*four) == std::vector<std::string>{"ready", "as usual from 192.0.2.1" + port + " ttl 64 tos 0",
                                                      "from from 192.0.2.3" + port + " ttl 64 tos 0",
                                                      "all from 192.0.2.3" + port + " ttl 1 tos 255",
                                                      "ecn from 192.0.2.1" + port + " ttl 64 tos 1",
                                                      "mapped from 192.0.2.2" + port + " ttl 64 tos 0"});
    if (local[0] != '[') return;
    const auto six = listen("::", 3);
    REQUIRE(lines_of(*six, 1).size() == 1);
    how = {};
    how.from = ip_address::from_string("2001:db8::3");
    how.ttl = 2;
    how.tos = 0x2e;
    io.run(send_with(io, s, "six", endpoint::from_string("[2001:db8::100]:4711"), how));
    how.from = ip_address::from_string("fe80::1");
    how.interface = hosts.near();
    how.ttl.reset();
    how.tos.reset();
    io.run(send_with(io, s, "local", endpoint::from_string("[fe80::100%near]:4711"), how));
    how = {};
    how.ttl = 255;
    io.run(send_with(io, s, "chosen", endpoint::from_string("[fe80::100%near]:4711"), how));
    CHECK(lines_of(*six) == std::vector<std::string>{"ready", "six from 2001:db8::3" + port + " ttl 2 tos 46",
                                                     "local from fe80::1" + port + " ttl 64 tos 0",
                                                     "chosen from fe80::1" + port + " ttl 255 tos 0"});
    CHECK(s.writes().failed() == 0);
}

TEST_CASE("a connected socket and batches send with options", "[net][udp][info]") {
    own_namespace here;
    const bool connected = GENERATE(false, true);
    const std::string local = GENERATE("0.0.0.0:0", "[::]:0");
    const read_mode mode = GENERATE(read_mode::multishot, read_mode::poll);
    CAPTURE(connected, local, name_of(mode));
    cotun::reactor io;
    cotun::udp_socket to = cotun::open_udp(io, informed("127.0.0.1:4711", mode));
    cotun::udp_options o = bound(local);
    if (connected) o.peer = to.local();
    cotun::udp_socket s = cotun::open_udp(io, o);
    const auto send = [](cotun::reactor& r, cotun::udp_socket& from, std::optional<endpoint> there) -> cotun::task<> {
        cotun::datagram_options how;
        how.from = ip_address::from_string("127.0.0.77");
        how.ttl = 9;
        cotun::packet_batch batch;
        for (const char* words : {"a", "b"}) batch.push_back(text(r, words));
        if (there)
            co_await from.send_packets_to(std::move(batch), *there, how);
        else
            co_await from.send_packets(std::move(batch), how);
        how = {};
        how.tos = 4;
        cotun::packet p = text(r, "c");
        if (there)
            co_await from.send_to(std::move(p), *there, how);
        else
            co_await from.send(std::move(p), how);
        (void)co_await send_one(r, from, "d", there);
        p = text(r, "e");
        how = {}; // nothing
        if (there)
            co_await from.send_to(std::move(p), *there, how);
        else
            co_await from.send(std::move(p), how);
        co_await from.flush();
    };
    const auto receive = [](cotun::udp_socket& at) -> cotun::task<std::string> {
        std::string all;
        for (int i = 0; i < 5; ++i) {
            cotun::datagram d = co_await at.receive();
            all += text_of(d.payload) + " " + d.sender.address().to_string() + " " + std::to_string(d.info->ttl) + " " +
                   std::to_string(d.info->tos) + "; ";
        }
        co_return all;
    };
    io.spawn(send(io, s, connected ? std::optional<endpoint>() : to.local()));
    const std::string got = run_bounded(io, receive(to));
    CHECK(got == "a 127.0.0.77 9 0; b 127.0.0.77 9 0; c 127.0.0.1 64 4; d 127.0.0.1 64 0; e 127.0.0.1 64 0; ");
}

TEST_CASE("addresses and interfaces to send from that cannot be", "[net][udp][info][refused]") {
    own_namespace here;
    cotun::reactor io;
    cotun::udp_socket to = cotun::open_udp(io, informed("[::]:4711"));
    const std::string local = GENERATE("0.0.0.0:0", "[::]:0");
    CAPTURE(local);
    cotun::udp_socket s = cotun::open_udp(io, bound(local));
    const endpoint four = endpoint::from_string("127.0.0.1:4711");
    const endpoint six = endpoint::from_string("[::1]:4711");
    const auto try_to = [&](const endpoint& there, const cotun::datagram_options& how) {
        (void)s.send_to(text(io, "no"), there, how);
    };
    cotun::datagram_options how;
    how.from = ip_address::from_string("2001:db8::1");
    CHECK(refusal([&] { try_to(four, how); }, {"UDP socket", "127.0.0.1", "2001:db8::1", "family"}) ==
          std::errc::address_family_not_supported);
    how.from = ip_address::from_string("192.0.2.1");
    CHECK(refusal([&] { try_to(six, how); }, {"::1", "192.0.2.1", "family"}) ==
          std::errc::address_family_not_supported);
    for (const unsigned ttl : {0U, 256U}) {
        how = {};
        how.ttl = ttl;
        CHECK(refusal([&] { try_to(four, how); }, {"ttl", std::to_string(ttl), "1 to 255"}) ==
              std::errc::invalid_argument);
    }
    how = {};
    how.tos = 256;
    CHECK(refusal([&] { try_to(four, how); }, {"tos", "256", "0 to 255"}) == std::errc::invalid_argument);
    CHECK(s.writes().packets + s.writes().failed() == 0);

    std::uint64_t refused = 0;
    const auto refuse = [&](const endpoint& there, const char* from, std::uint32_t interface) {
        const auto body = [](cotun::reactor& r, cotun::udp_socket& out, endpoint where,
                             cotun::datagram_options with) -> cotun::task<> {
            cotun::packet p = text(r, "no");
            co_await out.send_to(std::move(p), where, with);
        };
        cotun::datagram_options with;
        with.from = ip_address::from_string(from);
        with.interface = interface;
        io.run(body(io, s, there, with));
        ++refused;
        return failure_of(io, s);
    };
    std::string said = refuse(four, "192.0.2.77", 0);
    CAPTURE(said);
    CHECK(has(said, "not this host's"));
    said = refuse(four, "0.0.0.0", 9999);
    CHECK(has(said, "interface to send"));
    if (local[0] == '[') {
        said = refuse(six, "2001:db8::77", 0);
        CHECK(has(said, "not this host's"));
        said = refuse(six, "::", 9999);
        CHECK(has(said, "interface to send"));
    }
    CHECK(s.writes().invalid + s.writes().unreachable == refused);
    CHECK(s.writes().failed() == refused);
    std::string got = run_bounded(io, exchange(io, s, to, "goes on", four));
    CHECK(has(got, "goes on from 127.0.0.1:"));
}

TEST_CASE("an answer of the other family's socket, or to nobody", "[net][udp][info]") {
    own_namespace here;
    cotun::reactor io;
    cotun::udp_socket client = cotun::open_udp(io, bound("127.0.0.1:0"));
    cotun::udp_socket both = cotun::open_udp(io, informed("[::]:4711"));
    cotun::udp_socket four = cotun::open_udp(io, informed("0.0.0.0:4712"));
    // What one socket received, another answers.
    const auto across = [](cotun::reactor& r, cotun::udp_socket& c, cotun::udp_socket& in,
                           cotun::udp_socket& out) -> cotun::task<std::string> {
        (void)co_await send_one(r, c, "ask", at("127.0.0.7", in.local()));
        cotun::datagram d = co_await in.receive();
        co_await out.reply(std::move(d.payload));
        co_await out.flush();
        co_return co_await next(c);
    };
    std::string got = run_bounded(io, across(io, client, both, four));
    CHECK(got == "ask from 127.0.0.7:4712");
    got = io.run(across(io, client, four, both));
    CHECK(got == "ask from 127.0.0.7:4711");
    // One that nobody sent goes to the peer, if there is one.
    const auto make = [](cotun::reactor& r, cotun::udp_socket& s) -> cotun::task<std::string> {
        cotun::packet p = text(r, "made");
        std::string said = "sent";
        co_await s.reply(std::move(p));
        try {
            co_await s.flush();
        } catch (const std::system_error& e) {
            said = e.what();
        }
        co_return said;
    };
    got = io.run(make(io, four));
    CHECK(has(got, "no peer"));
    four.connect(client.local());
    got = io.run(make(io, four));
    CHECK(got == "sent");
    got = io.run(next(client));
    CHECK(got == "made from 127.0.0.1:4712");
    // Empty handles are no harm.
    const auto nothing = [](cotun::reactor& r, cotun::udp_socket& s) -> cotun::task<> {
        co_await s.reply(cotun::packet());
        co_await s.reply(cotun::packet(), cotun::packet());
        cotun::packet p = text(r, "to the peer");
        co_await s.reply(std::move(p), cotun::packet());
        co_await s.reply_packets(cotun::packet_batch());
        co_await s.flush();
    };
    io.run(nothing(io, four));
    got = io.run(next(client));
    CHECK(got == "to the peer from 127.0.0.1:4712");
}

TEST_CASE("20,000 questions are answered in order, each from where it was asked", "[net][udp][info][order]") {
    own_namespace here;
    const read_mode mode = GENERATE(read_mode::multishot, read_mode::poll);
    const bool batches = GENERATE(true, false);
    CAPTURE(name_of(mode), batches);
    const std::uint64_t count = cotun::test::scaled(20'000);
    cotun::reactor io;
    cotun::udp_options o = informed("0.0.0.0:4711", mode);
    o.socket.receive_buffer = 8 << 20;
    cotun::udp_socket server = cotun::open_udp(io, o);
    o = bound("127.0.0.1:0", mode);
    o.peer = endpoint::from_string("127.0.0.9:4711");
    o.socket.receive_buffer = 8 << 20;
    cotun::udp_socket client = cotun::open_udp(io, o);
    const auto answer_all = [](cotun::udp_socket& s, bool in_batches) -> cotun::task<> {
        for (;;) {
            cotun::packet_batch batch = co_await s.receive_packets();
            if (in_batches) {
                co_await s.reply_packets(std::move(batch));
                continue;
            }
            for (cotun::packet& p : batch) co_await s.reply(std::move(p));
        }
    };
    std::uint64_t received = 0;
    io.spawn(answer_all(server, batches));
    io.spawn(send_numbers(io, client, count, received, 500, batches, 100, {}));
    run_bounded(io, receive_numbers(client, count, received, batches));
    CHECK(received == count);
    CHECK(server.writes().packets == count);
    CHECK(server.writes().failed() == 0);
    CHECK(io.statistics().strays == 0);
}
