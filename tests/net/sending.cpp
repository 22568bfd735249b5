// SPDX-License-Identifier: Apache-2.0
//
// What is sent: the room in the send buffer, and which addresses can be reached.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "../support/privileges.hpp"
#include "hosts.hpp"

using namespace test;
using namespace std::chrono_literals;

namespace {

// While it lives, this thread stays on its processor: packets on a veth pair wait in a queue of each processor, and
// those of two overtake each other.
class pinned_thread {
public:
    pinned_thread() {
        sched_getaffinity(0, sizeof before_, &before_);
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(sched_getcpu(), &one);
        sched_setaffinity(0, sizeof one, &one);
    }
    pinned_thread(const pinned_thread&) = delete;
    pinned_thread& operator=(const pinned_thread&) = delete;
    ~pinned_thread() { sched_setaffinity(0, sizeof before_, &before_); }

private:
    cpu_set_t before_{};
};

// A link with an MTU of 1500 that takes everything and leads nowhere.
void make_sink() {
    output_of(
        "ip link add sink type veth peer name drain && ip link set drain up && ip address add 192.0.2.1/24 dev sink && "
        "ip link set sink up && ip -6 address add fe80::1/64 dev sink nodad");
    // The kernel delivers to the address only a moment after it has it.
    const auto delivers = [] { return has(output_of("ip -6 route show table local"), "fe80::1 dev sink"); };
    if (!wait_until(delivers)) SKIP("no IPv6 here");
}

// What flush() says after one datagram; empty: that it was sent.
cotun::task<std::string> complaint(cotun::reactor& io, cotun::udp_socket& s, std::size_t size, endpoint to) {
    cotun::packet p = co_await io.allocate(size);
    co_await s.send_to(std::move(p), to);
    std::string said;
    try {
        co_await s.flush();
    } catch (const std::system_error& e) {
        said = e.what();
    }
    co_return said;
}

} // namespace

TEST_CASE("a small send buffer keeps the order and loses nothing", "[net][udp][order]") {
    own_namespace here;
    const named_namespace there("slow");
    const bool batches = GENERATE(true, false);
    const std::size_t size = GENERATE(100U, 1200U, 5000U); // the last in fragments
    const bool limited = GENERATE(false, true);
    CAPTURE(batches, size, limited);
    // The receiver may be late: all of them must find room, each with what the kernel counts for it.
    constexpr int space = 32 << 20, most_each = 12'000;
    const int room = largest_buffer(SO_RCVBUFFORCE, SO_RCVBUF, space);
    const auto count = static_cast<std::uint64_t>(std::min(1500, room / most_each));
    // Nothing but the datagrams is to be on the link: what else is sent there (for neighbours, for IPv6) may take the
    // datagrams that wait in the queue along on another processor; and so may the answer of a neighbour.
    const std::string to_there = "ip netns exec " + there.name() + " sh -c ";
    output_of("ip link add a0 type veth peer name b0 address 02:00:00:00:00:02 netns " + there.name());
    run("echo 1 >/proc/sys/net/ipv6/conf/a0/disable_ipv6; " + to_there +
        "'echo 1 >/proc/sys/net/ipv6/conf/b0/disable_ipv6; echo 1 >/sys/class/net/b0/queues/rx-0/rps_cpus'");
    output_of("ip -n " + there.name() + " address add 192.0.2.2/24 dev b0 && ip -n " + there.name() +
              " link set b0 up && ip address add 192.0.2.1/24 dev a0 && ip link set a0 up && " +
              "ip neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 nud permanent dev a0");
    CHECK(wait_until([] { return has(output_of("ip link show dev a0"), "state UP"); })); // else they are dropped
    if (limited && !run("tc qdisc add dev a0 root tbf rate 100mbit burst 20k limit 10m").good()) return;
    std::atomic<std::uint64_t> in_order{0};
    std::uint64_t wrong = 0; // less than expected: out of order; more: lost, or out of order
    std::atomic<bool> ready{false};
    std::thread receiver([&] {
        there.enter();
        const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (setsockopt(socket, SOL_SOCKET, SO_RCVBUFFORCE, &space, sizeof space) != 0)
            setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &space, sizeof space);
        const timeval time{5, 0};
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
        sockaddr_in a{};
        a.sin_family = AF_INET;
        a.sin_port = htons(4711);
        const bool done = bind(socket, reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0;
        ready = true;
        while (done && in_order < count) {
            std::uint64_t number = 0;
            if (recv(socket, &number, sizeof number, 0) <= 0) break;
            wrong = number;
            if (number != in_order) break;
            ++in_order;
        }
        close(socket);
    });
    CHECK(wait_until([&] { return ready.load(); }));
    const pinned_thread pinned;
    std::string failure;
    cotun::write_statistics counted;
    try {
        cotun::reactor io({.pool = {.large_count = 200}});
        cotun::udp_options options = bound("192.0.2.1:0");
        options.peer = endpoint::from_string("192.0.2.2:4711");
        options.socket.send_buffer = 1; // the kernel's least
        cotun::udp_socket from = cotun::open_udp(io, options);
        const std::uint64_t unbounded = count;
        run_bounded(io, send_numbers(io, from, count, unbounded, count, batches, size, {}));
        counted = from.writes();
    } catch (const std::exception& e) {
        failure = e.what();
    }
    receiver.join();
    CAPTURE(failure, wrong);
    CHECK(failure.empty());
    CHECK(in_order == count);
    CHECK(counted.packets == count);
    CHECK(counted.failed() == 0);
}

TEST_CASE("a datagram whose fragments never fit the send buffer fails alone", "[net][udp][order]") {
    own_namespace here;
    make_sink();
    cotun::reactor io;
    cotun::udp_options options = bound("192.0.2.1:0");
    options.peer = endpoint::from_string("192.0.2.2:4711");
    options.socket.send_buffer = 1;
    cotun::udp_socket s = cotun::open_udp(io, options);
    run("ip neighbour add 192.0.2.2 lladdr 02:00:00:00:00:01 dev sink");
    const auto send_all = [](cotun::reactor& r, cotun::udp_socket& from) -> cotun::task<std::string> {
        cotun::packet_batch batch;
        for (const std::size_t size : {100U, 5000U, 20'000U, 5000U, 60'000U, 1472U, 100U}) {
            cotun::packet p = co_await r.allocate(size);
            batch.push_back(std::move(p));
        }
        co_await from.send_packets(std::move(batch));
        std::string said;
        try {
            co_await from.flush();
        } catch (const std::system_error& e) {
            said = e.what();
        }
        co_return said;
    };
    const std::string said = run_bounded(io, send_all(io, s));
    CAPTURE(said);
    CHECK(has(said, "socket_options::send_buffer"));
    CHECK(s.writes().packets == 5);
    CHECK(s.writes().no_memory == 2);
    CHECK(s.writes().failed() == 2);
}

TEST_CASE("refusals do not keep a closing socket busy", "[net][udp][refused]") {
    own_namespace here;
    const named_namespace there("deaf");
    const read_mode mode = GENERATE(from_range(modes));
    const bool by_destructor = GENERATE(false, true);
    CAPTURE(name_of(mode), by_destructor);
    output_of("ip link add a0 type veth peer name b0 netns " + there.name() +
              " && ip address add 192.0.2.1/24 dev a0 && ip link set a0 up && ip -n " + there.name() +
              " address add 192.0.2.2/24 dev b0 && ip -n " + there.name() + " link set b0 up");
    // The refusals come when the buffer is full again.
    if (!run("tc qdisc add dev a0 root tbf rate 200kbit burst 2k limit 10m && ip netns exec " + there.name() +
             " sh -c 'tc qdisc add dev b0 root tbf rate 80kbit burst 1600 limit 1m && echo 0 "
             ">/proc/sys/net/ipv4/icmp_ratelimit'")
             .good())
        SKIP("no tc(8), or no tbf");
    cotun::reactor io;
    cotun::udp_options options = bound("192.0.2.1:0", mode);
    options.peer = endpoint::from_string("192.0.2.2:4711"); // nobody listens
    options.socket.send_buffer = 1;
    std::optional<cotun::udp_socket> s(cotun::open_udp(io, options));
    const auto fill = [](cotun::reactor& r, cotun::udp_socket& from) -> cotun::task<> {
        for (int i = 0; i < 100; ++i) {
            cotun::packet p = co_await r.allocate(1200);
            co_await from.send(std::move(p));
        }
    };
    run_bounded(io, fill(io, *s));
    const std::uint64_t before = io.statistics().enters;
    if (!by_destructor) io.run(s->close());
    const cotun::write_statistics counted = s->writes();
    s.reset();
    // It waits for a second at most, a millisecond and a poll at a time at worst.
    CHECK(io.statistics().enters - before < 5000);
    CHECK(io.statistics().requests_in_flight <= 1);
    if (!by_destructor) CHECK(counted.packets + counted.failed() + counted.dropped == 100);
}

TEST_CASE("every datagram to a peer that is not there is counted once", "[net][udp][refused]") {
    own_namespace here;
    const read_mode mode = GENERATE(from_range(modes));
    const bool batches = GENERATE(true, false);
    CAPTURE(name_of(mode), batches);
    cotun::reactor io;
    cotun::udp_options options = bound("127.0.0.1:0", mode);
    options.peer = endpoint::from_string("127.0.0.1:9");
    cotun::udp_socket s = cotun::open_udp(io, options);
    const auto knock = [](cotun::reactor& r, cotun::udp_socket& from, bool many) -> cotun::task<> {
        for (int i = 0; i < 64; ++i) {
            cotun::packet_batch batch;
            for (int k = 0; k < (many ? 32 : 1); ++k) {
                cotun::packet p = co_await r.allocate(10);
                batch.push_back(std::move(p));
            }
            co_await from.send_packets(std::move(batch));
            try {
                co_await from.flush();
            } catch (const std::system_error& e) {
                if (e.code() != std::errc::connection_refused) throw;
            }
        }
    };
    run_bounded(io, knock(io, s, batches));
    const cotun::write_statistics w = s.writes();
    CHECK(w.packets + w.refused == (batches ? 64U * 32 : 64U));
    CHECK(w.failed() == w.refused);
    CHECK(s.reads().refused + w.refused > 0);
}

TEST_CASE("connecting to another peer while datagrams are on their way", "[net][udp][order]") {
    own_namespace here;
    cotun::reactor io;
    cotun::udp_options options = bound("127.0.0.1:0");
    options.socket.receive_buffer = 8 << 20;
    cotun::udp_socket first = cotun::open_udp(io, options);
    cotun::udp_socket second = cotun::open_udp(io, options);
    cotun::udp_socket from = cotun::open_udp(io, bound("127.0.0.1:0"));
    constexpr std::uint64_t count = 2000;
    std::uint64_t received = 0;
    bool ordered = true;
    const auto take = [](cotun::udp_socket& s, std::uint64_t& all, bool& in_order) -> cotun::task<> {
        for (std::uint64_t next = 0;; ++all) {
            cotun::packet_batch batch = co_await s.receive_packets();
            for (const cotun::packet& p : batch) {
                std::uint64_t n = 0;
                std::memcpy(&n, p.bytes().data(), sizeof n);
                in_order = in_order && n >= next;
                next = n + 1;
            }
            all += batch.size() - 1;
        }
    };
    const auto send_all = [](cotun::reactor& r, cotun::udp_socket& s, endpoint a, endpoint b) -> cotun::task<> {
        for (std::uint64_t n = 0; n < count; ++n) {
            if (n % 7 == 0) s.connect(n % 2 == 0 ? a : b);
            cotun::packet p = co_await r.allocate(sizeof n);
            std::memcpy(p.bytes().data(), &n, sizeof n);
            co_await s.send(std::move(p));
        }
        co_await s.flush();
    };
    const auto wait = [](cotun::reactor& r, const std::uint64_t& all) -> cotun::task<> {
        for (int i = 0; i < 10'000 && all < count; ++i) co_await r.sleep_for(1ms);
    };
    const auto quietly = [](cotun::task<> body) -> cotun::task<> {
        try {
            co_await std::move(body);
        } catch (const std::system_error&) { // closed, at the end
        }
    };
    io.spawn(quietly(take(first, received, ordered)));
    io.spawn(quietly(take(second, received, ordered)));
    run_bounded(io, send_all(io, from, first.local(), second.local()));
    io.run(wait(io, received));
    CHECK(received == count);
    CHECK(ordered);
    CHECK(from.writes().packets == count);
    CHECK(first.reads().packets + second.reads().packets == count);
}

TEST_CASE("empty datagrams, alone and among others", "[net][udp]") {
    own_namespace here;
    const read_mode mode = GENERATE(from_range(modes));
    const bool connected = GENERATE(true, false);
    CAPTURE(name_of(mode), connected);
    cotun::reactor io;
    cotun::udp_socket to = cotun::open_udp(io, bound("127.0.0.1:0", mode));
    cotun::udp_options options = bound("127.0.0.1:0", mode);
    if (connected) options.peer = to.local();
    cotun::udp_socket from = cotun::open_udp(io, options);
    const auto exchange_some = [](cotun::reactor& r, cotun::udp_socket& s, cotun::udp_socket& d,
                                  bool peer) -> cotun::task<std::string> {
        cotun::packet_batch batch;
        for (const char* words : {"", "a", "", "", "b", ""}) batch.push_back(text(r, words));
        if (peer)
            co_await s.send_packets(std::move(batch));
        else
            co_await s.send_packets_to(std::move(batch), d.local());
        std::string all;
        for (int i = 0; i < 6; ++i) {
            cotun::datagram one = co_await d.receive();
            all += one.sender == s.local() ? text_of(one.payload) + "." : "from a stranger";
        }
        co_return all;
    };
    const std::string all = run_bounded(io, exchange_some(io, from, to, connected));
    CHECK(all == ".a...b..");
    CHECK(from.writes().packets == 6);
    CHECK(from.writes().bytes == 2);
    CHECK(to.reads().packets == 6);
}

TEST_CASE("broadcast and multicast addresses", "[net][udp]") {
    own_namespace here;
    cotun::reactor io;
    const endpoint everybody = endpoint::from_string("127.255.255.255:4711");
    const endpoint group = endpoint::from_string("224.0.0.251:5353");
    cotun::udp_socket listener = cotun::open_udp(io, bound("0.0.0.0:4711"));
    cotun::udp_socket plain = cotun::open_udp(io, bound("127.0.0.1:0"));
    const std::string said = run_bounded(io, complaint(io, plain, 10, everybody));
    CAPTURE(said);
    CHECK(has(said, "udp_options::broadcast"));
    CHECK(plain.writes().not_permitted == 1);
    CHECK(refusal([&] { plain.connect(everybody); }, {"127.255.255.255", "udp_options::broadcast"}) ==
          std::errc::permission_denied);
    cotun::udp_options options = bound("127.0.0.1:0");
    options.broadcast = true;
    cotun::udp_socket caster = cotun::open_udp(io, options);
    const std::string got = io.run(exchange(io, caster, listener, "all", everybody));
    CHECK(got == "all from " + caster.local().to_string());
    run("ip route add 224.0.0.0/4 dev lo");
    const std::error_code code = io.run(send_one(io, plain, "group", group));
    CHECK_FALSE(code);
}

TEST_CASE("link-local addresses hold on their interface", "[net][udp]") {
    own_namespace here;
    make_sink();
    const read_mode mode = GENERATE(from_range(modes));
    CAPTURE(name_of(mode));
    cotun::reactor io;
    cotun::udp_socket server = cotun::open_udp(io, bound("[fe80::1%sink]:0", mode));
    CHECK(server.local().scope() == if_nametoindex("sink"));
    cotun::udp_socket client = cotun::open_udp(io, bound("[::]:0", mode));
    const auto ask = [](cotun::reactor& r, cotun::udp_socket& from, cotun::udp_socket& to) -> cotun::task<std::string> {
        const std::error_code asked = co_await send_one(r, from, "question", to.local());
        if (asked) co_return asked.message();
        cotun::datagram d = co_await to.receive();
        const std::error_code answered = co_await send_one(r, to, text_of(d.payload), d.sender);
        if (answered) co_return answered.message();
        co_return co_await next(from);
    };
    std::string got = run_bounded(io, ask(io, client, server));
    CHECK(got == "question from " + server.local().to_string());
    client.connect(server.local());
    got = io.run(exchange(io, client, server, "connected", {}));
    CHECK(has(got, "connected from [fe80::1%"));
    const endpoint nowhere(server.local().address(), server.local().port());
    cotun::udp_socket other = cotun::open_udp(io, bound("[::]:0", mode));
    refusal([&] { (void)cotun::open_udp(io, bound("[fe80::1]:0")); }, {"[fe80::1]:0", "%eth0"});
    refusal([&] { other.connect(nowhere); }, {"[fe80::1]", "%eth0"});
}

TEST_CASE("IPv4-mapped addresses are IPv4", "[net][udp]") {
    own_namespace here;
    cotun::reactor io;
    cotun::udp_socket mapped = cotun::open_udp(io, bound("[::ffff:127.0.0.1]:0"));
    CHECK_FALSE(mapped.local().address().is_v6());
    cotun::udp_socket v4 = cotun::open_udp(io, bound("127.0.0.1:0"));
    cotun::udp_socket both = cotun::open_udp(io, bound("[::]:0"));
    const endpoint to_v4 = at("[::ffff:127.0.0.1]", v4.local());
    std::string got = run_bounded(io, exchange(io, mapped, v4, "a", to_v4));
    CHECK(got == "a from " + mapped.local().to_string());
    got = io.run(exchange(io, both, v4, "b", to_v4));
    CHECK(got == "b from " + at("127.0.0.1", both.local()).to_string());
    both.connect(to_v4);
    got = io.run(exchange(io, both, v4, "c", {}));
    CHECK(got == "c from " + at("127.0.0.1", both.local()).to_string());
    const std::string said = io.run(complaint(io, v4, 10, endpoint::from_string("[::1]:1")));
    CHECK(has(said, "[::]"));
    CHECK(v4.writes().invalid == 1);
}

TEST_CASE("a socket without options has a port, and can be moved", "[net][udp]") {
    own_namespace here;
    cotun::reactor io;
    cotun::udp_socket a = cotun::open_udp(io);
    CHECK(a.local().port() != 0);
    const endpoint where = at("127.0.0.1", a.local());
    cotun::udp_socket b = std::move(a);
    a = cotun::open_udp(io);
    std::string got = run_bounded(io, exchange(io, a, b, "one", where));
    CHECK(got == "one from " + at("127.0.0.1", a.local()).to_string());
    a = std::move(b); // closes what a was
    cotun::udp_socket c = cotun::open_udp(io);
    got = io.run(exchange(io, c, a, "two", where));
    CHECK(got == "two from " + at("127.0.0.1", c.local()).to_string());
    const std::string said = io.run(complaint(io, c, 10, endpoint::from_string("127.0.0.1:0")));
    CHECK(has(said, "port 0"));
}

TEST_CASE("an echo whose buffers are all on their way out goes on when they are back", "[net][udp]") {
    cotun::reactor_options options;
    options.pool.small_count = GENERATE(2U, 3U, 8U);
    options.pool.large_count = 0;
    cotun::reactor io(options);
    cotun::udp_socket server = cotun::open_udp(io, bound("127.0.0.1:0"));
    const int client = ::socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    REQUIRE(client >= 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons(server.local().port());
    REQUIRE(::connect(client, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
    static constexpr int count = 2000;
    static constexpr int window = 8;
    std::thread load([client] { // answers bring the next ones; ten seconds without any are the end
        int sent = 0;
        int answered = 0;
        char byte = 0;
        while (answered < count) {
            for (; sent < count && sent < answered + window; ++sent) (void)!::send(client, &byte, 1, 0);
            pollfd waiting{client, POLLIN, 0};
            if (::poll(&waiting, 1, 10'000) != 1) return;
            while (::recv(client, &byte, 1, 0) == 1) ++answered;
        }
    });
    int echoed = 0;
    static constexpr auto echo = [](cotun::udp_socket& s, int& n) -> cotun::task<> {
        for (; n < count; ++n) {
            cotun::datagram d = co_await s.receive();
            co_await s.send_to(std::move(d.payload), d.sender);
        }
    };
    run_bounded(io, echo(server, echoed));
    static constexpr auto flush = [](cotun::udp_socket& s) -> cotun::task<> { co_await s.flush(); };
    io.run(flush(server));
    load.join();
    ::close(client);
    CHECK(echoed == count);
    CHECK(server.writes().failed() == 0);
}
