// SPDX-License-Identifier: Apache-2.0

// What the programs of tools/bench's `runtime` share, so that they differ in nothing but the library: how long a row
// runs, what is counted, and how it is told: one line of JSON on stdout.
#pragma once

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <sched.h>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <unistd.h>
#include <vector>

namespace runtime {

constexpr unsigned spawned = 100;          // tasks that are spawned and joined together
constexpr unsigned standing_timers = 1000; // that the timer row's come and go beside, all later
constexpr unsigned burst = 256;            // functions that the burst row posts before it waits
constexpr std::size_t message_bytes = 64;  // of a request, and of its answer
constexpr std::size_t buffer_bytes = 4096;

/// Counts operations over an interval, after a warm-up of a tenth of it, with the processor time of all threads.
class meter {
public:
    using clock = std::chrono::steady_clock;

    explicit meter(double seconds)
        : length_(std::chrono::duration_cast<clock::duration>(std::chrono::duration<double>(seconds))) {}

    /// To be called after every thousand operations or so. False when the time is over.
    bool goes_on(std::uint64_t operations) {
        const clock::time_point now = clock::now();
        if (first_ == clock::time_point{}) first_ = now;
        if (begin_ == clock::time_point{}) {
            if (now - first_ < length_ / 10) return true;
            begin_ = now;
            cpu_ = cpu_seconds();
            return true;
        }
        operations_ += operations;
        if (now - begin_ < length_) return true;
        seconds_ = std::chrono::duration<double>(now - begin_).count();
        cpu_ = cpu_seconds() - cpu_;
        return false;
    }

    void print() const {
        std::printf("{\"operations\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n",
                    static_cast<unsigned long long>(operations_), seconds_, cpu_);
    }

private:
    static double cpu_seconds() {
        timespec time{};
        ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
    }

    clock::duration length_;
    clock::time_point first_{};
    clock::time_point begin_{};
    std::uint64_t operations_ = 0;
    double seconds_ = 0;
    double cpu_ = 0;
};

/// Puts the calling thread on the first (0) or the second (1) of the CPUs that the process was given, if there are two.
inline void take_cpu(int which) {
    static const cpu_set_t given = [] {
        cpu_set_t all;
        ::sched_getaffinity(0, sizeof all, &all);
        return all;
    }();
    if (CPU_COUNT(&given) < 2) return;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &given) || which-- != 0) continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        ::sched_setaffinity(0, sizeof one, &one);
    }
}

/// Tells the load where to connect to. A server then serves until it is killed.
inline void announce(unsigned port) {
    std::printf("{\"port\": %u}\n", port);
    std::fflush(stdout);
}

/// The result goes somewhere, or the compiler would leave out what made it.
inline void use(std::uint64_t value) { asm volatile("" : : "r"(value)); }

struct row {
    std::string_view name;
    void (*run)(meter&);
};

/// The whole of main(): a program takes a row's name and the seconds.
inline int run_row(int argc, char** argv, const std::vector<row>& rows) {
    try {
        double seconds = 0;
        if (argc == 3) {
            const std::string_view text = argv[2];
            if (std::from_chars(text.data(), text.data() + text.size(), seconds).ec != std::errc()) seconds = 0;
        }
        for (const row& r : rows) {
            if (!(seconds > 0) || r.name != argv[1]) continue;
            meter m(seconds);
            r.run(m);
            m.print();
            return 0;
        }
        std::string known;
        for (const row& r : rows) known.append(" ").append(r.name);
        std::fprintf(stderr, "usage: %s ROW SECONDS\nrows:%s\n", argv[0], known.c_str());
        return 2;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
        return 1;
    }
}

} // namespace runtime
