// SPDX-License-Identifier: Apache-2.0
//
// What the reactor refuses: options out of range, and use from a wrong thread.
#include "io/reactor_core.hpp"

#include "io/fail.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <fstream>
#include <string>
#include <unistd.h>

namespace cotun::detail {

void check_options(const reactor_options& options) {
    if (options.requests < 32 || options.requests > 16384)
        fail(EINVAL, fmt::format("reactor: option requests is {}; it must be 32 to 16384", options.requests));
    if (options.coalesce.count() < 0 || options.coalesce.count() > 1000)
        fail(EINVAL, fmt::format("reactor: option coalesce is {} us; it must be 0 to 1000", options.coalesce.count()));
    if (options.busy_poll.count() < 0 || options.busy_poll.count() > 100'000)
        fail(EINVAL,
             fmt::format("reactor: option busy_poll is {} us; it must be 0 to 100,000", options.busy_poll.count()));
    constexpr std::size_t most = std::size_t{1} << 30;
    if (options.timers < 1 || options.timers > most)
        fail(EINVAL, fmt::format("reactor: option timers is {}; it must be 1 to {}", options.timers, most));
    if (options.tasks < 1 || options.tasks > most)
        fail(EINVAL, fmt::format("reactor: option tasks is {}; it must be 1 to {}", options.tasks, most));
    if (options.helper_threads < 1 || options.helper_threads > 256)
        fail(EINVAL, fmt::format("reactor: option helper_threads is {}; it must be 1 to 256", options.helper_threads));
}

namespace {

std::string name_of(int thread) {
    std::string name = "?";
    std::ifstream file(fmt::format("/proc/self/task/{}/comm", thread));
    std::getline(file, name);
    return name;
}

} // namespace

// Ends the program rather than throw: a race has begun, and what it spoils may be anything.
void reactor_core::check_thread(const char* what, int runner) const noexcept {
    if (runner_number_.load(std::memory_order_relaxed) == ring::this_thread_number() || forked()) return;
    const int self = gettid();
    const std::string message = fmt::format(
        "cotun: {} on thread {} (\"{}\"), but the reactor runs on thread {} (\"{}\"): one thread a reactor; "
        "hand the work over by post()\n",
        what, self, name_of(self), runner, name_of(runner));
    std::fputs(message.c_str(), stderr);
    std::abort();
}

} // namespace cotun::detail
