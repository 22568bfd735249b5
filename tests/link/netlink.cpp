// SPDX-License-Identifier: Apache-2.0
//
// Every test has a network namespace of its own, in which `ip` shows what the kernel was really told. Whatever it makes
// goes with the namespace.
#include "link/netlink.hpp"

#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <system_error>
#include <thread>
#include <utility>

#include "../support/namespace.hpp"
#include "../support/privileges.hpp"

using namespace test;
using cotun::link::link_info;
using cotun::link::netlink_socket;
using namespace cotun::wire;
using Catch::Matchers::ContainsSubstring;

namespace {

std::string ip(const std::string& arguments) { return output_of("ip " + arguments); }

// A namespace with a veth pair a0-b0.
struct paired_namespace : own_namespace {
    paired_namespace() {
        const outcome made = run("ip link add a0 type veth peer name b0");
        if (!made.good()) SKIP("no veth pair can be made with ip(8) here: " << made.output);
    }
};

template <typename Call>
std::string refusal(int error, Call call) {
    try {
        call();
    } catch (const std::system_error& refused) {
        CHECK(refused.code() == std::error_code(error, std::generic_category()));
        return refused.what();
    }
    FAIL_CHECK("it was not refused");
    return {};
}

} // namespace

TEST_CASE("a link is found by name and by index", "[link][netlink]") {
    paired_namespace here;
    netlink_socket netlink;
    const link_info lo = netlink.get_link("lo");
    CHECK(lo.index == 1);
    CHECK(lo.name == "lo");
    CHECK((lo.flags & IFF_LOOPBACK) != 0);
    CHECK((lo.flags & IFF_UP) != 0);

    ip("link set a0 address 02:00:5e:00:53:01 mtu 1400");
    const link_info a0 = netlink.get_link("a0");
    CHECK(a0.mtu == 1400);
    CHECK(a0.mac == mac_address::from_string("02:00:5e:00:53:01"));
    CHECK(a0.mtu_min == 68);
    CHECK(a0.mtu_max >= 65535);
    const link_info again = netlink.get_link(a0.index);
    CHECK(again.name == "a0");
    CHECK(again.mtu == 1400);
}

TEST_CASE("MTU, up, down and MAC are what ip shows", "[link][netlink]") {
    paired_namespace here;
    netlink_socket netlink;
    const unsigned a0 = netlink.get_link("a0").index;
    netlink.set_mtu(a0, 1280);
    netlink.set_mac(a0, mac_address::from_string("02:00:5e:00:53:07"));
    netlink.set_up(a0);
    std::string shown = ip("-j link show a0");
    CHECK_THAT(shown, ContainsSubstring("\"mtu\":1280") && ContainsSubstring("02:00:5e:00:53:07") &&
                          ContainsSubstring("\"UP\""));
    CHECK((netlink.get_link(a0).flags & IFF_UP) != 0);
    netlink.set_up(a0); // twice is no error
    netlink.set_down(a0);
    CHECK_THAT(ip("-j link show a0"), !ContainsSubstring("\"UP\"") && ContainsSubstring("\"mtu\":1280"));
    CHECK((netlink.get_link(a0).flags & IFF_UP) == 0);
}

TEST_CASE("addresses are given as ip gives them", "[link][netlink]") {
    paired_namespace here;
    netlink_socket netlink;
    const unsigned a0 = netlink.get_link("a0").index;
    CHECK(netlink.addresses(a0).empty());
    for (const ip_prefix prefix : {"10.9.0.1/24", "10.9.1.1/31", "10.9.2.1/32", "127.3.2.1/8", "0.0.0.1/0"}) {
        INFO(prefix.to_string());
        netlink.add_address(a0, prefix);
        const std::string ours = ip("-j addr show a0");
        ip("addr del " + prefix.to_string() + " dev a0");
        ip("addr add " + prefix.to_string() + " dev a0");
        CHECK(ours == ip("-j addr show a0"));
        ip("addr flush dev a0");
    }
    for (const ip_prefix prefix : {"fd00::1/64", "fd00::2/128"}) {
        INFO(prefix.to_string());
        netlink.add_address(a0, prefix);
        const std::string ours = ip("-j addr show a0");
        ip("addr del " + prefix.to_string() + " dev a0");
        ip("addr add " + prefix.to_string() + " dev a0 nodad");
        CHECK(ours == ip("-j addr show a0"));
        ip("addr flush dev a0");
    }

    netlink.add_address(a0, "fd00::1/64");
    netlink.add_address(a0, "10.9.0.1/24");
    netlink.add_address(a0, "10.9.0.2/24");
    const std::vector<ip_prefix> wanted = {"10.9.0.1/24", "10.9.0.2/24", "fd00::1/64"};
    CHECK(netlink.addresses(a0) == wanted);
    CHECK(netlink.addresses(netlink.get_link("b0").index).empty());

    netlink.set_up(netlink.get_link("b0").index);
    netlink.set_up(a0);
    CHECK_THAT(ip("route show"), ContainsSubstring("10.9.0.0/24 dev a0"));
    CHECK_THAT(ip("-6 route show"), ContainsSubstring("fd00::/64 dev a0"));
    CHECK_THAT(ip("-6 addr show dev a0 to fd00::1"), !ContainsSubstring("tentative"));
    CHECK(netlink.addresses(a0).size() >= 4); // the kernel's own link-local one, too
}

TEST_CASE("whether packets to an address stay on this machine", "[link][netlink]") {
    paired_namespace here;
    netlink_socket netlink;
    const unsigned a0 = netlink.get_link("a0").index;
    CHECK(netlink.is_delivered(ipv4_address::from_string("127.0.0.1")));
    CHECK(netlink.is_delivered(ipv6_address::from_string("::1")));
    CHECK_FALSE(netlink.is_delivered(ipv4_address::from_string("10.9.0.1"))); // no route to it at all
    CHECK_FALSE(netlink.is_delivered(ipv6_address::from_string("fd00::1")));
    netlink.add_address(a0, "10.9.0.1/24");
    netlink.add_address(a0, "fd00::1/64");
    netlink.set_up(netlink.get_link("b0").index);
    netlink.set_up(a0);
    CHECK(netlink.is_delivered(ipv4_address::from_string("10.9.0.1")));
    for (int i = 0; i < 2000 && !netlink.is_delivered(ipv6_address::from_string("fd00::1")); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    CHECK(netlink.is_delivered(ipv6_address::from_string("fd00::1")));
    CHECK_FALSE(netlink.is_delivered(ipv4_address::from_string("10.9.0.2"))); // a neighbor's
    CHECK_FALSE(netlink.is_delivered(ipv6_address::from_string("fd00::2")));
}

TEST_CASE("of an address with a peer, the link's own is listed", "[link][netlink]") {
    paired_namespace here;
    netlink_socket netlink;
    ip("addr add 10.9.0.1 peer 10.9.0.2/32 dev a0");
    ip("addr add fd00::1 peer fd00::2/128 dev a0 nodad");
    const std::vector<ip_prefix> wanted = {"10.9.0.1/32", "fd00::1/128"};
    CHECK(netlink.addresses(netlink.get_link("a0").index) == wanted);
}

TEST_CASE("a TUN device has no MAC address but all the rest", "[link][netlink]") {
    paired_namespace here;
    if (!run("ip tuntap add dev t0 mode tun").good()) SKIP("no TUN device can be made here");
    netlink_socket netlink;
    const link_info t0 = netlink.get_link("t0");
    CHECK_FALSE(t0.mac);
    netlink.set_mtu(t0.index, 1300);
    netlink.add_address(t0.index, "10.9.0.1/24");
    netlink.add_address(t0.index, "fd00::1/64");
    netlink.set_up(t0.index);
    CHECK(netlink.get_link("t0").mtu == 1300);
    const std::vector<ip_prefix> addresses = netlink.addresses(t0.index);
    CHECK(std::count(addresses.begin(), addresses.end(), ip_prefix{"10.9.0.1/24"}) == 1);
    CHECK(std::count(addresses.begin(), addresses.end(), ip_prefix{"fd00::1/64"}) == 1);
    CHECK_THAT(refusal(EOPNOTSUPP, [&] { netlink.set_mac(t0.index, mac_address::from_string("02:00:5e:00:53:01")); }),
               ContainsSubstring("link t0") && ContainsSubstring("no Ethernet address"));
    CHECK_THAT(refusal(EINVAL, [&] { netlink.set_mtu(t0.index, 70000); }), ContainsSubstring("68 to 65535"));
    netlink.delete_link(t0.index);
    CHECK_FALSE(run("ip link show t0").good());
}

TEST_CASE("a refusal says what, on which link, why, and what to do", "[link][netlink]") {
    paired_namespace here;
    netlink_socket netlink;
    const unsigned a0 = netlink.get_link("a0").index;

    CHECK_THAT(refusal(EINVAL, [&] { netlink.set_mtu(a0, 10); }), ContainsSubstring("set the MTU of link a0 to 10") &&
                                                                      ContainsSubstring("68 to 65535") &&
                                                                      ContainsSubstring("less than device minimum"));
    CHECK_THAT(refusal(EINVAL, [&] { netlink.set_mtu(a0, 0xffffffff); }), ContainsSubstring("68 to 65535"));
    netlink.add_address(a0, "10.9.0.1/24");
    CHECK_THAT(refusal(EEXIST, [&] { netlink.add_address(a0, "10.9.0.1/24"); }),
               ContainsSubstring("give link a0 the address 10.9.0.1/24") && ContainsSubstring("already"));
    netlink.add_address(a0, "fd00::1/64");
    CHECK_THAT(refusal(EEXIST, [&] { netlink.add_address(a0, "fd00::1/64"); }), ContainsSubstring("already"));
    CHECK_THAT(refusal(EADDRNOTAVAIL, [&] { netlink.add_address(a0, "ff02::1/64"); }),
               ContainsSubstring("ff02::1/64") && ContainsSubstring("multicast"));
    CHECK_THAT(refusal(EADDRNOTAVAIL, [&] { netlink.set_mac(a0, mac_address::broadcast()); }),
               ContainsSubstring("unicast"));
    CHECK_THAT(refusal(ENODEV, [&] { (void)netlink.get_link("LINK"); }), ContainsSubstring("'LINK'"));
    CHECK_THAT(refusal(ENODEV, [&] { (void)netlink.get_link(4711); }), ContainsSubstring("4711"));
    CHECK_THAT(refusal(ENODEV, [&] { netlink.set_up(4711); }), ContainsSubstring("no such link"));
    CHECK_THAT(refusal(ENODEV, [&] { netlink.set_mtu(4711, 1400); }), ContainsSubstring("the link of index 4711"));
    CHECK_THAT(refusal(ENODEV, [&] { netlink.add_address(4711, "10.0.0.1/8"); }), ContainsSubstring("no such link"));
    CHECK_THAT(refusal(ENODEV, [&] { (void)netlink.addresses(4711); }), ContainsSubstring("4711"));
    CHECK_THAT(refusal(ENODEV, [&] { netlink.delete_link(4711); }), ContainsSubstring("4711"));
    CHECK_THAT(refusal(EOPNOTSUPP, [&] { netlink.delete_link(1); }), ContainsSubstring("delete link lo"));
    CHECK_THROWS_AS(netlink.set_up(0), std::system_error);
    CHECK_THROWS_AS(netlink.delete_link(0), std::system_error);
    for (const std::string_view name : {"", "0123456789abcdef", "a/b", "a b", "a\n", "a:b", ".", ".."})
        CHECK_THAT(refusal(EINVAL, [&] { (void)netlink.get_link(name); }), ContainsSubstring("1 to 15 bytes"));
    CHECK_THAT(refusal(EINVAL, [&] { (void)netlink.get_link({"a0\0x", 4}); }), ContainsSubstring("1 to 15 bytes"));

    netlink.set_mtu(a0, 1279);
    ip("addr flush dev a0");
    CHECK_THAT(refusal(EINVAL, [&] { netlink.add_address(a0, "fd00::1/64"); }), ContainsSubstring("1280"));
    netlink.set_mtu(a0, 1500);
    std::ofstream{"/proc/sys/net/ipv6/conf/a0/disable_ipv6"} << 1;
    CHECK_THAT(refusal(EACCES, [&] { netlink.add_address(a0, "fd00::1/64"); }), ContainsSubstring("disable_ipv6"));
    CHECK(netlink.get_link("a0").mtu == 1500); // after all of these it still works
}

TEST_CASE("without CAP_NET_ADMIN the refusal names it", "[link][netlink]") {
    paired_namespace here;
    struct powerless {
        powerless() {
            REQUIRE(syscall(SYS_capget, &header, before.data()) == 0);
            std::array<__user_cap_data_struct, 2> none = before; // what is permitted stays
            none[0].effective = none[1].effective = 0;
            REQUIRE(syscall(SYS_capset, &header, none.data()) == 0);
        }
        ~powerless() {
            if (syscall(SYS_capset, &header, before.data()) != 0) std::terminate();
        }
        __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
        std::array<__user_cap_data_struct, 2> before{};
    } nobody;
    netlink_socket netlink;
    const unsigned a0 = netlink.get_link("a0").index; // looking is free
    CHECK(netlink.addresses(a0).empty());
    CHECK_THAT(refusal(EPERM, [&] { netlink.set_up(a0); }),
               ContainsSubstring("set link a0 up") && ContainsSubstring("CAP_NET_ADMIN"));
    CHECK_THAT(refusal(EPERM, [&] { netlink.add_address(a0, "10.9.0.1/24"); }), ContainsSubstring("CAP_NET_ADMIN"));
    CHECK_THAT(refusal(EPERM, [&] { netlink.set_mtu(a0, 1400); }), ContainsSubstring("CAP_NET_ADMIN"));
    CHECK_THAT(refusal(EPERM, [&] { netlink.delete_link(a0); }), ContainsSubstring("CAP_NET_ADMIN"));
}

TEST_CASE("a socket stays with the namespace it was made in", "[link][netlink]") {
    paired_namespace outer;
    netlink_socket netlink;
    ip("link set a0 mtu 1333");
    {
        paired_namespace inner;
        CHECK(netlink.get_link("a0").mtu == 1333);
        CHECK(netlink_socket{}.get_link("a0").mtu != 1333);
    }
    netlink.delete_link(netlink.get_link("a0").index);
    CHECK_FALSE(run("ip link show b0").good()); // the pair goes together
}

TEST_CASE("answers that others send are passed over", "[link][netlink]") {
    paired_namespace here;
    netlink_socket netlink;
    sockaddr_nl to{};
    to.nl_family = AF_NETLINK;
    {
        // The kernel's list of netlink sockets of this namespace has the port of the only one.
        std::ifstream list{"/proc/thread-self/net/netlink"};
        std::string line, socket, protocol;
        std::getline(list, line);
        while (list >> socket >> protocol >> line && std::getline(list, socket))
            if (protocol == "0" && line != "0") to.nl_pid = static_cast<std::uint32_t>(std::stoul(line));
    }
    REQUIRE(to.nl_pid != 0);
    const int enemy = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    REQUIRE(enemy >= 0);
    for (const std::uint32_t sequence : {1U, 2U, 3U}) {
        struct {
            nlmsghdr header;
            nlmsgerr error;
        } forged{};
        forged.header.nlmsg_len = sizeof forged;
        forged.header.nlmsg_type = NLMSG_ERROR;
        forged.header.nlmsg_seq = sequence;
        forged.header.nlmsg_pid = to.nl_pid;
        forged.error.error = -ENOTUNIQ;
        const auto sent = sendto(enemy, &forged, sizeof forged, 0, reinterpret_cast<sockaddr*>(&to), sizeof to);
        CHECK(sent == static_cast<ssize_t>(sizeof forged));
    }
    const std::array<std::byte, 40000> huge{};
    CHECK(sendto(enemy, huge.data(), huge.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof to) > 0);
    close(enemy);
    CHECK(netlink.get_link("a0").name == "a0");
    CHECK(netlink.get_link("b0").name == "b0");
    CHECK(netlink.addresses(netlink.get_link("b0").index).empty());
}

TEST_CASE("a long table is read whole, also while it changes", "[link][netlink]") {
    paired_namespace here;
    netlink_socket netlink;
    const unsigned a0 = netlink.get_link("a0").index;
    constexpr std::uint32_t count = 1000; // some 80 bytes each: more than one read
    std::vector<ip_prefix> wanted;
    for (std::uint32_t i = 0; i < count; ++i) {
        wanted.emplace_back(ipv4_address::from_number(0x0a090001 + i), 16);
        netlink.add_address(a0, wanted.back());
    }
    CHECK(netlink.addresses(a0) == wanted);

    // Another thread of the same namespace gives the other link addresses; each change may interrupt a dump. The pauses
    // are longer than a dump takes, also in a slow build: a table that never rests cannot be read.
    std::atomic<bool> stop = false;
    std::jthread busy([&, b0 = netlink.get_link("b0").index, other = netlink_socket{}]() mutable {
        for (std::uint32_t i = 0; i < 3000 && !stop; ++i) {
            other.add_address(b0, ip_prefix{ipv4_address::from_number(0x0b000001 + i), 32});
            if (i % 8 == 0) std::this_thread::sleep_for(std::chrono::milliseconds{20});
        }
    });
    bool whole = true;
    std::string refused;
    try {
        for (int i = 0; i < 30; ++i) whole = whole && netlink.addresses(a0) == wanted;
    } catch (const std::system_error& e) {
        refused = e.what();
    }
    stop = true;
    busy.join();
    CHECK(refused.empty());
    CHECK(whole);
}

TEST_CASE("a socket moves, and closes once", "[link][netlink]") {
    const std::ptrdiff_t before = open_files();
    {
        netlink_socket first;
        netlink_socket second{std::move(first)};
        CHECK(second.get_link("lo").index == 1);
        netlink_socket third;
        third = std::move(second);
        CHECK(third.get_link("lo").index == 1);
        CHECK(open_files() <= before + 2);
        CHECK_THAT(refusal(EBADF, [&] { (void)first.get_link("lo"); }), ContainsSubstring("moved from"));
    }
    CHECK(open_files() == before);
}
