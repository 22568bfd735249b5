// SPDX-License-Identifier: Apache-2.0

// What the programs of tools/bench's `devices` share: what each device is given, and how the times are told.
#pragma once

#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

namespace devices {

using clock = std::chrono::steady_clock;

constexpr unsigned most = 10'000; // devices of one program
constexpr unsigned mtu = 1400;

/// The first address of the network of a device: its own, with 24 and 64 bits of prefix.
inline std::string v4_of(unsigned number) {
    return "10." + std::to_string(number / 200) + "." + std::to_string(number % 200) + ".1";
}
inline std::string v6_of(unsigned number) {
    char text[24];
    std::snprintf(text, sizeof text, "fd00:79:%x::1", number + 1);
    return text;
}
inline std::string name_of(unsigned number) { return "life" + std::to_string(number); }

/// The nanoseconds of one phase, device by device.
class phase {
public:
    /// Measures one call.
    template <class Call>
    void time(Call call) {
        const clock::time_point begin = clock::now();
        call();
        add(clock::now() - begin);
    }
    void add(clock::duration took) { each_.push_back(std::chrono::nanoseconds(took).count()); }
    void print(const char* name, const char* before) const {
        std::printf("%s\"%s\": [", before, name);
        for (std::size_t i = 0; i < each_.size(); ++i)
            std::printf("%s%lld", i == 0 ? "" : ", ", static_cast<long long>(each_[i]));
        std::printf("]");
    }

private:
    std::vector<long long> each_;
};

} // namespace devices
