// SPDX-License-Identifier: Apache-2.0
//
// The HTTP example, with curl as its client.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <csignal>
#include <cstdlib>
#include <string>

#include "../support/namespace.hpp"

using namespace test;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;

TEST_CASE("the HTTP server answers curl", "[netns][http]") {
    const char* directory = std::getenv("COTUN_EXAMPLES");
    if (directory == nullptr) SKIP("COTUN_EXAMPLES does not say where the examples are");
    if (!is_installed("curl")) SKIP("no curl(1)");
    const named_namespace where("http");
    const std::string in = "ip netns exec " + where.name() + " ";
    program server(
        {"ip", "netns", "exec", where.name(), std::string(directory) + "/http_server", "127.0.0.1:8080"});
    const std::string curl = in + "curl -s -S -m 10 ";
    const std::string url = "http://127.0.0.1:8080";
    outcome got;
    REQUIRE(wait_until([&] {
        got = run(curl + url + "/");
        return got.good() || !server.running();
    }));
    CHECK(got.output == "It works.\n");

    const outcome missing = run(curl + "-w '%{http_code}' " + url + "/none");
    CHECK(missing.output == "No such page.\n404");
    const outcome post = run(curl + "-d x=1 -w '%{http_code}' " + url + "/");
    CHECK(post.output == "GET only.\n501");
    // Three requests on one connection.
    const outcome kept = run(curl + "-w '%{num_connects}\\n' " + url + "/ " + url + "/about " + url + "/");
    INFO(kept.output);
    CHECK(kept.good());
    CHECK(kept.output == "It works.\n1\nServed by cotun.\n0\nIt works.\n0\n");
    const outcome closed = run(curl + "-H 'Connection: close' -D - " + url + "/about");
    CHECK(closed.good());
    CHECK_THAT(closed.output, ContainsSubstring("Content-Length: 17") && ContainsSubstring("Served by cotun."));
    // A head that is too long ends its connection, and nobody else's.
    const outcome large = run(curl + "-H \"X: $(head -c 9000 /dev/zero | tr '\\0' x)\" " + url + "/");
    CHECK_FALSE(large.good());
    const outcome many = run(in + "sh -c 'for i in 1 2 3 4 5 6 7 8; do curl -s -m 10 " + url + "/ & done; wait'");
    CHECK(many.output.size() == 8 * got.output.size());
    CHECK(server.running());
    server.signal(SIGTERM);
    CHECK(server.wait() == 0);
    CHECK(server.output() == "");
}
