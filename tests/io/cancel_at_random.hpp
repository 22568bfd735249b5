// SPDX-License-Identifier: Apache-2.0
//
// Operations over io_uring, stopped and destroyed after a short random time, while what they wait for comes after
// another: whichever is first, no result is lost, and nothing is left. The seed is printed; COTUN_SEED replays one.
#pragma once

#include <cotun/coro/scope.hpp>

#include "../support/process.hpp"
#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"
#include "../support/seed.hpp"
#include "reactors.hpp"

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

namespace cotun::test::at_random {

using namespace std::chrono_literals;

inline constexpr std::string_view seven = "seven\n";

// A descriptor of the other end, which is not cotun's. It never blocks.
class plain {
public:
    explicit plain(int descriptor) : fd(descriptor) {
        if (fd < 0) throw std::system_error(errno, std::generic_category(), "a peer's descriptor");
        fcntl(fd, F_SETFL, O_NONBLOCK);
    }
    plain(plain&& other) noexcept : fd(std::exchange(other.fd, -1)) {}
    plain& operator=(plain&&) = delete;
    ~plain() {
        if (fd >= 0) ::close(fd);
    }
    void put(std::string_view text) const {
        if (::write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) FAIL("the peer cannot write");
    }
    std::size_t drain() const {
        std::array<char, 65536> piece{};
        std::size_t all = 0;
        for (ssize_t size = 0; (size = ::read(fd, piece.data(), piece.size())) > 0;)
            all += static_cast<std::size_t>(size);
        return all;
    }
    int fd;
};

// An operation with all that belongs to it.
class subject {
public:
    explicit subject(reactor& r) : io(r) {}
    subject(const subject&) = delete;
    subject& operator=(const subject&) = delete;
    virtual ~subject() = default;
    virtual task<> prepare() { co_return; }
    virtual task<> operate() = 0;
    /// What ends the wait; once for each time that operate() is to end.
    virtual void answer() {}
    /// Called now and then until it ends.
    virtual void help() {}
    /// Whether one that was ended when it was answered, and took nothing, leaves the answer to the next.
    virtual bool keeps() const { return true; }

protected:
    reactor& io;
};

struct operation_kind {
    std::string name;
    std::function<std::unique_ptr<subject>(reactor&)> make{};
    std::size_t requests_kept = 0; // that the reactor keeps in flight to its end
};
template <class Subject, class... Arguments>
operation_kind of(std::string name, Arguments... arguments) {
    operation_kind all{std::move(name)};
    all.make = [arguments...](reactor& r) { return std::make_unique<Subject>(r, arguments...); };
    return all;
}

struct ending {
    bool done = false;
    bool stopped = false;
};

inline task<> record(subject& s, ending& end) {
    try {
        co_await s.operate();
        end.done = true;
    } catch (const std::system_error& e) {
        INFO(e.what());
        end.stopped = e.code() == std::errc::operation_canceled;
        CHECK(end.stopped);
    }
}

inline task<> end_at_random(reactor& io, subject& s, dice& pick) {
    co_await s.prepare();
    const auto a_while = [&pick] { return std::chrono::microseconds(pick(3) == 0 ? 0 : pick(200)); };
    auto tasks = std::make_unique<scope>(io);
    ending end;
    tasks->spawn(record(s, end));
    bool answered = false;
    const bool destroy = pick(2) == 0;
    for (int step = 0; step < 3; ++step) { // it is answered before it is ended, after it, or both are at once
        const std::chrono::microseconds time = a_while();
        if (time.count() > 0) co_await io.sleep_for(time);
        if (!answered && pick(2) == 0) {
            s.answer();
            answered = true;
        }
        if (pick(4) == 0) s.help();
        if (step < 1 && pick(2) == 0) continue;
        if (destroy)
            tasks.reset();
        else
            tasks->request_stop();
    }
    // By now it has ended, or ends soon.
    const auto until = reactor::clock::now() + 10s;
    while (!destroy && !end.done && !end.stopped && reactor::clock::now() < until) {
        s.help();
        co_await io.sleep_for(50us);
    }
    if (!destroy) CHECK(end.done != end.stopped);
    if (!answered) s.answer();
    if (end.done) co_return; // what came when nobody waited goes with the subject
    ending next;
    scope again(io);
    again.spawn(record(s, next));
    bool helped_out = s.keeps();
    while (!next.done && reactor::clock::now() < until) {
        s.help();
        if (!helped_out) s.answer();
        helped_out = true;
        co_await io.sleep_for(50us);
    }
    CHECK(next.done);
}

inline task<> until_idle(reactor& io, std::size_t requests) {
    const auto until = reactor::clock::now() + 10s;
    while (io.statistics().requests_in_flight > requests && reactor::clock::now() < until) co_await io.sleep_for(100us);
    CHECK(io.statistics().requests_in_flight == requests);
}

inline void check_at_random(const std::vector<operation_kind>& kinds) {
    const std::uint64_t with = seed();
    std::fprintf(stderr, "COTUN_SEED=%llu\n", static_cast<unsigned long long>(with));
    INFO("COTUN_SEED=" << with);
    dice pick(with);
    const auto rounds = scaled(sanitized ? 25 : 40);
    for (const operation_kind& what : kinds) {
        CAPTURE(what.name);
        const auto files = ::test::open_files();
        {
            const auto io = over_ring();
            const std::uint64_t free = io->statistics().small_buffers_free;
            for (std::uint64_t i = 0; i < rounds; ++i) {
                const auto s = what.make(*io);
                io->run(end_at_random(*io, *s, pick));
            }
            io->run(until_idle(*io, what.requests_kept));
            CHECK(io->statistics().small_buffers_free == free);
            CHECK(io->statistics().timers == 0);
            CHECK(io->statistics().strays == 0);
        }
        CHECK(::test::open_files() == files);
    }
}

} // namespace cotun::test::at_random
