// SPDX-License-Identifier: Apache-2.0
//
// Unix streams over the real kernel, with socat as the other side.
#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/net/unix.hpp>

#include "../io/reactors.hpp"
#include "../support/process.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <filesystem>
#include <fstream>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

using namespace cotun;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;

namespace {

struct directory {
    directory() {
        std::string name = (std::filesystem::temp_directory_path() / "cotun-XXXXXX").string();
        if (mkdtemp(name.data()) == nullptr) throw std::system_error(errno, std::generic_category(), name);
        path = name;
    }
    ~directory() { std::filesystem::remove_all(path); }
    std::string file(const char* name) const { return path + "/" + name; }
    std::string path;
};

task<> echo(unix_stream s) {
    for (;;) {
        packet p = co_await s.receive();
        if (!p) break;
        co_await s.write(std::move(p));
    }
    s.shutdown_send();
    co_await s.close();
}

task<> echo_one(unix_listener& from) {
    unix_stream s = co_await from.accept();
    CHECK(s.peer().process > 0);
    CHECK(s.peer().user == getuid());
    co_await echo(std::move(s));
}

task<> send_all(unix_stream& s, const std::string& text, bool half_close) {
    co_await s.write(text);
    if (half_close) s.shutdown_send();
}

task<> read_all(unix_stream& s, std::string& into) {
    for (;;) {
        const packet p = co_await s.receive();
        if (!p) break;
        into.append(reinterpret_cast<const char*>(p.bytes().data()), p.size());
    }
}

task<std::string> talk(reactor& io, std::string to, const std::string& text, bool half_close = true) {
    std::string back;
    for (int i = 0;; ++i) { // until the other has come up
        auto tried = co_await as_result(connect_unix(io, to));
        if (!tried && i < 2000) {
            co_await io.sleep_for(5ms);
            continue;
        }
        unix_stream s = std::move(tried).value();
        scope both(io);
        both.spawn(send_all(s, text, half_close));
        both.spawn(read_all(s, back));
        co_await both.join();
        break;
    }
    co_return back;
}

task<int> ended(reactor& io, ::test::program& p) {
    for (int i = 0; i < 20'000 && p.running(); ++i) co_await io.sleep_for(1ms);
    co_return p.wait(0ns);
}

task<int> connect_error(reactor& io, std::string to, std::string& text) {
    try {
        const unix_stream s = co_await connect_unix(io, to);
    } catch (const std::system_error& e) {
        text = e.what();
        co_return e.code().value();
    }
    co_return 0;
}

int listen_error(reactor& io, const std::string& name) {
    try {
        const unix_listener l = listen_unix(io, name);
        return 0;
    } catch (const std::system_error& e) {
        return e.code().value();
    }
}

} // namespace

TEST_CASE("unix: every byte comes back, by a path and by an abstract name", "[unix]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const bool abstract = GENERATE(true, false);
    const std::string name = abstract ? "@cotun-test-" + std::to_string(getpid()) : d.file("s");
    std::string text(3'000'000, '\0');
    for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>((i * 2654435761U) >> 13);
    unix_listener listener = listen_unix(*io, name);
    io->spawn(echo_one(listener));
    const std::string back = io->run(talk(*io, name, text));
    CHECK(back.size() == text.size());
    CHECK((back == text));
}

TEST_CASE("unix: socat as client and as server", "[unix][peers]") {
    if (!::test::is_installed("socat")) SKIP("no socat(1)");
    const auto io = cotun::test::over_ring();
    const directory d;
    std::string text;
    for (int i = 0; i < 50'000; ++i) text += std::to_string(i) + "\n";
    SECTION("client") {
        std::ofstream(d.file("in")) << text;
        unix_listener listener = listen_unix(*io, d.file("s"));
        io->spawn(echo_one(listener));
        ::test::program peer(
            {"sh", "-c",
             "socat -t 20 STDIO UNIX-CONNECT:" + d.file("s") + " < " + d.file("in") + " > " + d.file("out")});
        CHECK(io->run(ended(*io, peer)) == 0);
        std::ifstream out(d.file("out"));
        CHECK((std::string(std::istreambuf_iterator<char>(out), {}) == text));
    }
    SECTION("server") {
        ::test::program peer({"socat", "-t", "20", "UNIX-LISTEN:" + d.file("s"), "EXEC:cat"});
        CHECK((io->run(talk(*io, d.file("s"), text)) == text));
        CHECK(io->run(ended(*io, peer)) == 0);
    }
}

TEST_CASE("unix: nc as client and as server", "[unix][peers]") {
    if (!::test::is_installed("nc")) SKIP("no nc(1)");
    const auto io = cotun::test::over_ring();
    const directory d;
    std::string text;
    for (int i = 0; i < 50'000; ++i) text += std::to_string(i) + "\n";
    std::ofstream(d.file("in")) << text;
    const auto content = [](const std::string& name) {
        std::ifstream in(name);
        return std::string(std::istreambuf_iterator<char>(in), {});
    };
    SECTION("client") {
        unix_listener listener = listen_unix(*io, d.file("s"));
        io->spawn(echo_one(listener));
        ::test::program peer({"sh", "-c", "nc -N -U " + d.file("s") + " < " + d.file("in") + " > " + d.file("out")});
        CHECK(io->run(ended(*io, peer)) == 0);
        CHECK((content(d.file("out")) == text));
    }
    SECTION("server") { // takes what we send, and sends a file; it would not send on if we ended first
        ::test::program peer({"sh", "-c", "nc -N -lU " + d.file("s") + " < " + d.file("in") + " > " + d.file("out")});
        CHECK((io->run(talk(*io, d.file("s"), "ours\n", false)) == text));
        CHECK(io->run(ended(*io, peer)) == 0);
        CHECK(content(d.file("out")) == "ours\n");
    }
}

TEST_CASE("unix: names: refused ones, a file that was left over, permissions, and the file's end", "[unix]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    std::string text;
    CHECK(listen_error(*io, "") == EINVAL);
    CHECK(listen_error(*io, "@") == EINVAL);
    CHECK(listen_error(*io, std::string("a\0b", 3)) == EINVAL);
    CHECK(listen_error(*io, std::string(108, 'x')) == ENAMETOOLONG);
    CHECK(listen_error(*io, d.file("none/s")) == ENOENT);
    std::ofstream(d.file("plain")) << "text";
    CHECK(listen_error(*io, d.file("plain")) == EADDRINUSE);
    CHECK(std::filesystem::file_size(d.file("plain")) == 4); // not removed
    CHECK_THROWS_AS((void)connect_unix(*io, std::string(200, 'x')), std::system_error);
    CHECK(io->run(connect_error(*io, d.file("none"), text)) == ENOENT);
    CHECK_THAT(text, ContainsSubstring("no such file"));
    {
        unix_listener l = listen_unix(*io, d.file("s"), {.mode = 0600});
        struct stat s {};
        CHECK(stat(d.file("s").c_str(), &s) == 0);
        CHECK((s.st_mode & 0777) == 0600);
        CHECK(listen_error(*io, d.file("s")) == EADDRINUSE); // it is listened at
        unix_listener moved = std::move(l);
        CHECK(std::filesystem::exists(d.file("s")));
        io->run(moved.close());
        CHECK_FALSE(std::filesystem::exists(d.file("s")));
    }
    {
        const unix_listener l = listen_unix(*io, d.file("s"));
        std::filesystem::rename(d.file("s"), d.file("left")); // as if its program had been killed
    }
    CHECK(io->run(connect_error(*io, d.file("left"), text)) == ECONNREFUSED);
    CHECK_THAT(text, ContainsSubstring("nobody listens"));
    CHECK(listen_error(*io, d.file("left")) == 0);
    CHECK(io->statistics().requests_in_flight == 0);
}

TEST_CASE("unix: a connection that finds the backlog full waits, and can be given up", "[unix]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    unix_listener listener = listen_unix(*io, d.file("s"), {.backlog = 1});
    const auto connect = [](reactor& r, std::string to, int& made) -> task<> {
        const unix_stream s = co_await connect_unix(r, to);
        ++made;
        co_await r.sleep_for(20s);
    };
    int made = 0;
    {
        scope all(*io);
        for (int i = 0; i < 6; ++i) all.spawn(connect(*io, d.file("s"), made));
        io->run(cotun::test::sleep(*io, 50ms));
        CHECK(made < 6);
        CHECK(made >= 1);
        const auto take = [](reactor& r, unix_listener& l) -> task<> {
            const unix_stream s = co_await l.accept();
            co_await r.sleep_for(50ms);
        };
        const int before = made;
        io->run(take(*io, listener));
        CHECK(made > before);
    } // the others are destroyed as they wait
    io->run(cotun::test::sleep(*io, 50ms));
    CHECK(io->statistics().requests_in_flight <= 2);
}
