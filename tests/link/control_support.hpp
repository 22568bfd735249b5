// SPDX-License-Identifier: Apache-2.0
//
// For the tests of link_control and link_monitor: a namespace with links in it, ip(8) as the one who knows, and runs of
// a task.
#pragma once

#include <cotun/cotun.hpp>

#include "../support/namespace.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <vector>

namespace test {

using Catch::Matchers::ContainsSubstring;
using cotun::wire::ip_address;
using cotun::wire::ip_prefix;
using cotun::wire::mac_address;

inline std::string ip(const std::string& arguments) { return output_of("ip " + arguments); }

/// A namespace with two veth pairs, a0-b0 and c0-d0, all down.
struct paired_namespace : own_namespace {
    paired_namespace() {
        const outcome made = run("ip link add a0 type veth peer name b0 && ip link add c0 type veth peer name d0");
        if (!made.good()) SKIP("no veth pair can be made with ip(8) here: " << made.output);
    }
};

/// The error of a task that must be refused, by its text.
inline std::string refusal(cotun::reactor& io, int error, cotun::task<> asked) {
    try {
        io.run(std::move(asked));
    } catch (const std::system_error& refused) {
        INFO(refused.what());
        CHECK(refused.code() == std::error_code(error, std::generic_category()));
        return refused.what();
    }
    FAIL_CHECK("it was not refused");
    return {};
}
template <class T>
cotun::task<> drop(cotun::task<T> asked) {
    (void)co_await std::move(asked);
}

} // namespace test
