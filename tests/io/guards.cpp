// SPDX-License-Identifier: Apache-2.0
//
// What the reactor bounds, and what it is guarded against: too many timers and tasks, a child process, another thread.
#include "cotun/coro/event.hpp"
#include "cotun/coro/result.hpp"
#include "cotun/coro/scope.hpp"
#include "cotun/coro/timeout.hpp"
#include "cotun/io/interval.hpp"
#include "cotun/io/reactor.hpp"
#include "cotun/net/resolve.hpp"
#include "cotun/net/tcp.hpp"
#include "cotun/net/udp.hpp"
#include "cotun/net/unix.hpp"

#include "../support/held_task.hpp"
#include "../support/process.hpp"
#include "reactors.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <netinet/in.h>
#include <optional>
#include <string>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace std::chrono_literals;
using cotun::reactor;
using cotun::task;
using namespace cotun::test;

// --- bounds --------------------------------------------------------------------------------------------------------

TEST_CASE("bounds: ten thousand timers are ten thousand entries of a heap, and one deadline of one kernel entry") {
    const auto io = over_ring();
    int ended = 0;
    static constexpr auto until = [](reactor& r, reactor::clock::time_point when, int& n) -> task<> {
        co_await r.sleep_until(when);
        ++n;
    };
    const auto when = reactor::clock::now() + 1500ms; // enough to start them all, on a busy machine too
    for (int i = 0; i < 10'000; ++i) io->spawn(until(*io, when + std::chrono::nanoseconds(i), ended));
    CHECK(io->statistics().tasks == 10'000);
    const auto before = io->statistics();
    static constexpr auto look = [](reactor& r, cotun::reactor_statistics& at) -> task<> {
        co_await r.yield();
        at = r.statistics();
    };
    cotun::reactor_statistics while_asleep;
    io->run(look(*io, while_asleep));
    CHECK(while_asleep.timers == 10'000);
    CHECK(while_asleep.requests_in_flight == 0);
    io->run();
    const auto after = io->statistics();
    CHECK(ended == 10'000);
    CHECK(after.timers == 0);
    CHECK(after.tasks == 0);
    CHECK(after.submissions - before.submissions <= 1); // the read of the eventfd
    CHECK(after.enters - before.enters <= 10);
}

namespace {

template <class Options>
std::unique_ptr<reactor> scripted_with(const Options& options) {
    return std::make_unique<reactor>(
        std::make_unique<cotun::detail::reactor_core>(options, std::make_unique<cotun::ring::scripted>()));
}

} // namespace

TEST_CASE("bounds: a timer beyond reactor_options::timers is refused by name, and there is room again") {
    cotun::reactor_options options;
    options.timers = 3;
    const auto io = scripted_with(options);
    static constexpr auto body = [](reactor& r) -> task<> {
        cotun::scope asleep(r);
        for (int i = 0; i < 3; ++i) asleep.spawn(sleep(r, 1s));
        co_await r.yield();
        CHECK(r.statistics().timers == 3);
        auto end = co_await cotun::as_result(r.sleep_for(1ms));
        CHECK(end.error() == std::errc::resource_unavailable_try_again);
        INFO(end.what());
        CHECK(std::string(end.what()).find("reactor_options::timers") != std::string::npos);
        end = co_await cotun::as_result(cotun::with_timeout(sleep(r, 1ms), 1s));
        CHECK(end.error() == std::errc::resource_unavailable_try_again);
        cotun::interval tick(r, 1ms);
        const auto beat = co_await cotun::as_result(tick.next());
        CHECK(beat.error() == std::errc::resource_unavailable_try_again);
        co_await r.yield(); // needs none
        co_await asleep.join();
        co_await r.sleep_for(1ms);
        (void)co_await tick.next();
    };
    io->run(body(*io));
}

TEST_CASE("bounds: a task beyond reactor_options::tasks is refused by name, and there is room again") {
    cotun::reactor_options options;
    options.tasks = 3;
    const auto io = scripted_with(options);
    int destroyed = 0;
    for (int round = 0; round < 2; ++round) {
        for (int i = 0; i < 3; ++i) io->spawn(sleep(*io, 1ms));
        try {
            io->spawn(for_ever(*io, destroyed));
            FAIL("refused");
        } catch (const std::system_error& e) {
            CHECK(e.code() == std::errc::resource_unavailable_try_again);
            CHECK(std::string(e.what()).find("reactor_options::tasks") != std::string::npos);
        }
        CHECK(io->run(answer(*io)) == 42); // run() itself is never refused
        io->run();
    }
    CHECK(destroyed == 2); // those that were refused
}

// --- a child process -----------------------------------------------------------------------------------------------

namespace {

std::string refusal(const std::function<void()>& use) {
    try {
        use();
        return "allowed";
    } catch (const std::system_error& e) {
        if (e.code() != std::errc::operation_not_permitted) return std::string("another error: ") + e.what();
        const std::string said = e.what();
        return said.find("child process") != std::string::npos ? "refused" : said;
    }
}

cotun::reactor_options any_ring() {
    cotun::reactor_options options;
    options.ring = GENERATE(cotun::ring_mode::automatic, cotun::ring_mode::cooperative, cotun::ring_mode::plain);
    options.registered_files = GENERATE(true, false);
    return options;
}

cotun::udp_options loopback() {
    cotun::udp_options o;
    o.local = cotun::endpoint::from_string("127.0.0.1:0");
    return o;
}

task<> until_readable(reactor& io, int fd, int& ended) {
    co_await io.readable(fd);
    ++ended;
}

task<> echo(reactor& io, cotun::udp_socket& socket, int times) {
    for (int i = 0; i < times; ++i) {
        cotun::packet p = co_await io.allocate(10);
        std::memset(p.bytes().data(), i, 10);
        co_await socket.send_to(std::move(p), socket.local());
        const cotun::datagram got = co_await cotun::with_timeout(socket.receive(), 10s);
        CHECK(got.payload.bytes()[0] == static_cast<std::byte>(i));
    }
}

} // namespace

TEST_CASE("fork: the child's use is refused by name, and what it destroys harms nothing of the parent's") {
    if (const auto why = ring_refused()) SKIP(*why);
    const cotun::reactor_options options = any_ring();
    const bool socket_first = GENERATE(true, false);
    auto io = std::make_unique<reactor>(options);
    auto socket = std::make_unique<cotun::udp_socket>(cotun::open_udp(*io, loopback()));
    (void)io->signal(SIGUSR1);
    const int event = eventfd(0, EFD_CLOEXEC);
    int ended = 0;
    io->run(echo(*io, *socket, 3));
    for (int round = 0; round < 3; ++round) {
        // Requests that stand in the queue: the child must not write there, for it is the same memory.
        std::vector<held_task> waits;
        for (int i = 0; i < 8; ++i) waits.push_back(hold(until_readable(*io, event, ended)));
        const std::string said = test::in_child([&] {
            std::string all = refusal([&] { io->run(sleep(*io, 1ms)); });
            all += " " + refusal([&] { io->spawn(sleep(*io, 1ms)); });
            all += " " + refusal([&] { io->post([] {}); });
            all += " " + refusal([&] { (void)cotun::open_udp(*io, loopback()); });
            io->stop();
            waits.clear();
            if (socket_first) socket.reset();
            io.reset();
            socket.reset();
            reactor own(options);
            own.run(sleep(own, 1ms));
            cotun::udp_socket other = cotun::open_udp(own, loopback());
            own.run(echo(own, other, 3));
            return all;
        });
        CHECK(said == "refused refused refused refused");
        io->run(echo(*io, *socket, 10)); // would have ended at once if the child's stop() had come here
        CHECK(ended == 0);
        const std::uint64_t one = 1;
        REQUIRE(::write(event, &one, sizeof one) == sizeof one);
        io->run(sleep(*io, 5ms));
        CHECK(ended == 8);
        ended = 0;
        std::uint64_t taken = 0;
        REQUIRE(::read(event, &taken, sizeof taken) == sizeof taken);
        raise(SIGUSR1);
        const auto body = [](reactor& r) -> task<int> { co_return co_await r.signal(SIGUSR1); };
        CHECK(io->run(body(*io)) == SIGUSR1);
    }
    CHECK(io->statistics().strays == 0);
    CHECK(io->statistics().overflows == 0);
    ::close(event);
}

namespace {

task<> accept_into(cotun::tcp_listener& from, std::optional<cotun::tcp_stream>& into) {
    cotun::tcp_stream s = co_await from.accept();
    into.emplace(std::move(s));
}

task<> connect_into(reactor& io, cotun::endpoint to, std::optional<cotun::tcp_stream>& into) {
    cotun::connect_options options;
    options.socket.send_buffer = 4096;
    cotun::tcp_stream s = co_await cotun::connect_tcp(io, to, options);
    into.emplace(std::move(s));
}

task<> read_into(cotun::tcp_stream& from, std::string& text) {
    co_await from.read(std::as_writable_bytes(std::span(text)));
}

task<> write_all(cotun::tcp_stream& to, const std::string& text, bool& ended) {
    co_await to.write(text);
    ended = true;
}

// A plain listener whose backlog is full: who connects waits, until somebody is accepted.
struct full_listener {
    full_listener() : descriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in a{};
        a.sin_family = AF_INET;
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof a;
        REQUIRE(::bind(descriptor, reinterpret_cast<const sockaddr*>(&a), size) == 0);
        REQUIRE(::listen(descriptor, 0) == 0);
        REQUIRE(::getsockname(descriptor, reinterpret_cast<sockaddr*>(&a), &size) == 0);
        local = cotun::endpoint::from_string("127.0.0.1:" + std::to_string(ntohs(a.sin_port)));
        for (int& c : clients) {
            c = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
            (void)!::connect(c, reinterpret_cast<const sockaddr*>(&a), size);
        }
    }
    ~full_listener() {
        for (const int c : clients) ::close(c);
        ::close(descriptor);
    }
    int descriptor;
    std::array<int, 3> clients{};
    cotun::endpoint local;
};

} // namespace

TEST_CASE("fork: the child may destroy streams and listeners in use; the parent's go on") {
    if (const auto why = ring_refused()) SKIP(*why);
    const int first = GENERATE(0, 1, 2); // to be destroyed: the reactor, the streams, the listeners
    const std::string path = "/tmp/cotun-fork-" + std::to_string(getpid());
    const full_listener full;
    const std::string large(3'000'000, 'x');
    std::string request(7, '\0');
    bool written = false;
    std::optional<cotun::tcp_stream> reading;
    std::optional<cotun::tcp_stream> requesting;
    std::optional<cotun::tcp_stream> writing;
    std::optional<cotun::tcp_stream> stalled;
    std::optional<cotun::tcp_stream> accepted;
    std::optional<cotun::tcp_stream> connecting;
    auto io = std::make_unique<reactor>();
    cotun::listen_options options;
    options.local = cotun::endpoint::from_string("127.0.0.1:0");
    std::optional<cotun::tcp_listener> listener(cotun::listen_tcp(*io, options));
    std::optional<cotun::unix_listener> file(cotun::listen_unix(*io, path));
    io->spawn(accept_into(*listener, reading));
    io->run(connect_into(*io, listener->local(), requesting));
    io->run(sleep(*io, 5ms));
    io->spawn(accept_into(*listener, stalled));
    io->run(connect_into(*io, listener->local(), writing));
    io->run(sleep(*io, 5ms));
    REQUIRE(reading);
    REQUIRE(stalled);

    // In flight: an accept, a connect, a read, and a write with what was accepted behind it.
    io->spawn(accept_into(*listener, accepted));
    io->spawn(connect_into(*io, full.local, connecting));
    io->spawn(read_into(*reading, request));
    io->spawn(write_all(*writing, large, written));
    io->run(sleep(*io, 20ms));
    REQUIRE_FALSE(written);
    REQUIRE_FALSE(connecting);
    for (int round = 0; round < 2; ++round) {
        const std::string said = test::in_child([&] {
            alarm(20); // rather than hang
            const auto begun = reactor::clock::now();
            const auto end_streams = [&] {
                for (auto* s : {&reading, &requesting, &writing, &stalled}) s->reset();
            };
            const auto end_listeners = [&] {
                listener.reset();
                file.reset();
            };
            if (first == 0) io.reset();
            if (first == 2) end_listeners();
            end_streams();
            end_listeners();
            io.reset();
            return std::string(reactor::clock::now() - begun < 900ms ? "done" : "late"); // it does not drain
        });
        CHECK(said == "done");
        CHECK(access(path.c_str(), F_OK) == 0);
    }

    bool sent = false;
    const std::string line = "request";
    io->run(write_all(*requesting, line, sent));
    std::string all(large.size(), '\0');
    io->run(read_into(*stalled, all));
    CHECK(all == large);
    std::optional<cotun::tcp_stream> another;
    io->run(connect_into(*io, listener->local(), another));
    io->run(sleep(*io, 5ms));
    CHECK(written);
    CHECK(request == "request");
    CHECK(accepted);
    CHECK(io->statistics().strays == 0);
    file.reset();
    CHECK(access(path.c_str(), F_OK) != 0);
    io.reset(); // with the connect in flight
}

TEST_CASE("fork: within a task; the child cannot go on with the loop") {
    const auto io = over_ring();
    static constexpr auto forks = [](reactor& r, int report, bool& is_child) -> task<> {
        co_await r.sleep_for(1ms);
        const pid_t child = fork();
        is_child = child == 0;
        if (is_child) prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!is_child) {
            std::array<char, 64> said{};
            co_await r.readable(report);
            CHECK(::read(report, said.data(), said.size()) == 7);
            CHECK(std::string(said.data()) == "refused");
            CHECK(waitpid(child, nullptr, 0) == child);
        }
        co_await r.sleep_for(1ms);
        is_child = false; // never reached in the child
    };
    std::array<int, 2> ends{};
    REQUIRE(pipe2(ends.data(), O_CLOEXEC) == 0);
    bool is_child = false;
    const std::string said = refusal([&] { io->run(forks(*io, ends[0], is_child)); });
    if (is_child) {
        const bool told = ::write(ends[1], said.data(), said.size()) > 0;
        _exit(told ? 0 : 1);
    }
    CHECK(said == "allowed");
    CHECK(io->run(answer(*io)) == 42);
    for (const int e : ends) ::close(e);
}

TEST_CASE("fork: work that a thread does for the parent is not waited for in the child") {
    const auto io = over_ring();
    std::atomic<bool> go{false};
    const auto number = io->core().run_blocking(
        [&go] {
            while (!go) std::this_thread::sleep_for(1ms);
        },
        [] {}, cotun::detail::reactor_core::turn_in_line::last);
    auto* const in_the_child = io.get();
    const std::string said = test::in_child([&] {
        in_the_child->core().finish_blocking(number); // would wait for ever
        return std::string("done");
    });
    CHECK(said == "done");
    go = true;
    io->core().finish_blocking(number);
}

// --- another thread ------------------------------------------------------------------------------------------------

namespace {

// What belongs to a reactor, to be used beside it.
struct belongings {
    explicit belongings(reactor& r)
        : packet(r.try_allocate(64)),
          socket(cotun::open_udp(r, {.local = cotun::endpoint::from_string("127.0.0.1:0")})),
          listener(cotun::listen_tcp(r, {.local = cotun::endpoint::from_string("127.0.0.1:0")})) {
        r.run(connect_into(r, listener.local(), stream));
    }

    cotun::event event;
    cotun::packet packet;
    std::optional<cotun::udp_socket> socket;
    cotun::tcp_listener listener;
    std::optional<cotun::tcp_stream> stream;
};

task<> until_set(cotun::event& e) { co_await e.wait(); }
task<> receive_one(cotun::udp_socket& s) { (void)co_await s.receive(); }
task<> send_one(cotun::udp_socket& s, cotun::packet p) { co_await s.send(std::move(p)); }
task<> accept_one(cotun::tcp_listener& l) { (void)co_await l.accept(); }
task<> read_none(cotun::tcp_stream& s) { co_await s.read({}); }
task<> write_none(cotun::tcp_stream& s) { co_await s.write(""); }
task<> flush(cotun::tcp_stream& s) { co_await s.flush(); }

} // namespace

TEST_CASE("wrong thread: named, with both threads, in builds without NDEBUG") {
#ifdef NDEBUG
    SKIP("this build has NDEBUG");
#else
    if (const auto why = ring_refused()) SKIP(*why);
    struct use {
        const char* named;
        std::function<void(reactor&, belongings&)> misuse;
    };
    const std::vector<use> uses{
        {"spawn()", [](reactor& r, belongings&) { r.spawn(sleep(r, 1ms)); }},
        {"a timer", [](reactor& r, belongings&) { (void)hold(sleep(r, 1h)); }},
        {"a request", [](reactor& r, belongings&) { (void)hold(until_readable(r, 0, *new int(0))); }},
        {"resolve()",
         [](reactor& r, belongings&) {
             static constexpr auto body = [](reactor& io) -> task<> {
                 (void)co_await cotun::resolve(io, "localhost", 1);
             };
             (void)hold(body(r));
         }},
        {"spawn() into a scope",
         [](reactor& r, belongings&) {
             cotun::scope tasks(r);
             tasks.spawn(sleep(r, 1ms));
         }},
        {"waking a task", [](reactor&, belongings& b) { b.event.set(); }},
        // What would be done without waiting, too.
        {"allocate()", [](reactor& r, belongings&) { (void)r.try_allocate(64); }},
        {"letting go of a packet", [](reactor&, belongings& b) { b.packet.reset(); }},
        {"a read", [](reactor&, belongings& b) { (void)hold(receive_one(*b.socket)); }},
        {"a write", [](reactor&, belongings& b) { (void)hold(send_one(*b.socket, std::move(b.packet))); }},
        {"close()", [](reactor&, belongings& b) { b.socket.reset(); }},
        {"accept()", [](reactor&, belongings& b) { (void)hold(accept_one(b.listener)); }},
        {"a read", [](reactor&, belongings& b) { (void)hold(read_none(*b.stream)); }},
        {"a write", [](reactor&, belongings& b) { (void)hold(write_none(*b.stream)); }},
        {"flush()", [](reactor&, belongings& b) { (void)hold(flush(*b.stream)); }},
        {"close()", [](reactor&, belongings& b) { b.stream.reset(); }},
    };
    for (const use& u : uses) {
        CAPTURE(u.named);
        const ::test::death d = ::test::run_to_death([&u] {
            reactor io;
            std::atomic<bool> runs{false};
            static constexpr auto body = [](reactor& r, std::atomic<bool>& flag) -> task<> {
                flag = true;
                co_await r.sleep_for(1h);
            };
            belongings b(io);
            io.spawn(until_set(b.event));
            std::thread other([&] {
                pthread_setname_np(pthread_self(), "stranger");
                while (!runs) std::this_thread::sleep_for(1ms);
                u.misuse(io, b);
                _exit(0); // nobody noticed
            });
            pthread_setname_np(pthread_self(), "the-loop");
            io.run(body(io, runs));
        });
        INFO(d.said);
        CHECK(d.aborted);
        CHECK(d.said.find(u.named) != std::string::npos);
        CHECK(d.said.find("(\"stranger\")") != std::string::npos);
        CHECK(d.said.find("(\"the-loop\")") != std::string::npos);
        CHECK(d.said.find("post()") != std::string::npos);
    }
#endif
}

TEST_CASE("a second run() while it runs is refused, on its own thread and on another") {
    const auto io = over_ring();
    std::atomic<int> code{0};
    std::atomic<bool> runs{false};
    std::thread other([&] {
        while (!runs) std::this_thread::sleep_for(1ms);
        try {
            io->run();
        } catch (const std::system_error& e) {
            code = e.code().value();
        }
        io->stop();
    });
    static constexpr auto body = [](reactor& r, std::atomic<bool>& flag) -> task<> {
        flag = true;
        co_await r.sleep_for(20s);
    };
    io->run(body(*io, runs));
    other.join();
    CHECK(code == EBUSY);
    CHECK(io->run(answer(*io)) == 42);
}

// --- busy polling --------------------------------------------------------------------------------------------------

TEST_CASE("busy polling: finds what comes without sleeping, and sleeps when nothing does") {
    if (const auto why = ring_refused()) SKIP(*why);
    cotun::reactor_options options = any_ring();
    options.busy_poll = 50ms;
    reactor io(options);
    static constexpr auto hops = [](reactor& r, int fd, int times, int echo_fd) -> task<> {
        for (int i = 0; i < times; ++i) {
            std::uint64_t count = 0;
            co_await r.readable(fd);
            CHECK(::read(fd, &count, sizeof count) == sizeof count);
            CHECK(::write(echo_fd, &count, sizeof count) == sizeof count);
        }
    };
    const int in = eventfd(0, EFD_CLOEXEC);
    const int out = eventfd(0, EFD_CLOEXEC);
    std::thread other([&] {
        std::uint64_t count = 1;
        for (int i = 0; i < 50; ++i) {
            std::this_thread::sleep_for(100us); // the reactor waits by now
            if (::write(in, &count, sizeof count) < 0 || ::read(out, &count, sizeof count) < 0) return;
        }
    });
    io.run(hops(io, in, 50, out));
    other.join();
    const auto busy = io.statistics();
    CHECK(busy.busy_polls >= 50);
    CHECK(busy.busy_poll_hits >= 40); // of which a loaded machine may take some
    CHECK(busy.strays == 0);

    // A timer, and a wake-up: neither is late by the time that it polls; and then it sleeps.
    const auto begun = reactor::clock::now();
    io.run(sleep(io, 2ms));
    CHECK(reactor::clock::now() - begun >= 2ms);
    CHECK(io.statistics().busy_polls > busy.busy_polls);
    int destroyed = 0;
    std::thread stopper([&] {
        std::this_thread::sleep_for(2ms);
        io.stop();
    });
    io.run(for_ever(io, destroyed));
    stopper.join();
    CHECK(destroyed == 1);
    const auto idle = io.statistics();
    timespec before{};
    timespec after{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    io.run(sleep(io, 300ms));
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    const auto used =
        std::chrono::seconds(after.tv_sec - before.tv_sec) + std::chrono::nanoseconds(after.tv_nsec - before.tv_nsec);
    CHECK(used < 150ms); // 50 of 300
    CHECK(io.statistics().busy_polls - idle.busy_polls >= 1);
    CHECK(io.statistics().busy_poll_hits - idle.busy_poll_hits <= 1);
    ::close(in);
    ::close(out);
}

TEST_CASE("busy polling: off by default") {
    const auto io = over_ring();
    io->run(sleep(*io, 1ms));
    CHECK(io->statistics().busy_polls == 0);
}
