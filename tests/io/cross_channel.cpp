// SPDX-License-Identifier: Apache-2.0
//
// cross_channel between reactors: it wakes one that sleeps in the kernel, seldom, and reactors go at any time.
#include <cotun/coro/cross_channel.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/with_stop.hpp>
#include <cotun/io/reactor.hpp>

#include "../support/process.hpp"
#include "../support/scale.hpp"
#include "reactors.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <chrono>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

using namespace cotun;
using namespace cotun::test;
using namespace std::chrono_literals;

namespace {

task<> send_all(cross_channel<int>& to, int count) {
    for (int i = 0; i < count; ++i) co_await to.send(i);
    to.close();
}

task<int> receive_all(cross_channel<int>& from) {
    int expected = 0;
    while (std::optional<int> value = co_await from.receive()) {
        if (*value != expected++) co_return -1;
    }
    co_return expected;
}

task<> echo(cross_channel<int>& from, cross_channel<int>& to) {
    while (std::optional<int> value = co_await from.receive()) co_await to.send(*value);
    to.close();
}

task<int> ask(cross_channel<int>& to, cross_channel<int>& from, int count) {
    int answers = 0;
    for (int i = 0; i < count; ++i) {
        co_await to.send(i);
        const std::optional<int> back = co_await with_timeout(from.receive(), 60s);
        if (back == i) ++answers;
    }
    to.close();
    co_return answers;
}

task<> take_all(cross_channel<int>& from, std::atomic<int>& count) {
    while (std::optional<int> value = co_await from.receive()) ++count;
}

task<> take_all_until(std::stop_token token, cross_channel<int>& from, std::atomic<int>& count) {
    co_await with_stop(token, take_all(from, count));
}

task<> run_briefly(reactor& on, std::atomic<bool>& flag) {
    flag = true;
    co_await on.yield();
}

} // namespace

TEST_CASE("cross_channel: between reactors on two threads", "[threads]") {
    const int count = static_cast<int>(scaled(20'000));
    for (const std::size_t capacity : {0U, 1U, 128U}) {
        const auto io = over_ring();
        cross_channel<int> of(capacity);
        std::thread other([&] {
            reactor sender;
            sender.run(send_all(of, count));
        });
        CHECK(io->run(receive_all(of)) == count);
        other.join();
    }
}

TEST_CASE("cross_channel: to and fro between reactors that sleep", "[threads]") {
    const int count = static_cast<int>(scaled(2'000));
    const auto io = over_ring();
    cross_channel<int> there(1);
    cross_channel<int> back(1);
    std::thread other([&] {
        reactor echoing;
        echoing.run(echo(there, back));
    });
    CHECK(io->run(ask(there, back, count)) == count);
    other.join();
}

TEST_CASE("cross_channel: a burst into a reactor that sleeps costs few wake-ups", "[threads]") {
    const auto io = over_ring();
    cross_channel<int> of(1000);
    const std::uint64_t before = io->statistics().wakes;
    std::thread other([&] {
        std::this_thread::sleep_for(50ms); // it sleeps by now
        for (int i = 0; i < 1000; ++i)
            if (!of.try_send(int{i})) break;
        of.close();
    });
    CHECK(io->run(receive_all(of)) == 1000);
    other.join();
    CHECK(io->statistics().wakes - before < 100); // one for each time that it had received all
}

TEST_CASE("cross_channel: a reactor goes, with what waits on it, while another thread sends", "[threads]") {
    const int rounds = static_cast<int>(scaled(200));
    for (int round = 0; round < rounds; ++round) {
        cross_channel<int> of(2);
        std::atomic<int> received{0};
        std::atomic<bool> runs{false};
        if (const auto why = ring_refused()) SKIP(*why);
        std::thread other([&] {
            reactor io;
            for (int i = 0; i < 3; ++i) io.spawn(take_all(of, received));
            io.run(run_briefly(io, runs));
        });
        while (!runs) std::this_thread::yield();
        int sent = 0;
        while (sent < 3 && of.try_send(int{sent})) ++sent;
        other.join();
        int left = 0;
        while (of.try_receive()) ++left;
        CHECK(received + left == sent);
    }
}

TEST_CASE("cross_channel: in a child of fork, nobody is woken, and sending and stopping go on") {
    const auto io = over_ring();
    cross_channel<int> of(2);
    std::atomic<int> received{0};
    std::atomic<bool> runs{false};
    std::stop_source source;
    io->spawn(take_all(of, received));
    io->spawn(take_all_until(source.get_token(), of, received));
    io->run(run_briefly(*io, runs));
    const std::string said = ::test::in_child([&] {
        const bool sent = of.try_send(1) && of.try_send(2);
        source.request_stop();
        return std::string(sent ? "sent" : "not sent");
    });
    CHECK(said == "sent");
    CHECK(of.try_send(3)); // the parent's waiters stand as they did
    of.close();
    io->run();
    CHECK(received == 1);
}
