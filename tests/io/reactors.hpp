// SPDX-License-Identifier: Apache-2.0
//
// Reactors to test: over the scripted driver, over io_uring, or over each in turn; and tasks to run in them.
#pragma once

#include <cotun/coro/task.hpp>
#include <cotun/io/reactor.hpp>

#include "io/reactor_core.hpp"
#include "ring/scripted.hpp"
#include "ring/uring.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

namespace cotun::test {

inline std::optional<std::string> ring_refused() {
    try {
        (void)cotun::ring::make_uring({});
        return std::nullopt;
    } catch (const std::system_error& e) {
        return e.what();
    }
}

inline std::unique_ptr<reactor> over_script() {
    return std::make_unique<reactor>(std::make_unique<cotun::detail::reactor_core>(
        cotun::reactor_options{}, std::make_unique<cotun::ring::scripted>()));
}

// Each test that uses it runs over the scripted driver, and again over io_uring where the kernel has it.
inline std::unique_ptr<reactor> either() {
    const bool scripted = GENERATE(true, false);
    INFO((scripted ? "scripted driver" : "io_uring"));
    if (scripted) return over_script();
    if (const auto why = ring_refused()) SKIP(*why);
    return std::make_unique<reactor>();
}

inline std::unique_ptr<reactor> over_ring() {
    if (const auto why = ring_refused()) SKIP(*why);
    return std::make_unique<reactor>();
}

inline int code_of(const std::system_error& e) { return e.code().value(); }

struct note_end {
    explicit note_end(int& n) noexcept : count(&n) {}
    note_end(const note_end&) = delete;
    note_end& operator=(const note_end&) = delete;
    ~note_end() { ++*count; }
    int* count;
};

inline task<> sleep(reactor& io, reactor::clock::duration time) { co_await io.sleep_for(time); }

inline task<int> answer(reactor& io) {
    co_await io.yield();
    co_return 42;
}

inline task<> stay(reactor& io, std::unique_ptr<note_end>) {
    for (;;) co_await io.sleep_for(std::chrono::hours(1));
}
inline task<> for_ever(reactor& io, int& destroyed) { return stay(io, std::make_unique<note_end>(destroyed)); }

} // namespace cotun::test
