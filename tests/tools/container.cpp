// SPDX-License-Identifier: Apache-2.0
//
// The container recipe in tools/container: that its profile is JSON and lets io_uring through, and that a tunnel can
// run under what the profile refuses. Docker itself is not run here.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <map>
#include <sstream>
#include <utility>

#include "cotun_program.hpp"

using namespace test;
using Catch::Matchers::ContainsSubstring;

namespace {

std::string recipe(const std::string& file) {
    const char* const source = std::getenv("COTUN_SOURCE");
    if (source == nullptr) SKIP("COTUN_SOURCE is not set: where the sources are");
    return std::string(source) + "/tools/container/" + file;
}

// "ACTION ERRNO NAME..." for each rule of the profile that looks at no arguments, by another program's JSON parser.
std::string rules() {
    const temporary_directory files;
    std::ofstream(files / "read.py") << "import json, sys\n"
                                        "profile = json.load(open(sys.argv[1]))\n"
                                        "print(profile['defaultAction'])\n"
                                        "for rule in profile['syscalls']:\n"
                                        "    if 'args' not in rule:\n"
                                        "        print(rule['action'], rule['errnoRet'], *rule['names'])\n";
    return output_of("python3 " + (files / "read.py") + " " + quoted(recipe("seccomp.json")));
}

// Those of the profile's names that a tunnel, or a program that starts one, could come upon.
const std::map<std::string, long> numbers{{"bpf", __NR_bpf},         {"clone3", __NR_clone3},
                                          {"keyctl", __NR_keyctl},   {"mount", __NR_mount},
                                          {"ptrace", __NR_ptrace},   {"setns", __NR_setns},
                                          {"unshare", __NR_unshare}, {"umount2", __NR_umount2},
                                          {"kcmp", __NR_kcmp},       {"userfaultfd", __NR_userfaultfd},
                                          {"add_key", __NR_add_key}, {"acct", __NR_acct}};

} // namespace

TEST_CASE("the container profile lets io_uring through, and a tunnel runs under the rest of it", "[tools]") {
    std::istringstream lines(rules());
    std::string line;
    REQUIRE(std::getline(lines, line));
    CHECK(line == "SCMP_ACT_ALLOW");
    std::vector<std::pair<long, int>> refused;
    while (std::getline(lines, line)) {
        CHECK_THAT(line, !ContainsSubstring("io_uring"));
        std::istringstream words(line);
        std::string action, name;
        int error = 0;
        REQUIRE((words >> action >> error));
        CHECK(action == "SCMP_ACT_ERRNO");
        while (words >> name)
            if (const auto at = numbers.find(name); at != numbers.end()) refused.emplace_back(at->second, error);
    }
    CHECK(refused.size() == numbers.size()); // each of them stands in the profile

    const tun_namespace here;
    const auto under_profile = [&] {
        for (const auto& [call, error] : refused)
            if (!refuse_calls({call}, error)) return false;
        return true;
    };
    if (run_cotun("doctor").status != 0) SKIP("no tunnel can run here, profile or not");
    const told t = run_prepared(cotun_path() + " doctor", under_profile);
    CAPTURE(t.output);
    CHECK(t.status == 0);
    CHECK_THAT(t.output, ContainsSubstring("mode 2"));
}

TEST_CASE("the compose file has what a tunnel needs, and its profile is there", "[tools]") {
    std::ifstream file(recipe("compose.yaml"));
    const std::string text(std::istreambuf_iterator<char>(file), {});
    CHECK_THAT(text, ContainsSubstring("cap_add: [NET_ADMIN]") && ContainsSubstring("/dev/net/tun:/dev/net/tun") &&
                         ContainsSubstring("seccomp=./seccomp.json") && ContainsSubstring("memlock:"));
    CHECK(std::filesystem::exists(recipe("seccomp.json")));
    // A full parser, where there is one.
    if (!run("python3 -c 'import yaml'").good()) return;
    const outcome parsed = run("python3 -c 'import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))[\"services\"]"
                               "[\"tunnel\"][\"cap_add\"])' " +
                               quoted(recipe("compose.yaml")));
    CHECK(parsed.output == "['NET_ADMIN']\n");
}
