// SPDX-License-Identifier: Apache-2.0
//
// Streams against what others wrote: socat and nc, as clients and as servers.
#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/net/tcp.hpp>

#include "../io/reactors.hpp"
#include "../support/namespace.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

using namespace cotun;
using namespace std::chrono_literals;

namespace {

// A directory of its own, with a file of text in it.
struct files {
    files() {
        std::string name = (std::filesystem::temp_directory_path() / "cotun-XXXXXX").string();
        if (mkdtemp(name.data()) == nullptr) throw std::system_error(errno, std::generic_category(), name);
        directory = name;
        std::ofstream out(path("in"));
        for (int i = 0; i < 100'000; ++i) out << i << '\n';
    }
    ~files() { std::filesystem::remove_all(directory); }
    std::string path(const char* name) const { return (directory / name).string(); }
    std::string content(const char* name) const {
        std::ifstream in(path(name));
        return {std::istreambuf_iterator<char>(in), {}};
    }
    std::filesystem::path directory;
};

task<> echo(tcp_stream s) {
    for (;;) {
        packet p = co_await s.receive();
        if (!p) break;
        co_await s.write(std::move(p));
    }
    s.shutdown_send();
    co_await s.close();
}

task<> echo_one(tcp_listener& from) {
    tcp_stream s = co_await from.accept();
    co_await echo(std::move(s));
}

// The program's exit status.
task<int> ended(reactor& io, ::test::program& p) {
    for (int i = 0; i < 20'000 && p.running(); ++i) co_await io.sleep_for(1ms);
    co_return p.wait(0ns);
}

task<> send_all(tcp_stream& s, const std::string& text, bool half_close) {
    co_await s.write(text);
    if (half_close) s.shutdown_send();
}

task<> read_all(tcp_stream& s, std::string& into) {
    for (;;) {
        const packet p = co_await s.receive();
        if (!p) break;
        into.append(reinterpret_cast<const char*>(p.bytes().data()), p.size());
    }
}

task<std::string> talk(reactor& io, endpoint to, const std::string& text, bool half_close) {
    std::string back;
    for (int i = 0;; ++i) { // until the other has come up
        auto tried = co_await as_result(connect_tcp(io, to));
        if (!tried && i < 2000) {
            co_await io.sleep_for(5ms);
            continue;
        }
        tcp_stream s = std::move(tried).value();
        scope both(io);
        both.spawn(send_all(s, text, half_close));
        both.spawn(read_all(s, back));
        co_await both.join();
        break;
    }
    co_return back;
}

} // namespace

TEST_CASE("tcp: socat and nc as clients get back what they send", "[tcp][peers]") {
    const auto io = cotun::test::over_ring();
    const ::test::own_namespace here;
    const files f;
    const bool v6 = GENERATE(false, true);
    const std::string host = v6 ? "[::1]" : "127.0.0.1";
    tcp_listener listener = listen_tcp(*io, {.local = endpoint::from_string(host + ":0")});
    const std::string port = std::to_string(listener.local().port());
    const int which = GENERATE(0, 1, 2);
    std::string command;
    if (which == 0)
        command = "socat -t 20 STDIO TCP:" + host + ":" + port;
    else if (which == 1)
        command = std::string("nc -N ") + (v6 ? "::1 " : "127.0.0.1 ") + port;
    else // byte by byte
        command = "head -c 3000 | socat -b 1 -t 20 STDIO TCP:" + host + ":" + port + ",nodelay";
    if (!::test::is_installed(which == 1 ? "nc" : "socat")) SKIP("no socat(1) or nc(1)");
    CAPTURE(command);
    io->spawn(echo_one(listener));
    ::test::program peer({"sh", "-c", "< " + f.path("in") + " " + command + " > " + f.path("out")});
    const std::string wanted = f.content("in");
    CHECK(io->run(ended(*io, peer)) == 0);
    INFO(peer.output());
    const std::string got = f.content("out");
    CHECK(got.size() == (which == 2 ? 3000 : wanted.size()));
    CHECK((got == wanted.substr(0, got.size())));
}

TEST_CASE("tcp: socat and nc as servers", "[tcp][peers]") {
    const auto io = cotun::test::over_ring();
    const ::test::own_namespace here;
    const files f;
    const bool nc = GENERATE(false, true);
    if (!::test::is_installed(nc ? "nc" : "socat")) SKIP("no socat(1) or nc(1)");
    const endpoint there = endpoint::from_string("127.0.0.1:7777");
    const std::string wanted = f.content("in");
    if (nc) { // takes what we send, and sends a file; it would not send on if we ended first
        ::test::program peer({"sh", "-c", "nc -N -l 127.0.0.1 7777 < " + f.path("in") + " > " + f.path("out")});
        const std::string got = io->run(talk(*io, there, "ours\n", false));
        CHECK(got.size() == wanted.size());
        CHECK((got == wanted));
        CHECK(io->run(ended(*io, peer)) == 0);
        CHECK(f.content("out") == "ours\n");
    } else {
        ::test::program peer({"socat", "-t", "20", "TCP-LISTEN:7777,bind=127.0.0.1", "EXEC:cat"});
        const std::string got = io->run(talk(*io, there, wanted, true));
        CHECK(got.size() == wanted.size());
        CHECK((got == wanted));
        CHECK(io->run(ended(*io, peer)) == 0);
    }
}
