// SPDX-License-Identifier: Apache-2.0
#include "cotun/net/resolve.hpp"

#include "cotun/coro/result.hpp"
#include "cotun/coro/scope.hpp"
#include "cotun/coro/timeout.hpp"
#include "cotun/coro/when_any.hpp"
#include "cotun/io/error.hpp"

#include "../io/reactors.hpp"
#include "../support/held_task.hpp"
#include "../support/namespace.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <netdb.h>
#include <netinet/in.h>
#include <sched.h>
#include <string>
#include <sys/mount.h>
#include <sys/socket.h>
#include <vector>

using namespace std::chrono_literals;
using cotun::endpoint;
using cotun::reactor;
using cotun::resolve;
using cotun::resolve_errc;
using cotun::task;
using namespace cotun::test;

namespace {

using endpoints = std::vector<endpoint>;

task<endpoints> found(cotun::resolve_operation lookup) { co_return co_await std::move(lookup); }

task<std::error_code> error_of(cotun::resolve_operation lookup, std::string& said) {
    const auto end = co_await cotun::as_result(std::move(lookup));
    said = end.what();
    co_return end.error();
}

std::ptrdiff_t threads() { return std::distance(std::filesystem::directory_iterator{"/proc/self/task"}, {}); }

cotun::resolve_options only(cotun::ip_family f) {
    cotun::resolve_options o;
    o.family = f;
    return o;
}

bool contains(const endpoints& all, const char* one) {
    return std::find(all.begin(), all.end(), endpoint::from_string(one)) != all.end();
}

} // namespace

TEST_CASE("resolve: a numeric address is answered at once, without a thread") {
    const auto io = either();
    const auto before = threads();
    for (const auto& [host, expected] : {std::pair{"192.0.2.7", "192.0.2.7:80"},
                                         {"2001:db8::1", "[2001:db8::1]:80"},
                                         {"::", "[::]:80"},
                                         {"::ffff:192.0.2.7", "192.0.2.7:80"},
                                         {"fe80::1%lo", "[fe80::1%1]:80"}}) {
        cotun::resolve_operation lookup = resolve(*io, host, 80);
        CHECK(lookup.await_ready());
        const endpoints all = io->run(found(std::move(lookup)));
        REQUIRE(all.size() == 1);
        CHECK(all[0].to_string() == expected);
        CHECK(resolve(*io, host, "80").await_ready());
    }
    CHECK(threads() == before);
    CHECK(io->run(found(resolve(*io, "192.0.2.7", "0")))[0].port() == 0);
    CHECK(io->run(found(resolve(*io, "192.0.2.7", 65535)))[0].port() == 65535);
}

TEST_CASE("resolve: names and services of this machine, none twice") {
    const auto io = over_ring();
    endpoints all = io->run(found(resolve(*io, "localhost", 51820)));
    CHECK((contains(all, "127.0.0.1:51820") || contains(all, "[::1]:51820")));
    for (std::size_t i = 0; i < all.size(); ++i) CHECK(std::count(all.begin(), all.end(), all[i]) == 1);
    all = io->run(found(resolve(*io, "localhost", 1, only(cotun::ip_family::v4))));
    CHECK(all == endpoints{endpoint::from_string("127.0.0.1:1")});
    // By the file, where it is: services are looked up on a helper too.
    if (std::filesystem::exists("/etc/services")) {
        all = io->run(found(resolve(*io, "127.0.0.1", "https")));
        CHECK(all == endpoints{endpoint::from_string("127.0.0.1:443")});
    }
    static constexpr auto inline_use = [](reactor& r) -> task<> {
        const endpoints here = co_await resolve(r, "localhost", 7);
        CHECK_FALSE(here.empty());
        const auto first = co_await cotun::when_any(resolve(r, "localhost", 7), r.sleep_for(20s));
        CHECK(first.index() == 0);
    };
    io->run(inline_use(*io));
}

TEST_CASE("resolve: a thousand at a time, by few threads") {
    if (const auto why = ring_refused()) SKIP(*why);
    cotun::reactor_options options;
    options.helper_threads = 2;
    reactor io(options);
    static constexpr auto one = [](reactor& r, int& n) -> task<> {
        const endpoints all = co_await resolve(r, "localhost", 7);
        if (!all.empty()) ++n;
    };
    const auto before = threads();
    int answered = 0;
    for (int i = 0; i < 1000; ++i) io.spawn(one(io, answered));
    static constexpr auto watch = [](reactor& r, const int& n, std::ptrdiff_t& most) -> task<> {
        const auto limit = reactor::clock::now() + 60s;
        for (;;) {
            most = std::max(most, threads());
            if (n == 1000 || reactor::clock::now() > limit) break;
            co_await r.sleep_for(1ms);
        }
    };
    std::ptrdiff_t most = 0;
    io.run(watch(io, answered, most));
    CHECK(answered == 1000);
    CHECK(most <= before + 2);
}

namespace {

// As everything else, by the await: what names a host comes from outside.
task<> refuses(reactor& io, const std::string& host, const std::string& service, const char* word) {
    const auto got = co_await cotun::as_result(resolve(io, host, service));
    REQUIRE_FALSE(got);
    CHECK(got.error() == std::errc::invalid_argument);
    CHECK(std::string(got.what()).find(word) != std::string::npos);
}

} // namespace

TEST_CASE("resolve: bad input is refused by name, before anything is looked up") {
    const auto io = over_script();
    const std::string with_zero("local\0host", 10);
    for (const std::string& host : {std::string(), std::string(256, 'a'), with_zero})
        io->run(refuses(*io, host, "80", "host"));
    for (const std::string& service : {std::string(), std::string("65536"), std::string("99999999999"), with_zero})
        io->run(refuses(*io, "localhost", service, "resolve: "));
}

TEST_CASE("resolve: errors are named") {
    const auto io = over_ring();
    std::string said;
    auto code = io->run(error_of(resolve(*io, "127.0.0.1", "no-such-service"), said));
    CHECK(code == resolve_errc::unknown_service);
    CHECK(code.category() == cotun::resolve_category());
    CHECK(said.find("no-such-service") != std::string::npos);
    CHECK(said.find("/etc/services") != std::string::npos);
    CHECK(code.message() == gai_strerror(EAI_SERVICE));
    CHECK(cotun::is_final(code));
    code = io->run(error_of(resolve(*io, "127.0.0.1", 1, only(cotun::ip_family::v6)), said));
    CHECK(code.category() == cotun::resolve_category());
    CHECK_FALSE(said.empty());
    CHECK_FALSE(cotun::is_final(make_error_code(resolve_errc::try_again)));
    CHECK(make_error_code(resolve_errc::try_again) == std::errc::resource_unavailable_try_again);
    CHECK(std::string(cotun::resolve_category().name()) == "resolve");
}

// --- without a network, and with a name server that does not answer ------------------------------------------------

namespace {

void write_file(const std::string& path, const std::string& text) {
    std::ofstream file(path);
    file << text;
    if (!file.flush()) throw std::runtime_error("writing " + path);
}

void run_or_throw(const std::string& command) {
    if (const test::outcome o = test::run(command); !o.good()) throw std::runtime_error(command + ": " + o.output);
}

// For a child process: a network and mount namespace of its own, with a name server of our choice.
void isolate(const std::string& resolv_conf) {
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0) throw std::runtime_error("no namespace");
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) throw std::runtime_error("mount");
    if (mount("none", "/mnt", "tmpfs", 0, nullptr) != 0) throw std::runtime_error("tmpfs");
    write_file("/mnt/resolv.conf", resolv_conf);
    write_file("/mnt/nsswitch.conf", "hosts: files dns\nservices: files\n");
    write_file("/mnt/hosts", "127.0.0.1 localhost\n192.0.2.9 here.test\n2001:db8::9 here.test\n192.0.2.4 four.test\n");
    for (const char* name : {"resolv.conf", "nsswitch.conf", "hosts"}) {
        const std::string to = std::string("/etc/") + name;
        if (mount((std::string("/mnt/") + name).c_str(), to.c_str(), nullptr, MS_BIND, nullptr) != 0)
            throw std::runtime_error("bind mount on " + to + ": " + std::strerror(errno));
    }
    run_or_throw("ip link set lo up");
}

// The name server is a socket that nobody reads.
void isolate_with_silent_server(const std::string& resolver_options) {
    isolate("nameserver 127.0.0.1\noptions " + resolver_options + "\n");
    const int server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); // as long as the child
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(53);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(server, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
        throw std::runtime_error("no name server");
}

void need_namespaces() {
    if (geteuid() != 0) SKIP("needs root, for namespaces of its own");
    if (const auto why = ring_refused()) SKIP(*why);
    for (const char* name : {"/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/hosts"})
        if (!std::filesystem::exists(name)) SKIP("no " << name << " to mount over");
    if (const std::string said = test::in_child([] {
            isolate_with_silent_server("timeout:30 attempts:2");
            return std::string();
        });
        !said.empty())
        SKIP(said);
}

} // namespace

TEST_CASE("resolve: without a network, names of the hosts file are found, and others are not") {
    need_namespaces();
    const std::string said = test::in_child([] {
        isolate("nameserver 198.51.100.53\noptions timeout:1 attempts:1\n"); // unreachable
        reactor io;
        std::string all;
        for (const endpoint& e : io.run(found(resolve(io, "here.test", 5)))) all += e.to_string() + " ";
        for (const endpoint& e : io.run(found(resolve(io, "here.test", 5, only(cotun::ip_family::v6)))))
            all += e.to_string() + " ";
        std::string text;
        std::error_code code = io.run(error_of(resolve(io, "elsewhere.test", 5), text));
        all += code == resolve_errc::try_again || code == resolve_errc::unknown_name ? "unknown " : text;
        if (text.find("elsewhere.test") == std::string::npos) all += "not named: " + text;
        code = io.run(error_of(resolve(io, "four.test", 5, only(cotun::ip_family::v6)), text));
        all += code ? "none" : "some";
        return all;
    });
    INFO(said);
    const bool v6_first = said.starts_with("[2001:db8::9]:5 192.0.2.9:5 ");
    CHECK((v6_first || said.starts_with("192.0.2.9:5 [2001:db8::9]:5 ")));
    CHECK(said.ends_with(" [2001:db8::9]:5 unknown none"));
}

TEST_CASE("resolve: no name server answers: stopped, destroyed, and the reactor goes, all at once") {
    need_namespaces();
    const std::string said = test::in_child([] {
        isolate_with_silent_server("timeout:30 attempts:2");
        const auto begun = reactor::clock::now();
        std::string all;
        {
            cotun::reactor_options options;
            options.helper_threads = 3;
            reactor io(options);
            static constexpr auto one = [](reactor& r, int& ended) -> task<> {
                const auto end = co_await cotun::as_result(resolve(r, "hangs.test", 5));
                if (end.error() == std::errc::operation_canceled) ++ended;
            };
            static constexpr auto body = [](reactor& r, std::string& out) -> task<> {
                const auto before = threads();
                int ended = 0;
                {
                    cotun::scope lookups(r);
                    for (int i = 0; i < 20; ++i) lookups.spawn(one(r, ended));
                    co_await r.sleep_for(100ms);
                    out += std::to_string(threads() - before) + " threads, ";
                    out += std::to_string(r.core().helpers().in_line()) + " in line, ";
                    lookups.request_stop();
                    co_await lookups.join();
                    out += std::to_string(ended) + " stopped, ";
                    out += std::to_string(r.core().helpers().in_line()) + " in line; ";
                }
                {
                    cotun::scope destroyed(r);
                    for (int i = 0; i < 5; ++i) destroyed.spawn(one(r, ended));
                    co_await r.sleep_for(10ms);
                }
                const auto late = co_await cotun::as_result(cotun::with_timeout(resolve(r, "hangs.test", 5), 50ms));
                out += late.error() == std::errc::timed_out ? "timed out, " : "not timed out, ";
                const endpoints numeric = co_await resolve(r, "192.0.2.1", 5);
                out += std::to_string(numeric.size()) + " numeric";
            };
            io.run(body(io, all));
            int none = 0;
            io.spawn(one(io, none)); // in line when the reactor goes
            io.run(sleep(io, 10ms));
        }
        return all + (reactor::clock::now() - begun < 20s ? "" : ", and waited");
    });
    CHECK(said == "3 threads, 17 in line, 20 stopped, 0 in line; timed out, 1 numeric");
}

TEST_CASE("resolve: a result that comes after the reactor has gone is dropped") {
    need_namespaces();
    const std::string said = test::in_child([] {
        isolate_with_silent_server("timeout:1 attempts:1");
        static constexpr auto one = [](reactor& r) -> task<> { (void)co_await resolve(r, "hangs.test", 5); };
        const auto before = threads();
        for (int i = 0; i < 3; ++i) {
            reactor io;
            io.spawn(one(io));
            io.run(sleep(io, 20ms));
        }
        const bool begun = threads() > before;
        const bool ended = test::wait_until([&] { return threads() == before; });
        return std::string(begun ? "begun " : "") + (ended ? "ended" : "hangs");
    });
    CHECK(said == "begun ended");
}
