// SPDX-License-Identifier: Apache-2.0
//
// `cotun monitor`: what ip(8) does is told, in order, and every line is JSON where that was asked for.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "cotun_program.hpp"

using namespace test;
using Catch::Matchers::ContainsSubstring;

namespace {

// What ip(8) does, in a fresh namespace.
void change_things() {
    for (const char* command :
         {"ip link add plain0 type veth peer name other0", "ip link set plain0 mtu 1400", "ip link set plain0 up",
          "ip addr add 10.77.0.1/24 dev plain0", "ip route add 10.78.0.0/16 via 10.77.0.9", "ip link set plain0 down",
          "ip link set plain0 name plain1", "ip link del plain1"}) {
        CAPTURE(command);
        REQUIRE(run(command).good());
    }
}

} // namespace

TEST_CASE("cotun monitor: links, addresses and routes, a JSON object a line", "[tools]") {
    const own_namespace here;
    program monitor({cotun_path(), "monitor", "--json", "--initial"});
    if (!wait_until([&] { return monitor.output().find("resynchronised") != std::string::npos || !monitor.running(); }))
        FAIL("it did not begin: " << monitor.output());
    if (!monitor.running()) SKIP("it cannot run here: " << monitor.output());
    change_things();
    const bool told_all = wait_until([&] { return monitor.output().find("\"deleted\"") != std::string::npos; });
    CAPTURE(monitor.output());
    CHECK(told_all);
    monitor.signal(SIGTERM);
    CHECK(monitor.wait() == 0);
    const temporary_directory files;
    std::ofstream(files / "lines") << monitor.output();
    std::ofstream(files / "read.py") << "import json, sys\n"
                                        "print(' '.join(e['event'] for e in map(json.loads, open(sys.argv[1]))\n"
                                        "      if e.get('name', '').startswith('plain')))\n";
    const std::string events = " " + output_of("python3 " + (files / "read.py") + " " + (files / "lines"));
    CAPTURE(events);
    std::size_t at = 0; // in this order, others between them
    for (const char* expected :
         {" link_added", " mtu_changed", " up", " address_added", " route_added", " down", " renamed", " deleted"}) {
        CAPTURE(expected);
        at = events.find(expected, at);
        REQUIRE(at != std::string::npos);
    }
    CHECK_THAT(monitor.output(), ContainsSubstring("10.77.0.1/24") && ContainsSubstring("10.78.0.0/16") &&
                                     ContainsSubstring("\"old_name\": \"plain0\""));
}

TEST_CASE("cotun monitor: as text; it ends well when it is interrupted, and when nobody reads", "[tools]") {
    const own_namespace here;
    program monitor({cotun_path(), "monitor", "--initial"});
    REQUIRE(wait_until([&] { return monitor.output().find("lo") != std::string::npos || !monitor.running(); }));
    if (!monitor.running()) SKIP("it cannot run here: " << monitor.output());
    change_things();
    const bool told_all = wait_until([&] { return monitor.output().find("plain1") != std::string::npos; });
    CAPTURE(monitor.output());
    CHECK(told_all);
    CHECK(monitor.output().find('\033') == std::string::npos);
    monitor.signal(SIGINT);
    CHECK(monitor.wait() == 0);

    const told unread = run_prepared(cotun_path() + " monitor --initial | true; true", [] { return true; });
    CHECK(unread.status == 0);
}
