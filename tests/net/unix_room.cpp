// SPDX-License-Identifier: Apache-2.0
//
// Seqpacket connections and the reactor's room for readers: beyond it they wait, and nothing turns in circles.
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/net/udp.hpp>
#include <cotun/net/unix.hpp>
#include <cotun/net/unix_datagram.hpp>
#include <cotun/net/unix_seqpacket.hpp>

#include "../support/scripted_port.hpp"
#include "unix_peers.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

using namespace cotun;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;
using ::test::directory;
using ::test::hear;

namespace {

template <class Socket>
struct server_of {
    std::vector<Socket> all;
    unsigned failures = 0;
};
using server = server_of<unix_seqpacket>;

// As a server does it that goes on whatever happens.
template <class Listener, class Socket>
task<> serve(Listener& l, server_of<Socket>& s) {
    for (;;) {
        auto one = co_await as_result(l.accept());
        if (one)
            s.all.push_back(std::move(one).value());
        else if (++s.failures > 1000 || one.error() == std::errc::operation_canceled)
            break;
    }
}

task<int> connect_error(reactor& io, std::string name, std::string& text) {
    try {
        const unix_seqpacket s = co_await connect_unix_seqpacket(io, name);
    } catch (const std::system_error& e) {
        text = e.what();
        co_return e.code().value();
    }
    co_return 0;
}

std::vector<std::unique_ptr<::test::plain_socket>> peers(unsigned count, const std::string& name) {
    std::vector<std::unique_ptr<::test::plain_socket>> all;
    for (unsigned i = 0; i < count; ++i)
        all.push_back(std::make_unique<::test::plain_socket>(SOCK_SEQPACKET, "", name));
    return all;
}

// Little room for readers: for want of buffers, or of requests.
std::unique_ptr<reactor> small_reactor(bool of_buffers) {
    if (const auto why = cotun::test::ring_refused()) SKIP(*why);
    if (of_buffers) return std::make_unique<reactor>(reactor_options{.pool = {.small_count = 5}});
    return std::make_unique<reactor>(reactor_options{.requests = 32});
}

} // namespace

TEST_CASE("unix seqpacket: a server beyond the room for readers waits, and goes on when one has gone", "[unix][room]") {
    const bool of_buffers = GENERATE(true, false);
    const auto io = small_reactor(of_buffers);
    const directory d;
    const auto files = ::test::open_files();
    {
        unix_seqpacket_listener l = listen_unix_seqpacket(*io, d.file("s"));
        server s;
        scope serving(*io);
        serving.spawn(serve(l, s));
        const auto clients = peers(8, d.file("s"));
        io->run(cotun::test::sleep(*io, 20ms));
        const std::size_t room = s.all.size();
        CHECK(room >= 2);
        CHECK(room < 8);
        CHECK(s.failures == 0);
        CHECK(l.statistics().admissions_awaited > 0);
        const auto passes = io->statistics().passes;
        io->run(cotun::test::sleep(*io, 30ms));
        CHECK(io->statistics().passes - passes < 10); // it sleeps
        SECTION("destroyed") { s.all.pop_back(); }
        SECTION("closed") {
            unix_seqpacket gone = std::move(s.all.back());
            s.all.pop_back();
            io->run(gone.close());
        }
        io->run(cotun::test::sleep(*io, 5ms));
        REQUIRE(s.all.size() == room);
        CHECK(::send(clients[room]->fd.get(), "next", 4, 0) == 4); // in their order
        CHECK(io->run(hear(s.all.back())) == "next from ");
        CHECK(s.failures == 0);
        io->run(l.close());
        io->run(cotun::test::sleep(*io, 1ms));
    }
    CHECK(::test::open_files() == files);
    CHECK(io->statistics().requests_in_flight == 0);
}

TEST_CASE("unix seqpacket: room is every reader's, and whoever waits first has what is left", "[unix][room]") {
    const bool of_buffers = GENERATE(true, false);
    const auto io = small_reactor(of_buffers);
    const directory d;
    std::vector<unix_datagram> others;
    unix_seqpacket_listener l = listen_unix_seqpacket(*io, d.file("s"));
    unix_seqpacket_listener m = listen_unix_seqpacket(*io, d.file("t"));
    const auto fill = [&] { others.push_back(open_unix_datagram(*io)); };
    while (::test::error_of(fill) == 0) {}
    REQUIRE(others.size() > 1);
    const auto clients = peers(3, d.file("s"));
    SECTION("a connect is refused by name") {
        std::string text;
        CHECK(io->run(connect_error(*io, d.file("s"), text)) == ENOBUFS);
        CHECK_THAT(text, ContainsSubstring(of_buffers ? "pool_options::small_count" : "reactor_options::requests"));
        others.pop_back();
        CHECK(io->run(connect_error(*io, d.file("s"), text)) == 0);
    }
    SECTION("one that was given out and is not taken yet has its place") {
        const auto take = [](unix_seqpacket_listener& from, std::optional<unix_seqpacket>& into) -> task<> {
            unix_seqpacket s = co_await from.accept();
            into.emplace(std::move(s));
        };
        const auto free_one = [](std::vector<unix_datagram>& all, int& error, reactor& r) -> task<> {
            all.pop_back();
            error = ::test::error_of([&] { all.push_back(open_unix_datagram(r)); });
            co_return;
        };
        std::optional<unix_seqpacket> first;
        std::optional<unix_seqpacket> second;
        scope taking(*io);
        taking.spawn(take(l, first));
        taking.spawn(take(l, second));
        io->run(cotun::test::sleep(*io, 10ms));
        CHECK_FALSE(first);
        int error = 0;
        io->run(free_one(others, error, *io));
        io->run(cotun::test::sleep(*io, 1ms));
        CHECK(error == ENOBUFS);
        CHECK(first);
        CHECK_FALSE(second);
        first.reset();
        io->run(cotun::test::sleep(*io, 1ms));
        CHECK(second);
    }
    SECTION("two listeners have their turns") {
        const auto more = peers(3, d.file("t"));
        server s;
        server t;
        scope serving(*io);
        serving.spawn(serve(l, s));
        serving.spawn(serve(m, t));
        io->run(cotun::test::sleep(*io, 10ms));
        others.pop_back();
        others.pop_back();
        io->run(cotun::test::sleep(*io, 5ms));
        CHECK(s.all.size() == 1);
        CHECK(t.all.size() == 1);
        CHECK(s.failures + t.failures == 0);
    }
    SECTION("a listener's place is a reader's when it goes") {
        others.pop_back();
        std::optional<unix_datagram> buffers; // listeners take none
        if (of_buffers) buffers.emplace(open_unix_datagram(*io));
        std::vector<unix_listener> listeners;
        const auto add = [&] { listeners.push_back(listen_unix(*io, "@cotun-" + std::to_string(listeners.size()))); };
        for (int error = 0; error == 0 && listeners.size() < 10;) error = ::test::error_of(add);
        CHECK(listeners.size() >= 2);
        server s;
        scope serving(*io);
        serving.spawn(serve(l, s));
        io->run(cotun::test::sleep(*io, 5ms));
        CHECK(s.all.empty());
        listeners.clear();
        buffers.reset();
        io->run(cotun::test::sleep(*io, 5ms));
        CHECK(s.all.size() == 1);
        CHECK(s.failures == 0);
    }
}

TEST_CASE("unix seqpacket: connections take no places of streams, nor their buffers", "[unix][room]") {
    if (const auto why = cotun::test::ring_refused()) SKIP(*why);
    reactor io({.requests = 32}); // two readers beside two listeners, and some streams
    const directory d;
    unix_seqpacket_listener l = listen_unix_seqpacket(io, d.file("s"));
    const std::uint64_t free = io.statistics().small_buffers_free;
    std::string text;
    CHECK(io.run(connect_error(io, d.file("none"), text)) == ENOENT);
    CHECK(io.statistics().small_buffers_free == free);
    unix_listener streams = listen_unix(io, d.file("t"));
    std::vector<unix_stream> all;
    const auto more = [](reactor& r, std::string name, std::vector<unix_stream>& into) -> task<int> {
        try {
            unix_stream s = co_await connect_unix(r, name);
            into.push_back(std::move(s));
        } catch (const std::system_error& e) {
            co_return e.code().value();
        }
        co_return 0;
    };
    int refused = 0;
    while (refused == 0) refused = io.run(more(io, d.file("t"), all));
    CHECK(refused == ENOBUFS);
    CHECK(all.size() > 10);
    const auto both = [](reactor& r, unix_seqpacket_listener& from, std::string name) -> task<std::string> {
        unix_seqpacket one = co_await connect_unix_seqpacket(r, name);
        unix_seqpacket two = co_await from.accept();
        const int error = co_await ::test::say(r, one, "in");
        const std::string heard = co_await hear(two);
        co_return std::to_string(error) + heard;
    };
    CHECK(io.run(both(io, l, d.file("s"))) == "0in from ");
}

TEST_CASE("accept: while memory is short it pauses, however eager the program, and loses no connection",
          "[unix][room]") {
    const auto files = ::test::open_files();
    {
        cotun::test::rig r;
        const auto check = [&](auto& listener, auto& s, int type) {
            scope serving(r.io);
            r.kernel.refuse_groups = ENOMEM;
            serving.spawn(serve(listener, s));
            r.settle();
            for (const auto& q : r.kernel.in_flight)
                if (q.what == cotun::ring::scripted::kind::accept) {
                    r.kernel.complete(q.name, ::socket(AF_UNIX, type | SOCK_CLOEXEC, 0), q.multishot);
                    break;
                }
            r.settle();
            CHECK(s.failures == 1);
            for (unsigned times = 2; times < 6; ++times) {
                r.settle();
                CHECK(s.failures == times - 1);
                r.kernel.advance(1s); // the longest pause
                r.settle();
                CHECK(s.failures == times);
            }
            r.kernel.refuse_groups = 0;
            r.settle();
            CHECK(s.all.empty());
            r.kernel.advance(1s);
            r.settle();
            CHECK(s.all.size() == 1);
        };
        SECTION("seqpackets") {
            unix_seqpacket_listener l = listen_unix_seqpacket(r.io, "@cotun-short", {.read = read_mode::multishot});
            server s;
            check(l, s, SOCK_SEQPACKET);
        }
        SECTION("streams") {
            unix_listener l = listen_unix(r.io, "@cotun-short");
            server_of<unix_stream> s;
            check(l, s, SOCK_STREAM);
        }
    }
    CHECK(::test::open_files() == files);
}

TEST_CASE("unix seqpacket: records that no buffer holds are refused at once", "[unix][room]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    constexpr unsigned huge = 1 << 20;
    CHECK(::test::error_of([&] { (void)listen_unix_seqpacket(*io, d.file("s"), {.largest_record = huge}); }) ==
          EMSGSIZE);
    CHECK_FALSE(std::filesystem::exists(d.file("s")));
    CHECK(::test::error_of([&] { (void)connect_unix_seqpacket(*io, d.file("s"), {.largest_record = huge}); }) ==
          EMSGSIZE);
}
