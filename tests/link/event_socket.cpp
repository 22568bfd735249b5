// SPDX-License-Identifier: Apache-2.0
//
// What ip(8) does, and what is told of it.
#include "link/event_socket.hpp"

#include "../support/namespace.hpp"
#include "link/netlink.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <linux/if.h>
#include <poll.h>
#include <string>
#include <vector>

using namespace test;
using cotun::link_event;
using cotun::link_event_kind;
using cotun::link::event_socket;
using cotun::link::event_socket_options;

namespace {

void ip(const std::string& arguments) { output_of("ip " + arguments); }

struct paired_namespace : own_namespace {
    paired_namespace() {
        const outcome made = run("ip link add a0 type veth peer name b0 && ip link add c0 type veth peer name d0");
        if (!made.good()) SKIP("no veth pair can be made with ip(8) here: " << made.output);
        a0 = cotun::link::netlink_socket().get_link("a0").index;
    }
    unsigned a0 = 0;
};

// All that is told, once nothing comes for a moment; the kernel tells of a carrier some milliseconds late.
std::vector<link_event> all_of(event_socket& socket) {
    std::vector<link_event> told;
    for (;;) {
        while (socket.read(told)) {}
        pollfd waits{socket.descriptor(), POLLIN, 0};
        if (poll(&waits, 1, 100) == 0) return told;
    }
}

std::size_t count(const std::vector<link_event>& all, link_event_kind kind) {
    return static_cast<std::size_t>(
        std::count_if(all.begin(), all.end(), [&](const link_event& e) { return e.kind == kind; }));
}

const link_event* find(const std::vector<link_event>& all, link_event_kind kind) {
    const auto found = std::find_if(all.begin(), all.end(), [&](const link_event& e) { return e.kind == kind; });
    return found == all.end() ? nullptr : &*found;
}

std::string words(const std::vector<link_event>& all) {
    std::string text;
    for (const link_event& e : all) text += describe(e) + "\n";
    return text;
}

} // namespace

TEST_CASE("one link's changes are told, each once, and nothing of others'", "[link][events]") {
    paired_namespace here;
    event_socket socket({.only = here.a0});
    CHECK(all_of(socket).empty());

    ip("link set a0 mtu 1400");
    auto told = all_of(socket);
    INFO(words(told));
    REQUIRE(told.size() == 1);
    CHECK(told[0].kind == link_event_kind::mtu_changed);
    CHECK(told[0].index == here.a0);
    CHECK(told[0].name == "a0");
    CHECK(told[0].old_mtu == 1500);
    CHECK(told[0].mtu == 1400);

    ip("link set a0 mtu 1400");
    ip("link set a0 txqueuelen 77");
    ip("link set c0 mtu 1300");
    ip("link set c0 up");
    ip("addr add 10.8.0.1/24 dev c0");
    CHECK(all_of(socket).empty());

    ip("link set a0 address 02:00:5e:00:53:01");
    told = all_of(socket);
    REQUIRE(told.size() == 1);
    CHECK(told[0].kind == link_event_kind::mac_changed);
    CHECK(told[0].mac == cotun::wire::mac_address::from_string("02:00:5e:00:53:01"));

    ip("link set a0 name new0");
    told = all_of(socket);
    REQUIRE(told.size() == 1);
    CHECK(told[0].kind == link_event_kind::renamed);
    CHECK(told[0].old_name == "a0");
    CHECK(told[0].name == "new0");

    ip("addr add 10.9.0.1 peer 10.9.0.2/32 dev new0");
    told = all_of(socket);
    REQUIRE(told.size() == 1);
    CHECK(told[0].kind == link_event_kind::address_added);
    CHECK(told[0].address == cotun::wire::ip_prefix("10.9.0.1/32"));
    CHECK(told[0].peer == cotun::wire::ip_address::from_string("10.9.0.2"));
    ip("addr change 10.9.0.1 peer 10.9.0.2/32 dev new0 valid_lft 1000 preferred_lft 900");
    CHECK(all_of(socket).empty());

    ip("link set new0 up");
    told = all_of(socket);
    CHECK(count(told, link_event_kind::up) == 1);
    CHECK(count(told, link_event_kind::carrier_on) == 0); // the peer is down
    ip("link set b0 up");
    told = all_of(socket);
    CHECK(count(told, link_event_kind::carrier_on) == 1);
    CHECK(count(told, link_event_kind::up) == 0);
    ip("link set b0 down");
    told = all_of(socket);
    CHECK(count(told, link_event_kind::carrier_off) == 1);
    ip("link set new0 down");
    told = all_of(socket);
    CHECK(count(told, link_event_kind::down) == 1);

    ip("link add br0 type bridge");
    ip("link set new0 master br0");
    ip("link set new0 nomaster"); // a bridge tells of that as the deletion of a port
    told = all_of(socket);
    INFO(words(told));
    CHECK(count(told, link_event_kind::deleted) == 0);

    ip("link delete new0");
    told = all_of(socket);
    INFO(words(told));
    CHECK(count(told, link_event_kind::address_removed) == 1);
    REQUIRE(count(told, link_event_kind::deleted) == 1);
    CHECK(told.back().kind == link_event_kind::deleted);
    CHECK(told.back().name == "new0");
}

TEST_CASE("a link that moves to another namespace is told of as moved", "[link][events]") {
    paired_namespace here;
    event_socket socket({.only = here.a0});
    const named_namespace there("moved");
    ip("addr add 10.9.0.1/24 dev a0");
    ip("link set a0 netns " + there.name());
    const auto told = all_of(socket);
    INFO(words(told));
    REQUIRE(count(told, link_event_kind::moved) == 1);
    CHECK(count(told, link_event_kind::deleted) == 0);
    CHECK(count(told, link_event_kind::address_removed) == 1);
    CHECK(find(told, link_event_kind::moved)->new_namespace.has_value());
    CHECK(find(told, link_event_kind::moved)->new_index != 0);
    CHECK(socket.find(here.a0) == nullptr);
}

TEST_CASE("messages that were lost are made up for", "[link][events]") {
    paired_namespace here;
    event_socket socket({.kinds = cotun::link::track_links | cotun::link::track_addresses | cotun::link::track_routes,
                         .receive_buffer = 4096});
    ip("link set a0 mtu 1400");
    ip("link set c0 mtu 1300");
    ip("link set a0 up");
    ip("link set b0 up");
    ip("addr add 10.9.0.1/24 dev a0");
    ip("addr add 10.9.0.77/24 dev a0");
    ip("addr del 10.9.0.77/24 dev a0");
    for (int i = 0; i < 50; ++i) {
        ip("link add x0 type veth peer name y0");
        ip("link delete x0");
    }
    ip("route add 10.77.0.0/16 via 10.9.0.2");
    ip("link set d0 name e0");
    const auto told = all_of(socket);
    INFO(words(told));
    CHECK(count(told, link_event_kind::resynchronised) >= 1);
    CHECK(told.back().kind == link_event_kind::resynchronised);
    std::vector<cotun::wire::ip_prefix> addresses, routes;
    std::vector<std::string> links;
    for (const link_event& e : told) {
        if (e.kind == link_event_kind::address_added) addresses.push_back(e.address);
        if (e.kind == link_event_kind::address_removed) std::erase(addresses, e.address);
        if (e.kind == link_event_kind::link_added) links.emplace_back(e.name.view());
        if (e.kind == link_event_kind::deleted) std::erase(links, e.name.view());
        if (e.kind == link_event_kind::route_added) routes.push_back(e.route.destination);
        if (e.kind == link_event_kind::route_removed) std::erase(routes, e.route.destination);
    }
    CHECK(std::count(addresses.begin(), addresses.end(), cotun::wire::ip_prefix("10.9.0.1/24")) == 1);
    CHECK(std::count(addresses.begin(), addresses.end(), cotun::wire::ip_prefix("10.9.0.77/24")) == 0);
    CHECK(std::count(routes.begin(), routes.end(), cotun::wire::ip_prefix("10.77.0.0/16")) == 1);
    CHECK(links.empty());
    REQUIRE(count(told, link_event_kind::renamed) == 1);
    CHECK(find(told, link_event_kind::renamed)->name == "e0");
    CHECK(count(told, link_event_kind::mtu_changed) == 2);
    CHECK(socket.find(here.a0)->mtu == 1400);
    ip("link set a0 mtu 1401");
    CHECK(all_of(socket).size() == 1); // and it goes on
}

TEST_CASE("IPv4 routes that the kernel drops without a word are told of", "[link][events]") {
    paired_namespace here;
    ip("addr add 10.9.0.1/24 dev a0");
    ip("link set b0 up");
    ip("link set a0 up");
    ip("route add default via 10.9.0.2");
    event_socket socket({.kinds = cotun::link::track_links | cotun::link::track_routes});
    CHECK(all_of(socket).empty());
    ip("link set a0 down");
    const auto told = all_of(socket);
    INFO(words(told));
    const auto gone = [&](const char* prefix) {
        return std::count_if(told.begin(), told.end(), [&](const link_event& e) {
            return e.kind == link_event_kind::route_removed && e.route.destination == cotun::wire::ip_prefix(prefix) &&
                   e.route.table == cotun::main_table;
        });
    };
    CHECK(gone("0.0.0.0/0") == 1);
    CHECK(gone("10.9.0.0/24") == 1);
    CHECK(count(told, link_event_kind::resynchronised) == 0);
}

TEST_CASE("a route that is replaced goes, and the new one comes", "[link][events]") {
    paired_namespace here;
    ip("addr add 10.9.0.1/24 dev a0");
    ip("link set b0 up");
    ip("link set a0 up");
    ip("route add default via 10.9.0.2");
    event_socket socket({.kinds = cotun::link::track_routes});
    ip("route replace default via 10.9.0.3");
    const auto told = all_of(socket);
    INFO(words(told));
    REQUIRE(told.size() == 2);
    CHECK(told[0].kind == link_event_kind::route_removed);
    CHECK(told[0].route.gateway == cotun::wire::ip_address::from_string("10.9.0.2"));
    CHECK(told[1].kind == link_event_kind::route_added);
    CHECK(told[1].route.gateway == cotun::wire::ip_address::from_string("10.9.0.3"));
}

TEST_CASE("what there is already is told first, if asked for", "[link][events]") {
    paired_namespace here;
    event_socket socket({.initial = true});
    const auto told = all_of(socket);
    INFO(words(told));
    CHECK(count(told, link_event_kind::link_added) == 5); // lo, a0 to d0
    CHECK(count(told, link_event_kind::address_added) >= 1);
    CHECK(told.back().kind == link_event_kind::resynchronised);
}

TEST_CASE("rules and neighbours are told of", "[link][events]") {
    paired_namespace here;
    ip("addr add 10.9.0.1/24 dev a0");
    ip("link set b0 up");
    ip("link set a0 up");
    event_socket socket({.kinds = cotun::link::track_rules | cotun::link::track_neighbours});
    ip("rule add fwmark 5 table 77 priority 1000");
    ip("neigh add 10.9.0.9 lladdr 02:00:5e:00:53:09 dev a0");
    ip("neigh replace 10.9.0.9 lladdr 02:00:5e:00:53:0a dev a0");
    ip("neigh del 10.9.0.9 dev a0");
    ip("rule del fwmark 5 table 77 priority 1000");
    const auto told = all_of(socket);
    INFO(words(told));
    CHECK(count(told, link_event_kind::rule_added) == 1);
    CHECK(count(told, link_event_kind::rule_removed) == 1);
    const cotun::wire::ip_address nine = cotun::wire::ip_address::from_string("10.9.0.9");
    const auto of_nine = [&](link_event_kind kind) {
        return std::count_if(told.begin(), told.end(),
                             [&](const link_event& e) { return e.kind == kind && e.neighbour.address == nine; });
    };
    CHECK(find(told, link_event_kind::rule_added)->rule.mark == 5U);
    CHECK(find(told, link_event_kind::rule_added)->rule.table == 77);
    CHECK(of_nine(link_event_kind::neighbour_added) == 1);
    CHECK(of_nine(link_event_kind::neighbour_changed) >= 1);
    CHECK(of_nine(link_event_kind::neighbour_removed) == 1);
}
