// SPDX-License-Identifier: Apache-2.0
//
// What link_monitor tells of what ip(8) does; waits that are given up; floods.
#include "control_support.hpp"

#include <atomic>
#include <map>
#include <optional>
#include <set>

using namespace test;
using namespace std::chrono_literals;
using cotun::link_event;
using cotun::link_event_kind;
using cotun::link_monitor;
using cotun::task;

namespace {

// All events up to one that `last` knows.
template <class Last>
task<std::vector<link_event>> until(link_monitor& monitor, Last last) {
    std::vector<link_event> all;
    for (;;) {
        const link_event event = co_await monitor.next();
        all.push_back(event);
        if (last(event)) co_return all;
    }
}

template <class Last>
std::vector<link_event> told(cotun::reactor& io, link_monitor& monitor, Last last) {
    auto all = until(monitor, last);
    return io.run(cotun::with_timeout(std::move(all), patience));
}

auto of_kind(link_event_kind kind) {
    return [kind](const link_event& e) { return e.kind == kind; };
}

task<> take_some(link_monitor& monitor, std::vector<link_event>& all, unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
        const link_event event = co_await monitor.next();
        all.push_back(event);
    }
}

// Waits that a time limit ends, in the midst of what comes.
task<> take_impatiently(cotun::reactor& io, link_monitor& monitor, std::vector<link_event>& all, unsigned count,
                        std::atomic<unsigned>& taken) {
    for (unsigned round = 0; all.size() < count; ++round) {
        auto first = co_await cotun::when_any(monitor.next(), io.sleep_for(std::chrono::microseconds(round % 50)));
        if (first.index() == 0) all.push_back(std::get<0>(first));
        taken = static_cast<unsigned>(all.size());
    }
}

task<> expect_end(link_monitor& monitor, std::string& ended) {
    try {
        (void)co_await monitor.next();
        ended = "an event";
    } catch (const std::system_error& e) {
        ended = e.what();
    }
}

} // namespace

TEST_CASE("the monitor tells of links, addresses and routes", "[link][monitor]") {
    paired_namespace here;
    cotun::reactor io;
    link_monitor monitor(io);
    ip("link set b0 up");
    ip("addr add 10.9.0.1/24 dev a0");
    ip("link set a0 up");
    ip("route add default via 10.9.0.2");
    auto all = told(io, monitor, [](const link_event& e) {
        return e.kind == link_event_kind::route_added && e.route.destination == ip_prefix("0.0.0.0/0");
    });
    CHECK(all.back().route.gateway == ip_address::from_string("10.9.0.2"));
    CHECK(all.back().route.device == "a0");
    CHECK(std::count_if(all.begin(), all.end(), of_kind(link_event_kind::up)) == 2);
    CHECK(std::any_of(all.begin(), all.end(), [](const link_event& e) {
        return e.kind == link_event_kind::address_added && e.address == ip_prefix("10.9.0.1/24") && e.name == "a0";
    }));
    ip("link add x0 type veth peer name y0");
    all =
        told(io, monitor, [](const link_event& e) { return e.kind == link_event_kind::link_added && e.name == "x0"; });
    ip("link delete x0");
    all = told(io, monitor, [](const link_event& e) { return e.kind == link_event_kind::deleted && e.name == "x0"; });
    ip("link set a0 down"); // the kernel says nothing of the routes
    all = told(io, monitor, [](const link_event& e) {
        return e.kind == link_event_kind::route_removed && e.route.destination == ip_prefix("0.0.0.0/0");
    });
    CHECK(std::any_of(all.begin(), all.end(), of_kind(link_event_kind::down)));
}

TEST_CASE("the monitor tells first of what there is, in another namespace, of one link", "[link][monitor]") {
    own_namespace here;
    const named_namespace there("monitor");
    cotun::reactor io;
    there.inside([] { ip("link add a0 type veth peer name b0"); });
    link_monitor all(io, {.netns = there.name(), .initial = true});
    const auto first = told(io, all, of_kind(link_event_kind::resynchronised));
    std::set<std::string> names;
    unsigned a0 = 0;
    for (const link_event& e : first) {
        if (e.kind == link_event_kind::link_added) names.emplace(e.name.view());
        if (e.name == "a0") a0 = e.index;
    }
    CHECK(names == std::set<std::string>{"lo", "a0", "b0"});
    link_monitor one(io, {.netns = there.path(), .only = a0});
    there.inside([] {
        ip("link set b0 mtu 1300");
        ip("link set a0 mtu 1400");
    });
    const auto of_one = told(io, one, of_kind(link_event_kind::mtu_changed));
    REQUIRE(of_one.size() == 1);
    CHECK(of_one[0].index == a0);
    CHECK(of_one[0].mtu == 1400);
    CHECK_THROWS_AS(link_monitor(io, {.netns = "cotun-test-none"}), std::system_error);
    CHECK_THROWS_AS(link_monitor(io, {.links = false, .addresses = false, .routes = false}), std::system_error);
    CHECK_THROWS_AS(link_monitor(io, {.rules = true, .only = a0}), std::system_error);
}

TEST_CASE("waits that are given up lose no event", "[link][monitor]") {
    paired_namespace here;
    cotun::reactor io;
    link_monitor monitor(io, {.addresses = false, .routes = false});
    constexpr unsigned count = 200;
    std::atomic<unsigned> taken{0};
    std::jthread changes([&taken] {
        cotun::reactor other;
        cotun::link_control links(other);
        // No more on their way than the kernel keeps: what it drops is not told one by one.
        const auto change = [](cotun::reactor& r, cotun::link_control& l, std::atomic<unsigned>& seen) -> task<> {
            for (unsigned i = 0; i < count; ++i) {
                for (int waits = 0; i > seen + 30 && waits < 20'000; ++waits) co_await r.sleep_for(1ms);
                co_await l.set_mtu("a0", 1000 + i);
            }
        };
        other.run(change(other, links, taken));
    });
    std::vector<link_event> all;
    auto taking = take_impatiently(io, monitor, all, count, taken);
    io.run(cotun::with_timeout(std::move(taking), patience));
    REQUIRE(all.size() == count);
    for (unsigned i = 0; i < count; ++i) {
        CHECK(all[i].kind == link_event_kind::mtu_changed);
        CHECK(all[i].mtu == 1000 + i);
        CHECK(all[i].old_mtu == (i == 0 ? 1500 : 999 + i));
    }
}

TEST_CASE("several tasks wait for one monitor, and each event goes to one", "[link][monitor]") {
    paired_namespace here;
    cotun::reactor io;
    link_monitor monitor(io, {.addresses = false, .routes = false});
    std::vector<link_event> all;
    const auto together = [](cotun::reactor& r, link_monitor& m, std::vector<link_event>& events) -> task<> {
        cotun::scope tasks(r);
        for (int i = 0; i < 4; ++i) tasks.spawn(take_some(m, events, 5));
        co_await r.yield();
        cotun::link_control links(r);
        for (unsigned i = 0; i < 20; ++i) co_await links.set_mtu("a0", 1000 + i);
        co_await tasks.join();
    };
    auto taken = together(io, monitor, all);
    io.run(cotun::with_timeout(std::move(taken), patience));
    std::set<unsigned> sizes;
    for (const link_event& e : all) sizes.insert(e.mtu);
    CHECK(sizes.size() == 20);
}

TEST_CASE("a flood that the kernel's buffer does not hold adds up all the same", "[link][monitor]") {
    paired_namespace here;
    ip("addr add 10.1.0.1/32 dev a0");
    cotun::reactor io;
    link_monitor monitor(io, {.initial = true, .receive_buffer = 2048});
    cotun::link_control links(io);
    std::uint32_t begun = 0;
    const auto flood = [](cotun::link_control& l, std::uint32_t& at) -> task<> {
        for (std::uint32_t i = 0; i < 600; ++i) {
            at = i;
            co_await l.add_address("a0", ip_prefix(cotun::wire::ipv4_address::from_number(0x0a090001 + i), 32));
        }
        for (std::uint32_t i = 0; i < 600; i += 2)
            co_await l.delete_address("a0", ip_prefix(cotun::wire::ipv4_address::from_number(0x0a090001 + i), 32));
        co_await l.set_mtu("c0", 1300);
        co_await l.rename("d0", "e0");
    };
    std::multiset<ip_prefix> known;
    std::map<unsigned, std::string> names;
    bool resynchronised = false;
    const auto take = [&](const link_event& e) {
        if (e.kind == link_event_kind::address_added) known.insert(e.address);
        if (e.kind == link_event_kind::address_removed) known.erase(e.address);
        if (e.kind == link_event_kind::link_added || e.kind == link_event_kind::renamed)
            names[e.index] = std::string(e.name.view());
        resynchronised = resynchronised || e.kind == link_event_kind::resynchronised;
    };
    for (const link_event& e : told(io, monitor, of_kind(link_event_kind::resynchronised))) take(e);
    CHECK(names.size() == 5);
    CHECK(known.count("10.1.0.1/32") == 1);
    resynchronised = false;
    try {
        io.run(flood(links, begun)); // nobody takes any of it meanwhile
    } catch (const std::system_error& e) {
        FAIL(e.what() << "; it was number " << begun << ", and there are " << ip("-o -4 addr show dev a0 | wc -l")
                      << ip("-o -4 addr show dev a0 | tail -n 3"));
    }
    ip("addr add 10.2.0.1/32 dev c0"); // may be lost as well; the next is not
    for (const link_event& e : told(io, monitor, of_kind(link_event_kind::resynchronised))) take(e);
    CHECK(resynchronised);
    std::multiset<ip_prefix> there;
    for (const auto& a : io.run(links.addresses())) there.insert(a.address);
    std::string different;
    for (const ip_prefix& a : known)
        if (known.count(a) != there.count(a)) different += a.to_string() + " ";
    CHECK(different == "");
    CHECK(known.size() == there.size());
    CHECK(known.size() == 300 + 2 + (there.count("::1/128") + there.count("127.0.0.1/8")));
    CHECK(names[io.run(links.get_link("e0")).index] == "e0");
    ip("addr add 10.3.0.1/32 dev c0");
    const auto next = told(io, monitor, of_kind(link_event_kind::address_added));
    CHECK(next.size() == 1);
    CHECK(next[0].address == ip_prefix("10.3.0.1/32"));
}

TEST_CASE("close, and the end of a monitor or of its reactor, end what waits", "[link][monitor]") {
    paired_namespace here;
    const auto before = open_files();
    for (int i = 0; i < 12; ++i) {
        std::string ended;
        std::optional<link_monitor> monitor;
        cotun::reactor io;
        monitor.emplace(io);
        io.spawn(expect_end(*monitor, ended));
        if (i % 2 == 0) io.run(io.sleep_for(1ms));
        if (i % 3 == 0) {
            monitor->close();
            monitor->close();
            io.run();
            CHECK_THAT(ended, ContainsSubstring("link_monitor") && ContainsSubstring("closed by this program"));
        } else if (i % 3 == 1) {
            monitor.reset();
        }
    }
    CHECK(open_files() == before);
    cotun::reactor io;
    link_monitor first(io);
    link_monitor second = std::move(first);
    ip("link set a0 mtu 1400");
    CHECK(told(io, second, of_kind(link_event_kind::mtu_changed)).size() == 1);
    first = std::move(second);
    ip("link set a0 mtu 1401");
    CHECK(told(io, first, of_kind(link_event_kind::mtu_changed)).size() == 1);
}
