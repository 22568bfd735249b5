// SPDX-License-Identifier: Apache-2.0
//
// TCP over the real kernel, in a network namespace: whole conversations, refusals, and trouble.
#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/net/resolve.hpp>
#include <cotun/net/tcp.hpp>

#include "../io/reactors.hpp"
#include "../support/namespace.hpp"
#include "../support/scale.hpp"
#include "plain_client.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <sys/resource.h>
#include <sys/socket.h>
#include <vector>

using namespace cotun;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;
using cotun::test::file_limit;
using cotun::test::plain_client;

namespace {

const auto any_port = endpoint::from_string("127.0.0.1:0");

std::span<std::byte> room(std::string& s) { return std::as_writable_bytes(std::span(s)); }

task<> echo(tcp_stream s) {
    for (;;) {
        packet p = co_await s.receive();
        if (!p) break;
        co_await s.write(std::move(p));
    }
    s.shutdown_send();
    co_await s.close();
}

task<> echo_all(tcp_listener& from, scope& into) {
    for (;;) {
        tcp_stream s = co_await from.accept();
        into.spawn(echo(std::move(s)));
    }
}

// Runs `body(io, address of an echo server)`.
template <class Body>
task<> beside_echo(reactor& io, Body body) {
    tcp_listener listener = listen_tcp(io, {.local = any_port});
    scope server(io);
    server.spawn(echo_all(listener, server));
    co_await body(io, listener.local());
    server.request_stop();
    co_await server.join();
}

struct error_of {
    int code = 0;
    std::string text;
};

task<error_of> connect_error(reactor& io, endpoint_list to, connect_options options) {
    error_of e;
    try {
        const tcp_stream s = co_await connect_tcp(io, to, options);
    } catch (const std::system_error& failure) {
        e.code = failure.code().value();
        e.text = failure.what();
    }
    co_return e;
}

std::string numbers(std::size_t size) {
    std::string all(size, '\0');
    for (std::size_t i = 0; i < size; ++i) all[i] = static_cast<char>((i * 2654435761U) >> 13);
    return all;
}

task<> send_pieces(tcp_stream& s, const std::string& all, unsigned seed) {
    std::minstd_rand random(seed);
    for (std::size_t at = 0; at < all.size();) {
        const std::size_t most = std::vector<std::size_t>{1, 100, 5000, 300'000}[random() % 4];
        std::size_t size = std::min(all.size() - at, 1 + random() % most);
        if (random() % 3 == 0) {
            const auto bytes = std::as_bytes(std::span(all)).subspan(at, size);
            size = co_await s.write_some(bytes);
            CHECK(size > 0);
        } else {
            co_await s.write(std::string_view(all).substr(at, size));
        }
        at += size;
    }
    s.shutdown_send();
}

task<> read_pieces(tcp_stream& s, std::string& all, std::size_t size, unsigned seed) {
    std::minstd_rand random(seed);
    while (all.size() < size) {
        std::string piece(std::min<std::size_t>(size - all.size(), 1 + random() % 20'000), '\0');
        const auto how = random() % 3;
        if (how == 0) {
            co_await s.read(room(piece));
        } else if (how == 1) {
            const std::size_t got = co_await s.read_some(room(piece));
            piece.resize(got);
        } else {
            const packet p = co_await s.receive();
            piece.assign(reinterpret_cast<const char*>(p.bytes().data()), p.size());
        }
        all += piece;
    }
}

struct conversation {
    const std::string& text;
    unsigned seed;
    task<> operator()(reactor& io, endpoint to) const { return run(io, to, text, seed); }
    static task<> run(reactor& io, endpoint to, const std::string& text, unsigned seed) {
        tcp_stream s = co_await connect_tcp(io, to);
        std::string back;
        {
            scope both(io);
            both.spawn(send_pieces(s, text, seed));
            both.spawn(read_pieces(s, back, text.size(), seed + 1));
            co_await both.join();
        }
        CHECK(back == text);
        std::string more(1, '\0');
        const std::size_t end = co_await s.read_some(room(more));
        CHECK(end == 0);
        co_await s.close();
    }
};

} // namespace

TEST_CASE("tcp: every byte comes back, however it is cut", "[tcp]") {
    const unsigned seed = GENERATE(1U, 2U, 3U, 4U);
    CAPTURE(seed);
    const auto io = cotun::test::over_ring();
    const ::test::own_namespace here;
    const std::string text = numbers(cotun::test::scaled(3'000'000));
    io->run(beside_echo(*io, conversation{text, seed}));
    const reactor_statistics s = io->statistics();
    CHECK(s.small_buffers_free == 1024);
    CHECK(s.requests_in_flight == 0);
    CHECK(s.strays == 0);
    CHECK(s.overflows == 0);
}

// --- refusals ------------------------------------------------------------------------------------------------------

TEST_CASE("tcp: a connection that cannot be made says why", "[tcp]") {
    const auto io = cotun::test::over_ring();
    const ::test::own_namespace here;
    ::test::output_of("ip link add v0 type veth peer name v1 && ip address add 192.0.2.1/24 dev v0 && "
                      "ip address add 198.51.100.1/24 dev v0 && ip link set v0 up && ip link set v1 up");
    const auto port = [](const char* text) { return endpoint::from_string(text); };
    connect_options options;

    const error_of refused = io->run(connect_error(*io, port("127.0.0.1:9"), options));
    CHECK(refused.code == ECONNREFUSED);
    CHECK_THAT(refused.text, ContainsSubstring("127.0.0.1:9") && ContainsSubstring("nobody listens"));
    const error_of no_route = io->run(connect_error(*io, port("203.0.113.1:80"), options));
    CHECK(no_route.code == ENETUNREACH);
    CHECK_THAT(no_route.text, ContainsSubstring("no route"));
    ::test::output_of("ip route add unreachable 203.0.113.0/24");
    const error_of unreachable = io->run(connect_error(*io, port("203.0.113.1:80"), options));
    CHECK(unreachable.code == EHOSTUNREACH);
    options.attempt = 50ms;
    const auto begin = std::chrono::steady_clock::now(); // nobody there answers ARP, nor anything else
    const error_of silent = io->run(connect_error(*io, {port("198.51.100.7:80"), port("192.0.2.9:80")}, options));
    CHECK(std::chrono::steady_clock::now() - begin >= 100ms);
    CHECK(silent.code == ETIMEDOUT);
    CHECK_THAT(silent.text, ContainsSubstring("198.51.100.7:80: it does not answer") &&
                                ContainsSubstring("192.0.2.9:80: it does not answer"));
    options = {};
    options.local = port("203.0.113.5:0");
    const error_of not_ours = io->run(connect_error(*io, port("127.0.0.1:9"), options));
    CHECK(not_ours.code == EADDRNOTAVAIL);
    options = {};
    options.socket.device = "nothing0";
    const error_of no_device = io->run(connect_error(*io, port("127.0.0.1:9"), options));
    CHECK(no_device.code == ENODEV);
    CHECK_THAT(no_device.text, ContainsSubstring("nothing0"));
    const error_of nowhere = io->run(connect_error(*io, {}, {}));
    CHECK(nowhere.code != 0);
    CHECK(io->statistics().requests_in_flight == 0);
}

namespace {

task<endpoint> connected_to(reactor& io, const cotun::endpoint_list& peers) {
    const tcp_stream s = co_await connect_tcp(io, peers);
    co_return s.peer();
}

task<endpoint> connected_to_name(reactor& io, std::uint16_t port) {
    const bool has_hosts = std::filesystem::exists("/etc/hosts"); // a bare system has none
    const std::vector<endpoint> found = co_await cotun::resolve(io, has_hosts ? "localhost" : "127.1", port);
    const tcp_stream s = co_await connect_tcp(io, found);
    co_return s.peer();
}

} // namespace

TEST_CASE("tcp: addresses are tried in turn until one answers, and so are those of a name", "[tcp]") {
    const auto io = cotun::test::over_ring();
    const ::test::own_namespace here;
    ::test::output_of("ip route add unreachable 203.0.113.0/24");
    const tcp_listener listener = listen_tcp(*io, {.local = any_port});
    const endpoint there = listener.local();
    const endpoint refused = endpoint::from_string("127.0.0.2:" + std::to_string(there.port()));
    const endpoint unreachable = endpoint::from_string("203.0.113.1:80");
    CHECK(io->run(connected_to(*io, {refused, there})) == there);
    CHECK(io->run(connected_to(*io, {unreachable, refused, there, refused})) == there);
    std::vector<endpoint> many(16, refused); // more than are tried
    many[15] = there;
    many.push_back(unreachable);
    CHECK(io->run(connected_to(*io, many)) == there);
    CHECK(io->run(connected_to_name(*io, there.port())) == there); // ::1 is refused, where it comes first
    CHECK(io->statistics().requests_in_flight == 0);
}

TEST_CASE("tcp: a listener that was closed knows where it has listened", "[net][tcp]") {
    reactor io;
    tcp_listener l = listen_tcp(io, {.local = endpoint::from_string("127.0.0.1:0")});
    const endpoint local = l.local();
    CHECK(local.port() != 0);
    io.run(l.close());
    CHECK(l.local() == local);
    tcp_listener moved = std::move(l);
    CHECK(moved.local() == local);
}

TEST_CASE("tcp: a listener that cannot be says why", "[tcp]") {
    const auto io = cotun::test::over_ring();
    const ::test::own_namespace here;
    const tcp_listener first = listen_tcp(*io, {.local = any_port});
    const auto code = [&](const listen_options& o) {
        try {
            const tcp_listener l = listen_tcp(*io, o);
            return 0;
        } catch (const std::system_error& e) {
            return e.code().value();
        }
    };
    CHECK(code({.local = first.local()}) == EADDRINUSE);
    CHECK(code({.local = endpoint::from_string("198.51.100.1:80")}) == EADDRNOTAVAIL);
    CHECK(code({.local = any_port, .backlog = 0}) == EINVAL);
    CHECK(code({.local = any_port, .socket = {.tos = 256}}) == EINVAL);
    const tcp_listener shared = listen_tcp(*io, {.local = any_port, .socket = {.reuse_port = true}});
    CHECK(code({.local = shared.local(), .socket = {.reuse_port = true}}) == 0);
    CHECK(code({.local = endpoint::from_string("[::1]:0"), .socket = {.mark = 7, .tos = 16}}) == 0);
}

// --- trouble -------------------------------------------------------------------------------------------------------

namespace {

task<> accept_one(tcp_listener& from, std::optional<tcp_stream>& into) { into.emplace(co_await from.accept()); }

task<int> read_error(tcp_stream& s, std::string& got) {
    std::string piece(100, '\0');
    try {
        for (;;) {
            const std::size_t size = co_await s.read_some(room(piece));
            if (size == 0) co_return 0;
            got += piece.substr(0, size);
        }
    } catch (const std::system_error& e) {
        co_return e.code().value();
    }
}

task<int> write_error(tcp_stream& s, reactor& io) {
    try {
        for (int i = 0; i < 1000; ++i) {
            co_await s.write("text");
            co_await s.flush();
            co_await io.sleep_for(1ms);
        }
    } catch (const std::system_error& e) {
        co_return e.code().value();
    }
    co_return 0;
}

struct pair {
    explicit pair(reactor& io) : listener(listen_tcp(io, {.local = any_port})), client(listener.local()) {
        io.run(accept_one(listener, server));
    }
    tcp_listener listener;
    plain_client client;
    std::optional<tcp_stream> server;
};

task<bool> large_write_times_out(tcp_stream& s, const std::string& large) {
    try {
        co_await with_timeout(s.write(large), 50ms);
    } catch (const std::system_error& e) {
        co_return e.code() == std::errc::timed_out || e.code() == std::errc::operation_canceled;
    }
    co_return false;
}

task<> close_stream(tcp_stream& s) { co_await s.close(); }

} // namespace

TEST_CASE("tcp: a peer that resets: what came before is read, then the reset", "[tcp]") {
    const auto io = cotun::test::over_ring();
    const ::test::own_namespace here;
    pair p(*io);
    SECTION("while reading") {
        std::string got;
        p.client.reset();
        CHECK(io->run(read_error(*p.server, got)) == ECONNRESET);
        CHECK(io->run(read_error(*p.server, got)) == ECONNRESET);
    }
    SECTION("while writing") {
        p.client.reset();
        const int error = io->run(write_error(*p.server, *io));
        CHECK((error == ECONNRESET || error == EPIPE));
    }
    SECTION("half-closed: it can still be written to") {
        p.client.send("last");
        ::shutdown(p.client.descriptor, SHUT_WR);
        std::string got;
        CHECK(io->run(read_error(*p.server, got)) == 0);
        CHECK(got == "last");
        const auto answer = [](tcp_stream& s) -> task<> {
            co_await s.write("answer");
            co_await s.flush();
        };
        io->run(answer(*p.server));
        std::string back(6, '\0');
        CHECK(::recv(p.client.descriptor, back.data(), back.size(), MSG_WAITALL) == 6);
        CHECK(back == "answer");
    }
}

TEST_CASE("tcp: a peer that stalls: a write times out and the stream is broken, close takes a second", "[tcp]") {
    const auto io = cotun::test::over_ring();
    const ::test::own_namespace here;
    pair p(*io);
    const std::string large(30'000'000, 'x');
    CHECK(io->run(large_write_times_out(*p.server, large)));
    CHECK(io->run(write_error(*p.server, *io)) == ECONNABORTED);
    const auto begin = std::chrono::steady_clock::now();
    SECTION("broken: nothing is to be sent any more") {
        io->run(close_stream(*p.server));
        CHECK(std::chrono::steady_clock::now() - begin < 500ms);
    }
    CHECK(io->statistics().requests_in_flight <= 1); // the listener's
}

namespace {

// Until the stream takes no more for a while: what was accepted last is not sent. How much that was.
task<std::size_t> fill(reactor& io, tcp_stream& s) {
    const std::array<std::byte, 1000> piece{};
    std::size_t accepted = 0;
    for (int refused = 0; refused < 60;) {
        auto write = s.write(std::span(piece));
        const bool done = write.await_ready();
        if (done) {
            write.await_resume();
            accepted += piece.size();
            refused = 0;
        } else {
            ++refused;
            co_await io.sleep_for(1ms);
        }
    }
    co_return accepted;
}

} // namespace

TEST_CASE("tcp: a reactor that ends waits for all peers that stall at once", "[tcp]") {
    auto io = cotun::test::over_ring();
    const ::test::own_namespace here;
    std::vector<std::unique_ptr<pair>> pairs;
    for (int i = 0; i < 10; ++i) pairs.push_back(std::make_unique<pair>(*io));
    for (const auto& p : pairs) CHECK(io->run(fill(*io, *p->server)) > 0);
    const auto begin = std::chrono::steady_clock::now();
    io.reset();
    const auto took = std::chrono::steady_clock::now() - begin;
    CHECK(took > 900ms); // each had something to send
    CHECK(took < 5s);
}

TEST_CASE("tcp: peers that stall hold back close, or a destructor, for a second; many that are closed at once, too",
          "[tcp]") {
    const auto io = cotun::test::over_ring();
    const ::test::own_namespace here;
    std::vector<std::unique_ptr<pair>> pairs;
    for (int i = 0; i < 5; ++i) pairs.push_back(std::make_unique<pair>(*io));
    for (const auto& p : pairs) CHECK(io->run(fill(*io, *p->server)) > 0);
    const auto close_all = [](reactor& r, std::vector<std::unique_ptr<pair>>& all) -> task<> {
        scope closing(r);
        for (const auto& p : all) closing.spawn(p->server->close());
        co_await closing.join();
    };
    const auto begin = std::chrono::steady_clock::now();
    SECTION("closed together") { io->run(close_all(*io, pairs)); }
    SECTION("closed") {
        io->run(close_stream(*pairs.front()->server));
        CHECK_FALSE(pairs.front()->server->is_open());
        for (const auto& p : pairs) p->client.close(); // the others' peers have gone: nothing is waited for
    }
    SECTION("destroyed") {
        pairs.front()->server.reset();
        for (const auto& p : pairs) p->client.close();
    }
    const auto took = std::chrono::steady_clock::now() - begin;
    CHECK(took > 900ms);
    CHECK(took < 5s);
    pairs.clear();
    CHECK(io->statistics().requests_in_flight == 0);
    CHECK(io->statistics().small_buffers_free == 1024);
}

TEST_CASE("tcp: a large write that is destroyed has let go of its memory", "[tcp]") {
    const auto io = cotun::test::over_ring();
    const ::test::own_namespace here;
    pair p(*io);
    const auto write = [](tcp_stream& s) -> task<> {
        const std::vector<std::byte> large(20'000'000); // gone with the frame
        co_await s.write(std::span(large));
    };
    const auto stop_later = [](reactor& r) -> task<> {
        co_await r.sleep_for(30ms);
        r.stop();
    };
    io->spawn(stop_later(*io));
    io->run(write(*p.server));
    p.server.reset();
    CHECK(io->statistics().requests_in_flight <= 1);
}

namespace {

task<> accept_into(tcp_listener& from, std::vector<tcp_stream>& into, std::size_t count) {
    while (into.size() < count) {
        tcp_stream s = co_await from.accept();
        into.push_back(std::move(s));
    }
}

} // namespace

TEST_CASE("tcp: out of descriptors, accepting pauses and goes on", "[tcp]") {
    const auto io = cotun::test::over_ring();
    const ::test::own_namespace here;
    tcp_listener listener = listen_tcp(*io, {.local = any_port});
    std::vector<plain_client> clients;
    for (int i = 0; i < 8; ++i) clients.emplace_back(listener.local());
    std::vector<tcp_stream> streams;
    const int next = clients.back().descriptor + 1;
    {
        const file_limit limit(static_cast<rlim_t>(next) + 3);
        const auto begin = io->statistics().passes;
        const auto some = [](tcp_listener& l, std::vector<tcp_stream>& into) -> task<> {
            const auto ended = co_await as_result(with_timeout(accept_into(l, into, 8), 300ms));
            CHECK_FALSE(ended);
        };
        io->run(some(listener, streams));
        CHECK(streams.size() == 3);
        CHECK(listener.statistics().exhausted >= 2);
        CHECK(listener.statistics().exhausted <= 10);
        CHECK(io->statistics().passes - begin < 60);
    }
    io->run(accept_into(listener, streams, 8));
    CHECK(streams.size() == 8);
    CHECK(listener.statistics().accepted == 8);
}
