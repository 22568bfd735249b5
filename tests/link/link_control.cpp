// SPDX-License-Identifier: Apache-2.0
//
// Each operation of link_control, as ip(8) sees it.
#include "../support/privileges.hpp"
#include "control_support.hpp"

#include <linux/if.h>
#include <linux/if_addr.h>

using namespace test;
using namespace std::chrono_literals;
using cotun::link_address;
using cotun::link_control;
using cotun::link_info;

TEST_CASE("links are made, changed and deleted", "[link][control]") {
    own_namespace here;
    cotun::reactor io;
    link_control links(io);
    const mac_address mac = mac_address::from_string("02:00:5e:00:53:01");
    const mac_address peer_mac = mac_address::from_string("02:00:5e:00:53:02");

    const link_info a0 =
        io.run(links.create_veth({.name = "a0", .peer_name = "b0", .mtu = 1400, .mac = mac, .peer_mac = peer_mac}));
    CHECK(a0.name == "a0");
    CHECK(a0.kind == "veth");
    CHECK(a0.mtu == 1400);
    CHECK(a0.mac == mac);
    CHECK(a0.peer == io.run(links.get_link("b0")).index);
    std::string seen = ip("-d -j link show a0");
    CHECK_THAT(seen, ContainsSubstring(R"("mtu":1400)") && ContainsSubstring("02:00:5e:00:53:01") &&
                         ContainsSubstring(R"("info_kind":"veth")"));
    CHECK_THAT(ip("-d -j link show b0"), ContainsSubstring("02:00:5e:00:53:02") && ContainsSubstring(R"("mtu":1400)"));

    const link_info br0 = io.run(links.create_bridge({.name = "br0", .spanning_tree = true}));
    CHECK(br0.kind == "bridge");
    CHECK_THAT(ip("-d -j link show br0"),
               ContainsSubstring(R"("info_kind":"bridge")") && ContainsSubstring(R"("stp_state":1)"));
    io.run(links.set_master("a0", "br0"));
    CHECK_THAT(ip("-j link show a0"), ContainsSubstring(R"("master":"br0")"));
    CHECK(io.run(links.get_link(a0)).master == br0.index);
    io.run(links.clear_master(a0.index));
    CHECK_THAT(ip("-j link show a0"), !ContainsSubstring("master"));

    io.run(links.set_up("a0"));
    io.run(links.set_up("b0"));
    CHECK_THAT(ip("-j link show a0"), ContainsSubstring(R"("UP")"));
    CHECK(wait_until([&] { return io.run(links.get_link("a0")).carrier; }));
    CHECK(wait_until([&] { return io.run(links.get_link("a0")).state == cotun::operational_state::up; }));
    CHECK_THAT(ip("-j link show a0"), ContainsSubstring(R"("operstate":"UP")"));
    io.run(links.set_down("a0"));
    CHECK_THAT(ip("-j link show a0"), !ContainsSubstring(R"("UP")"));

    io.run(links.set_mtu("a0", 1300));
    io.run(links.set_mac("a0", mac_address::from_string("02:00:5e:00:53:07")));
    io.run(links.set_transmit_queue_length("a0", 77));
    io.run(links.set_gso_max_size("a0", 20000));
    io.run(links.rename("a0", "new0"));
    seen = ip("-d -j link show new0");
    CHECK_THAT(seen, ContainsSubstring(R"("mtu":1300)") && ContainsSubstring("02:00:5e:00:53:07") &&
                         ContainsSubstring(R"("txqlen":77)") && ContainsSubstring(R"("gso_max_size":20000)"));
    const link_info new0 = io.run(links.get_link("new0"));
    CHECK(new0.index == a0.index);
    CHECK(new0.transmit_queue_length == 77);
    CHECK(new0.gso_max_size == 20000);

    const std::vector<link_info> all = io.run(links.links());
    CHECK(all.size() == 4); // lo too
    io.run(links.delete_link("new0"));
    CHECK_FALSE(has_interface("b0")); // the pair goes together
    io.run(links.delete_link("br0"));
    CHECK(ip("-j link") == ip("-j link show lo"));
}

TEST_CASE("what the kernel may lack is made where it is there, and named where it is not", "[link][control]") {
    own_namespace here;
    cotun::reactor io;
    link_control links(io);
    if (run("ip link add x0 type dummy").good()) {
        CHECK(io.run(links.create_dummy({.name = "du0", .mtu = 9000})).kind == "dummy");
        CHECK_THAT(ip("-d -j link show du0"), ContainsSubstring(R"("mtu":9000)"));
    } else {
        CHECK_THAT(refusal(io, EOPNOTSUPP, drop(links.create_dummy({.name = "du0"}))),
                   ContainsSubstring("create the dummy link du0") && ContainsSubstring("modprobe"));
    }
    if (run("ip link add x1 type bridge vlan_filtering 1").good()) {
        io.run(links.create_bridge({.name = "br0", .vlan_filtering = true}));
        CHECK_THAT(ip("-d -j link show br0"), ContainsSubstring(R"("vlan_filtering":1)"));
    } else {
        CHECK_THAT(refusal(io, EOPNOTSUPP, drop(links.create_bridge({.name = "br0", .vlan_filtering = true}))),
                   ContainsSubstring("create the bridge br0") && ContainsSubstring("VLAN_FILTERING"));
    }
}

TEST_CASE("a TUN device is told of with what is its own", "[link][control]") {
    tun_namespace here;
    cotun::reactor io;
    link_control links(io);
    const unsigned owner = has_other_users() ? 1234 : 0;
    ip("tuntap add dev t0 mode tun multi_queue user " + std::to_string(owner));
    const link_info t0 = io.run(links.get_link("t0"));
    REQUIRE(t0.tun);
    CHECK(t0.kind == "tun");
    CHECK_FALSE(t0.mac);
    CHECK_FALSE(t0.tun->tap);
    CHECK(t0.tun->persistent);
    CHECK(t0.tun->multi_queue);
    CHECK(t0.tun->owner == owner);
    CHECK_FALSE(t0.tun->group);
    ip("tuntap add dev p0 mode tap");
    CHECK(io.run(links.get_link("p0")).tun->tap);

    cotun::device dev = cotun::open_tun(io, {.name = "t1", .addresses = {"10.9.0.1/24"}});
    output_of("ping -c 2 -i 0.01 -W 0.1 10.9.0.2 || true");
    CHECK(wait_until([&] {
        io.run(io.sleep_for(1ms)); // it is the reactor that reads
        return io.run(links.get_link(dev.index())).statistics.sent_packets >= 2;
    }));
    CHECK(io.run(links.get_link("lo")).statistics == cotun::link_statistics{});
}

TEST_CASE("links are made in, and move to, other namespaces", "[link][control]") {
    own_namespace here;
    const named_namespace there("control");
    cotun::reactor io;
    link_control links(io);
    link_control links_there(io, {.netns = there.name()});
    const std::string ip_there = "-n " + there.name() + " ";

    const link_info a0 = io.run(links.create_veth({.name = "a0", .peer_name = "b0", .peer_netns = there.path()}));
    CHECK(a0.peer_namespace.has_value());
    CHECK_FALSE(has_interface("b0"));
    CHECK_THAT(ip(ip_there + "-j link show b0"), ContainsSubstring("b0"));
    io.run(links_there.set_mtu("b0", 1234));
    CHECK_THAT(ip(ip_there + "-j link show b0"), ContainsSubstring(R"("mtu":1234)"));

    io.run(links.move_to("a0", there.name(), "moved0"));
    CHECK_FALSE(has_interface("a0"));
    CHECK_THAT(ip(ip_there + "-j link show moved0"), ContainsSubstring("moved0"));
    const cotun::network_namespace home = cotun::network_namespace::current();
    io.run(links_there.move_to("moved0", home));
    CHECK(has_interface("moved0"));
    CHECK(current_namespace().second == home.inode()); // nobody has moved us

    io.run(links.create_veth({.name = "b0", .peer_name = "z0"}));
    CHECK_THAT(refusal(io, EEXIST, links.move_to("b0", there.name())), ContainsSubstring("another for it to have"));
    CHECK_THAT(refusal(io, EINVAL, links.move_to("lo", there.name())), ContainsSubstring("move link lo to"));
    CHECK_THAT(refusal(io, ENOENT, links.move_to("b0", "cotun-test-none")), ContainsSubstring("cotun-test-none"));
    CHECK_THAT(refusal(io, ENOENT, drop(links.create_veth({.name = "x0", .peer_name = "y0", .peer_netns = "/none"}))),
               ContainsSubstring("/none"));
    CHECK_THROWS_AS(link_control(io, {.netns = "cotun-test-none"}), std::system_error);
}

TEST_CASE("addresses are added, replaced, listed and deleted", "[link][control]") {
    paired_namespace here;
    cotun::reactor io;
    link_control links(io);
    io.run(links.add_address("a0", "10.9.0.1/24"));
    io.run(links.add_address("a0", "10.9.0.2/24"));
    io.run(links.add_address("a0", "fd00::1/64"));
    io.run(
        links.add_address("a0", link_address{.address = "10.7.0.1/32", .peer = ip_address::from_string("10.7.0.2")}));
    io.run(links.add_address(
        "a0", link_address{.address = "10.6.0.1/24", .broadcast = ip_address::from_string("10.6.0.255")}));
    io.run(links.add_address("a0", link_address{.address = "fd00::2/64", .no_dad = false}));
    io.run(links.add_address("a0",
                             link_address{.address = "10.5.0.1/24", .lifetimes = {.valid = 1000s, .preferred = 500s}}));
    const std::string seen = ip("-j addr show a0");
    CHECK_THAT(seen, ContainsSubstring(R"("local":"10.9.0.1","prefixlen":24)"));
    CHECK_THAT(seen, ContainsSubstring(R"("local":"10.9.0.2","prefixlen":24)"));
    CHECK_THAT(seen, ContainsSubstring(R"("local":"fd00::1","prefixlen":64)"));
    CHECK_THAT(seen, ContainsSubstring(R"("local":"10.7.0.1","address":"10.7.0.2","prefixlen":32)"));
    CHECK_THAT(seen, ContainsSubstring(R"("local":"10.6.0.1","prefixlen":24,"broadcast":"10.6.0.255")"));
    CHECK_THAT(seen, ContainsSubstring(R"("valid_life_time":1000,"preferred_life_time":500)"));

    const std::vector<link_address> all = io.run(links.addresses("a0"));
    CHECK(all.size() == 7);
    CHECK(io.run(links.addresses("b0")).empty());
    CHECK(io.run(links.addresses()).size() == 9); // and lo's
    const auto of = [&](const char* prefix) {
        return *std::find_if(all.begin(), all.end(),
                             [&](const link_address& a) { return a.address == ip_prefix(prefix); });
    };
    CHECK(of("10.7.0.1/32").peer == ip_address::from_string("10.7.0.2"));
    CHECK(of("10.6.0.1/24").broadcast == ip_address::from_string("10.6.0.255"));
    CHECK(of("10.5.0.1/24").lifetimes.valid == 1000s);
    CHECK_FALSE(of("10.9.0.1/24").lifetimes.valid);
    CHECK(of("fd00::1/64").no_dad);
    CHECK_FALSE(of("fd00::2/64").no_dad);
    CHECK((of("fd00::2/64").flags & IFA_F_TENTATIVE) != 0); // the link is down

    io.run(links.replace_address("a0", link_address{.address = "10.9.0.1/24", .lifetimes = {.valid = 700s}}));
    CHECK_THAT(ip("-j addr show a0 to 10.9.0.1"), ContainsSubstring(R"("valid_life_time":700)"));
    CHECK_THAT(refusal(io, EEXIST, links.add_address("a0", "10.9.0.1/24")),
               ContainsSubstring("give link a0 the address 10.9.0.1/24") && ContainsSubstring("already"));

    io.run(links.delete_address("a0",
                                link_address{.address = "10.7.0.1/32", .peer = ip_address::from_string("10.7.0.2")}));
    io.run(links.delete_address("a0", "fd00::1/64"));
    io.run(links.delete_address("a0", "10.9.0.1/24"));
    CHECK_THAT(ip("-j addr show a0"), !ContainsSubstring("10.7.0.1") && !ContainsSubstring("\"fd00::1\"") &&
                                          !ContainsSubstring("\"10.9.0.1\""));
    CHECK_THAT(refusal(io, EADDRNOTAVAIL, links.delete_address("a0", "10.9.0.1/24")),
               ContainsSubstring("take the address 10.9.0.1/24 from link a0"));
}

TEST_CASE("routes are added, replaced, asked for, listed and deleted", "[link][control]") {
    paired_namespace here;
    cotun::reactor io;
    link_control links(io);
    io.run(links.add_address("a0", "10.9.0.1/24"));
    io.run(links.add_address("a0", "fd00::1/64"));
    io.run(links.set_up("b0"));
    io.run(links.set_up("a0"));
    const ip_address gateway = ip_address::from_string("10.9.0.2"), gateway6 = ip_address::from_string("fd00::2");

    io.run(links.add_route({.destination = "0.0.0.0/0", .gateway = gateway}));
    io.run(links.add_route({.destination = "10.1.0.0/16", .device = "a0", .metric = 50, .mtu = 1280}));
    io.run(links.add_route({.destination = "10.2.0.0/16",
                            .gateway = gateway,
                            .table = 1000,
                            .preferred_source = ip_address::from_string("10.9.0.1")}));
    io.run(links.add_route({.destination = "10.3.0.0/16", .type = cotun::route_type::blackhole}));
    io.run(links.add_route({.destination = "10.4.0.0/16", .type = cotun::route_type::unreachable}));
    io.run(links.add_route({.destination = "10.5.0.0/16",
                            .gateway = ip_address::from_string("10.99.0.1"),
                            .device = "a0",
                            .on_link = true}));
    io.run(links.add_route({.destination = "10.6.0.0/16", .gateway = gateway6, .device = "a0"})); // IPv4 by IPv6
    io.run(links.add_route({.destination = "::/0", .gateway = gateway6}));
    io.run(links.add_route({.destination = "fd01::/48", .device = "a0", .metric = 7}));
    io.run(links.add_route({.destination = "fd02::/48", .type = cotun::route_type::blackhole}));

    const std::string four = ip("-j route show table all");
    CHECK_THAT(four, ContainsSubstring(R"("dst":"default","gateway":"10.9.0.2","dev":"a0")"));
    CHECK_THAT(ip("-j route show 10.1.0.0/16"), ContainsSubstring(R"("metric":50)") &&
                                                    ContainsSubstring(R"("mtu":1280)") &&
                                                    ContainsSubstring(R"("scope":"link")"));
    CHECK_THAT(ip("-j route show table 1000"),
               ContainsSubstring("10.2.0.0/16") && ContainsSubstring(R"("prefsrc":"10.9.0.1")"));
    CHECK_THAT(ip("-j route show 10.3.0.0/16"), ContainsSubstring(R"("type":"blackhole")"));
    CHECK_THAT(ip("-j route show 10.4.0.0/16"), ContainsSubstring(R"("type":"unreachable")"));
    CHECK_THAT(ip("-j route show 10.5.0.0/16"), ContainsSubstring("onlink"));
    CHECK_THAT(ip("-j route show 10.6.0.0/16"), ContainsSubstring(R"("via":{"family":"inet6","host":"fd00::2"})"));
    CHECK_THAT(ip("-j -6 route show default"), ContainsSubstring("fd00::2"));
    CHECK_THAT(ip("-j -6 route show fd01::/48"), ContainsSubstring(R"("metric":7)"));
    CHECK_THAT(ip("-j -6 route show type blackhole"), ContainsSubstring("fd02::/48"));

    const std::vector<cotun::ip_route> mains = io.run(links.routes({.table = cotun::main_table}));
    const auto of = [&](const char* prefix) {
        const auto found = std::find_if(mains.begin(), mains.end(),
                                        [&](const cotun::ip_route& r) { return r.destination == ip_prefix(prefix); });
        return found == mains.end() ? cotun::ip_route{.destination = "9.9.9.9/32"} : *found;
    };
    CHECK(of("0.0.0.0/0").gateway == gateway);
    CHECK(of("0.0.0.0/0").device == "a0");
    CHECK(of("10.1.0.0/16").mtu == 1280);
    CHECK(of("10.1.0.0/16").metric == 50);
    CHECK(of("10.3.0.0/16").type == cotun::route_type::blackhole);
    CHECK(of("10.5.0.0/16").on_link);
    CHECK(of("10.6.0.0/16").gateway == gateway6);
    CHECK(of("::/0").gateway == gateway6);
    CHECK(of("10.2.0.0/16").destination == ip_prefix("9.9.9.9/32"));
    const auto of_1000 = io.run(links.routes({.table = 1000}));
    REQUIRE(of_1000.size() == 1);
    CHECK(of_1000[0].preferred_source == ip_address::from_string("10.9.0.1"));
    CHECK(io.run(links.routes()).size() > mains.size() + 1); // the local table's

    const cotun::ip_route way = io.run(links.get_route(ip_address::from_string("8.8.8.8")));
    CHECK(way.gateway == gateway);
    CHECK(way.device == "a0");
    CHECK(way.preferred_source == ip_address::from_string("10.9.0.1"));
    CHECK(io.run(links.get_route(ip_address::from_string("10.9.0.1"))).type == cotun::route_type::local);

    io.run(links.replace_route({.destination = "0.0.0.0/0", .gateway = ip_address::from_string("10.9.0.3")}));
    CHECK_THAT(ip("-j route show default"), ContainsSubstring("10.9.0.3") && !ContainsSubstring("10.9.0.2"));
    io.run(links.delete_route({.destination = "0.0.0.0/0"}));
    io.run(links.delete_route({.destination = "10.2.0.0/16", .table = 1000}));
    io.run(links.delete_route({.destination = "10.3.0.0/16", .type = cotun::route_type::blackhole}));
    io.run(links.delete_route({.destination = "::/0"}));
    CHECK(ip("route show default").empty());
    CHECK(ip("-6 route show default").empty());
    CHECK(ip("route show 10.3.0.0/16").empty());

    CHECK_THAT(
        refusal(io, ENETUNREACH,
                links.add_route({.destination = "10.8.0.0/16", .gateway = ip_address::from_string("172.16.0.1")})),
        ContainsSubstring("add the route to 10.8.0.0/16 by 172.16.0.1") && ContainsSubstring("no address of a link"));
    CHECK_THAT(refusal(io, EEXIST, links.add_route({.destination = "10.1.0.0/16", .device = "a0", .metric = 50})),
               ContainsSubstring("on link a0") && ContainsSubstring("metric 50") && ContainsSubstring("already"));
    CHECK_THAT(refusal(io, EINVAL, links.add_route({.destination = "10.8.0.1/16", .device = "a0"})),
               ContainsSubstring("zeros behind its prefix"));
    CHECK_THAT(refusal(io, ESRCH, links.delete_route({.destination = "10.8.0.0/16"})),
               ContainsSubstring("no such route"));
    CHECK_THAT(refusal(io, ENODEV, links.add_route({.destination = "10.8.0.0/16", .device = "none0"})),
               ContainsSubstring("'none0'"));
    CHECK_THAT(refusal(io, ENETUNREACH, drop(links.get_route(ip_address::from_string("8.8.8.8")))),
               ContainsSubstring("find a route to 8.8.8.8"));
}

TEST_CASE("routes with several next hops are added, replaced, told of and deleted", "[link][control]") {
    paired_namespace here;
    cotun::reactor io;
    link_control links(io);
    for (const char* name : {"b0", "a0", "d0", "c0"}) io.run(links.set_up(name));
    io.run(links.add_address("a0", "10.9.0.1/24"));
    io.run(links.add_address("c0", "10.10.0.1/24"));
    for (const char* name : {"a0", "c0"}) {
        link_address six{.address = name[0] == 'a' ? "fd00::1/64" : "fd01::1/64"};
        six.no_dad = true;
        io.run(links.add_address(name, six));
    }
    const cotun::ip_next_hop first{.gateway = ip_address::from_string("10.9.0.2"), .weight = 3};
    const cotun::ip_next_hop second{.gateway = ip_address::from_string("10.10.0.2"), .device = "c0"};
    const cotun::ip_next_hop by_six{.gateway = ip_address::from_string("fd00::2"), .device = "a0", .weight = 256};
    const cotun::ip_next_hop to_link{.device = "c0"};
    const cotun::ip_next_hop far{
        .gateway = ip_address::from_string("172.16.0.1"), .device = "c0", .weight = 2, .on_link = true};

    io.run(links.add_route({.destination = "10.20.0.0/16"}, {first, second}));
    CHECK_THAT(ip("-j route show 10.20.0.0/16"),
               ContainsSubstring(R"({"gateway":"10.9.0.2","dev":"a0","weight":3,"flags":[]})") &&
                   ContainsSubstring(R"({"gateway":"10.10.0.2","dev":"c0","weight":1,"flags":[]})"));
    io.run(links.add_route({.destination = "10.21.0.0/16", .metric = 9, .table = 1000}, {by_six, to_link, far}));
    CHECK_THAT(ip("-j route show table 1000"),
               ContainsSubstring(R"("via":{"family":"inet6","host":"fd00::2"},"dev":"a0","weight":256)") &&
                   ContainsSubstring(R"("metric":9)") && ContainsSubstring(R"("172.16.0.1","dev":"c0","weight":2)") &&
                   ContainsSubstring("onlink"));
    const cotun::ip_next_hop six_a{.gateway = ip_address::from_string("fd00::2"), .weight = 2};
    const cotun::ip_next_hop six_c{.gateway = ip_address::from_string("fd01::2")};
    io.run(links.add_route({.destination = "fd20::/48"}, {six_a, six_c}));
    CHECK_THAT(ip("-j -6 route show fd20::/48"), ContainsSubstring(R"("gateway":"fd00::2","dev":"a0","weight":2)") &&
                                                     ContainsSubstring(R"("gateway":"fd01::2","dev":"c0","weight":1)"));

    std::vector<cotun::ip_next_hop> told = io.run(links.next_hops({.destination = "10.20.0.0/16"}));
    REQUIRE(told.size() == 2);
    CHECK(told[0].gateway == first.gateway);
    CHECK(told[0].weight == 3);
    CHECK(told[0].device == "a0");
    CHECK(told[1].gateway == second.gateway);
    CHECK(told[1].device == "c0");
    told = io.run(links.next_hops({.destination = "10.21.0.0/16", .metric = 9, .table = 1000}));
    REQUIRE(told.size() == 3);
    CHECK(told[0].gateway == by_six.gateway);
    CHECK(told[0].weight == 256);
    CHECK_FALSE(told[1].gateway);
    CHECK(told[2].on_link);
    CHECK(io.run(links.next_hops({.destination = "fd20::/48"})).size() == 2);
    told = io.run(links.next_hops({.destination = "10.9.0.0/24"})); // the kernel's own, with one
    REQUIRE(told.size() == 1);
    CHECK(told[0].device == "a0");
    for (const cotun::ip_route& r : io.run(links.routes()))
        if (r.destination == ip_prefix("10.21.0.0/16")) CHECK(r.more_hops == 2);

    io.run(links.replace_route({.destination = "10.20.0.0/16"}, {second, to_link}));
    CHECK_THAT(ip("-j route show 10.20.0.0/16"),
               ContainsSubstring("10.10.0.2") && !ContainsSubstring("10.9.0.2") && ContainsSubstring("nexthops"));
    io.run(links.replace_route({.destination = "10.20.0.0/16", .gateway = first.gateway})); // and by one
    CHECK_THAT(ip("-j route show 10.20.0.0/16"), !ContainsSubstring("nexthops") && ContainsSubstring("10.9.0.2"));
    io.run(links.delete_route({.destination = "10.21.0.0/16", .table = 1000}));
    io.run(links.delete_route({.destination = "fd20::/48"}));
    CHECK(ip("route show table 1000").empty());
    CHECK(ip("-6 route show fd20::/48").empty());

    const cotun::ip_route nowhere{.destination = "10.22.0.0/16"};
    const cotun::ip_next_hop unreachable{.gateway = ip_address::from_string("192.0.2.1")};
    CHECK_THAT(refusal(io, ENETUNREACH, links.add_route(nowhere, {first, unreachable})),
               ContainsSubstring("10.22.0.0/16 by 10.9.0.2 (weight 3), 192.0.2.1") &&
                   ContainsSubstring("no address of a link"));
    CHECK_THAT(refusal(io, EEXIST, links.add_route({.destination = "10.20.0.0/16"}, {second})),
               ContainsSubstring("already"));
    CHECK_THAT(refusal(io, EINVAL, links.add_route(nowhere, {})), ContainsSubstring("a next hop"));
    CHECK_THAT(refusal(io, EINVAL, links.add_route(nowhere, {cotun::ip_next_hop{}})),
               ContainsSubstring("a gateway or a device"));
    CHECK_THAT(refusal(io, EINVAL, links.add_route(nowhere, {cotun::ip_next_hop{.device = "a0", .weight = 257}})),
               ContainsSubstring("1 to 256"));
    CHECK_THAT(refusal(io, EINVAL, links.add_route({.destination = "10.22.0.0/16", .device = "a0"}, {first})),
               ContainsSubstring("not both"));
    CHECK_THAT(refusal(io, ENODEV, links.add_route(nowhere, {cotun::ip_next_hop{.device = "none0"}})),
               ContainsSubstring("'none0'"));
    CHECK_THAT(refusal(io, ESRCH, drop(links.next_hops(nowhere))), ContainsSubstring("10.22.0.0/16"));
    CHECK(ip("route show 10.22.0.0/16").empty());
}

TEST_CASE("rules and neighbours are added, listed and deleted", "[link][control]") {
    paired_namespace here;
    cotun::reactor io;
    link_control links(io);
    io.run(links.add_address("a0", "10.9.0.1/24"));
    io.run(links.set_up("b0"));
    io.run(links.set_up("a0"));

    io.run(links.add_rule({.priority = 100, .from = "10.9.0.0/24", .table = 1000}));
    io.run(links.add_rule({.priority = 101, .to = "fd00::/64", .input_device = "a0", .table = 7}));
    io.run(links.add_rule({.priority = 102, .v6 = true, .mark = 5, .mark_mask = 0xff, .table = 9, .invert = true}));
    io.run(links.add_rule({.priority = 103, .table = cotun::main_table, .suppress_prefix_length = 0}));
    CHECK_THAT(ip("-j rule"), ContainsSubstring(R"("priority":100,"src":"10.9.0.0","srclen":24,"table":"1000")"));
    CHECK_THAT(ip("-j -6 rule"), ContainsSubstring(R"("iif":"a0")") && ContainsSubstring(R"("dst":"fd00::")"));
    CHECK_THAT(ip("-6 rule"), ContainsSubstring("not from all fwmark 0x5/0xff lookup 9"));
    CHECK_THAT(ip("rule"), ContainsSubstring("lookup main suppress_prefixlength 0"));
    const std::vector<cotun::ip_rule> rules = io.run(links.rules());
    const auto of = [&](std::uint32_t priority) {
        return *std::find_if(rules.begin(), rules.end(),
                             [&](const cotun::ip_rule& r) { return r.priority == priority; });
    };
    CHECK(of(100).from == ip_prefix("10.9.0.0/24"));
    CHECK(of(100).table == 1000);
    CHECK(of(101).input_device == "a0");
    CHECK(of(102).mark == 5U);
    CHECK(of(102).mark_mask == 0xff);
    CHECK(of(102).invert);
    CHECK(of(103).suppress_prefix_length == 0U);
    CHECK_THAT(refusal(io, EEXIST, links.add_rule({.priority = 100, .from = "10.9.0.0/24", .table = 1000})),
               ContainsSubstring("rule 100 from 10.9.0.0/24"));
    CHECK_THAT(refusal(io, EINVAL, links.add_rule({.from = "10.9.0.0/24", .to = "fd00::/64"})),
               ContainsSubstring("one family"));
    io.run(links.delete_rule({.priority = 100, .from = "10.9.0.0/24", .table = 1000}));
    io.run(links.delete_rule({.priority = 102, .v6 = true, .mark = 5, .mark_mask = 0xff, .table = 9, .invert = true}));
    CHECK_THAT(ip("rule"), !ContainsSubstring("1000"));
    CHECK_THAT(refusal(io, ENOENT, links.delete_rule({.priority = 100, .from = "10.9.0.0/24", .table = 1000})),
               ContainsSubstring("no such rule"));

    const mac_address mac = mac_address::from_string("02:00:5e:00:53:09");
    const ip_address nine = ip_address::from_string("10.9.0.9"), six = ip_address::from_string("fd00::9");
    io.run(links.add_neighbour({.address = nine, .mac = mac, .device = "a0"}));
    io.run(links.add_neighbour({.address = six, .mac = mac, .device = "a0"}));
    CHECK_THAT(ip("-j neigh"), ContainsSubstring(R"("dst":"10.9.0.9","dev":"a0","lladdr":"02:00:5e:00:53:09")") &&
                                   ContainsSubstring("PERMANENT") && ContainsSubstring("fd00::9"));
    CHECK_THAT(refusal(io, EEXIST, links.add_neighbour({.address = nine, .mac = mac, .device = "a0"})),
               ContainsSubstring("10.9.0.9 on link a0"));
    io.run(links.replace_neighbour(
        {.address = nine, .mac = mac_address::from_string("02:00:5e:00:53:0a"), .device = "a0"}));
    CHECK_THAT(ip("-j neigh"), ContainsSubstring("02:00:5e:00:53:0a"));
    const std::vector<cotun::ip_neighbour> known = io.run(links.neighbours());
    CHECK(std::count_if(known.begin(), known.end(), [&](const cotun::ip_neighbour& n) {
              return n.address == nine && n.device == "a0" && n.state == cotun::neighbour_state::permanent &&
                     n.mac == mac_address::from_string("02:00:5e:00:53:0a");
          }) == 1);
    io.run(links.delete_neighbour({.address = nine, .device = "a0"}));
    CHECK_THAT(ip("-j neigh"), !ContainsSubstring("10.9.0.9"));
    CHECK_THAT(refusal(io, ENOENT, links.delete_neighbour({.address = nine, .device = "a0"})),
               ContainsSubstring("no such neighbour"));
}

TEST_CASE("link_control says what, on which link, why, and what to do", "[link][control]") {
    paired_namespace here;
    cotun::reactor io;
    link_control links(io);
    CHECK_THAT(refusal(io, EINVAL, links.set_mtu("a0", 10)), ContainsSubstring("set the MTU of link a0 to 10") &&
                                                                 ContainsSubstring("68 to 65535") &&
                                                                 ContainsSubstring("less than device minimum"));
    CHECK_THAT(refusal(io, EEXIST, drop(links.create_veth({.name = "a0", .peer_name = "x0"}))),
               ContainsSubstring("create the veth pair a0 and x0") && ContainsSubstring("has this name"));
    CHECK_THAT(refusal(io, EEXIST, drop(links.create_dummy({.name = "a0"}))), ContainsSubstring("has this name"));
    CHECK_THAT(refusal(io, EINVAL, drop(links.create_dummy({.name = "a/0"}))), ContainsSubstring("1 to 15 bytes"));
    CHECK_THAT(refusal(io, EINVAL, drop(links.create_dummy({.name = "a%d"}))), ContainsSubstring("stands for many"));
    CHECK_THAT(refusal(io, EINVAL, drop(links.create_dummy({}))), ContainsSubstring("1 to 15 bytes"));
    CHECK_THAT(refusal(io, EEXIST, links.rename("a0", "c0")), ContainsSubstring("rename link a0 to 'c0'"));
    CHECK_THAT(refusal(io, ENODEV, links.set_up("none0")), ContainsSubstring("find link 'none0'"));
    CHECK_THAT(refusal(io, ENODEV, links.set_up(4711)), ContainsSubstring("the link of index 4711"));
    CHECK_THAT(refusal(io, ENODEV, drop(links.addresses(4711))), ContainsSubstring("4711"));
    CHECK_THAT(refusal(io, EOPNOTSUPP, links.delete_link("lo")), ContainsSubstring("delete link lo"));
    CHECK_THAT(refusal(io, EOPNOTSUPP, links.set_master("a0", "c0")), ContainsSubstring("must be a bridge"));
    CHECK_THAT(refusal(io, EADDRNOTAVAIL, links.set_mac("a0", mac_address::broadcast())), ContainsSubstring("unicast"));
    if (run("ip tuntap add dev t0 mode tun").good()) {
        ip("link add br0 type bridge");
        CHECK_THAT(refusal(io, EINVAL, links.set_master("t0", "br0")), ContainsSubstring("TAP, not TUN"));
        CHECK_THAT(refusal(io, EOPNOTSUPP, links.set_mac("t0", mac_address::from_string("02:00:5e:00:53:01"))),
                   ContainsSubstring("no Ethernet address"));
    }
    CHECK(io.run(links.get_link("a0")).mtu == 1500); // after all of these it still works

    link_control other = std::move(links);
    CHECK(io.run(other.get_link("a0")).name == "a0");
    CHECK_THROWS_AS(links.get_link("a0"), std::system_error);
    other.close();
    CHECK_THAT(refusal(io, ECANCELED, drop(other.get_link("a0"))), ContainsSubstring("closed"));
}

TEST_CASE("without CAP_NET_ADMIN link_control looks, and explains", "[link][control]") {
    paired_namespace here;
    const std::string said = in_child([]() -> std::string {
        if (!give_up_capabilities()) return "not prepared";
        cotun::reactor io;
        link_control links(io);
        std::string text = io.run(links.get_link("a0")).name == "a0" ? "found;" : "lost;";
        try {
            io.run(links.set_up("a0"));
        } catch (const std::system_error& e) {
            text += e.what();
        }
        return text;
    });
    CHECK_THAT(said, ContainsSubstring("found;") && ContainsSubstring("set link a0 up") &&
                         ContainsSubstring("CAP_NET_ADMIN") && ContainsSubstring("unshare --user"));
}
