// SPDX-License-Identifier: Apache-2.0
//
// The example programs, whole, between network namespaces: what a user would type, with ping and iperf3 as the judges.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "../support/namespace.hpp"

using namespace test;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;

namespace {

using words = std::vector<std::string>;

std::string example(const std::string& name) {
    const char* directory = std::getenv("COTUN_EXAMPLES");
    if (directory == nullptr) SKIP("COTUN_EXAMPLES does not say where the examples are");
    std::string path = std::string(directory) + "/" + name;
    if (access(path.c_str(), X_OK) != 0) SKIP("no example " << path);
    return path;
}

/// Starts a program in a namespace; `ip netns exec` becomes the program, so signals reach it.
std::unique_ptr<program> start(const named_namespace& where, words command) {
    command.insert(command.begin(), {"ip", "netns", "exec", where.name()});
    return std::make_unique<program>(command);
}

std::string in(const named_namespace& where) { return "ip netns exec " + where.name() + " "; }

bool has_link(const named_namespace& where, const std::string& name) {
    return run("ip -n " + where.name() + " link show dev " + name).good();
}

bool wait_for_link(const named_namespace& where, const std::string& name, program& p) {
    return wait_until([&] { return has_link(where, name) || !p.running(); }) && p.running();
}

void check_ping(const named_namespace& from, const std::string& to, const std::string& options = "-c 20 -i 0.01") {
    const outcome ping = run(in(from) + "ping -W 5 " + options + " " + to);
    INFO("ping " << options << " " << to << ": " << ping.output);
    CHECK(ping.good());
    CHECK_THAT(ping.output, ContainsSubstring(" 0% packet loss"));
}

void check_iperf3(const named_namespace& client, const named_namespace& server, const std::string& address,
                  const std::string& options = "") {
    if (!is_installed("iperf3")) {
        WARN("no iperf3(1): not measured");
        return;
    }
    const auto listener = start(server, {"iperf3", "-s", "-1", "-B", address});
    outcome said;
    CHECK(wait_until([&] {
        said = run(in(client) + "iperf3 -c " + address + " -t 1 " + options);
        return said.good() || !listener->running();
    }));
    INFO(said.output << listener->output());
    CHECK(said.good());
    CHECK(listener->wait() == 0);
}

/// No packet has come to the namespace's sockets damaged, whatever has cut and merged it on its way.
void check_sums(const named_namespace& where) {
    const outcome o = run(in(where) + "nstat -asz TcpInCsumErrors UdpInCsumErrors Udp6InCsumErrors IcmpInCsumErrors "
                                      "IpInHdrErrors TcpInErrs");
    INFO(o.output);
    CHECK(o.good());
    CHECK_FALSE(run("printf '%s' '" + o.output + "' | grep -v '^#' | grep -qv ' 0 '").good());
}

/// Two namespaces, joined by a veth pair or not.
struct two_ends {
    explicit two_ends(bool joined) : left("left"), right("right") {
        need_tun();
        if (!joined) return;
        const std::string l = "ip -n " + left.name(), r = "ip -n " + right.name();
        output_of(l + " link add wire type veth peer name wire netns " + right.name());
        output_of(l + " address add 192.0.2.1/24 dev wire && " + l + " link set wire up");
        output_of(r + " address add 192.0.2.2/24 dev wire && " + r + " link set wire up");
    }
    named_namespace left, right;
};

words tunnel_end(int side, const std::string& dev, bool tap, bool offload = true) {
    const std::string own = std::to_string(side), other = std::to_string(3 - side);
    words w{example("udp_tunnel"),
            "--dev",
            dev,
            "--address",
            "10.9.0." + own + "/24,fd09::" + own + "/64",
            "--local",
            "192.0.2." + own + ":5000",
            "--peer",
            "192.0.2." + other + ":5000"};
    if (tap) w.push_back("--tap");
    if (!offload) w.push_back("--no-offload");
    return w;
}

void check_stops(const named_namespace& where, const std::string& dev, program& p, int signal) {
    p.signal(signal);
    const int status = p.wait();
    INFO(p.output());
    CHECK(status == 0);
    CHECK(p.output().empty());
    CHECK_FALSE(has_link(where, dev));
}

} // namespace

TEST_CASE("udp_tunnel carries ping and iperf3", "[netns][udp_tunnel]") {
    const bool tap = GENERATE(false, true);
    const bool offload = GENERATE(true, false); // of one end: they understand each other either way
    CAPTURE(tap, offload);
    const two_ends ends(true);
    const auto left = start(ends.left, tunnel_end(1, "t0", tap));
    const auto right = start(ends.right, tunnel_end(2, "t0", tap, offload));
    INFO("left: " << left->output() << " right: " << right->output());
    REQUIRE(wait_for_link(ends.left, "t0", *left));
    REQUIRE(wait_for_link(ends.right, "t0", *right));
    CHECK(wait_until([&] { return run(in(ends.left) + "ping -c 1 -W 1 10.9.0.2").good(); }));
    check_ping(ends.left, "10.9.0.2");
    check_ping(ends.right, "10.9.0.1");
    check_ping(ends.left, "fd09::2");
    check_ping(ends.right, "fd09::1");
    check_ping(ends.left, "10.9.0.2", "-c 10 -i 0.02 -M do -s 1392"); // 1420 bytes: the MTU
    check_ping(ends.left, "10.9.0.2", "-c 5 -i 0.05 -s 20000");       // in fragments
    check_iperf3(ends.left, ends.right, "10.9.0.2");
    check_iperf3(ends.right, ends.left, "10.9.0.1");
    check_iperf3(ends.left, ends.right, "fd09::2");
    check_iperf3(ends.left, ends.right, "10.9.0.2", "-u -b 200M -l 1300");
    check_ping(ends.left, "10.9.0.2");
    check_sums(ends.left);
    check_sums(ends.right);
    check_stops(ends.left, "t0", *left, SIGINT);
    check_stops(ends.right, "t0", *right, SIGTERM);
}

TEST_CASE("udp_tunnel waits for a peer that is not there yet, or comes back", "[netns][udp_tunnel]") {
    const two_ends ends(true);
    const auto left = start(ends.left, tunnel_end(1, "t0", false));
    REQUIRE(wait_for_link(ends.left, "t0", *left));
    for (int round = 0; round < 2; ++round) {
        CAPTURE(round);
        // Each is refused by ICMP, many of them in a row.
        CHECK_FALSE(run(in(ends.left) + "ping -c 200 -i 0.005 -W 1 10.9.0.2").good());
        REQUIRE(left->running());
        const auto right = start(ends.right, tunnel_end(2, "t0", false));
        REQUIRE(wait_for_link(ends.right, "t0", *right));
        CHECK(wait_until([&] { return run(in(ends.left) + "ping -c 1 -W 1 10.9.0.2").good(); }));
        check_ping(ends.left, "10.9.0.2");
        check_stops(ends.right, "t0", *right, round == 0 ? SIGTERM : SIGINT);
    }
    check_stops(ends.left, "t0", *left, SIGTERM);
}

TEST_CASE("udp_tunnel ends with an error when its device is deleted", "[netns][udp_tunnel]") {
    const two_ends ends(true);
    const auto left = start(ends.left, tunnel_end(1, "t0", false));
    REQUIRE(wait_for_link(ends.left, "t0", *left));
    output_of("ip -n " + ends.left.name() + " link delete t0");
    CHECK(left->wait() == 1);
    CHECK_THAT(left->output(), ContainsSubstring("t0") && ContainsSubstring("deleted"));
}

TEST_CASE("forwarder joins two namespaces", "[netns][forwarder]") {
    const std::string mode = GENERATE("", "poll");
    CAPTURE(mode);
    const two_ends ends(false);
    words command{example("forwarder"),     "--a", "f0@" + ends.left.name(),  "--address-a",
                  "10.8.0.1/24,fd08::1/64", "--b", "f0@" + ends.right.name(), "--address-b",
                  "10.8.0.2/24,fd08::2/64"};
    if (!mode.empty()) command.insert(command.end(), {"--read", mode});
    program forwarder(command);
    REQUIRE(wait_for_link(ends.left, "f0", forwarder));
    REQUIRE(wait_for_link(ends.right, "f0", forwarder));
    CHECK(wait_until([&] { return run(in(ends.left) + "ping -c 1 -W 1 10.8.0.2").good(); }));
    check_ping(ends.left, "10.8.0.2");
    check_ping(ends.right, "fd08::1");
    check_iperf3(ends.left, ends.right, "10.8.0.2");
    check_iperf3(ends.right, ends.left, "10.8.0.1");
    check_stops(ends.left, "f0", forwarder, SIGTERM);
    CHECK_FALSE(has_link(ends.right, "f0"));
}

TEST_CASE("ping_responder answers a flood", "[netns][ping_responder]") {
    need_tun();
    const named_namespace where("ping");
    const auto responder =
        start(where, {example("ping_responder"), "--dev", "p0", "--address", "10.9.0.1/24,fd09::1/64"});
    REQUIRE(wait_for_link(where, "p0", *responder));
    check_ping(where, "10.9.0.7", "-f -c 200");
    check_ping(where, "fd09::7", "-f -c 200");
    check_stops(where, "p0", *responder, SIGINT);
}

TEST_CASE("many_cores echoes on all reactors", "[netns][many_cores]") {
    const named_namespace where("cores");
    const auto server = start(where, {example("many_cores"), "--local", "127.0.0.1:7000", "--reactors", "3"});
    if (!is_installed("python3")) SKIP("no python3(1)");
    CHECK(wait_until([&] { return run(in(where) + "sh -c 'ss -Huln | grep -c :7000' | grep -q 3").good(); }));
    // Each from a port of its own.
    const outcome heard = run(in(where) + "python3 -c '" + R"(
import socket
asking = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for i in range(64)]
for i, s in enumerate(asking):
    s.settimeout(20)
    s.sendto(b"hello %d" % i, ("127.0.0.1", 7000))
print(sum(s.recv(100) == b"hello %d" % i for i, s in enumerate(asking))))" +
                              "'");
    CHECK(heard.output == "64\n");
    server->signal(SIGTERM);
    CHECK(server->wait() == 0);
    INFO(server->output());
    CHECK_THAT(server->output(), ContainsSubstring("reactor 2: "));
    const outcome refused = run(in(where) + example("many_cores") + " --local 198.51.100.1:7000 --reactors 2");
    CHECK(refused.status == 1);
    CHECK_THAT(refused.output, ContainsSubstring("198.51.100.1:7000"));
}

TEST_CASE("wrong arguments end with the usage and status 2", "[netns][arguments]") {
    const std::string name = GENERATE("udp_tunnel", "forwarder", "ping_responder", "many_cores");
    const std::string path = example(name);
    for (const char* arguments : {"", "--nonsense", "--dev", "stray", "--dev ''", "-x"}) {
        CAPTURE(name, arguments);
        const outcome o = run(path + " " + arguments);
        INFO(o.output);
        CHECK(o.status == 2);
        CHECK_THAT(o.output, ContainsSubstring("usage: " + name));
    }
    const outcome help = run(path + " --help");
    CHECK(help.status == 0);
    CHECK_THAT(help.output, ContainsSubstring("usage: " + name));
    const outcome mtu = run(example("udp_tunnel") + " --dev a0 --address 10.9.0.1/24 --local 127.0.0.1:5000" +
                            " --peer 127.0.0.1:5001 --mtu many");
    CHECK(mtu.status == 2);
}

TEST_CASE("what cannot be done ends with its reason and status 1", "[netns][arguments]") {
    need_tun();
    const named_namespace where("wrong");
    const std::string tunnel = in(where) + example("udp_tunnel") + " ";
    struct wrong {
        const char* arguments;
        const char* named;
    };
    for (const wrong& w : {
             wrong{"--dev a0 --address 10.9.0.1/33 --local 127.0.0.1:5000 --peer 127.0.0.1:5001", "10.9.0.1/33"},
             wrong{"--dev a0 --address 10.9.0.1/24, --local 127.0.0.1:5000 --peer 127.0.0.1:5001", ""},
             wrong{"--dev a0 --address 10.9.0.1/24 --local 127.0.0.1 --peer 127.0.0.1:5001", "\"127.0.0.1\""},
             wrong{"--dev a0 --address 10.9.0.1/24 --local 127.0.0.1:5000 --peer localhost:1", "localhost:1"},
             wrong{"--dev a0 --address 10.9.0.1/24 --local 198.51.100.1:5 --peer 127.0.0.1:5001", "198.51.100.1:5"},
             wrong{"--dev abcdefghijklmnop --address 10.9.0.1/24 --local 127.0.0.1:5 --peer 127.0.0.1:6", "16 bytes"},
             wrong{"--dev lo --address 10.9.0.1/24 --local 127.0.0.1:5 --peer 127.0.0.1:6", "in use"},
             wrong{"--dev a0 --address 10.9.0.1/24 --local 127.0.0.1:5 --peer 127.0.0.1:6 --mtu 67", "68"},
             wrong{"--dev a0 --address fd09::1/64 --local 127.0.0.1:5 --peer 127.0.0.1:6 --mtu 1000", "1280"},
         }) {
        CAPTURE(w.arguments);
        const outcome o = run(tunnel + w.arguments);
        INFO(o.output);
        CHECK_THAT(o.output, ContainsSubstring(w.named));
        CHECK(o.status == 1);
        CHECK_FALSE(o.output.empty());
        CHECK_FALSE(has_link(where, "a0"));
    }
    const outcome o = run(example("forwarder") + " --a f0@cotun-none --address-a 10.8.0.1/24 --b f0@cotun-none" +
                          " --address-b 10.8.0.2/24");
    CHECK(o.status == 1);
    CHECK_THAT(o.output, ContainsSubstring("cotun-none") && ContainsSubstring("ip netns add"));
}
