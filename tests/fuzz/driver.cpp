// SPDX-License-Identifier: Apache-2.0
//
// Runs a fuzz target where there is no libFuzzer: on files, or on random inputs for some seconds. Each input's seed is
// not kept, but the input that fails is: in the file `fuzz-failed` of the working directory, which can be given again.
//
// Usage: fuzz-NAME [-max_total_time=SECONDS] [-seed=NUMBER] [FILE...]
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "../offload/streams.hpp"
#include "input.hpp"

namespace {

std::vector<std::uint8_t> current;

void keep_current() {
    if (std::FILE* file = std::fopen("fuzz-failed", "wb"); file != nullptr) {
        std::fwrite(current.data(), 1, current.size(), file);
        std::fclose(file);
        std::fprintf(stderr, "the input is in the file fuzz-failed\n");
    }
}

void on_abort(int) {
    keep_current();
    std::signal(SIGABRT, SIG_DFL);
    std::raise(SIGABRT);
}

void run_current() {
    const std::vector<std::uint8_t> exact{current.begin(), current.end()}; // of this very size, for the sanitizer
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

} // namespace

int main(int count, char** arguments) {
    double seconds = 5;
    std::uint64_t seed = std::random_device()();
    std::vector<std::string> files;
    for (int i = 1; i < count; ++i) {
        const std::string argument = arguments[i];
        if (argument.starts_with("-max_total_time="))
            seconds = std::stod(argument.substr(16));
        else if (argument.starts_with("-seed="))
            seed = std::stoull(argument.substr(6));
        else if (!argument.starts_with("-"))
            files.push_back(argument);
    }
    std::signal(SIGABRT, on_abort);
    for (const std::string& file : files) {
        std::ifstream from{file, std::ios::binary};
        current.assign(std::istreambuf_iterator<char>{from}, {});
        run_current();
    }
    if (!files.empty()) return 0;

    std::fprintf(stderr, "-seed=%llu\n", static_cast<unsigned long long>(seed));
    cotun::test::quick_dice roll{seed};
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    std::uint64_t runs = 0;
    for (; std::chrono::steady_clock::now() < end; ++runs) {
        if (runs % 4 != 0 && !current.empty()) { // the last one, changed a little
            for (std::size_t changes = 1 + roll(4); changes > 0; --changes)
                current[roll(current.size())] = static_cast<std::uint8_t>(roll(4) == 0 ? roll(4) : roll(256));
        } else {
            current.resize(roll(roll(2) == 0 ? 64 : 600));
            const std::size_t most = roll(2) == 0 ? 256 : 1 + roll(256); // small numbers are frequent
            for (std::uint8_t& b : current) b = static_cast<std::uint8_t>(roll(most));
        }
        run_current();
    }
    std::fprintf(stderr, "%llu inputs\n", static_cast<unsigned long long>(runs));
    return 0;
}
