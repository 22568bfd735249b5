// SPDX-License-Identifier: Apache-2.0
//
// Groups of reactors: their start and their end, what is started on them, and what they send each other.
#include "cotun/io/reactor_group.hpp"

#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"
#include "groups.hpp"
#include "reactors.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace std::chrono_literals;
using cotun::group_options;
using cotun::reactor;
using cotun::reactor_group;
using cotun::task;
using namespace cotun::test;
using Catch::Matchers::ContainsSubstring;

namespace {

task<> count_up(reactor& io, std::atomic<int>& n) {
    co_await io.yield();
    ++n;
}

task<> fail_after(reactor& io, std::chrono::milliseconds time) {
    co_await io.sleep_for(time);
    throw std::runtime_error("failed on purpose");
}

std::atomic<int> begun{0};

// Counts its end, whether it ran to it or was destroyed.
task<> stay_until_stopped(reactor& io, std::atomic<int>& ended, std::atomic<int>& cancelled) {
    const note_atomic_end end(ended);
    ++begun;
    try {
        for (;;) co_await io.sleep_for(1h);
    } catch (const std::system_error& e) {
        if (e.code() == std::errc::operation_canceled) ++cancelled;
        throw;
    }
}

} // namespace

TEST_CASE("group: starts and ends a hundred times, with tasks and without") {
    need_ring();
    const auto before = open_descriptors();
    for (int i = 0; i < 100; ++i) {
        reactor_group group({.reactors = 1 + static_cast<unsigned>(i) % 4});
        std::atomic<int> n{0};
        if (i % 3 != 0)
            for (std::size_t k = 0; k < group.size(); ++k) group.spawn_on(k, count_up, std::ref(n));
        if (i % 5 != 4) {
            group.run();
            CHECK(n == (i % 3 != 0 ? static_cast<int>(group.size()) : 0));
        }
    }
    CHECK(open_descriptors() == before);
}

TEST_CASE("group: has a reactor for each CPU unless told otherwise, and may have more") {
    need_ring();
    cpu_set_t allowed;
    REQUIRE(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    reactor_group of_all;
    CHECK(of_all.size() == static_cast<std::size_t>(CPU_COUNT(&allowed)));
    reactor_group many({.reactors = static_cast<unsigned>(CPU_COUNT(&allowed)) + 5});
    std::atomic<int> n{0};
    for (std::size_t k = 0; k < many.size(); ++k) many.spawn_on(k, count_up, std::ref(n));
    many.run();
    CHECK(n == static_cast<int>(many.size()));
}

TEST_CASE("group: each task runs on the thread of its reactor, where its factory is called, too") {
    need_ring();
    reactor_group group({.reactors = 3});
    std::mutex mutex;
    std::vector<std::set<std::thread::id>> threads(3);
    struct make { // with state of its own that must live as long as the task
        task<> operator()(reactor& io) const { return run(io, *this); }
        static task<> run(reactor& io, const make& self) {
            note(self);
            co_await io.yield();
            co_await io.sleep_for(1ms);
            note(self);
        }
        static void note(const make& self) {
            const std::lock_guard lock(*self.mutex);
            (*self.threads)[self.index].insert(std::this_thread::get_id());
        }
        std::mutex* mutex;
        std::vector<std::set<std::thread::id>>* threads;
        std::size_t index;
        std::string long_enough_to_be_elsewhere = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    };
    for (std::size_t k = 0; k < 3; ++k)
        for (int i = 0; i < 10; ++i) group.spawn_on(k, make{&mutex, &threads, k});
    group.run();
    std::set<std::thread::id> all;
    for (const auto& t : threads) {
        CHECK(t.size() == 1);
        all.insert(t.begin(), t.end());
    }
    CHECK(all.size() == 3);
    CHECK_FALSE(all.contains(std::this_thread::get_id()));
}

TEST_CASE("group: a capturing lambda may make tasks: it lives as long as they do") {
    need_ring();
    reactor_group group({.reactors = 2});
    std::atomic<int> sum{0};
    auto numbers = std::make_shared<std::vector<int>>(100, 1);
    const auto factory = [&sum, numbers](reactor& io, int from, std::unique_ptr<int> more) -> task<> {
        co_await io.sleep_for(1ms);
        for (std::size_t i = static_cast<std::size_t>(from); i < numbers->size(); ++i) sum += (*numbers)[i];
        sum += *more;
    };
    group.spawn_on(0, factory, 90, std::make_unique<int>(1000));
    group[1].spawn(factory, 50, std::make_unique<int>(10000));
    group.run();
    CHECK(sum == 11060);
    CHECK(numbers.use_count() == 2);
}

TEST_CASE("group: runs until what its tasks started has ended, wherever that was") {
    need_ring();
    struct chain {
        static task<> link(reactor& io, reactor_group& group, int left, std::atomic<int>& ended) {
            co_await io.sleep_for(1ms);
            if (left > 0)
                group.spawn_on(static_cast<std::size_t>(left) % group.size(), link, std::ref(group), left - 1,
                               std::ref(ended));
            if (left % 4 == 0) io.spawn(late(io, ended));
            ++ended;
        }
        static task<> late(reactor& io, std::atomic<int>& ended) {
            co_await io.sleep_for(3ms);
            ++ended;
        }
    };
    reactor_group group({.reactors = 3});
    std::atomic<int> ended{0};
    group.spawn_on(0, chain::link, std::ref(group), 20, std::ref(ended));
    group.run();
    CHECK(ended == 21 + 6);
    // It is at its end, and says so.
    int code = 0;
    try {
        group.post(1, [](reactor&) {});
    } catch (const std::system_error& e) {
        code = code_of(e);
        CHECK_THAT(e.what(), ContainsSubstring("reactor 1 has ended"));
    }
    CHECK(code == EPIPE);
    group.run(); // again does nothing
}

TEST_CASE("group: the failure of a task has the others asked to stop, and is thrown by join") {
    need_ring();
    reactor_group group({.reactors = 3});
    std::atomic<int> ended{0};
    std::atomic<int> cancelled{0};
    for (std::size_t k = 0; k < 3; ++k) group.spawn_on(k, stay_until_stopped, std::ref(ended), std::ref(cancelled));
    group.spawn_on(1, fail_after, 2ms);
    CHECK_THROWS_AS(group.join(), std::runtime_error);
    CHECK(ended == 3);
    CHECK(cancelled == 3);
    CHECK_NOTHROW(group.join()); // once
}

TEST_CASE("group: so does a posted function, a task of a reactor's own, and a factory that throws") {
    need_ring();
    reactor_group group({.reactors = 2});
    std::atomic<int> ended{0};
    std::atomic<int> cancelled{0};
    group.spawn_on(0, stay_until_stopped, std::ref(ended), std::ref(cancelled));
    SECTION("posted") {
        group.post(1, [](reactor&) { throw std::runtime_error("posted"); });
    }
    SECTION("spawned there") {
        group.post(1, [](reactor& io) { io.spawn(fail_after(io, 1ms)); });
    }
    SECTION("factory") {
        group.spawn_on(1, [](reactor&) -> task<> { throw std::runtime_error("factory"); });
    }
    CHECK_THROWS_AS(group.join(), std::runtime_error);
    CHECK(ended == 1);
    CHECK(cancelled == 1);
}

TEST_CASE("group: of several failures the first is thrown, and the tasks that are not asked count to the end") {
    need_ring();
    reactor_group group({.reactors = 4});
    for (std::size_t k = 0; k < 4; ++k)
        for (int i = 0; i < 5; ++i) group.spawn_on(k, fail_after, 1ms);
    CHECK_THROWS_AS(group.join(), std::runtime_error);
}

TEST_CASE("group: request_stop from here, from a task, or from a signal handler") {
    need_ring();
    static std::atomic<reactor_group*> to_stop{nullptr};
    const int way = GENERATE(0, 1, 2, 3);
    CAPTURE(way);
    reactor_group group({.reactors = 3});
    std::atomic<int> ended{0};
    std::atomic<int> cancelled{0};
    for (std::size_t k = 0; k < 3; ++k)
        for (int i = 0; i < 4; ++i) group.spawn_on(k, stay_until_stopped, std::ref(ended), std::ref(cancelled));
    std::thread other;
    if (way == 0) group.request_stop(); // perhaps before they have begun
    if (way == 1)
        group.post(
            2, [](reactor&, reactor_group& g) { g.request_stop(); }, std::ref(group));
    if (way == 2) {
        to_stop = &group;
        struct sigaction act {};
        act.sa_handler = [](int) { to_stop.load()->request_stop(); };
        REQUIRE(sigaction(SIGUSR1, &act, nullptr) == 0);
        other = std::thread([] {
            std::this_thread::sleep_for(2ms);
            kill(getpid(), SIGUSR1);
        });
    }
    if (way == 3)
        other = std::thread([&] {
            for (int i = 0; i < 3; ++i) group.request_stop();
        });
    group.join();
    if (other.joinable()) other.join();
    CHECK(ended == 12);
    CHECK(cancelled == 12);
    if (way == 2) std::signal(SIGUSR1, SIG_DFL);
}

TEST_CASE("group: stop destroys the tasks where they stand, before join returns") {
    need_ring();
    const bool by_destructor = GENERATE(true, false);
    begun = 0;
    std::atomic<int> ended{0};
    std::atomic<int> cancelled{0};
    {
        reactor_group group({.reactors = 3});
        for (std::size_t k = 0; k < 3; ++k) group.spawn_on(k, stay_until_stopped, std::ref(ended), std::ref(cancelled));
        while (begun < 3) std::this_thread::yield();
        if (!by_destructor) {
            group.stop();
            group.join();
            CHECK(ended == 3);
        }
    }
    CHECK(ended == 3);
    CHECK(cancelled == 0);
}

TEST_CASE("group: one reactor may be stopped: the others go on, and what is sent to it is refused or dropped") {
    need_ring();
    reactor_group group({.reactors = 3});
    begun = 0;
    std::atomic<int> ended{0};
    std::atomic<int> cancelled{0};
    for (std::size_t k = 0; k < 3; ++k) group.spawn_on(k, stay_until_stopped, std::ref(ended), std::ref(cancelled));
    while (begun < 3) std::this_thread::yield();
    group[1].stop();
    auto token = std::make_shared<int>(1);
    CHECK(::test::wait_until([&] { return ended == 1; }));
    CHECK(ended == 1);
    CHECK_THROWS_AS(group.post(1, [token](reactor&) {}), std::system_error);
    CHECK_THROWS_AS(group.spawn_on(1, count_up, std::ref(ended)), std::system_error);
    std::atomic<int> n{0};
    group.spawn_on(2, count_up, std::ref(n));
    while (n == 0) std::this_thread::sleep_for(1ms);
    group.request_stop();
    group.join();
    CHECK(ended == 3);
    CHECK(cancelled == 2);
    CHECK(token.use_count() == 1);
}

TEST_CASE("group: messages to a reactor while it is stopped are called or dropped, never lost or called late") {
    need_ring();
    for (int round = 0; round < 20; ++round) {
        auto token = std::make_shared<int>(0);
        std::atomic<int> called{0};
        std::atomic<bool> enough{false};
        {
            reactor_group group({.reactors = 3});
            struct flood {
                static task<> run(reactor& io, reactor_group& group, std::shared_ptr<int> t, std::atomic<int>& called) {
                    try {
                        for (;;) {
                            for (int i = 0; i < 20; ++i) group.post(2, [t, &called](reactor&) { ++called; });
                            co_await io.yield();
                        }
                    } catch (const std::system_error& e) {
                        if (code_of(e) != EPIPE) throw;
                    }
                }
            };
            for (std::size_t k = 0; k < 2; ++k) group.spawn_on(k, flood::run, std::ref(group), token, std::ref(called));
            std::thread outside([&] {
                try {
                    while (!enough) group.post(2, [token, &called](reactor&) { ++called; });
                } catch (const std::system_error&) {}
            });
            while (called < 200) std::this_thread::yield();
            group[2].stop();
            group.join(); // the floods end by the refusal
            enough = true;
            outside.join();
        }
        CHECK(token.use_count() == 1);
    }
}

TEST_CASE("group: what cannot be is refused by name") {
    need_ring();
    const auto text = [](const group_options& o) {
        try {
            reactor_group group(o);
        } catch (const std::system_error& e) {
            return std::string(e.what());
        }
        return std::string("nothing");
    };
    CHECK_THAT(text({.reactors = 1025}), ContainsSubstring("1025"));
    CHECK_THAT(text({.reactors = 2, .cpus = {0U, 5000U}}),
               ContainsSubstring("CPU 5000") && ContainsSubstring("reactor 1 of 2"));
    CHECK_THAT(text({.reactors = 3, .each = {.requests = 1}}),
               ContainsSubstring("requests") && ContainsSubstring("reactor 0 of 3"));
    reactor_group group({.reactors = 2});
    CHECK_THROWS_AS(group[2], std::system_error);
    CHECK_THROWS_AS(group.post(7, [](reactor&) {}), std::system_error);
    std::atomic<int> code{0};
    group.spawn_on(0, [&code, &group](reactor&) -> task<> {
        try {
            group.join();
        } catch (const std::system_error& e) {
            code = code_of(e);
        }
        co_return;
    });
    group.run();
    CHECK(code == EDEADLK);
}

TEST_CASE("group: threads are pinned to the CPUs of the mask, or to those given, in turn") {
    need_ring();
    cpu_set_t allowed;
    REQUIRE(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    std::vector<unsigned> cpus;
    for (unsigned c = 0; c < CPU_SETSIZE; ++c)
        if (CPU_ISSET(c, &allowed)) cpus.push_back(c);
    const auto masks = [](const group_options& o) {
        reactor_group group(o);
        std::vector<cpu_set_t> found(group.size());
        for (std::size_t k = 0; k < group.size(); ++k)
            group.post(k, [&found, k](reactor&) { sched_getaffinity(0, sizeof(cpu_set_t), &found[k]); });
        group.run();
        return found;
    };
    const auto count = static_cast<unsigned>(cpus.size()) + 2; // more than there are
    const std::vector<cpu_set_t> pinned = masks({.reactors = count, .pin = true});
    for (std::size_t k = 0; k < count; ++k) {
        CHECK(CPU_COUNT(&pinned[k]) == 1);
        CHECK(CPU_ISSET(cpus[k % cpus.size()], &pinned[k]));
    }
    for (const cpu_set_t& m : masks({.reactors = 3, .cpus = {cpus.back()}})) {
        CHECK(CPU_COUNT(&m) == 1);
        CHECK(CPU_ISSET(cpus.back(), &m));
    }
    for (const cpu_set_t& m : masks({.reactors = 2})) CHECK(CPU_EQUAL(&m, &allowed));
    cpu_set_t now;
    REQUIRE(sched_getaffinity(0, sizeof now, &now) == 0);
    CHECK(CPU_EQUAL(&now, &allowed));
}

TEST_CASE("group: without a ring for the third thread there is no group, and nothing is left of it") {
    need_ring();
    const std::string said = ::test::in_child([] {
        const auto threads = [] { return std::distance(std::filesystem::directory_iterator{"/proc/self/task"}, {}); };
        const auto before = ::test::open_files();
        const auto threads_before = threads() + 1; // a sanitizer may start one of its own
        rlimit limit{};
        getrlimit(RLIMIT_NOFILE, &limit);
        // Each takes a ring and an eventfd, and making them another for a moment or two: the last of many has none.
        limit.rlim_cur = static_cast<rlim_t>(before) + 9;
        setrlimit(RLIMIT_NOFILE, &limit);
        for (int i = 0; i < 10; ++i) {
            try {
                // Small ones: their memory, too, may be bounded (RLIMIT_MEMLOCK), and it is files that are to be short.
                reactor_group group(
                    {.reactors = 12, .each = {.pool = {.small_count = 64, .large_count = 4}, .requests = 64}});
                return std::string("made");
            } catch (const std::system_error& e) {
                if (e.code() != std::errc::too_many_files_open) return std::string("other: ") + e.what();
                if (std::string(e.what()).find(" of 12: ") == std::string::npos) return std::string(e.what());
            }
            if (::test::open_files() != before) return std::string("files left");
            if (!::test::wait_until([&] { return threads() <= threads_before; })) return std::string("threads left");
        }
        reactor_group small({.reactors = 2, .each = {.requests = 64}});
        std::atomic<int> n{0};
        for (std::size_t k = 0; k < 2; ++k) small.spawn_on(k, count_up, std::ref(n));
        small.run();
        return std::string(n == 2 ? "good" : "bad");
    });
    CHECK(said == "good");
}

TEST_CASE("group: a child of the process lets go of it, and is refused") {
    need_ring();
    reactor_group group({.reactors = 2});
    std::atomic<int> n{0};
    group.spawn_on(0, count_up, std::ref(n));
    const std::string said = ::test::in_child([&] {
        std::string refused;
        for (int what = 0; what < 2; ++what) {
            try {
                if (what == 0) group.post(1, [](reactor&) {});
                if (what == 1) group.join();
            } catch (const std::system_error& e) {
                refused += e.code() == std::errc::operation_not_permitted ? "refused " : e.what();
            }
        }
        group.request_stop();
        group.stop();
        group.~reactor_group(); // the child exits without destroying it again
        return refused;
    });
    CHECK(said == "refused refused ");
    group.run();
    CHECK(n == 1);
}

TEST_CASE("group: more tasks than a reactor may have are refused, by name") {
    need_ring();
    cotun::reactor_options each;
    each.tasks = 3;
    reactor_group group({.reactors = 2, .each = each});
    std::atomic<int> ended{0};
    std::atomic<int> cancelled{0};
    for (int i = 0; i < 3; ++i) group.spawn_on(1, stay_until_stopped, std::ref(ended), std::ref(cancelled));
    SECTION("a task, which ends the group") {
        group.spawn_on(1, count_up, std::ref(ended));
        try {
            group.join();
            FAIL("no error");
        } catch (const std::system_error& e) {
            CHECK(e.code() == std::errc::resource_unavailable_try_again);
        }
    }
    SECTION("a call, which is told") {
        std::atomic<int> code{0};
        group.spawn_on(
            0,
            [&](reactor&, reactor_group& g) -> task<> {
                try {
                    co_await g.call_on(1, [](reactor&) {});
                } catch (const std::system_error& e) {
                    code = code_of(e);
                }
                g.request_stop();
            },
            std::ref(group));
        group.join();
        CHECK(code == EAGAIN);
    }
    CHECK(ended == 3);
    CHECK(cancelled == 3);
}

TEST_CASE("group: within a group's task, and beside a reactor that the thread runs itself") {
    need_ring();
    struct nested {
        static task<> run(reactor& io, std::atomic<int>& n) {
            reactor_group inner({.reactors = 2});
            // They sleep by now, and the wake-ups that this reactor promises go out although it does not go on.
            std::this_thread::sleep_for(20ms);
            for (std::size_t k = 0; k < 2; ++k) inner.spawn_on(k, count_up, std::ref(n));
            inner.run(); // blocks this thread, and no other
            co_await io.yield();
            ++n;
        }
    };
    reactor_group group({.reactors = 2});
    std::atomic<int> n{0};
    group.spawn_on(0, nested::run, std::ref(n));
    group.spawn_on(1, nested::run, std::ref(n));
    reactor io;
    CHECK(io.run(answer(io)) == 42);
    group.run();
    CHECK(n == 6);
}

namespace {

task<> stop_on_signal(reactor& io, reactor_group& group, int& number) {
    const int came = co_await io.signal(SIGUSR2);
    number = came;
    group.request_stop();
}

task<> until_stopped(reactor& io) { co_await io.sleep_for(1h); }

} // namespace

TEST_CASE("group: a signal that was blocked before the group is a task's to wait for, on any of its reactors") {
    need_ring();
    const std::size_t where = GENERATE(0U, 2U);
    sigset_t usual;
    sigset_t ours;
    sigemptyset(&ours);
    sigaddset(&ours, SIGUSR2);
    REQUIRE(pthread_sigmask(SIG_BLOCK, &ours, &usual) == 0);
    int number = 0;
    {
        reactor_group group({.reactors = 3});
        for (std::size_t i = 0; i < group.size(); ++i) group.spawn_on(i, until_stopped);
        group.spawn_on(where, stop_on_signal, std::ref(group), std::ref(number));
        REQUIRE(kill(getpid(), SIGUSR2) == 0); // also where nobody waits for it yet
        group.run();
    }
    CHECK(number == SIGUSR2);
    REQUIRE(pthread_sigmask(SIG_SETMASK, &usual, nullptr) == 0);
}
