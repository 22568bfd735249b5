// SPDX-License-Identifier: Apache-2.0
//
// The habits of the command line: what goes where, and with which exit status.
#include <cotun/version.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "cotun_program.hpp"

using namespace test;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;

TEST_CASE("cotun: help and version go to the standard output, with status 0", "[tools]") {
    for (const char* words : {"--help", "-h", "doctor --help", "doctor -h"}) {
        CAPTURE(words);
        const told t = run_cotun(words);
        CHECK(t.status == 0);
        CHECK_THAT(t.output, StartsWith("Usage: cotun"));
        CHECK(t.errors.empty());
    }
    const told version = run_cotun("--version");
    CHECK(version.status == 0);
    CHECK(version.output == std::string("cotun ") + cotun::version + "\n");
}

TEST_CASE("cotun: words that make no sense get status 2, and a hint, on the standard error", "[tools]") {
    const struct {
        const char* words;
        const char* said;
    } all[]{{"", "which command"},
            {"docter", "no command 'docter'"},
            {"--jsno", "no command '--jsno'"},
            {"doctor --jsno", "unknown option '--jsno'"},
            {"doctor -q", "unknown option '-q'"},
            {"doctor --binary", "'--binary' needs a value"},
            {"doctor --binary /no/such/program", "/no/such/program: No such file"},
            {"doctor now", "unexpected 'now'"}};
    for (const auto& [words, said] : all) {
        CAPTURE(words);
        const told t = run_cotun(words);
        CHECK(t.status == 2);
        CHECK(t.output.empty());
        CHECK_THAT(t.errors, StartsWith("cotun") && ContainsSubstring(said) && ContainsSubstring("--help"));
    }
}

TEST_CASE("cotun: what cannot be written is an error", "[tools]") {
    if (access("/dev/full", W_OK) != 0) SKIP("no /dev/full here");
    for (const char* words : {"--help", "doctor", "doctor --json"}) {
        CAPTURE(words);
        const told t = run_prepared(cotun_path() + " " + words + " >/dev/full", [] { return true; });
        CHECK(t.status == 1);
        CHECK_THAT(t.errors, ContainsSubstring("No space left"));
    }
}
