// SPDX-License-Identifier: Apache-2.0
//
// The options of a device, one by one: what `ip` shows is what was asked for.
#include <cotun/tun/device.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include "traffic.hpp"

using namespace test;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;

namespace {

std::string shown(const std::string& name) { return output_of("ip -d -j link show dev " + name); }

} // namespace

TEST_CASE("a persistent device stays, with its owner and group, and goes when it is told to", "[tun][options]") {
    tun_namespace here;
    const bool others = has_other_users();
    const unsigned owner = others ? 65534 : 0, group = others ? 100 : 0;
    {
        cotun::reactor io;
        cotun::device dev = cotun::open_tun(io, {.name = "stays", .persist = true, .owner = owner, .group = group});
        const std::string ip = shown("stays");
        CHECK_THAT(ip, ContainsSubstring("\"persist\":true") && ContainsSubstring("\"type\":\"tun\""));
        CHECK_THAT(ip, ContainsSubstring(others ? "\"user\":\"nobody\"" : "\"user\":\"root\"") &&
                           ContainsSubstring(others ? "\"group\":\"users\"" : "\"group\":\"root\""));
        run_bounded(io, dev.close());
    }
    REQUIRE(has_interface("stays"));
    {
        cotun::reactor io;
        refusal([&] { const cotun::device again = cotun::open_tun(io, {.name = "stays"}); }, {"the name is in use"});
        cotun::device dev =
            cotun::open_tun(io, {.name = "stays", .existing = cotun::existing_interface::require, .persist = false});
        CHECK_THAT(shown("stays"), ContainsSubstring("\"persist\":false"));
        dev.set_persistent(true);
        CHECK_THAT(shown("stays"), ContainsSubstring("\"persist\":true"));
        dev.set_persistent(false);
        run_bounded(io, dev.close());
    }
    CHECK_FALSE(has_interface("stays"));
}

TEST_CASE("an existing interface is taken, or made, as it is asked for", "[tun][options]") {
    tun_namespace here;
    cotun::reactor io;
    SECTION("required and not there") {
        const auto code = refusal(
            [&] {
                const cotun::device dev =
                    cotun::open_tun(io, {.name = "none0", .existing = cotun::existing_interface::require});
            },
            {"none0", "there is no such interface"});
        CHECK(code.value() == ENODEV);
        CHECK_FALSE(has_interface("none0"));
    }
    SECTION("made where it is not there") {
        cotun::device dev = cotun::open_tun(io, {.name = "fresh", .existing = cotun::existing_interface::attach});
        CHECK(has_interface("fresh"));
    }
    SECTION("its addresses, its MTU and its state are kept") {
        run("ip tuntap add dev kept mode tun && ip addr add 10.8.0.1/24 dev kept && ip link set kept mtu 1300 up");
        cotun::device dev = cotun::open_tun(io, {.name = "kept",
                                                 .addresses = {"10.8.0.1/24", "10.8.1.1/24"},
                                                 .existing = cotun::existing_interface::attach});
        CHECK(dev.mtu() == 1300);
        CHECK_THAT(output_of("ip -j addr show dev kept"),
                   ContainsSubstring("\"local\":\"10.8.0.1\"") && ContainsSubstring("\"local\":\"10.8.1.1\""));
    }
    SECTION("of another kind") {
        run("ip tuntap add dev other mode tap");
        refusal(
            [&] {
                const cotun::device dev =
                    cotun::open_tun(io, {.name = "other", .existing = cotun::existing_interface::attach});
            },
            {"other", "another kind"});
    }
    SECTION("of another kind altogether") {
        run("ip link add other type veth peer name another");
        refusal(
            [&] {
                const cotun::device dev =
                    cotun::open_tap(io, {.name = "other", .existing = cotun::existing_interface::attach});
            },
            {"other"});
        CHECK(has_interface("other"));
    }
    SECTION("open already") {
        const cotun::device first = cotun::open_tun(io, {.name = "open0"});
        refusal(
            [&] {
                const cotun::device dev =
                    cotun::open_tun(io, {.name = "open0", .existing = cotun::existing_interface::attach});
            },
            {"open0", "has the interface open"});
    }
    SECTION("open already with other flags") {
        const cotun::device first =
            cotun::open_tun(io, {.name = "open1", .multi_queue = true, .packet_information = true});
        const auto code = refusal(
            [&] {
                const cotun::device dev = cotun::open_tun(
                    io, {.name = "open1", .existing = cotun::existing_interface::attach, .multi_queue = true});
            },
            {"open1", "IFF_NO_PI"});
        CHECK(code.value() == EINVAL);
    }
    SECTION("without its whole name") {
        refusal(
            [&] {
                const cotun::device dev =
                    cotun::open_tun(io, {.name = "a%d", .existing = cotun::existing_interface::attach});
            },
            {"whole name"});
    }
}

TEST_CASE("queue length, superpacket size and MAC address are the kernel's", "[tun][options]") {
    tun_namespace here;
    cotun::reactor io;
    const cotun::device tap =
        cotun::open_tap(io, {.name = "tap0", .txqueuelen = 1234, .mac = "02:00:5e:00:53:07", .gso_max_size = 40000});
    CHECK_THAT(shown("tap0"), ContainsSubstring("\"txqlen\":1234") && ContainsSubstring("\"gso_max_size\":40000") &&
                                  ContainsSubstring("\"address\":\"02:00:5e:00:53:07\""));
    const cotun::device tun = cotun::open_tun(io, {.name = "tun0", .txqueuelen = 77});
    CHECK_THAT(shown("tun0"), ContainsSubstring("\"txqlen\":77"));
}

TEST_CASE("a link without a carrier has one when it is told so", "[tun][options]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "dead0", .carrier = false});
    CHECK_THAT(shown("dead0"), ContainsSubstring("NO-CARRIER"));
    dev.set_carrier(true);
    CHECK_THAT(shown("dead0"), !ContainsSubstring("NO-CARRIER") && ContainsSubstring("LOWER_UP"));
    dev.set_carrier(false);
    CHECK_THAT(shown("dead0"), ContainsSubstring("NO-CARRIER"));
}

namespace {

cotun::task<> write_many(cotun::reactor& io, cotun::device& dev, unsigned count) {
    for (unsigned n = 0; n < count; ++n) {
        cotun::packet pkt = co_await io.allocate(1400);
        write_numbered(pkt.bytes(), n, cotun::wire::ipv4_address::from_string("10.9.0.2"),
                       cotun::wire::ipv4_address::from_string("10.9.0.1"));
        co_await dev.write_packet(std::move(pkt));
    }
    co_await dev.flush();
}

} // namespace

TEST_CASE("a device with NAPI carries packets", "[tun][options]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "napi0", .addresses = {"10.9.0.1/24"}, .napi = true});
    ifreq request{};
    REQUIRE(ioctl(dev.native_handle(), TUNGETIFF, &request) == 0);
    CHECK((request.ifr_flags & IFF_NAPI) != 0);
    const plain_socket receiver("10.9.0.1");
    run_bounded(io, write_many(io, dev, 40)); // as many as a usual buffer holds
    for (unsigned n = 0; n < 40; ++n) REQUIRE(receiver.receive() == n);
}

namespace {

cotun::task<> answer_with_information(cotun::device& dev, unsigned count, std::vector<std::uint16_t>& protocols) {
    for (unsigned n = 0; n < count;) {
        cotun::packet pkt = co_await dev.read_packet();
        if (!cotun::wire::reply_to_echo(pkt.bytes())) continue;
        protocols.push_back(pkt.protocol());
        if (n % 2 == 0) pkt.set_protocol(0); // found out by the first byte then
        co_await dev.write_packet(std::move(pkt));
        ++n;
    }
    co_await dev.flush();
}

} // namespace

TEST_CASE("packet information tells and takes the EtherType", "[tun][options]") {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    INFO(name_of(mode));
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(
        io, {.name = "pi0", .addresses = {"10.9.0.1/24", "fd09::1/64"}, .packet_information = true, .read = mode});
    CHECK_THAT(shown("pi0"), ContainsSubstring("\"pi\":true"));
    std::vector<std::uint16_t> protocols;
    program v4({"sh", "-c", "exec ping -c 4 -i 0.01 -W 5 10.9.0.2"});
    run_bounded(io, answer_with_information(dev, 4, protocols));
    CHECK(v4.wait() == 0);
    CHECK(protocols == std::vector<std::uint16_t>(4, ETH_P_IP));
}

TEST_CASE("IPv6 goes with packet information too", "[tun][options]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "pi0", .addresses = {"fd09::1/64"}, .packet_information = true});
    std::vector<std::uint16_t> protocols;
    program v6({"sh", "-c", "exec ping -c 4 -i 0.01 -W 5 fd09::2"});
    run_bounded(io, answer_with_information(dev, 4, protocols));
    CHECK(v6.wait() == 0);
    CHECK(protocols == std::vector<std::uint16_t>(4, ETH_P_IPV6));
}

namespace {

cotun::task<cotun::write_statistics> write_whole_buffer(cotun::reactor& io, cotun::device& dev) {
    cotun::packet pkt = co_await io.allocate(1000);
    pkt.prepend(pkt.headroom());
    pkt.append(pkt.tailroom());
    co_await dev.write_packet(std::move(pkt));
    cotun::packet moved = co_await io.allocate(numbered_size);
    const std::size_t headroom = moved.headroom();
    moved.prepend(headroom);
    moved.remove_suffix(moved.size() - numbered_size); // at the very front of its buffer
    write_numbered(moved.bytes(), 7, cotun::wire::ipv4_address::from_string("10.9.0.2"),
                   cotun::wire::ipv4_address::from_string("10.9.0.1"));
    co_await dev.write_packet(std::move(moved));
    auto flushed = co_await cotun::as_result(dev.flush());
    CHECK_FALSE(flushed);
    co_return dev.writes();
}

} // namespace

TEST_CASE("packet information finds room in front of a packet, or refuses the packet", "[tun][options]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(
        io, {.name = "pi0", .addresses = {"10.9.0.1/24"}, .packet_information = true, .offload = cotun::no_offload});
    const plain_socket receiver("10.9.0.1");
    const cotun::write_statistics written = run_bounded(io, write_whole_buffer(io, dev));
    CHECK(written.invalid == 1);
    CHECK(written.packets == 1);
    CHECK(receiver.receive() == 7);
}

TEST_CASE("with a send buffer as small as can be, packets keep their order and none is lost", "[tun][options]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "slow0", .addresses = {"10.9.0.1/24"}, .send_buffer = 2000});
    int bytes = 0;
    REQUIRE(ioctl(dev.native_handle(), TUNGETSNDBUF, &bytes) == 0);
    CHECK(bytes == 2000);
    // The packets stay the device's until they are received, so that the bound is felt.
    const unsigned count = may_have_large_buffers() ? 500 : 40;
    std::atomic<unsigned> received{0};
    std::thread reader([&] {
        const plain_socket receiver("10.9.0.1");
        received = 1;
        for (unsigned n = 0; n < count; ++n) {
            if (receiver.receive() != n) return;
            received = n + 2;
        }
    });
    while (received == 0) std::this_thread::yield();
    run_bounded(io, write_many(io, dev, count));
    reader.join();
    CHECK(received == count + 1);
    CHECK(dev.writes().failed() == 0);
}

TEST_CASE("options that do not go together are refused by name", "[tun][options]") {
    tun_namespace here;
    cotun::reactor io;
    const auto tun_refused = [&](const cotun::device_options& options, const std::vector<std::string>& words) {
        return refusal([&] { const cotun::device dev = cotun::open_tun(io, options); }, words).value();
    };
    CHECK(tun_refused({.mac = "02:00:5e:00:53:07"}, {"open_tap"}) == EINVAL);
    CHECK(tun_refused({.napi = true, .napi_fragments = true}, {"TAP"}) == EINVAL);
    CHECK(tun_refused({.txqueuelen = 2'000'000}, {"txqueuelen", "1000000"}) == EINVAL);
    CHECK(tun_refused({.gso_max_size = 70'000}, {"gso_max_size", "65536"}) == EINVAL);
    CHECK(tun_refused({.mtu_room = 70'000}, {"mtu_room", "65535"}) == EINVAL);
    CHECK(refusal([&] { const cotun::device dev = cotun::open_tap(io, {.napi_fragments = true}); }, {"needs napi"})
              .value() == EINVAL);
    CHECK(refusal([&] { const cotun::device dev = cotun::open_tap(io, {.mac = "01:00:5e:00:53:07"}); }, {"unicast"})
              .value() == EADDRNOTAVAIL);
    CHECK(output_of("ip -o link show | wc -l") == "1\n"); // lo: nothing is left behind
}

TEST_CASE("a device is opened in a namespace given by a descriptor, and the reactor stays where it is",
          "[tun][options]") {
    need_tun();
    named_namespace there("by-descriptor");
    const cotun::unique_fd netns(open(there.path().c_str(), O_RDONLY | O_CLOEXEC));
    REQUIRE(netns);
    const auto before = current_namespace();
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(
        io,
        {.name = "far0", .addresses = {"10.9.0.1/24"}, .netns = cotun::netns_reference::of_descriptor(netns.get())});
    CHECK(current_namespace() == before);
    CHECK_FALSE(has_interface("far0"));
    CHECK_THAT(output_of("ip -n " + there.name() + " -j addr show dev far0"), ContainsSubstring("10.9.0.1"));
    run_bounded(io, dev.close());
    CHECK_FALSE(run("ip -n " + there.name() + " link show dev far0").good());
    const cotun::unique_fd other(open("/dev/null", O_RDONLY | O_CLOEXEC));
    refusal(
        [&] {
            const cotun::device none =
                cotun::open_tun(io, {.netns = cotun::netns_reference::of_descriptor(other.get())});
        },
        {"open_tun", "no namespace"});
}
