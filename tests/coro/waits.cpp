// SPDX-License-Identifier: Apache-2.0
//
// Every wait of the room, stopped, destroyed, or left without what it waits at, at every step of its life. Whatever the
// moment: no result is lost, one that has arrived wins, and nothing touches what is gone.
#include <cotun/coro/channel.hpp>
#include <cotun/coro/cross_channel.hpp>
#include <cotun/coro/event.hpp>
#include <cotun/coro/generator.hpp>
#include <cotun/coro/mutex.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/semaphore.hpp>

#include "../support/held_task.hpp"
#include "../support/plain_loop.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

using namespace cotun;
using namespace cotun::test;

namespace {

enum class moment { before, waiting, ready, after };
constexpr std::array moments{moment::before, moment::waiting, moment::ready, moment::after};
constexpr std::array moment_names{"before", "waiting", "ready", "after"};

enum class ending { stop, destroy, remove };
constexpr std::array endings{ending::stop, ending::destroy, ending::remove};
constexpr std::array ending_names{"stopped", "destroyed", "left without it"};

// Something to wait at, with one wait.
class subject {
public:
    virtual ~subject() = default;
    /// Waits once; answer() ends the wait.
    virtual task<> operate() = 0;
    virtual void answer() = 0;
    /// Destroys what is waited at.
    virtual void remove() = 0;
    /// Whether the next wait ends without another answer when this one was answered and never ran.
    virtual bool is_kept() const { return true; }
    /// Whether the wait has its result when what it waited at is destroyed while it is ready.
    virtual bool has_result_when_removed() const { return true; }

    plain_loop loop;
};

class waiting_for_event final : public subject {
public:
    task<> operate() override { co_await event_->wait(); }
    void answer() override { event_->set(); }
    void remove() override { event_.reset(); }

private:
    std::optional<event> event_{std::in_place};
};

class locking final : public subject {
public:
    locking() : held_(mutex_->try_lock()) { REQUIRE(held_); }
    task<> operate() override {
        const mutex_guard guard = co_await mutex_->lock();
        CHECK(guard);
    }
    void answer() override { held_.unlock(); }
    void remove() override { mutex_.reset(); }
    bool has_result_when_removed() const override { return false; } // nothing is left to hold

private:
    std::optional<mutex> mutex_{std::in_place};
    mutex_guard held_;
};

class acquiring final : public subject {
public:
    task<> operate() override { co_await semaphore_->acquire(2); }
    void answer() override { semaphore_->release(3); }
    void remove() override { semaphore_.reset(); }

private:
    std::optional<semaphore> semaphore_{std::in_place, 1U, 4U};
};

template <class Channel>
class sending final : public subject {
public:
    sending() : channel_(std::in_place, 1U) { REQUIRE(channel_->try_send(1)); }
    task<> operate() override { co_await channel_->send(2); }
    void answer() override { CHECK(channel_->try_receive().has_value()); }
    void remove() override { channel_.reset(); }
    bool is_kept() const override { return false; } // it has been sent

private:
    std::optional<Channel> channel_;
};

template <class Channel, std::size_t capacity>
class receiving final : public subject {
public:
    receiving() : channel_(std::in_place, capacity) {}
    task<> operate() override {
        const std::optional<int> value = co_await channel_->receive();
        CHECK(value == 7);
    }
    void answer() override { CHECK(channel_->try_send(7)); }
    void remove() override { channel_.reset(); }

private:
    std::optional<Channel> channel_;
};

class generating final : public subject {
public:
    generating() : all_(all(from_)) {}
    task<> operate() override {
        // A stop ends the coroutine within: the next is another.
        if (!all_) all_ = all(from_);
        const std::optional<int> value = co_await all_.next();
        if (!value) {
            all_ = all(from_);
            const std::optional<int> again = co_await all_.next();
            CHECK(again == 7);
        } else {
            CHECK(value == 7);
        }
    }
    void answer() override { from_.give(7); }
    void remove() override { all_ = {}; }
    bool has_result_when_removed() const override { return false; } // it had not run on

private:
    static generator<int> all(source<int>& from) {
        for (;;) co_yield co_await from.next();
    }
    source<int> from_{loop};
    generator<int> all_;
};

struct kind {
    std::string name;
    std::function<std::unique_ptr<subject>()> make;
};

template <class Subject>
kind of(std::string name) {
    return {std::move(name), [] { return std::make_unique<Subject>(); }};
}

std::vector<kind> kinds() {
    return {
        of<waiting_for_event>("event"),
        of<locking>("mutex"),
        of<acquiring>("semaphore"),
        of<sending<channel<int>>>("channel: send"),
        of<receiving<channel<int>, 2>>("channel: receive"),
        of<receiving<channel<int>, 0>>("channel: receive, capacity 0"),
        of<sending<cross_channel<int>>>("cross_channel: send"),
        of<receiving<cross_channel<int>, 2>>("cross_channel: receive"),
        of<receiving<cross_channel<int>, 0>>("cross_channel: receive, capacity 0"),
        of<generating>("generator"),
    };
}

struct outcome {
    bool begun = false;
    bool done = false;
    bool cancelled = false;
};

task<> record(subject& s, outcome& end) {
    end.begun = true;
    try {
        co_await s.operate();
        end.done = true;
    } catch (const std::system_error& e) {
        end.cancelled = e.code() == std::errc::operation_canceled;
        CHECK(end.cancelled);
    }
}

} // namespace

TEST_CASE("every wait, stopped, destroyed, or left alone at every step of its life", "[coro][cancel]") {
    const kind what = GENERATE(from_range(kinds()));
    const moment when = GENERATE(from_range(moments));
    const ending how = GENERATE(from_range(endings));
    CAPTURE(what.name, moment_names[static_cast<std::size_t>(when)], ending_names[static_cast<std::size_t>(how)]);
    if (how == ending::remove && when == moment::before) return; // the caller's fault

    const std::unique_ptr<subject> s = what.make();
    auto tasks = std::make_unique<scope>(s->loop);
    outcome end;
    const auto end_it = [&] {
        switch (how) {
        case ending::stop: tasks->request_stop(); break;
        case ending::destroy: tasks.reset(); break;
        case ending::remove: s->remove(); break;
        }
    };

    tasks->spawn(record(*s, end));
    if (when == moment::before) end_it();
    s->loop.settle();
    CHECK(end.begun == !(when == moment::before && how == ending::destroy));
    if (when == moment::waiting) end_it();
    if (when >= moment::ready) s->answer();
    if (when == moment::ready) end_it();
    s->loop.settle();
    if (when == moment::after) {
        CHECK(end.done);
        end_it();
        s->loop.settle();
    }

    switch (how) {
    case ending::stop:
        CHECK(end.done == (when >= moment::ready)); // what had arrived wins
        CHECK(end.cancelled == (when < moment::ready));
        break;
    case ending::destroy:
        CHECK(end.done == (when == moment::after));
        CHECK_FALSE(end.cancelled);
        break;
    case ending::remove:
        CHECK(end.done == (when == moment::after || (when == moment::ready && s->has_result_when_removed())));
        CHECK(end.cancelled == !end.done);
        return;
    }

    // The next one gets what this one has not taken.
    if (end.done) return;
    outcome next;
    scope again(s->loop);
    again.spawn(record(*s, next));
    s->loop.settle();
    if (when < moment::ready || !s->is_kept()) {
        CHECK_FALSE(next.done);
        s->answer();
        s->loop.settle();
    }
    CHECK(next.done);
}

namespace {

task<> operate(subject& s) { co_await s.operate(); }

} // namespace

TEST_CASE("every wait is refused, by name, in a coroutine that is not cotun's", "[coro]") {
    const kind what = GENERATE(from_range(kinds()));
    CAPTURE(what.name);
    if (what.name == "generator") return; // what it awaits says so
    const std::unique_ptr<subject> s = what.make();
    held_task foreign = hold(operate(*s));
    REQUIRE(foreign.ended());
    try {
        foreign.rethrow();
        FAIL_CHECK("not refused");
    } catch (const std::system_error& e) {
        CHECK(e.code() == std::errc::operation_not_permitted);
        CHECK(std::string(e.what()).find(what.name.substr(0, what.name.find(':'))) != std::string::npos);
    }
}
