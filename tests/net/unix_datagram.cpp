// SPDX-License-Identifier: Apache-2.0
//
// Unix datagram sockets over the real kernel, against each other, plain sockets, and socat.
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/net/unix_datagram.hpp>

#include "unix_peers.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <array>
#include <fstream>

using namespace cotun;
using namespace std::chrono_literals;
using ::test::directory;
using ::test::hear;
using ::test::say;
using ::test::words;

namespace {

const std::array modes{read_mode::automatic, read_mode::poll};

task<int> say_to(reactor& io, unix_datagram& s, std::string text, std::string to) {
    packet p = words(io, text);
    co_await s.send_to(std::move(p), to);
    co_return co_await ::test::flushed(s);
}

task<> count_up(reactor& io, unix_datagram& s, unsigned count, std::string to, unsigned& accepted) {
    for (unsigned n = 0; n < count; ++n) {
        packet p = co_await io.allocate(sizeof n);
        std::memcpy(p.bytes().data(), &n, sizeof n);
        if (to.empty())
            co_await s.send(std::move(p));
        else
            co_await s.send_to(std::move(p), to);
        ++accepted;
    }
    co_await s.flush();
}

// True: all came, in order.
task<bool> hear_count(unix_datagram& s, unsigned count, bool batches) {
    unsigned n = 0;
    while (n < count) {
        packet_batch batch;
        if (batches) {
            batch = co_await s.receive_packets();
        } else {
            unix_message m = co_await s.receive();
            batch.push_back(std::move(m.payload));
        }
        for (const packet& p : batch) {
            unsigned got = 0;
            std::memcpy(&got, p.bytes().data(), sizeof got);
            if (got != n++) co_return false;
        }
    }
    co_return true;
}

} // namespace

TEST_CASE("unix datagrams arrive with their sender's name", "[unix][datagram]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const read_mode mode = GENERATE(from_range(modes));
    const bool abstract = GENERATE(false, true);
    const std::string name = abstract ? "@cotun-test-" + std::to_string(getpid()) : d.file("server");
    unix_datagram server = open_unix_datagram(*io, {.local = name, .read = mode});
    unix_datagram client = open_unix_datagram(*io, {.local = d.file("client"), .peer = name, .read = mode});
    unix_datagram nameless = open_unix_datagram(*io, {.read = mode});
    unix_datagram chosen = open_unix_datagram(*io, {.local = "@", .read = mode});
    CHECK(server.uses_multishot() == (mode != read_mode::poll));
    CHECK(server.local() == name);
    CHECK(nameless.local().empty());
    CHECK(chosen.local().starts_with("@"));
    CHECK(io->run(say(*io, client, "one")) == 0);
    CHECK(io->run(hear(server)) == "one from " + d.file("client"));
    CHECK(io->run(say(*io, client, "")) == 0);
    CHECK(io->run(say(*io, client, "three")) == 0);
    CHECK(io->run(hear(server)) == " from " + d.file("client"));
    CHECK(io->run(hear(server)) == "three from " + d.file("client"));
    CHECK(io->run(say_to(*io, nameless, "nobody", name)) == 0);
    CHECK(io->run(hear(server)) == "nobody from ");
    CHECK(io->run(say_to(*io, chosen, "somebody", name)) == 0);
    CHECK(io->run(hear(server)) == "somebody from " + chosen.local());
    CHECK(io->run(say_to(*io, server, "answer", chosen.local())) == 0);
    CHECK(io->run(hear(chosen)) == "answer from " + name);
    CHECK(io->run(say(*io, nameless, "where to")) == ENOTCONN);
    nameless.connect(name);
    CHECK(io->run(say(*io, nameless, "there")) == 0);
    CHECK(io->run(hear(server)) == "there from ");
    CHECK(nameless.writes().refused == 1);
    CHECK(nameless.writes().packets == 2);
    CHECK(server.reads().packets == 6);
}

TEST_CASE("unix datagrams: what was received goes on as it is", "[unix][datagram]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    unix_datagram a = open_unix_datagram(*io, {.local = d.file("a")});
    unix_datagram b = open_unix_datagram(*io, {.local = d.file("b")});
    const auto relay = [](unix_datagram& via, std::string to) -> task<> {
        unix_message m = co_await via.receive();
        co_await via.send_to(std::move(m.payload), to);
    };
    CHECK(io->run(say_to(*io, b, "to and fro", d.file("a"))) == 0);
    io->run(relay(a, d.file("b")));
    CHECK(io->run(hear(b)) == "to and fro from " + d.file("a"));
}

TEST_CASE("unix datagrams: a slow receiver holds the sender back, and nothing is lost", "[unix][datagram]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const bool connected = GENERATE(true, false);
    const bool batches = GENERATE(false, true);
    const read_mode mode = GENERATE(from_range(modes));
    CAPTURE(connected, batches);
    unix_datagram from = open_unix_datagram(*io);
    constexpr unsigned count = 5000;
    unsigned accepted = 0;
    SECTION("of this program") {
        unix_datagram to = open_unix_datagram(*io, {.local = d.file("to"), .read = mode});
        if (connected) from.connect(d.file("to"));
        scope both(*io);
        both.spawn(count_up(*io, from, count, connected ? "" : d.file("to"), accepted));
        io->run(cotun::test::sleep(*io, 20ms));
        CHECK(accepted < 1000); // what the receiver holds, its queue, and the window
        CHECK(io->run(hear_count(to, count, batches)));
        io->run(::test::flushed(from));
        CHECK(accepted == count);
        CHECK(from.writes().packets == count);
    }
    SECTION("of another, which reads now and then") {
        ::test::plain_socket to(SOCK_DGRAM, d.file("to"), "");
        if (connected) from.connect(d.file("to"));
        scope both(*io);
        both.spawn(count_up(*io, from, count, connected ? "" : d.file("to"), accepted));
        const auto read = [](reactor& r, ::test::plain_socket& s) -> task<unsigned> {
            unsigned n = 0;
            std::string got;
            for (unsigned i = 0; n < count && i < 20'000; ++i) {
                while (s.read(got) == sizeof n) {
                    unsigned number = 0;
                    std::memcpy(&number, got.data(), sizeof number);
                    if (number != n) co_return n;
                    ++n;
                }
                co_await r.yield();
            }
            co_return n;
        };
        io->run(cotun::test::sleep(*io, 5ms));
        const auto enters = io->statistics().enters;
        io->run(cotun::test::sleep(*io, 50ms));
        CHECK(io->statistics().enters - enters < 20); // it sleeps
        CHECK(io->run(read(*io, to)) == count);
    }
}

TEST_CASE("unix datagrams: bounds, and names that cannot be", "[unix][datagram]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const auto files = ::test::open_files();
    const auto open = [&](const std::string& local, const std::string& peer = "") {
        return ::test::error_of([&] { (void)open_unix_datagram(*io, {.local = local, .peer = peer}); });
    };
    CHECK(open(std::string(108, 'x')) == ENAMETOOLONG);
    CHECK(open("@" + std::string(107, 'x')) == ENAMETOOLONG);
    CHECK(open("@" + std::string(106, 'x')) == 0);
    CHECK(open(std::string("a\0b", 3)) == EINVAL);
    CHECK(open(d.file("none/s")) == ENOENT);
    CHECK(open("", d.file("none")) == ENOENT);
    CHECK(::test::error_of([&] { (void)open_unix_datagram(*io, {.largest_datagram = 0}); }) == EINVAL);
    CHECK(::test::error_of([&] { (void)open_unix_datagram(*io, {.largest_datagram = 1 << 20}); }) == EMSGSIZE);
    std::ofstream(d.file("plain")) << "text";
    CHECK(open(d.file("plain")) == EADDRINUSE);
    CHECK(std::filesystem::file_size(d.file("plain")) == 4);
    CHECK(::test::open_files() == files);
    {
        unix_datagram s = open_unix_datagram(*io, {.local = d.file("s"), .mode = 0600});
        struct stat status {};
        CHECK(stat(d.file("s").c_str(), &status) == 0);
        CHECK((status.st_mode & 0777) == 0600);
        CHECK(open(d.file("s")) == EADDRINUSE);
        CHECK(::test::error_of([&] { (void)s.send_to(words(*io, "x"), std::string(108, 'x')); }) == ENAMETOOLONG);
        CHECK(::test::error_of([&] { (void)s.send_to(words(*io, "x"), ""); }) == EINVAL);
        CHECK(io->run(say_to(*io, s, "x", d.file("none"))) == ENOENT);
        unix_datagram moved = std::move(s);
        io->run(moved.close());
        CHECK_FALSE(std::filesystem::exists(d.file("s")));
        CHECK(io->run(hear(moved)) == "error " + std::to_string(ECANCELED));
        CHECK(io->run(say(*io, moved, "late")) == ECANCELED);
    }
    { // a killed program's
        const ::test::plain_socket left(SOCK_DGRAM, d.file("left"), "");
    }
    CHECK(std::filesystem::exists(d.file("left")));
    CHECK(open(d.file("left")) == 0);
    CHECK_FALSE(std::filesystem::exists(d.file("left")));
    CHECK(::test::open_files() == files);
    CHECK(io->statistics().requests_in_flight == 0);
}

TEST_CASE("unix datagrams: too large ones are dropped and counted", "[unix][datagram]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const read_mode mode = GENERATE(from_range(modes));
    unix_datagram s = open_unix_datagram(*io, {.local = d.file("s"), .largest_datagram = 1500, .read = mode});
    unix_datagram c = open_unix_datagram(*io, {.peer = d.file("s"), .send_buffer = 8192});
    CHECK(io->run(say(*io, c, std::string(4000, 'x'))) == 0);
    CHECK(io->run(say(*io, c, std::string(1500, 'y'))) == 0);
    CHECK(io->run(hear(s)) == std::string(1500, 'y') + " from ");
    CHECK(s.reads().truncated == 1);
    CHECK(io->run(say(*io, c, std::string(40'000, 'x'))) == EMSGSIZE);
    CHECK(c.writes().too_large == 1);
}

TEST_CASE("unix datagrams: the peer goes, and comes again", "[unix][datagram]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    unix_datagram c = open_unix_datagram(*io);
    {
        const unix_datagram s = open_unix_datagram(*io, {.local = d.file("s")});
        c.connect(d.file("s"));
        CHECK(io->run(say(*io, c, "unread")) == 0);
    }
    CHECK(io->run(say(*io, c, "x")) == ECONNREFUSED);
    CHECK(io->run(say(*io, c, "x")) == ENOTCONN);
    unix_datagram s = open_unix_datagram(*io, {.local = d.file("s")});
    c.connect(d.file("s"));
    CHECK(io->run(say(*io, c, "again")) == 0);
    CHECK(io->run(hear(s)) == "again from ");
}

TEST_CASE("unix datagrams: a receiver that goes while its queue is full ends the wait", "[unix][datagram]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const bool connected = GENERATE(true, false);
    unix_datagram c = open_unix_datagram(*io);
    unsigned accepted = 0;
    const auto outcome = [](reactor& r, unix_datagram& s, std::string to, unsigned& n) -> task<int> {
        try {
            co_await count_up(r, s, 100, to, n);
        } catch (const std::system_error& e) {
            co_return e.code().value();
        }
        co_return 0;
    };
    const auto go = [](reactor& r, std::unique_ptr<::test::plain_socket>& s) -> task<> {
        co_await r.sleep_for(20ms);
        s.reset();
    };
    auto full = std::make_unique<::test::plain_socket>(SOCK_DGRAM, d.file("s"), "");
    if (connected) c.connect(d.file("s"));
    io->spawn(go(*io, full));
    const int error = io->run(outcome(*io, c, connected ? "" : d.file("s"), accepted));
    CHECK((error == ECONNREFUSED || error == ECONNRESET));
    CHECK(accepted == 100);
    CHECK(c.writes().refused > 0);
}

TEST_CASE("unix datagrams: a cancelled wait loses nothing", "[unix][datagram]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    unix_datagram s = open_unix_datagram(*io, {.local = d.file("s")});
    unix_datagram c = open_unix_datagram(*io, {.peer = d.file("s")});
    const auto patient = [](unix_datagram& from) -> task<int> {
        try {
            unix_message m = co_await with_timeout(from.receive(), 5ms);
        } catch (const std::system_error& e) {
            co_return e.code().value();
        }
        co_return 0;
    };
    CHECK(io->run(patient(s)) == ETIMEDOUT);
    CHECK(io->run(say(*io, c, "kept")) == 0);
    CHECK(io->run(hear(s)) == "kept from ");
    // A write that waits for room, and is given up: what was accepted is sent, what was not is not.
    unsigned accepted = 0;
    {
        scope writer(*io);
        writer.spawn(count_up(*io, c, 5000, "", accepted));
        io->run(cotun::test::sleep(*io, 20ms));
    }
    const unsigned before = accepted;
    CHECK(before < 5000);
    CHECK(io->run(hear_count(s, before, true)));
    CHECK(io->run(say(*io, c, "next")) == 0);
    std::string heard = io->run(hear(s));
    // One that was accepted in the last pass, whose writer was destroyed before it could count it.
    const std::string uncounted(reinterpret_cast<const char*>(&before), sizeof before);
    if (heard == uncounted + " from ") heard = io->run(hear(s));
    CHECK(heard == "next from ");
}

TEST_CASE("unix datagrams: closing with a full receiver gives up after its time", "[unix][datagram]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const auto files = ::test::open_files();
    {
        const ::test::plain_socket full(SOCK_DGRAM, d.file("s"), "");
        const bool connected = GENERATE(true, false);
        unix_datagram c = open_unix_datagram(*io);
        if (connected) c.connect(d.file("s"));
        unsigned accepted = 0;
        scope writer(*io);
        writer.spawn(count_up(*io, c, 100, connected ? "" : d.file("s"), accepted));
        io->run(cotun::test::sleep(*io, 5ms));
        const auto began = std::chrono::steady_clock::now();
        io->run(c.close());
        CHECK(std::chrono::steady_clock::now() - began < 5s);
        CHECK(c.writes().packets + c.writes().dropped == accepted);
    }
    CHECK(::test::open_files() == files);
    CHECK(io->statistics().requests_in_flight == 0);
}

TEST_CASE("unix datagrams: a child leaves the parent's file and datagrams alone", "[unix][datagram]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    unix_datagram s = open_unix_datagram(*io, {.local = d.file("s")});
    io->run(cotun::test::sleep(*io, 1ms));
    const std::string said = ::test::in_child([&]() -> std::string {
        { const unix_datagram gone = std::move(s); }
        return std::filesystem::exists(d.file("s")) ? "there" : "gone";
    });
    CHECK(said == "there");
    unix_datagram c = open_unix_datagram(*io, {.peer = d.file("s")});
    CHECK(io->run(say(*io, c, "on")) == 0);
    CHECK(io->run(hear(s)) == "on from ");
}

TEST_CASE("unix datagrams: socat sends and receives", "[unix][datagram][peers]") {
    if (!::test::is_installed("socat")) SKIP("no socat(1)");
    const auto io = cotun::test::over_ring();
    const directory d;
    SECTION("UNIX-SENDTO") {
        unix_datagram s = open_unix_datagram(*io, {.local = d.file("s")});
        ::test::program peer({"sh", "-c", "echo from socat | socat -u STDIN UNIX-SENDTO:" + d.file("s")});
        CHECK(io->run(hear(s)).starts_with("from socat\n"));
        CHECK(io->run(::test::ended(*io, peer)) == 0);
    }
    SECTION("UNIX-RECV") {
        ::test::program peer({"socat", "-u", "UNIX-RECV:" + d.file("r"), "OPEN:" + d.file("out") + ",creat,append"});
        REQUIRE(::test::wait_until([&] { return std::filesystem::exists(d.file("r")); }));
        unix_datagram c = open_unix_datagram(*io);
        for (int i = 0; i < 100; ++i) CHECK(io->run(say_to(*io, c, std::to_string(i) + "\n", d.file("r"))) == 0);
        std::string wanted;
        for (int i = 0; i < 100; ++i) wanted += std::to_string(i) + "\n";
        const auto got = [&] {
            std::ifstream in(d.file("out"));
            return std::string(std::istreambuf_iterator<char>(in), {});
        };
        CHECK(::test::wait_until([&] { return got().size() >= wanted.size(); }));
        CHECK(got() == wanted);
    }
}
