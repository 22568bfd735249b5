// SPDX-License-Identifier: Apache-2.0
#include "io/helper_threads.hpp"

#include "../support/process.hpp"

#include <catch2/catch_test_macros.hpp>

#include <atomic>
#include <chrono>
#include <csignal>
#include <functional>
#include <memory>
#include <mutex>
#include <sys/resource.h>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;
using cotun::detail::helper_threads;
using cotun::detail::helper_work;

namespace {

class job final : public helper_work {
public:
    explicit job(std::function<void()> body) : body_(std::move(body)) {}
    void work() noexcept override { body_(); }

private:
    std::function<void()> body_;
};

} // namespace

TEST_CASE("helper threads: as many as may be, and a line behind them, in order") {
    const auto helpers = std::make_shared<helper_threads>(2);
    const auto open = std::make_shared<std::atomic<bool>>(false);
    const auto now = std::make_shared<std::atomic<int>>(0);
    const auto most = std::make_shared<std::atomic<int>>(0);
    const auto done = std::make_shared<std::atomic<int>>(0);
    for (int i = 0; i < 50; ++i)
        helpers->start(std::make_shared<job>([=] {
            const int beside = ++*now;
            if (beside > *most) *most = beside;
            while (!*open) std::this_thread::sleep_for(1ms);
            --*now;
            ++*done;
        }));
    CHECK(test::wait_until([&] { return *now == 2; }));
    CHECK(helpers->running() == 2);
    CHECK(helpers->in_line() == 48);
    *open = true;
    CHECK(test::wait_until([&] { return *done == 50; }));
    CHECK(*most == 2);
    CHECK(test::wait_until([&] { return helpers->running() == 0; })); // they do not stay
    helpers->start(std::make_shared<job>([=] { ++*done; }));
    CHECK(test::wait_until([&] { return *done == 51; }));
}

TEST_CASE("helper threads: work that is dropped in the line never begins; what has begun goes on, and is waited for by "
          "nobody") {
    const auto open = std::make_shared<std::atomic<bool>>(false);
    const auto begun = std::make_shared<std::atomic<int>>(0);
    const auto ended = std::make_shared<std::atomic<int>>(0);
    const auto body = [=] {
        ++*begun;
        while (!*open) std::this_thread::sleep_for(1ms);
        ++*ended;
    };
    {
        const auto helpers = std::make_shared<helper_threads>(1);
        const auto first = std::make_shared<job>(body);
        const auto second = std::make_shared<job>(body);
        const auto third = std::make_shared<job>(body);
        for (const auto& j : {first, second, third}) helpers->start(j);
        CHECK(test::wait_until([&] { return *begun == 1; }));
        helpers->drop(*second);
        helpers->drop(*second);
        helpers->drop(*first); // too late
        CHECK(helpers->in_line() == 1);
        CHECK(second.use_count() == 1);
    }
    *open = true;
    CHECK(test::wait_until([&] { return *ended == 2; }));
    CHECK(*begun == 2);
}

TEST_CASE("helper threads: signals never come to them") {
    const auto helpers = std::make_shared<helper_threads>(1);
    const auto blocked = std::make_shared<std::atomic<int>>(-1);
    helpers->start(std::make_shared<job>([=] {
        sigset_t set;
        sigemptyset(&set);
        pthread_sigmask(SIG_SETMASK, nullptr, &set);
        *blocked = sigismember(&set, SIGTERM) + 2 * sigismember(&set, SIGUSR1);
    }));
    CHECK(test::wait_until([&] { return *blocked == 3; }));
    sigset_t set;
    sigemptyset(&set);
    pthread_sigmask(SIG_SETMASK, nullptr, &set);
    CHECK(sigismember(&set, SIGTERM) == 0);
}

TEST_CASE("helper threads: where no thread can be had the work is refused, if there is none to come to it") {
    const std::string said = test::in_child([] {
        if (geteuid() == 0 && setuid(65534) != 0) return std::string("refused");
        const rlimit none{0, 0};
        setrlimit(RLIMIT_NPROC, &none);
        const auto helpers = std::make_shared<helper_threads>(2);
        const auto work = std::make_shared<job>([] {});
        try {
            helpers->start(work);
            return std::string("started");
        } catch (const std::system_error&) {
            return std::string(helpers->in_line() == 0 && helpers->running() == 0 ? "refused" : "left behind");
        }
    });
    CHECK(said == "refused");
}
