// SPDX-License-Identifier: Apache-2.0
//
// What happens to a device's link, by the hand of `ip`, is told.
#include <cotun/tun/device.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <net/if.h>

#include "traffic.hpp"

using namespace test;
using namespace std::chrono_literals;
using kind = cotun::link_event_kind;

namespace {

// The next event of that kind; others, such as those of IPv6 addresses that the kernel gives, are passed over.
cotun::task<cotun::link_event> next_of(cotun::device& dev, kind wanted) {
    for (;;) {
        const cotun::link_event event = co_await dev.events().next();
        if (event.kind == wanted) co_return event;
    }
}

cotun::link_event told(cotun::reactor& io, cotun::device& dev, kind wanted, const std::string& command) {
    output_of(command);
    INFO(command);
    return run_bounded(io, next_of(dev, wanted));
}

} // namespace

TEST_CASE("changes of the link are told, each once", "[tun][events]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "ev0", .addresses = {"10.9.0.1/24"}, .mtu = 1400});
    dev.events();
    cotun::link_event event = told(io, dev, kind::mtu_changed, "ip link set ev0 mtu 1300");
    CHECK(event.index == dev.index());
    CHECK(event.old_mtu == 1400);
    CHECK(event.mtu == 1300);
    CHECK(dev.mtu() == 1300);
    event = told(io, dev, kind::address_added, "ip addr add 10.7.0.1/16 dev ev0");
    CHECK(event.address == cotun::wire::ip_prefix("10.7.0.1/16"));
    event = told(io, dev, kind::address_removed, "ip addr del 10.7.0.1/16 dev ev0");
    CHECK(event.address == cotun::wire::ip_prefix("10.7.0.1/16"));
    told(io, dev, kind::down, "ip link set ev0 down");
    event = told(io, dev, kind::renamed, "ip link set ev0 name other0");
    CHECK(event.old_name == "ev0");
    CHECK(event.name == "other0");
    CHECK(dev.name() == "other0");
    told(io, dev, kind::up, "ip link set other0 up");
    // Requests that change nothing are not told, nor what happens to others.
    output_of("ip link set other0 mtu 1300 up && ip link set lo mtu 1234 && ip link add v0 type veth peer name v1");
    told(io, dev, kind::mtu_changed, "ip link set other0 mtu 1301");
    event = told(io, dev, kind::deleted, "ip link del other0");
    CHECK(event.index == dev.index());
    CHECK(dev.events().lost() == 0);
}

TEST_CASE("the carrier is told", "[tun][events]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tap(io, {.name = "ev0"});
    dev.events();
    dev.set_carrier(false);
    run_bounded(io, next_of(dev, kind::carrier_off));
    dev.set_carrier(true);
    io.run(next_of(dev, kind::carrier_on));
    output_of("ip link set ev0 address 02:00:5e:00:53:09");
    const cotun::link_event event = io.run(next_of(dev, kind::mac_changed));
    CHECK(event.mac == cotun::wire::mac_address("02:00:5e:00:53:09"));
}

namespace {

cotun::task<std::uint64_t> next_number(cotun::device& dev) {
    for (;;) {
        cotun::packet pkt = co_await dev.read_packet();
        if (const auto number = number_of(pkt.bytes())) co_return *number;
    }
}

} // namespace

TEST_CASE("a device that is moved to another namespace goes on there, and is watched there", "[tun][events][netns]") {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    INFO(name_of(mode));
    const named_namespace there("moved");
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "ev0", .addresses = {"10.9.0.1/24"}, .mtu = 1400, .read = mode});
    dev.events();
    told(io, dev, kind::moved, "ip link set ev0 netns " + there.name());
    CHECK_FALSE(has_interface("ev0"));
    const std::string in_there = "ip -n " + there.name() + " ";
    const cotun::link_event event = told(io, dev, kind::address_added,
                                         in_there + "addr add 10.9.0.1/24 dev ev0 && " + in_there + "link set ev0 up");
    CHECK(event.address == cotun::wire::ip_prefix("10.9.0.1/24"));
    CHECK(dev.link().index == dev.index());
    CHECK(dev.link().is_up());
    there.inside([] { REQUIRE(plain_socket().send(77, "10.9.0.2")); });
    CHECK(io.run(next_number(dev)) == 77);
    told(io, dev, kind::mtu_changed, in_there + "link set ev0 mtu 1300");
    CHECK(dev.mtu() == 1300);
    told(io, dev, kind::renamed, in_there + "link set ev0 down && " + in_there + "link set ev0 name far0");
    CHECK(dev.name() == "far0");
    io.run(dev.close());
    CHECK_FALSE(run(in_there + "link show dev far0").good());
}

namespace {

// More messages than the kernel keeps for a reactor that does not look: those that follow are lost.
void flood() {
    output_of("ip link add flood0 type veth peer name flood1");
    std::string batch;
    for (int n = 0; n < 600; ++n) batch += "link set flood0 mtu " + std::to_string(1300 + n) + "\n";
    output_of("printf '" + batch + "' | ip -batch -");
}

} // namespace

TEST_CASE("a move or a deletion whose message is lost is found out", "[tun][events][netns]") {
    tun_namespace here;
    const named_namespace there("lost");
    cotun::reactor io;
    cotun::device moves = cotun::open_tun(io, {.name = "ev0", .addresses = {"10.9.0.1/24"}});
    cotun::device goes = cotun::open_tun(io, {.name = "ev1"});
    moves.events();
    goes.events();
    output_of("ip -n " + there.name() + " link add other0 type veth peer name other1"); // indices differ there
    flood();
    output_of("ip link set ev0 netns " + there.name() + " && ip link delete ev1");
    const cotun::link_event moved = run_bounded(io, next_of(moves, kind::moved));
    CHECK(moved.found_missing);
    CHECK_FALSE(moved.new_namespace);
    CHECK(moved.new_index == moves.index());
    CHECK(run_bounded(io, next_of(goes, kind::deleted)).found_missing);
    CHECK(refusal([&] { io.run(next_number(goes)); }, {"ev1", "gone"}).value() == EBADFD);
    const std::string in_there = "ip -n " + there.name() + " ";
    CHECK_THAT(output_of(in_there + "-o link show ev0"),
               Catch::Matchers::StartsWith(std::to_string(moves.index()) + ": ev0"));
    told(io, moves, kind::address_added, in_there + "addr add 10.9.0.1/24 dev ev0 && " + in_there + "link set ev0 up");
    there.inside([] { REQUIRE(plain_socket().send(78, "10.9.0.2")); });
    CHECK(run_bounded(io, next_number(moves)) == 78);
    told(io, moves, kind::renamed, in_there + "link set ev0 down && " + in_there + "link set ev0 name far0");
    CHECK(moves.name() == "far0");
    told(io, moves, kind::deleted, in_there + "link del far0");
}

TEST_CASE("a reader of a device that is deleted in another namespace after a move is told", "[tun][events][netns]") {
    tun_namespace here;
    const named_namespace there("moved-on");
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "ev0"});
    dev.events();
    told(io, dev, kind::moved, "ip link set ev0 netns " + there.name());
    told(io, dev, kind::deleted, "ip -n " + there.name() + " link del ev0");
    const auto code = refusal([&] { io.run(next_number(dev)); }, {"ev0", "gone"});
    CHECK(code.value() == EBADFD);
}

namespace {

cotun::task<> close_soon(cotun::reactor& io, cotun::device& dev) {
    co_await io.sleep_for(5ms);
    co_await dev.close();
}

cotun::task<std::error_code> wait_for_event(cotun::device& dev) {
    try {
        for (;;) {
            const cotun::link_event event = co_await dev.events().next();
            static_cast<void>(event);
        }
    } catch (const std::system_error& ended) {
        co_return ended.code();
    }
}

} // namespace

TEST_CASE("who waits for an event is told when the device is closed", "[tun][events]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "ev0"});
    io.spawn(close_soon(io, dev));
    CHECK(run_bounded(io, wait_for_event(dev)) == std::errc::operation_canceled);
}

TEST_CASE("a wait for an event that is stopped takes none", "[tun][events]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "ev0"});
    dev.events();
    output_of("ip link set ev0 mtu 1300");
    CHECK_THROWS_AS(io.run(cotun::with_timeout(next_of(dev, kind::deleted), 50ms)), std::system_error);
    output_of("ip link set ev0 mtu 1301");
    CHECK(run_bounded(io, next_of(dev, kind::mtu_changed)).mtu == 1301);
}

TEST_CASE("events that nobody takes are bounded, and counted", "[tun][events]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "ev0"});
    dev.events();
    std::string batch;
    for (int n = 0; n < 100; ++n) batch += "link set ev0 mtu " + std::to_string(1300 + n) + "\n";
    output_of("printf '" + batch + "' | ip -batch -");
    output_of("ip link set ev0 mtu 1299");
    run_bounded(io, close_soon(io, dev));
    CHECK(dev.events().lost() >= 30);
    CHECK(io.run(wait_for_event(dev)) == std::errc::operation_canceled);
}

TEST_CASE("two queues of a device are both told", "[tun][events]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device first = cotun::open_tun(io, {.name = "ev0", .multi_queue = true});
    cotun::device second = cotun::adopt_device(io, first.open_queue());
    first.events();
    second.events();
    told(io, first, kind::mtu_changed, "ip link set ev0 mtu 1300");
    CHECK(io.run(next_of(second, kind::mtu_changed)).mtu == 1300);
    io.run(first.close());
    told(io, second, kind::mtu_changed, "ip link set ev0 mtu 1301");
}

TEST_CASE("the kernel's counters are told", "[tun][events]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "ev0", .addresses = {"10.9.0.1/24"}});
    const plain_socket socket;
    for (unsigned n = 0; n < 5; ++n) REQUIRE(socket.send(n, "10.9.0.2"));
    CHECK(run_bounded(io, next_number(dev)) == 0);
    const cotun::link_info link = dev.link();
    CHECK(link.statistics.sent_packets >= counters_of("ev0").sent - 1);
    CHECK(link.statistics.sent_packets >= 5);
    CHECK(link.name == "ev0");
    REQUIRE(link.tun);
    CHECK_FALSE(link.tun->tap);
    output_of("ip link del ev0");
    CHECK(refusal([&] { static_cast<void>(dev.link()); }, {}).value() == ENODEV);
}

TEST_CASE("the netlink socket of a namespace goes with the last device in it", "[tun][events]") {
    tun_namespace here;
    cotun::reactor io;
    {
        cotun::device warm = cotun::open_tun(io, {.name = "warm0"});
        io.run(close_soon(io, warm));
    }
    const std::ptrdiff_t files = open_files();
    {
        cotun::device first = cotun::open_tun(io, {.name = "ev0"});
        cotun::device second = cotun::open_tun(io, {.name = "ev1"});
        CHECK(open_files() == files + 3);
        io.run(first.close());
        CHECK(open_files() == files + 2);
        io.run(second.close());
        io.run(close_soon(io, second)); // a turn, for the last completion
    }
    CHECK(open_files() == files);
}
