// SPDX-License-Identifier: Apache-2.0
//
// A call from one reactor to another, stopped and destroyed at every step of its life. The reactors and their threads
// are real; the test holds the one or the other between two of its steps, so that each time the same comes first.
#include <cotun/coro/scope.hpp>
#include <cotun/io/reactor_group.hpp>

#include "groups.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <memory>
#include <semaphore>
#include <system_error>
#include <thread>

using namespace cotun;
using namespace cotun::test;
using namespace std::chrono_literals;

namespace {

enum class step : std::uint8_t {
    before,   // the task that calls has not begun
    sent,     // the other reactor has not looked at it
    running,  // its task waits there
    ending,   // its task is about to yield a result, and does not look any more
    answered, // the answer is on its way
    ready,    // the task that called is to be resumed
    after,
};
constexpr std::array steps{step::before,   step::sent,  step::running, step::ending,
                           step::answered, step::ready, step::after};
const char* name_of(step s) {
    static constexpr std::array names{"before", "sent", "running", "ending", "answered", "ready", "after"};
    return names[static_cast<std::size_t>(s)];
}

// What the test and the two threads tell each other.
struct call_state {
    bool waits = false; // the task there, until it is stopped; else until `go`
    std::atomic<bool> go{false};
    std::atomic<bool> calling{false};
    std::atomic<int> began{0};
    std::atomic<int> ended{0};
    std::atomic<int> result{0};
    std::atomic<int> error{0};
    std::unique_ptr<scope> tasks; // reactor 0's
};

task<int> work(reactor& io, call_state& c) {
    const note_atomic_end end(c.ended);
    ++c.began;
    while (c.waits) co_await io.sleep_for(1h);
    while (!c.go) std::this_thread::yield(); // holds the thread: no message is looked at
    co_return 7;
}

task<> call(reactor_group& g, call_state& c) {
    c.calling = true;
    try {
        const int n = co_await g.call_on(1, work, std::ref(c));
        c.result = n;
    } catch (const std::system_error& e) {
        c.error = e.code().value();
    }
}

template <class Condition>
void until(Condition holds) {
    while (!holds()) std::this_thread::sleep_for(20us);
}

// All that was sent to the reactor before has been looked at, and the tasks that this made ready have run.
void pass(reactor_group& g, std::size_t index) {
    for (int i = 0; i < 2; ++i) {
        std::atomic<bool> done{false};
        g[index].post([](reactor&, std::atomic<bool>& d) { d = true; }, std::ref(done));
        until([&] { return done.load(); });
    }
}

// Keeps a reactor's thread from going on, from one message on; what is sent to it meanwhile is behind that.
class hold_reactor {
public:
    hold_reactor(reactor_group& g, std::size_t index) {
        g[index].post(
            [](reactor&, hold_reactor& h) {
                h.holds_.release();
                h.go_.acquire();
                h.gone_.release();
            },
            std::ref(*this));
        holds_.acquire();
    }
    hold_reactor(const hold_reactor&) = delete;
    hold_reactor& operator=(const hold_reactor&) = delete;
    ~hold_reactor() {
        go_.release();
        gone_.acquire();
    }

private:
    std::binary_semaphore holds_{0};
    std::binary_semaphore go_{0};
    std::binary_semaphore gone_{0};
};

void begin(reactor_group& g, call_state& c) {
    g[0].post(
        [](reactor& io, reactor_group& group, call_state& state) {
            state.tasks = std::make_unique<scope>(io);
            state.tasks->spawn(call(group, state));
        },
        std::ref(g), std::ref(c));
}

void end(reactor_group& g, call_state& c, bool destroy) {
    g[0].post(
        [](reactor&, call_state& state, bool destroys) {
            if (destroys)
                state.tasks.reset();
            else
                state.tasks->request_stop();
        },
        std::ref(c), destroy);
}

// Everything up to the end, which is the last that is sent to reactor 0.
void end_at(reactor_group& g, call_state& c, step when, bool destroy) {
    c.waits = when == step::sent || when == step::running;
    switch (when) {
    case step::before: {
        const hold_reactor caller(g, 0);
        begin(g, c);
        end(g, c, destroy);
        break;
    }
    case step::sent: {
        const hold_reactor target(g, 1);
        begin(g, c);
        until([&] { return c.calling.load(); });
        pass(g, 0);
        end(g, c, destroy);
        pass(g, 0); // the request to stop is behind the call
        break;
    }
    case step::running:
        begin(g, c);
        until([&] { return c.began == 1; });
        pass(g, 1);
        end(g, c, destroy);
        break;
    case step::ending:
        begin(g, c);
        until([&] { return c.began == 1; });
        end(g, c, destroy);
        pass(g, 0); // the request to stop is sent
        c.go = true;
        break;
    case step::answered:
    case step::ready: {
        begin(g, c);
        until([&] { return c.began == 1; });
        pass(g, 0);
        std::unique_ptr<hold_reactor> caller;
        if (when == step::ready) caller = std::make_unique<hold_reactor>(g, 0);
        if (when == step::answered) { // the end comes first, but the answer is there when it does
            std::atomic<bool> holds{false};
            std::atomic<bool> go{false};
            g[0].post(
                [](reactor&, call_state& state, bool destroys, std::atomic<bool>& h, std::atomic<bool>& may) {
                    h = true;
                    while (!may) std::this_thread::yield();
                    if (destroys)
                        state.tasks.reset();
                    else
                        state.tasks->request_stop();
                },
                std::ref(c), destroy, std::ref(holds), std::ref(go));
            until([&] { return holds.load(); });
            c.go = true;
            pass(g, 1);
            go = true;
            pass(g, 0);
        } else {
            c.go = true;
            pass(g, 1);
            end(g, c, destroy); // behind the answer
        }
        break;
    }
    case step::after:
        c.go = true;
        begin(g, c);
        until([&] { return c.result == 7; });
        end(g, c, destroy);
        break;
    }
}

void check_step(reactor_group& g, step when, bool destroy) {
    CAPTURE(name_of(when), destroy);
    call_state c;
    end_at(g, c, when, destroy);
    const int begins = when == step::before ? 0 : 1;
    // Stopped before the other reactor has looked at it, it may begin there, to be stopped at once.
    if (!destroy) until([&] { return c.result != 0 || c.error != 0 || when == step::before; });
    pass(g, 0);
    pass(g, 1);
    pass(g, 0);
    until([&] { return c.ended == c.began; });
    if (when != step::sent) CHECK(c.began == begins);
    CHECK(c.began <= begins);
    const bool wins = when >= step::ending;
    if (destroy) {
        CHECK(c.result == (when == step::after ? 7 : 0));
        CHECK(c.error == 0);
    } else {
        CHECK(c.result == (wins ? 7 : 0));
        CHECK(c.error == (wins ? 0 : ECANCELED));
    }
    g[0].post([](reactor&, call_state& state) { state.tasks.reset(); }, std::ref(c));
    pass(g, 0);
}

} // namespace

TEST_CASE("call_on: stopped or destroyed at every step of its life", "[cancel]") {
    need_ring();
    reactor_options each;
    each.messages = GENERATE(true, false);
    CAPTURE(each.messages);
    reactor_group group({.reactors = 2, .each = each});
    for (int round = 0; round < 3; ++round)
        for (const step when : steps)
            for (const bool destroy : {false, true}) check_step(group, when, destroy);
    group.join();
}

TEST_CASE("call_on: two calls at once, ended at every pair of steps", "[cancel]") {
    need_ring();
    reactor_group group({.reactors = 2});
    for (const bool first : {false, true})
        for (const bool second : {false, true})
            for (const step when : steps) {
                CAPTURE(name_of(when), first, second);
                call_state waiting; // there before, and after
                waiting.waits = true;
                begin(group, waiting);
                until([&] { return waiting.began == 1; });
                check_step(group, when, first);
                CHECK(waiting.result + waiting.error == 0); // untouched by the other's end
                end(group, waiting, second);
                pass(group, 0);
                until([&] { return waiting.ended == 1; });
                if (!second) until([&] { return waiting.error != 0; });
                CHECK(waiting.error == (second ? 0 : ECANCELED));
                group[0].post([](reactor&, call_state& state) { state.tasks.reset(); }, std::ref(waiting));
                pass(group, 0);
            }
    group.join();
}
