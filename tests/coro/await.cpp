// SPDX-License-Identifier: Apache-2.0
//
// Who owns a task while it is awaited, wherever the task object stands, and what an await of an empty one does.
#include "cotun/coro/task.hpp"

#include "parts.hpp"

#include <array>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <cerrno>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

using namespace cotun::test;
using cotun::task;

namespace {

task<int> number(int n) {
    const counted here(n);
    co_return here.number;
}
task<int> number_after(gate& at, int n) {
    const counted here(n);
    co_await at;
    co_return here.number;
}
task<int> await_elsewhere(task<int>& elsewhere) {
    const counted here(0);
    co_return co_await std::move(elsewhere);
}
task<int> chain(gate& at, int levels) {
    const counted here(levels);
    if (levels == 0) {
        co_await at;
        throw std::runtime_error("from the bottom");
    }
    const int below = co_await chain(at, levels - 1);
    co_return below + 1;
}

int error_of(task<int> body) {
    try {
        value_of(std::move(body));
    } catch (const std::system_error& e) {
        CHECK(std::string(e.what()).find("await of an empty task; was it moved from, or awaited twice?") !=
              std::string::npos);
        return e.code().value();
    }
    return 0;
}

} // namespace

TEST_CASE("await: destroying who awaits destroys a task that stands elsewhere") {
    counted::alive = 0;
    gate g;
    task<int> elsewhere = number_after(g, 5);
    int value = 0;
    held_task parent = hold_into(await_elsewhere(elsewhere), value);
    REQUIRE(g.awaited());
    CHECK_FALSE(elsewhere);
    parent.destroy();
    CHECK(counted::alive == 0);
    CHECK(g.waits_destroyed == 1);
    CHECK_FALSE(g.awaited());
    if (g.awaited()) g.open(); // would resume the destroyed parent
    elsewhere = number(6);     // the object can be used again
    CHECK(value_of(std::move(elsewhere)) == 6);
}

TEST_CASE("await: a task object that goes first leaves its coroutine to who awaits it") {
    counted::alive = 0;
    gate g;
    auto elsewhere = std::make_unique<task<int>>(number_after(g, 5));
    int value = 0;
    held_task parent = hold_into(await_elsewhere(*elsewhere), value);
    SECTION("destroyed") { elsewhere.reset(); }
    SECTION("given another") { *elsewhere = number(1); }
    SECTION("moved away") {
        const task<int> taken = std::move(*elsewhere);
        CHECK_FALSE(taken);
    }
    REQUIRE(g.awaited());
    g.open();
    CHECK(parent.ended());
    CHECK(value == 5);
    CHECK(counted::alive == 0);
}

TEST_CASE("await: an empty task is an error that says so") {
    static constexpr auto await_default = []() -> task<int> {
        task<int> empty;
        co_return co_await std::move(empty);
    };
    static constexpr auto await_moved = []() -> task<int> {
        task<int> full = number(1);
        const task<int> taken = std::move(full);
        co_return co_await std::move(full);
    };
    static constexpr auto await_twice = [](gate* at) -> task<int> {
        task<int> once = at != nullptr ? number_after(*at, 2) : number(2);
        const int first = co_await std::move(once);
        CHECK(first == 2);
        co_return co_await std::move(once);
    };
    counted::alive = 0;
    CHECK(error_of(await_default()) == EINVAL);
    CHECK(error_of(await_moved()) == EINVAL);
    CHECK(error_of(await_twice(nullptr)) == EINVAL);
    gate g;
    int value = 0;
    held_task r = hold_into(await_twice(&g), value);
    g.open();
    REQUIRE(r.ended());
    CHECK_THROWS_AS(r.rethrow(), std::system_error);
    CHECK(counted::alive == 0);
}

TEST_CASE("await: a second await of a task while the first waits is an error, and harms nothing") {
    gate g;
    task<int> shared = number_after(g, 3);
    int value = 0;
    held_task first = hold_into(await_elsewhere(shared), value);
    CHECK(error_of(await_elsewhere(shared)) == EINVAL);
    g.open();
    CHECK(first.ended());
    CHECK(value == 3);
}

TEST_CASE("await: an exception passes five levels, each destroyed on its way") {
    counted::alive = 0;
    gate g;
    int value = 0;
    held_task r = hold_into(chain(g, 5), value);
    CHECK(counted::alive == 6);
    SECTION("thrown") {
        g.open();
        REQUIRE(r.ended());
        CHECK_THROWS_WITH(r.rethrow(), "from the bottom");
    }
    SECTION("destroyed") { r.destroy(); }
    CHECK(counted::alive == 0);
}

// Each of these suspends more than once; forms below has what each returns when it goes on to its end.
namespace {

task<std::unique_ptr<int>> owned_after(gate& at, int n) {
    auto here = std::make_unique<int>(n);
    co_await at;
    co_return here;
}
task<int&> reference_after(gate& at, int& n) {
    co_await at;
    co_return n;
}
task<counted> counted_after(gate& at, int n) {
    co_await at;
    co_return counted(n);
}
task<int> throwing_after(gate& at) {
    const counted here(1);
    co_await at;
    throw std::runtime_error("thrown late");
}

task<int> temporaries(gate& g) {
    (void)co_await number_after(g, 1);
    int sum = co_await number_after(g, 2);
    sum += co_await number_after(g, co_await number_after(g, 3));
    co_return sum + co_await number_after(g, 4) + co_await number(1);
}
task<int> locals(gate& g) {
    task<int> a = number_after(g, 1);
    task<int> b = number_after(g, 2);
    const task<int> never = number_after(g, 100);
    const int second = co_await std::move(b);
    const int first = co_await std::move(a);
    co_return 10 * first + second + (a || b ? 100 : 0);
}
struct holder {
    explicit holder(task<int> t) : first(std::move(t)) {}
    task<int> run() { co_return co_await std::move(first) + 1; }
    task<int> first;
};
task<int> members(gate& g) {
    holder h(number_after(g, 1));
    int sum = co_await std::move(h.first);
    h.first = number_after(g, 2);
    sum += co_await h.run();
    co_return sum;
}
task<int> containers(gate& g) {
    std::vector<task<int>> all;
    for (int i = 0; i < 3; ++i) all.push_back(number_after(g, i));
    int sum = 0;
    for (task<int>& t : all) sum += co_await std::move(t);
    std::map<std::string, task<int>> named;
    named.emplace("one", number_after(g, 10));
    sum += co_await std::move(named.at("one"));
    std::optional<task<int>> maybe(number_after(g, 100));
    sum += co_await std::move(*maybe);
    auto pointed = std::make_unique<task<int>>(number_after(g, 1000));
    sum += co_await std::move(*pointed);
    std::array<task<int>, 2> pair{number_after(g, 1), task<int>()};
    sum += co_await std::move(pair[0]);
    co_return sum;
}
task<int> results(gate& g) {
    int cell = 1;
    int& same = co_await reference_after(g, cell);
    same = 5;
    const std::unique_ptr<int> mine = co_await owned_after(g, 10);
    const counted got = co_await counted_after(g, 100);
    co_await reference_after(g, cell) += 1;
    co_return cell + *mine + got.number;
}
task<int> failures(gate& g) {
    int caught = 0;
    for (int i = 0; i < 2; ++i) {
        try {
            caught += co_await throwing_after(g);
        } catch (const std::runtime_error&) {
            ++caught;
        }
    }
    task<int> late = throwing_after(g);
    try {
        caught += co_await number_after(g, 10) + co_await std::move(late);
    } catch (const std::runtime_error&) {
        ++caught;
    }
    co_return caught;
}

struct form {
    const char* name;
    task<int> (*body)(gate&);
    int result;
};
constexpr std::array<form, 6> forms{{{"temporaries", temporaries, 10},
                                     {"locals", locals, 12},
                                     {"members", members, 4},
                                     {"containers", containers, 1114},
                                     {"results", results, 116},
                                     {"failures", failures, 3}}};

} // namespace

TEST_CASE("await: a task goes on, or is destroyed, at each of its suspensions") {
    for (const form& f : forms) {
        CAPTURE(f.name);
        counted::alive = 0;
        int suspensions = 0;
        {
            gate g;
            int value = 0;
            held_task r = hold_into(f.body(g), value);
            for (; !r.ended(); ++suspensions) g.open();
            r.rethrow();
            CHECK(value == f.result);
            CHECK(g.waits_destroyed == suspensions);
        }
        CHECK(suspensions > 1);
        CHECK(counted::alive == 0);
        for (int until = 0; until < suspensions; ++until) {
            gate g;
            int value = 0;
            held_task r = hold_into(f.body(g), value);
            for (int i = 0; i < until; ++i) g.open();
            r.destroy();
            CHECK_FALSE(g.awaited());
            CHECK(g.waits_destroyed == until + 1);
            CHECK(counted::alive == 0);
        }
    }
}
