// SPDX-License-Identifier: Apache-2.0
#include "cotun/io/signal.hpp"

#include "cotun/coro/result.hpp"
#include "cotun/coro/scope.hpp"
#include "cotun/coro/timeout.hpp"
#include "cotun/coro/when_any.hpp"

#include "../support/held_task.hpp"
#include "../support/process.hpp"
#include "reactors.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <chrono>
#include <csignal>
#include <memory>
#include <pthread.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace std::chrono_literals;
using cotun::reactor;
using cotun::task;
using namespace cotun::test;

// Of a signal that is sent to the process the kernel makes any thread the target that does not block it. So the tests
// send to the thread, but where the process itself is the matter: there they fork.
namespace {

bool is_blocked(int number) {
    sigset_t set;
    sigemptyset(&set);
    pthread_sigmask(SIG_SETMASK, nullptr, &set);
    return sigismember(&set, number) == 1;
}

task<> expect(reactor& io, int number, int& told) {
    const int came = co_await io.signal(number);
    CHECK(came == number);
    ++told;
}

task<int> first_of(cotun::signal_operation wait) { co_return co_await std::move(wait); }

} // namespace

TEST_CASE("signal: yields the number of the one that came") {
    const auto io = over_ring();
    for (const int number : {SIGUSR1, SIGTERM, SIGUSR2, SIGINT, SIGHUP, SIGRTMIN + 3}) {
        static constexpr auto raises = [](reactor& r, int n) -> task<> {
            co_await r.sleep_for(1ms);
            raise(n);
        };
        io->spawn(raises(*io, number));
        const int came =
            io->run(first_of(io->signal(SIGUSR1, SIGUSR2, SIGINT, SIGTERM, SIGHUP, SIGRTMIN + 3, SIGWINCH)));
        CHECK(came == number);
    }
}

TEST_CASE("signal: the process's signals, at any moment, with threads beside it") {
    // In a child: SIGTERM to the process would reach any thread of the test program that does not block it.
    const std::string said = test::in_child([] {
        reactor io;
        cotun::signal_operation quit = io.signal(SIGINT, SIGTERM); // before there is another thread
        std::thread other([] { std::this_thread::sleep_for(100ms); });
        std::thread sender([] {
            std::this_thread::sleep_for(5ms);
            kill(getpid(), SIGTERM);
        });
        const int came = io.run(first_of(std::move(quit)));
        sender.join();
        other.join();
        return std::to_string(came);
    });
    CHECK(said == std::to_string(SIGTERM));
}

TEST_CASE("signal: all that wait for it are told") {
    const auto io = over_ring();
    static constexpr auto body = [](reactor& r) -> task<> {
        int told = 0;
        cotun::scope waits(r);
        for (int i = 0; i < 10; ++i) waits.spawn(expect(r, SIGUSR1, told));
        cotun::scope others(r);
        int others_told = 0;
        others.spawn(expect(r, SIGUSR2, others_told));
        co_await r.yield();
        raise(SIGUSR1);
        co_await waits.join();
        CHECK(told == 10);
        CHECK(others_told == 0);
        raise(SIGUSR2);
        co_await others.join();
        CHECK(others_told == 1);
    };
    io->run(body(*io));
}

TEST_CASE("signal: one that comes while nobody waits is kept for the next, once") {
    const auto io = over_ring();
    static constexpr auto body = [](reactor& r) -> task<> {
        (void)r.signal(SIGUSR1, SIGUSR2); // from here on
        raise(SIGUSR2);
        raise(SIGUSR1);
        raise(SIGUSR1);
        co_await r.sleep_for(2ms); // it is the reactor's by now
        raise(SIGUSR1);
        int came = co_await r.signal(SIGUSR1);
        CHECK(came == SIGUSR1);
        auto again = co_await cotun::as_result(cotun::with_timeout(r.signal(SIGUSR1), 5ms));
        CHECK(again.error() == std::errc::timed_out);
        came = co_await r.signal(SIGUSR1, SIGUSR2);
        CHECK(came == SIGUSR2);
        raise(SIGUSR1);
        // Still in the kernel: answered at once, however short the time.
        came = co_await cotun::with_timeout(r.signal(SIGUSR1), 0ms);
        CHECK(came == SIGUSR1);
    };
    io->run(body(*io));
}

TEST_CASE("signal: before run(), and between two of them") {
    const auto io = over_ring();
    auto wait = io->signal(SIGUSR1);
    raise(SIGUSR1);
    CHECK(io->run(first_of(std::move(wait))) == SIGUSR1);
    raise(SIGUSR1);
    io->run(sleep(*io, 1ms));
    CHECK(io->run(first_of(io->signal(SIGUSR1))) == SIGUSR1);
}

TEST_CASE("signal: a wait that was told and goes without leaves it to others") {
    const auto io = over_ring();
    static constexpr auto body = [](reactor& r) -> task<> {
        int first_told = 0;
        int second_told = 0;
        {
            auto first = hold(expect(r, SIGUSR1, first_told));
            co_await r.yield();
            raise(SIGUSR1);
            // Told by the kernel's half of a pass, and destroyed before it is resumed.
            r.core().turn();
            first.destroy();
        }
        CHECK(first_told == 0);
        {
            const auto second = hold(expect(r, SIGUSR1, second_told));
            CHECK(second.ended());
        }
        CHECK(second_told == 1);

        // Of two that were told one takes it: then it is spent.
        {
            auto first = hold(expect(r, SIGUSR1, first_told));
            const auto second = hold(expect(r, SIGUSR1, second_told));
            co_await r.yield();
            raise(SIGUSR1);
            r.core().turn();
            first.destroy();
            co_await r.yield();
            CHECK(second.ended());
        }
        CHECK(first_told == 0);
        CHECK(second_told == 2);
        const auto none = co_await cotun::as_result(cotun::with_timeout(r.signal(SIGUSR1), 1ms));
        CHECK(none.error() == std::errc::timed_out);

        // Both go without, while a third began to wait after it came: that one gets it.
        {
            auto one = hold(expect(r, SIGUSR1, first_told));
            auto two = hold(expect(r, SIGUSR1, first_told));
            co_await r.yield();
            raise(SIGUSR1);
            r.core().turn();
            const auto third = hold(expect(r, SIGUSR1, second_told));
            CHECK_FALSE(third.ended());
            one.destroy();
            two.destroy();
            co_await r.yield();
            CHECK(third.ended());
        }
        CHECK(second_told == 3);
    };
    io->run(body(*io));
}

TEST_CASE("signal: stopped, and chosen against") {
    const auto io = over_ring();
    static constexpr auto body = [](reactor& r) -> task<> {
        {
            cotun::scope waits(r);
            int told = 0;
            waits.spawn(expect(r, SIGUSR1, told));
            co_await r.yield();
            waits.request_stop();
            co_await waits.join();
            CHECK(told == 0);
        }
        const auto which = co_await cotun::when_any(r.signal(SIGUSR1), r.sleep_for(1ms));
        CHECK(which.index() == 1);
        raise(SIGUSR1);
        const auto other = co_await cotun::when_any(r.sleep_for(1h), r.signal(SIGUSR1));
        REQUIRE(other.index() == 1);
        CHECK(std::get<1>(other) == SIGUSR1);
    };
    io->run(body(*io));
}

TEST_CASE("signal: what cannot be waited for is refused by name") {
    const auto io = either();
    struct refusal {
        int number;
        const char* word;
    };
    for (const refusal& r :
         {refusal{0, "not a signal"}, refusal{-1, "not a signal"}, refusal{65, "not a signal"}, refusal{32, "not a"},
          refusal{SIGKILL, "Killed"}, refusal{SIGSTOP, "catch"}, refusal{SIGSEGV, "fault"}, refusal{SIGFPE, "fault"}}) {
        try {
            (void)io->signal(SIGUSR1, r.number);
            FAIL("refused");
        } catch (const std::system_error& e) {
            INFO(e.what());
            CHECK(e.code() == std::errc::invalid_argument);
            CHECK(std::string(e.what()).find(r.word) != std::string::npos);
        }
    }
    CHECK_FALSE(is_blocked(SIGUSR1));
}

TEST_CASE("signal: the mask is as it was when the reactor has gone, and what was pending has no effect") {
    sigset_t winch;
    sigemptyset(&winch);
    sigaddset(&winch, SIGWINCH);
    REQUIRE(pthread_sigmask(SIG_BLOCK, &winch, nullptr) == 0);
    const auto files = test::open_files();
    {
        const auto io = over_ring();
        (void)io->signal(SIGUSR1);
        CHECK(is_blocked(SIGUSR1));
        CHECK_FALSE(is_blocked(SIGUSR2));
        (void)io->signal(SIGUSR2, SIGWINCH);
        CHECK(is_blocked(SIGUSR2));
        const bool ran = GENERATE(false, true);
        if (ran) io->run(sleep(*io, 1ms));
        raise(SIGUSR1); // would end the program
        raise(SIGUSR2);
    }
    CHECK_FALSE(is_blocked(SIGUSR1));
    CHECK_FALSE(is_blocked(SIGUSR2));
    CHECK(is_blocked(SIGWINCH)); // it was before
    pthread_sigmask(SIG_UNBLOCK, &winch, nullptr);
    CHECK(test::open_files() == files);
}

TEST_CASE("signal: two reactors on one thread share the mask, whichever goes first") {
    const bool first_goes_first = GENERATE(true, false);
    auto a = over_ring();
    auto b = over_ring();
    (void)a->signal(SIGUSR1);
    (void)b->signal(SIGUSR1, SIGUSR2);
    (first_goes_first ? a : b).reset();
    CHECK(is_blocked(SIGUSR1));
    CHECK(is_blocked(SIGUSR2) == first_goes_first);
    reactor& left = first_goes_first ? *b : *a;
    raise(SIGUSR1);
    CHECK(left.run(first_of(left.signal(SIGUSR1))) == SIGUSR1);
    a.reset();
    b.reset();
    CHECK_FALSE(is_blocked(SIGUSR1));
    CHECK_FALSE(is_blocked(SIGUSR2));
}

TEST_CASE("signal: of two reactors that name it one is told") {
    const auto a = over_ring();
    const auto b = over_ring();
    int told = 0;
    a->spawn(expect(*a, SIGUSR1, told));
    b->spawn(expect(*b, SIGUSR1, told));
    a->run(sleep(*a, 1ms));
    b->run(sleep(*b, 1ms));
    raise(SIGUSR1);
    a->run(sleep(*a, 1ms));
    b->run(sleep(*b, 1ms));
    CHECK(told == 1);
}

TEST_CASE("signal: the mask of another thread than the one that asked stays") {
    auto io = over_ring();
    std::thread other([&] {
        (void)io->signal(SIGUSR1);
        CHECK(is_blocked(SIGUSR1));
        io->run(sleep(*io, 1ms));
    });
    other.join();
    CHECK_FALSE(is_blocked(SIGUSR1));
    io.reset();
    CHECK_FALSE(is_blocked(SIGUSR1));
}

TEST_CASE("signal: a reactor with as few requests as may be, all taken, still hears") {
    if (const auto why = ring_refused()) SKIP(*why);
    cotun::reactor_options options;
    options.requests = 32;
    reactor io(options);
    static constexpr auto body = [](reactor& r) -> task<> {
        int fds[2]; // NOLINT
        REQUIRE(pipe(fds) == 0);
        struct none final : cotun::ring::request_owner {
            void on_completion(std::uint32_t, const cotun::ring::completion&) override {}
        } owner;
        std::vector<cotun::ring::token> taken;
        for (const bool reserved : {false, true})
            for (unsigned i = 0; i < (reserved ? r.core().request_capacity() / 4 : 64); ++i)
                if (const auto t = r.core().begin(owner, 0, reserved)) {
                    r.core().driver().poll(t, {fds[0], -1}, 1, false);
                    taken.push_back(t);
                }
        CHECK(taken.size() + 1 == r.core().request_capacity()); // all that devices and writes can take
        (void)r.signal(SIGUSR1);
        raise(SIGUSR1);
        const int came = co_await r.signal(SIGUSR1);
        CHECK(came == SIGUSR1);
        raise(SIGUSR1);
        co_await r.sleep_for(1ms);
        const int again = co_await r.signal(SIGUSR1);
        CHECK(again == SIGUSR1);
        for (const auto t : taken) r.core().driver().cancel(t);
        co_await r.sleep_for(1ms);
        ::close(fds[0]);
        ::close(fds[1]);
    };
    io.run(body(io));
}
