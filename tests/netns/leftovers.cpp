// SPDX-License-Identifier: Apache-2.0
//
// What a test program that was killed leaves behind is cleared away by the next.
#include <catch2/catch_test_macros.hpp>

#include <sys/wait.h>

#include <filesystem>
#include <string>

#include "../support/namespace.hpp"

using namespace test;

TEST_CASE("the namespaces of programs that are gone are swept away, and no others", "[netns][support]") {
    const named_namespace ours("kept");
    const pid_t gone = fork();
    if (gone == 0) _exit(0);
    REQUIRE(waitpid(gone, nullptr, 0) == gone);
    const std::string left = namespace_prefix + std::to_string(gone) + "-left";
    output_of("ip netns add " + left);
    sweep_namespaces();
    CHECK_FALSE(std::filesystem::exists("/run/netns/" + left));
    CHECK(std::filesystem::exists(ours.path()));
}
