// SPDX-License-Identifier: Apache-2.0
//
// `cotun tun`, seen from outside: by ip(8) and ethtool(8).
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <linux/capability.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include <cstring>

#include "cotun_program.hpp"

using namespace test;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;

namespace {

// Evaluates a Python expression over the JSON that a command prints, as `all`; returns what it prints.
std::string look(const std::string& command, const std::string& expression) {
    return output_of(command + " | python3 -c 'import json, sys; all = json.load(sys.stdin); print(" + expression +
                     ")'");
}

std::string interfaces() { return output_of("ip -o link"); }

/// An interface that a program of ours has open.
struct open_tun {
    open_tun(const std::string& name, unsigned flags)
        : descriptor(open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK)) {
        ifreq request{};
        std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
        request.ifr_flags = static_cast<short>(flags | IFF_NO_PI);
        REQUIRE(ioctl(descriptor, TUNSETIFF, &request) == 0);
    }
    open_tun(const open_tun&) = delete;
    open_tun& operator=(const open_tun&) = delete;
    ~open_tun() { close(descriptor); }
    const int descriptor;
};

} // namespace

TEST_CASE("cotun tun: one that stays, with all its options, as ip(8) sees it", "[tools]") {
    const tun_namespace here;
    const std::string before = interfaces();
    const bool others = has_other_users();
    const std::string owner = others ? "64999" : "0", group = others ? "64998" : "0";
    const told added = run_cotun("tun add ctun0 --address 10.77.0.1/24 --address fd77::1/64 --mtu 1400 --queues 4 "
                                 "--persist --owner " +
                                 owner + " --group " + group);
    CAPTURE(added.errors);
    REQUIRE(added.status == 0);
    CHECK(added.output == "ctun0\n");
    CHECK(look("ip -j -d link show ctun0",
               "all[0][\"mtu\"], \"UP\" in all[0][\"flags\"], all[0][\"linkinfo\"][\"info_kind\"]") ==
          "1400 True tun\n");
    CHECK(look("ip -j -d link show ctun0",
               "(lambda d: (d[\"type\"], d[\"multi_queue\"], d[\"persist\"], "
               "d[\"pi\"]))(all[0][\"linkinfo\"][\"info_data\"])") == "('tun', True, True, False)\n");
    const std::string details = output_of("ip -d link show ctun0");
    CHECK_THAT(details, ContainsSubstring(others ? "user 64999" : "user root") &&
                            ContainsSubstring(others ? "group 64998" : "group root"));
    CHECK_THAT(output_of("ip -j addr show ctun0"),
               ContainsSubstring("\"10.77.0.1\"") && ContainsSubstring("\"fd77::1\""));

    const std::string show = cotun_path() + " tun show ctun0 --json";
    CHECK(look(show, "all[0][\"name\"], all[0][\"kind\"], all[0][\"mtu\"], all[0][\"persistent\"], "
                     "all[0][\"multi_queue\"], all[0][\"owner\"], all[0][\"group\"]") ==
          "ctun0 tun 1400 True True " + owner + " " + group + "\n");
    CHECK(look(show, "\"10.77.0.1/24\" in all[0][\"addresses\"], \"fd77::1/64\" in all[0][\"addresses\"]") ==
          "True True\n");

    const told again = run_cotun("tun add ctun0 --persist");
    CHECK(again.status == 1);
    CHECK_THAT(again.errors, StartsWith("cotun tun: ") && ContainsSubstring("ctun0"));
    CHECK(run_cotun("tun del ctun0").status == 0);
    CHECK(interfaces() == before);
    const told gone = run_cotun("tun del ctun0");
    CHECK(gone.status == 1);
    CHECK_THAT(gone.errors, ContainsSubstring("ctun0"));
}

TEST_CASE("cotun tun: one that goes with the command", "[tools]") {
    const tun_namespace here;
    const std::string before = interfaces();
    for (const int end : {SIGTERM, SIGINT}) {
        program adding({cotun_path(), "tun", "add", "ctun%d", "--tap", "--down"});
        REQUIRE(wait_until([&] { return adding.output() == "ctun0\n"; }));
        CHECK(look("ip -j -d link show ctun0", "all[0][\"linkinfo\"][\"info_data\"][\"type\"], "
                                               "\"UP\" in all[0][\"flags\"]") == "tap False\n");
        const std::string mac = look("ip -j link show ctun0", "all[0][\"address\"]");
        CHECK(look(cotun_path() + " tun show ctun0 --json", "all[0][\"mac\"]") == mac);
        CHECK(adding.running());
        adding.signal(end);
        CHECK(adding.wait() == 0);
        CHECK(interfaces() == before);
    }
}

TEST_CASE("cotun tun: as many queues as are asked for can be had, and none of them is the command's", "[tools]") {
    const tun_namespace here;
    const std::string before = interfaces();
    constexpr unsigned flags = IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE;
    const std::string queues = cotun_path() + " tun show ctun0 --json";
    {
        program adding({cotun_path(), "tun", "add", "ctun0", "--queues", "3"});
        REQUIRE(wait_until([&] { return adding.output() == "ctun0\n"; }));
        CHECK(look("ip -j -d link show ctun0", "all[0][\"linkinfo\"][\"info_data\"][\"multi_queue\"]") == "True\n");
        const open_tun first("ctun0", flags), second("ctun0", flags);
        CHECK(look(queues, "all[0][\"queues\"]") == "2\n");
        adding.signal(SIGTERM);
        CHECK(adding.wait() == 0);
        CHECK(has_interface("ctun0")); // the queues of others keep it
    }
    CHECK(interfaces() == before);
    CHECK(run_cotun("tun add ctun0 --queues 256 --persist").status == 0); // the kernel's most
    CHECK(look(queues, "all[0][\"queues\"], all[0][\"persistent\"]") == "0 True\n");
    CHECK(run_cotun("tun del ctun0").status == 0);
    const told few = run_prepared(cotun_path() + " tun add ctun0 --queues 64 --persist", [] {
        const rlimit limit{32, 32};
        return setrlimit(RLIMIT_NOFILE, &limit) == 0;
    });
    CHECK(few.status == 1);
    CHECK_THAT(few.errors, ContainsSubstring(" of 64: "));
    CHECK(interfaces() == before); // nothing is left of what was not made whole
}

TEST_CASE("cotun tun: in another network namespace", "[tools]") {
    const tun_namespace here;
    const named_namespace there("tools");
    const std::string before = interfaces();
    const std::string netns = " --netns " + there.name();
    CHECK(run_cotun("tun add ctun0 --persist --address 10.77.0.1/24" + netns).status == 0);
    CHECK(interfaces() == before);
    CHECK_THAT(output_of("ip -n " + there.name() + " addr show ctun0"), ContainsSubstring("10.77.0.1/24"));
    CHECK_THAT(run_cotun("tun show" + netns).output, StartsWith("ctun0: tun"));
    CHECK(run_cotun("tun show").output.empty());
    CHECK(run_cotun("tun del ctun0" + netns).status == 0);
    CHECK_FALSE(run("ip -n " + there.name() + " link show ctun0").good());
    const told nowhere = run_cotun("tun show --netns no-such-namespace");
    CHECK(nowhere.status == 1);
    CHECK_THAT(nowhere.errors, ContainsSubstring("no-such-namespace"));
}

TEST_CASE("cotun tun: what is no TUN device is neither deleted nor shown", "[tools]") {
    const tun_namespace here;
    REQUIRE(run("ip link add plain0 type veth peer name plain1 && ip tuntap add ctun0 mode tun && ip tuntap add ctun1 "
                "mode tap")
                .good());
    const told t = run_cotun("tun del ctun0 plain0 ctun1"); // the others are
    CHECK(t.status == 1);
    CHECK_THAT(t.errors, ContainsSubstring("plain0 is no TUN or TAP device"));
    CHECK(has_interface("plain0"));
    CHECK_FALSE(has_interface("ctun0"));
    CHECK_FALSE(has_interface("ctun1"));
    const told shown = run_cotun("tun show plain0");
    CHECK(shown.status == 1);
    CHECK_THAT(shown.errors, ContainsSubstring("plain0"));
    CHECK(run_cotun("tun show --json").output == "[]\n");
    CHECK(run_cotun("tun show").output.empty());
}

TEST_CASE("cotun tun: counters, queues and offloads are the kernel's own", "[tools]") {
    const tun_namespace here;
    const open_tun first("ctun0", IFF_TUN | IFF_VNET_HDR | IFF_MULTI_QUEUE);
    const open_tun second("ctun0", IFF_TUN | IFF_VNET_HDR | IFF_MULTI_QUEUE);
    REQUIRE(ioctl(first.descriptor, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) == 0);
    REQUIRE(run("ip addr add 10.77.0.1/24 dev ctun0 && ip link set ctun0 up && ping -c 3 -i 0.2 -W 0.1 10.77.0.2; true")
                .good());
    const std::string show = cotun_path() + " tun show ctun0 --json";
    REQUIRE(run("ip link set ctun0 down").good()); // so that the counters rest
    CHECK(look(show, "all[0][\"statistics\"][\"sent_packets\"], all[0][\"statistics\"][\"sent_bytes\"]") ==
          look("ip -j -s link show ctun0", "all[0][\"stats64\"][\"tx\"][\"packets\"], "
                                           "all[0][\"stats64\"][\"tx\"][\"bytes\"]"));
    CHECK(look(show, "all[0][\"queues\"], all[0][\"vnet_header\"], all[0][\"multi_queue\"], all[0][\"persistent\"]") ==
          "2 True True False\n");
    CHECK(look(show, "\"tx-tcp-segmentation\" in all[0][\"offloads\"], \"tx-tcp6-segmentation\" in "
                     "all[0][\"offloads\"]") == "True True\n");
    const std::string text = run_cotun("tun show ctun0").output;
    CHECK_THAT(text, StartsWith("ctun0: tun, index ") && ContainsSubstring("queues 2 attached") &&
                         ContainsSubstring("tx-tcp-segmentation"));
    if (!is_installed("ethtool")) SKIP("the offloads were not compared: no ethtool here");
    for (const char* name : {"tx-checksum-ip-generic", "tx-tcp-segmentation", "tx-tcp6-segmentation",
                             "tx-tcp-ecn-segmentation", "tx-udp-segmentation", "tx-scatter-gather"}) {
        CAPTURE(name);
        const bool on = run(std::string("ethtool -k ctun0 | grep -q '") + name + ": on'").good();
        CHECK((text.find(name) != std::string::npos) == on);
    }
}

TEST_CASE("cotun tun: words that make no sense, and what the kernel refuses", "[tools]") {
    const tun_namespace here;
    const std::string before = interfaces();
    const struct {
        const char* words;
        int status;
        const char* said;
    } all[]{{"tun", 2, "add, del or show?"},
            {"tun ad", 2, "no command 'ad'"},
            {"tun add --mtu", 2, "'--mtu' needs a value"},
            {"tun add --mtu 12", 2, "68 to 65535"},
            {"tun add --mtu 1400x", 2, "'1400x'"},
            {"tun add --queues 0", 2, "1 to 256"},
            {"tun add --queues 257", 2, "1 to 256"},
            {"tun add --address here", 2, "prefix length"},
            {"tun add --address 10.0.0.1/33", 2, "10.0.0.1/33"},
            {"tun add --owner no-such-user", 2, "no-such-user"},
            {"tun add --owner 4294967295", 2, "0 to"},
            {"tun add --group no-such-group", 2, "no-such-group"},
            {"tun add a b", 2, "unexpected 'b'"},
            {"tun del", 2, "needs the name"},
            {"tun del --force x", 2, "'--force'"},
            {"tun show --jsno", 2, "'--jsno'"},
            {"tun show a b", 2, "unexpected 'b'"},
            {"tun add a-name-that-is-too-long --persist", 1, "15"},
            {"tun add a/b --persist", 1, "a/b"},
            {"tun add ctun0 --persist --mtu 1000 --address fd77::1/64", 1, "1280"},
            {"tun show no-such-link", 1, "no-such-link"},
            {"tun del no-such-link", 1, "no-such-link"}};
    for (const auto& [words, status, said] : all) {
        CAPTURE(words);
        const told t = run_cotun(words);
        CHECK(t.status == status);
        CHECK(t.output.empty());
        CHECK_THAT(t.errors, StartsWith("cotun") && ContainsSubstring(said));
    }
    CHECK(interfaces() == before);
    const told refused =
        run_prepared(cotun_path() + " tun add ctun0 --persist", [] { return without_capability(CAP_NET_ADMIN); });
    CHECK(refused.status == 1);
    CHECK_THAT(refused.errors, ContainsSubstring("CAP_NET_ADMIN"));
    CHECK(interfaces() == before);
}
