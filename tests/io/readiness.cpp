// SPDX-License-Identifier: Apache-2.0
#include "cotun/io/readiness.hpp"

#include "cotun/coro/result.hpp"
#include "cotun/coro/scope.hpp"
#include "cotun/coro/timeout.hpp"
#include "cotun/coro/when_any.hpp"

#include "../support/held_task.hpp"
#include "../support/process.hpp"
#include "reactors.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <fcntl.h>
#include <memory>
#include <optional>
#include <string>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace std::chrono_literals;
using cotun::reactor;
using cotun::task;
using namespace cotun::test;

namespace {

struct descriptor {
    explicit descriptor(int d) : fd(d) { REQUIRE(fd >= 0); }
    descriptor(const descriptor&) = delete;
    descriptor& operator=(const descriptor&) = delete;
    ~descriptor() { reset(); }
    void reset() {
        if (fd >= 0) ::close(std::exchange(fd, -1));
    }
    int fd;
};

struct pair_of {
    explicit pair_of(bool sockets) {
        std::array<int, 2> both{};
        REQUIRE((sockets ? socketpair(AF_UNIX, SOCK_STREAM, 0, both.data()) : pipe(both.data())) == 0);
        reader.emplace(both[0]);
        writer.emplace(both[1]);
    }
    std::optional<descriptor> reader, writer;
};

void put(int fd, std::size_t size = 1) {
    const std::vector<char> bytes(size, 'x');
    REQUIRE(::write(fd, bytes.data(), bytes.size()) > 0);
}

task<> until_readable(reactor& io, int fd, int& ended) {
    co_await io.readable(fd);
    ++ended;
}

task<> write_later(reactor& io, int fd, reactor::clock::duration after) {
    co_await io.sleep_for(after);
    put(fd, 8);
}

// What a wait throws, as an errno; 0: nothing.
task<int> error_of(cotun::readiness_operation wait) {
    const auto end = co_await cotun::as_result(std::move(wait));
    co_return end.error().value();
}

} // namespace

TEST_CASE("readable: a pipe, a socket pair, an eventfd and a timerfd, ready before and after") {
    const auto io = over_ring();
    const pair_of pipe(false);
    const pair_of sockets(true);
    const descriptor event(eventfd(0, EFD_CLOEXEC));
    const descriptor timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    static constexpr auto body = [](reactor& r, int reads, int writes) -> task<> {
        auto early = co_await cotun::as_result(cotun::with_timeout(r.readable(reads), 5ms));
        CHECK(early.error() == std::errc::timed_out);
        r.spawn(write_later(r, writes, 2ms));
        co_await r.readable(reads);
        co_await r.readable(reads); // still: nobody has read
        std::array<char, 64> bytes{};
        CHECK(::read(reads, bytes.data(), bytes.size()) == 8);
        early = co_await cotun::as_result(cotun::with_timeout(r.readable(reads), 5ms));
        CHECK(early.error() == std::errc::timed_out);
    };
    io->run(body(*io, pipe.reader->fd, pipe.writer->fd));
    io->run(body(*io, sockets.reader->fd, sockets.writer->fd));
    io->run(body(*io, sockets.writer->fd, sockets.reader->fd));
    io->run(body(*io, event.fd, event.fd));
    static constexpr auto times = [](reactor& r, int fd) -> task<> {
        const auto begun = reactor::clock::now();
        itimerspec in_20ms{};
        in_20ms.it_value.tv_nsec = 20'000'000;
        CHECK(timerfd_settime(fd, 0, &in_20ms, nullptr) == 0);
        co_await r.readable(fd);
        CHECK(reactor::clock::now() - begun >= 20ms);
    };
    io->run(times(*io, timer.fd));
    CHECK(io->statistics().strays == 0);
}

TEST_CASE("writable: waits while a pipe is full; a peer that goes ends waits of both kinds") {
    const auto io = over_ring();
    pair_of pipe(false);
    static constexpr auto body = [](reactor& r, pair_of& p) -> task<> {
        co_await r.writable(p.writer->fd);
        REQUIRE(fcntl(p.writer->fd, F_SETFL, O_NONBLOCK) == 0);
        std::array<char, 4096> page{};
        while (::write(p.writer->fd, page.data(), page.size()) > 0) {}
        const auto full = co_await cotun::as_result(cotun::with_timeout(r.writable(p.writer->fd), 5ms));
        CHECK(full.error() == std::errc::timed_out);
        int ended = 0;
        static constexpr auto waits = [](reactor& io_, int fd, int& n) -> task<> {
            co_await io_.writable(fd);
            ++n;
        };
        r.spawn(waits(r, p.writer->fd, ended));
        co_await r.sleep_for(2ms);
        CHECK(ended == 0);
        p.reader.reset(); // EPIPE, for whoever writes
        co_await r.sleep_for(50ms);
        CHECK(ended == 1);

        pair_of other(false);
        r.spawn(until_readable(r, other.reader->fd, ended));
        co_await r.sleep_for(2ms);
        other.writer.reset(); // the end of the stream
        co_await r.sleep_for(50ms);
        CHECK(ended == 2);
    };
    io->run(body(*io, pipe));
}

TEST_CASE("readable: several tasks wait on one descriptor, and for reading and writing at once; all are told") {
    const auto io = over_ring();
    const pair_of sockets(true);
    static constexpr auto body = [](reactor& r, int fd, int other) -> task<> {
        int ended = 0;
        for (int i = 0; i < 20; ++i) r.spawn(until_readable(r, fd, ended));
        co_await r.writable(fd);
        CHECK(ended == 0);
        CHECK(r.statistics().requests_in_flight == 20);
        put(other);
        const auto limit = reactor::clock::now() + 20s;
        for (;;) {
            if (ended == 20 || reactor::clock::now() > limit) break;
            co_await r.sleep_for(1ms);
        }
        CHECK(ended == 20);
        CHECK(r.statistics().requests_in_flight == 0);
    };
    io->run(body(*io, sockets.reader->fd, sockets.writer->fd));
}

TEST_CASE("readable: what is not open is refused by name") {
    const auto io = over_ring();
    int closed = -1;
    {
        const descriptor gone(eventfd(0, 0));
        closed = gone.fd;
    }
    const descriptor path(open("/", O_PATH | O_CLOEXEC));
    static constexpr auto refused = [](reactor& r, int fd, bool reads) -> task<> {
        cotun::readiness_operation wait = reads ? r.readable(fd) : r.writable(fd);
        const auto end = co_await cotun::as_result(std::move(wait));
        CHECK(end.error() == std::errc::bad_file_descriptor);
        const std::string said = end.what();
        INFO(said);
        CHECK(said.find((reads ? "readable(" : "writable(") + std::to_string(fd) + ")") != std::string::npos);
    };
    for (const int fd : {-1, -100, closed, path.fd, 1 << 30})
        for (const bool reads : {true, false}) io->run(refused(*io, fd, reads));
}

TEST_CASE("readable: a file on a disk is always ready, as poll(2) has it") {
    const auto io = over_ring();
    const descriptor file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    CHECK(io->run(error_of(io->readable(file.fd))) == 0);
    CHECK(io->run(error_of(io->writable(file.fd))) == 0);
}

TEST_CASE("readable: as many as half of the requests; the next is refused by name, and there is room again") {
    cotun::reactor_options options;
    options.requests = 64;
    if (const auto why = ring_refused()) SKIP(*why);
    reactor io(options);
    const pair_of pipe(false);
    static constexpr auto body = [](reactor& r, int fd, int writer) -> task<> {
        int ended = 0;
        const int most = static_cast<int>(r.core().request_capacity() / 2);
        {
            cotun::scope waits(r);
            for (int i = 0; i < most; ++i) waits.spawn(until_readable(r, fd, ended));
            co_await r.yield();
            const auto end = co_await cotun::as_result(r.readable(fd));
            CHECK(end.error() == std::errc::resource_unavailable_try_again);
            INFO(end.what());
            CHECK(std::string(end.what()).find("reactor_options::requests") != std::string::npos);
        }                                                                           // destroyed while they wait
        CHECK(r.statistics().requests_in_flight == static_cast<std::size_t>(most)); // until the kernel has let go
        co_await r.sleep_for(1ms);
        CHECK(r.statistics().requests_in_flight == 0);
        put(writer);
        cotun::scope again(r);
        for (int i = 0; i < most; ++i) again.spawn(until_readable(r, fd, ended));
        co_await again.join();
        CHECK(ended == most);
    };
    io.run(body(io, pipe.reader->fd, pipe.writer->fd));
}

TEST_CASE("readable: waits for room where other requests take all, and goes on") {
    // 32 requests; the scripted driver completes no write until it is told to.
    auto driver = std::make_unique<cotun::ring::scripted>(32);
    cotun::ring::scripted& kernel = *driver;
    reactor io(std::make_unique<cotun::detail::reactor_core>(cotun::reactor_options{}, std::move(driver)));
    struct dummy final : cotun::ring::request_owner {
        void on_completion(std::uint32_t, const cotun::ring::completion&) override { ++ended; }
        int ended = 0;
    } others;
    static constexpr auto body = [](reactor& r, cotun::ring::scripted& k, dummy& o) -> task<> {
        std::vector<cotun::ring::token> taken;
        for (;;) {
            const auto t = r.core().begin(o, 0);
            if (t == 0) break;
            k.poll(t, {900, -1}, 1, false);
            taken.push_back(t);
        }
        int ended = 0;
        {
            cotun::scope waits(r);
            waits.spawn(until_readable(r, 901, ended));
            waits.spawn(until_readable(r, 902, ended));
            waits.spawn(until_readable(r, 903, ended));
            co_await r.yield();
            co_await r.yield();
            CHECK(k.find(cotun::ring::scripted::kind::poll, 901) == nullptr);
            waits.request_stop(); // those that never began
            co_await waits.join();
        }
        CHECK(ended == 0);
        r.spawn(until_readable(r, 901, ended));
        r.spawn(until_readable(r, 902, ended));
        co_await r.yield();
        k.complete(taken.back(), 1);
        co_await r.yield();
        co_await r.yield();
        auto* first = k.find(cotun::ring::scripted::kind::poll, 901);
        CHECK(first != nullptr);
        CHECK(k.find(cotun::ring::scripted::kind::poll, 902) == nullptr);
        if (first != nullptr) k.complete(first->name, 1);
        co_await r.yield();
        co_await r.yield();
        CHECK(ended == 1);
        auto* second = k.find(cotun::ring::scripted::kind::poll, 902);
        CHECK(second != nullptr);
        if (second != nullptr) k.complete(second->name, 1);
        taken.pop_back();
        for (const auto t : taken) k.complete(t, 1);
        co_await r.yield();
        co_await r.yield();
        CHECK(ended == 2);
        CHECK(r.statistics().requests_in_flight == 0);
    };
    io.run(body(io, kernel, others));
    CHECK(others.ended > 0);
}

TEST_CASE("readable: a wait that has ended or was destroyed holds the descriptor no more") {
    const auto io = over_ring();
    static constexpr auto body = [](reactor& r) -> task<> {
        for (int i = 0; i < 50; ++i) {
            pair_of pipe(false);
            {
                int ended = 0;
                const auto waits = hold(until_readable(r, pipe.reader->fd, ended));
                if (i % 2 == 0) co_await r.yield(); // with the kernel, or not yet
            }
            co_await r.sleep_for(1us);
            co_await r.yield();
            pipe.reader.reset();
            signal(SIGPIPE, SIG_IGN);
            CHECK(::write(pipe.writer->fd, "x", 1) < 0); // really closed: nothing in the kernel reads it
        }
    };
    io->run(body(*io));
    CHECK(io->statistics().strays == 0);
}

TEST_CASE("readable: a reactor that goes while tasks wait leaves the descriptors to the caller, free") {
    if (const auto why = ring_refused()) SKIP(*why);
    cotun::reactor_options options;
    options.ring = GENERATE(cotun::ring_mode::automatic, cotun::ring_mode::cooperative, cotun::ring_mode::plain);
    const auto files = test::open_files();
    for (int i = 0; i < 20; ++i) {
        pair_of pipe(false);
        int ended = 0;
        {
            reactor io(options);
            for (int n = 0; n < 3; ++n) io.spawn(until_readable(io, pipe.reader->fd, ended));
            if (i % 2 == 0) io.run(sleep(io, 10us)); // else they have not even begun
        }
        CHECK(ended == 0);
        pipe.reader.reset();
        CHECK(::write(pipe.writer->fd, "x", 1) < 0);
    }
    CHECK(test::open_files() == files);
}
