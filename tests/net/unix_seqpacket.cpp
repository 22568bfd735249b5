// SPDX-License-Identifier: Apache-2.0
//
// Unix seqpacket sockets over the real kernel, against each other, plain sockets, and socat.
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/net/unix_seqpacket.hpp>

#include "unix_peers.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <array>
#include <memory>
#include <optional>

using namespace cotun;
using namespace std::chrono_literals;
using ::test::directory;
using ::test::hear;
using ::test::say;
using ::test::words;

namespace {

const std::array modes{read_mode::automatic, read_mode::poll};

struct pair {
    unix_seqpacket here;
    unix_seqpacket there;
};

task<unix_seqpacket> accepted(unix_seqpacket_listener& l) { co_return co_await l.accept(); }

task<std::unique_ptr<pair>> connected(reactor& io, unix_seqpacket_listener& l, std::string name,
                                      unix_seqpacket_options options) {
    std::optional<unix_seqpacket> there;
    const auto accept = [](unix_seqpacket_listener& from, std::optional<unix_seqpacket>& into) -> task<> {
        into = co_await accepted(from);
    };
    scope one(io);
    one.spawn(accept(l, there));
    unix_seqpacket here = co_await connect_unix_seqpacket(io, name, options);
    co_await one.join();
    co_return std::make_unique<pair>(pair{std::move(here), std::move(*there)});
}

task<unsigned> count_records(unix_seqpacket& s, bool batches) {
    unsigned n = 0;
    for (;;) {
        packet_batch batch;
        if (batches) {
            batch = co_await s.receive_packets();
        } else {
            unix_message m = co_await s.receive();
            if (m) batch.push_back(std::move(m.payload));
        }
        if (batch.empty()) break;
        for (const packet& p : batch) {
            unsigned got = 0;
            std::memcpy(&got, p.bytes().data(), sizeof got);
            if (got != n || p.size() != sizeof n + n % 1000) throw std::runtime_error("out of order");
            ++n;
        }
    }
    co_return n;
}

task<> send_records(reactor& io, unix_seqpacket& s, unsigned count) {
    for (unsigned n = 0; n < count; ++n) {
        packet p = co_await io.allocate(sizeof n + n % 1000);
        std::memcpy(p.bytes().data(), &n, sizeof n);
        co_await s.send(std::move(p));
    }
    s.shutdown_send();
}

} // namespace

TEST_CASE("unix seqpacket: records, empty ones too, and the end", "[unix][seqpacket]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const read_mode mode = GENERATE(from_range(modes));
    const bool abstract = GENERATE(false, true);
    const std::string name = abstract ? "@cotun-test-" + std::to_string(getpid()) : d.file("s");
    const auto files = ::test::open_files();
    {
        unix_seqpacket_listener l = listen_unix_seqpacket(*io, name, {.read = mode, .mode = 0600});
        const auto both = io->run(connected(*io, l, name, {.read = mode}));
        auto& [here, there] = *both;
        CHECK(here.uses_multishot() == (mode != read_mode::poll));
        CHECK(there.peer().process == getpid());
        CHECK(here.peer().user == getuid());
        CHECK(io->run(say(*io, here, "one")) == 0);
        CHECK(io->run(say(*io, here, "")) == 0);
        CHECK(io->run(say(*io, here, "")) == 0);
        CHECK(io->run(say(*io, here, "two")) == 0);
        CHECK(io->run(say(*io, here, "")) == 0);
        here.shutdown_send();
        CHECK(io->run(say(*io, here, "late")) == EPIPE);
        for (const char* wanted : {"one from ", " from ", " from ", "two from ", " from ", "the end", "the end"})
            CHECK(io->run(hear(there)) == wanted);
        CHECK(io->run(say(*io, there, "back")) == 0); // only one side has ended
        CHECK(io->run(hear(here)) == "back from ");
        CHECK(there.reads().packets == 5);
        io->run(there.close());
        CHECK(io->run(hear(here)) == "the end");
        CHECK(io->run(hear(there)) == "the end");
        io->run(l.close());
        if (!abstract) CHECK_FALSE(std::filesystem::exists(name));
    }
    CHECK(::test::open_files() == files);
    CHECK(io->statistics().requests_in_flight == 0);
}

TEST_CASE("unix seqpacket: a reader that waits is told the end", "[unix][seqpacket]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const read_mode mode = GENERATE(from_range(modes));
    unix_seqpacket_listener l = listen_unix_seqpacket(*io, d.file("s"), {.read = mode});
    const auto both = io->run(connected(*io, l, d.file("s"), {.read = mode}));
    auto& [here, there] = *both;
    const auto go = [](reactor& r, unix_seqpacket& s) -> task<> {
        co_await r.sleep_for(10ms);
        co_await s.close();
    };
    const auto patient = [](unix_seqpacket& from) -> task<int> {
        try {
            unix_message m = co_await with_timeout(from.receive(), 5ms);
        } catch (const std::system_error& e) {
            co_return e.code().value();
        }
        co_return 0;
    };
    CHECK(io->run(patient(there)) == ETIMEDOUT);
    SECTION("closed") {
        io->spawn(go(*io, here));
        CHECK(io->run(hear(there)) == "the end");
        const auto passes = io->statistics().passes;
        io->run(cotun::test::sleep(*io, 20ms));
        CHECK(io->statistics().passes - passes < 10); // nothing turns in circles
    }
    SECTION("closed by this side") {
        io->spawn(go(*io, there));
        CHECK(io->run(hear(there)) == "error " + std::to_string(ECANCELED));
    }
    CHECK(io->run(say(*io, there, "nobody")) != 0);
}

TEST_CASE("unix seqpacket: thousands of records stay whole and in order", "[unix][seqpacket]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const read_mode mode = GENERATE(from_range(modes));
    const bool batches = GENERATE(false, true);
    unix_seqpacket_listener l = listen_unix_seqpacket(*io, d.file("s"), {.read = mode});
    const auto both = io->run(connected(*io, l, d.file("s"), {.send_buffer = 16384, .read = mode}));
    scope sending(*io);
    sending.spawn(send_records(*io, both->here, 20'000));
    io->run(cotun::test::sleep(*io, 10ms)); // until it waits
    CHECK(io->run(count_records(both->there, batches)) == 20'000);
}

TEST_CASE("unix seqpacket: after shutdown_send() nothing more is accepted, however many wait", "[unix][seqpacket]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    unix_seqpacket_listener l = listen_unix_seqpacket(*io, d.file("s"));
    const auto both = io->run(connected(*io, l, d.file("s"), {.send_buffer = 4608}));
    auto& [here, there] = *both;
    struct writer {
        unsigned sent = 0;
        int error = 0;
    };
    const auto write = [](reactor& r, unix_seqpacket& s, writer& w) -> task<> {
        try {
            for (;; ++w.sent) {
                packet p = words(r, "record");
                co_await s.send(std::move(p));
            }
        } catch (const std::system_error& e) {
            w.error = e.code().value();
        }
    };
    std::array<writer, 2> writers;
    scope writing(*io);
    for (writer& w : writers) writing.spawn(write(*io, here, w));
    io->run(cotun::test::sleep(*io, 10ms)); // the window is full, and both wait
    const unsigned before = writers[0].sent + writers[1].sent;
    here.shutdown_send();
    const auto late = [](reactor& r, unix_seqpacket& s) -> task<int> {
        try {
            packet p = words(r, "late");
            co_await with_timeout(s.send(std::move(p)), 20ms);
        } catch (const std::system_error& e) {
            co_return e.code().value();
        }
        co_return 0;
    };
    CHECK(io->run(late(*io, here)) == EPIPE);
    const auto count = [](unix_seqpacket& s, unsigned most) -> task<unsigned> {
        unsigned n = 0;
        for (; n < most; ++n) {
            const unix_message m = co_await s.receive();
            if (!m) break;
        }
        co_return n;
    };
    CHECK(io->run(count(there, before + 1000)) == before + 2); // those that waited already, and the end
    io->run(cotun::test::sleep(*io, 1ms));
    for (const writer& w : writers) CHECK(w.error == EPIPE);
}

TEST_CASE("unix seqpacket: what a peer that resets had sent is read first", "[unix][seqpacket]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const read_mode mode = GENERATE(from_range(modes));
    unix_seqpacket_listener l = listen_unix_seqpacket(*io, d.file("s"), {.read = mode});
    ::test::plain_socket peer(SOCK_SEQPACKET, "", d.file("s"));
    unix_seqpacket s = io->run(accepted(l));
    CHECK(io->run(say(*io, s, "never read")) == 0);
    CHECK(::send(peer.fd.get(), "last", 4, 0) == 4);
    peer.fd.reset();
    CHECK(io->run(hear(s)) == "last from ");
    CHECK(io->run(hear(s)) == "error " + std::to_string(ECONNRESET));
    CHECK(io->run(say(*io, s, "x")) == EPIPE);
    CHECK(io->run(say(*io, s, "x")) == EPIPE);
}

TEST_CASE("unix seqpacket: too large records are dropped and counted, and names refused", "[unix][seqpacket]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const read_mode mode = GENERATE(from_range(modes));
    CHECK(::test::error_of([&] { (void)listen_unix_seqpacket(*io, std::string(108, 'x')); }) == ENAMETOOLONG);
    CHECK(::test::error_of([&] { (void)connect_unix_seqpacket(*io, std::string(108, 'x')); }) == ENAMETOOLONG);
    CHECK(::test::error_of([&] { (void)listen_unix_seqpacket(*io, d.file("s"), {.descriptors = 254}); }) == EINVAL);
    CHECK(::test::error_of([&] { (void)listen_unix_seqpacket(*io, d.file("s"), {.backlog = 0}); }) == EINVAL);
    unix_seqpacket_listener l = listen_unix_seqpacket(*io, d.file("s"), {.read = mode});
    const auto refused = [](reactor& r, std::string name) -> task<int> {
        try {
            const unix_seqpacket s = co_await connect_unix_seqpacket(r, name);
        } catch (const std::system_error& e) {
            co_return e.code().value();
        }
        co_return 0;
    };
    CHECK(io->run(refused(*io, d.file("none"))) == ENOENT);
    {
        const ::test::plain_socket other(SOCK_DGRAM, d.file("d"), "");
        CHECK(io->run(refused(*io, d.file("d"))) == EPROTOTYPE);
    }
    const auto both = io->run(connected(*io, l, d.file("s"), {}));
    auto& [here, there] = *both;
    CHECK(io->run(say(*io, here, std::string(1500, 'y'))) == 0);
    CHECK(io->run(hear(there)) == std::string(1500, 'y') + " from ");
    CHECK(io->run(say(*io, here, std::string(4000, 'x'))) == 0);
    CHECK(io->run(say(*io, here, "after")) == 0);
    CHECK(io->run(hear(there)) == "after from ");
    CHECK(there.reads().truncated == 1);
}

TEST_CASE("unix seqpacket: connections that nobody took end with the listener", "[unix][seqpacket]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const auto files = ::test::open_files();
    {
        std::optional<unix_seqpacket_listener> l = listen_unix_seqpacket(*io, d.file("s"));
        const ::test::plain_socket one(SOCK_SEQPACKET, "", d.file("s"));
        const ::test::plain_socket two(SOCK_SEQPACKET, "", d.file("s"));
        unix_seqpacket s = io->run(accepted(*l));
        CHECK(l->statistics().accepted >= 1);
        l.reset();
        CHECK(::send(one.fd.get(), "on", 2, 0) == 2);
        CHECK(io->run(hear(s)) == "on from ");
        CHECK(::send(two.fd.get(), "on", 2, MSG_NOSIGNAL) < 0);
    }
    CHECK(::test::open_files() == files);
}

TEST_CASE("unix seqpacket: socat as client and as server", "[unix][seqpacket][peers]") {
    if (!::test::is_installed("socat")) SKIP("no socat(1)");
    const auto io = cotun::test::over_ring();
    const directory d;
    SECTION("client") {
        unix_seqpacket_listener l = listen_unix_seqpacket(*io, d.file("s"));
        ::test::program peer({"sh", "-c", "echo hello | socat -t 20 STDIO UNIX-CONNECT:" + d.file("s") + ",type=5"});
        unix_seqpacket s = io->run(accepted(l));
        CHECK(io->run(hear(s)) == "hello\n from ");
        CHECK(io->run(say(*io, s, "welcome\n")) == 0);
        CHECK(io->run(hear(s)) == "the end");
        io->run(s.close());
        CHECK(io->run(::test::ended(*io, peer)) == 0);
        CHECK(peer.output() == "welcome\n");
    }
    SECTION("server") {
        ::test::program peer({"socat", "-t", "20", "UNIX-LISTEN:" + d.file("s") + ",type=5", "EXEC:cat"});
        REQUIRE(::test::wait_until([&] { return std::filesystem::exists(d.file("s")); }));
        const auto talk = [](reactor& r, std::string name) -> task<std::string> {
            for (int i = 0; i < 2000; ++i) { // until it listens
                auto tried = co_await as_result(connect_unix_seqpacket(r, name));
                if (!tried) {
                    co_await r.sleep_for(5ms);
                    continue;
                }
                unix_seqpacket s = std::move(tried).value();
                std::string heard;
                for (const char* text : {"one", "two", "three"}) {
                    const int error = co_await say(r, s, text);
                    const std::string back = co_await hear(s);
                    heard += std::to_string(error) + back;
                }
                s.shutdown_send();
                const std::string end = co_await hear(s);
                co_return heard + end;
            }
            co_return "";
        };
        CHECK(io->run(talk(*io, d.file("s"))) == "0one from 0two from 0three from the end");
        CHECK(io->run(::test::ended(*io, peer)) == 0);
    }
}
