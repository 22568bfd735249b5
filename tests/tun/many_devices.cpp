// SPDX-License-Identifier: Apache-2.0
//
// Hundreds of devices on one reactor: each gets its own packets, in order, and nothing is left of them.
#include <cotun/cotun.hpp>

#include <catch2/catch_test_macros.hpp>

#include <fstream>
#include <string>
#include <vector>

#include "traffic.hpp"

using namespace test;
using namespace std::chrono_literals;

namespace {

constexpr unsigned devices = 200;
constexpr unsigned slow = 40; // of them, which nobody reads at first

std::string network_of(unsigned number) { return "10.6." + std::to_string(number) + "."; }

// The kernel sends nothing of its own by the devices.
void without_ipv6() { std::ofstream("/proc/sys/net/ipv6/conf/default/disable_ipv6") << "1"; }

std::vector<cotun::device> open_all(cotun::reactor& io, unsigned count, cotun::read_mode mode) {
    std::vector<cotun::device> all;
    for (unsigned i = 0; i < count; ++i) {
        const std::string name = "many" + std::to_string(i);
        const std::string address = network_of(i) + "1/24";
        cotun::device_options options;
        options.name = name;
        options.addresses = {address};
        options.read = mode;
        all.push_back(cotun::open_tun(io, options));
    }
    return all;
}

// Counts what came for this device, until it is closed; a packet of another's, or one out of order, ends the test.
cotun::task<> read_in_order(cotun::device& dev, unsigned number, std::uint64_t& next) {
    for (;;) {
        cotun::result<cotun::packet> pkt = co_await cotun::as_result(dev.read_packet());
        if (!pkt) co_return;
        const auto got = number_of(pkt->bytes());
        if (!got) continue;
        if (std::to_integer<unsigned>(pkt->bytes()[18]) != number) throw std::runtime_error("another device's packet");
        if (*got != next++) throw std::runtime_error("out of order, or lost");
    }
}

cotun::task<> until_all(cotun::reactor& io, const std::vector<std::uint64_t>& next, std::uint64_t count,
                        unsigned from) {
    for (unsigned i = from; i < next.size(); ++i)
        while (next[i] < count) co_await io.sleep_for(1ms);
}

cotun::task<> close_all(cotun::reactor& io, std::span<cotun::device> all) {
    cotun::scope closing(io);
    for (cotun::device& dev : all) closing.spawn(dev.close());
    co_await closing.join();
}

} // namespace

TEST_CASE("hundreds of devices on one reactor: each packet comes to its own device, in order", "[tun][many]") {
    tun_namespace here;
    without_ipv6();
    const cotun::read_mode mode = each_read_mode();
    CAPTURE(name_of(mode));
    cotun::reactor_options options;
    options.requests = 10 * devices;
    options.pool.small_count = 8 * devices;
    const std::ptrdiff_t files = open_files();
    {
        cotun::reactor io(options);
        std::vector<cotun::device> all = open_all(io, devices, mode);
        std::vector<std::uint64_t> next(devices);
        const plain_socket socket;
        std::uint64_t sent = 0;
        const auto send_round = [&](unsigned from) {
            for (unsigned i = from; i < devices; ++i) CHECK(socket.send(sent, network_of(i) + "2"));
        };

        // Those that nobody reads hold what is theirs, and the others starve of it never.
        for (unsigned i = slow; i < devices; ++i) io.spawn(read_in_order(all[i], i, next[i]));
        for (unsigned round = 0; round < 4; ++round) {
            for (unsigned n = 0; n < 20; ++n, ++sent) send_round(0);
            run_bounded(io, until_all(io, next, sent, slow));
        }
        CHECK(io.statistics().small_buffers_free > 0);

        // And what was sent to them comes when somebody reads, all of it.
        for (unsigned i = 0; i < slow; ++i) io.spawn(read_in_order(all[i], i, next[i]));
        run_bounded(io, until_all(io, next, sent, 0));

        // Few are left, whose shares grow again.
        run_bounded(io, close_all(io, std::span(all).subspan(4)));
        CHECK_FALSE(has_interface("many4"));
        CHECK(has_interface("many3"));
        for (unsigned n = 0; n < 20; ++n, ++sent) {
            for (unsigned i = 0; i < 4; ++i) CHECK(socket.send(sent, network_of(i) + "2"));
            next.resize(4);
            run_bounded(io, until_all(io, next, sent + 1, 0));
        }
    }
    CHECK(run("ip -o link show | grep -c many").output == "0\n");
    CHECK(open_files() == files);
}

TEST_CASE("a reactor with the usual options names those that more devices need", "[tun][many]") {
    tun_namespace here;
    cotun::reactor io;
    std::vector<cotun::device> all;
    const auto code = refusal(
        [&] {
            for (unsigned i = 0; i < 1000; ++i) all.push_back(cotun::open_tun(io, {.up = false}));
        },
        {"devices and sockets", "raise reactor_options::requests"});
    CHECK(code == std::errc::no_buffer_space);
    CHECK(all.size() > 100);
    run_bounded(io, close_all(io, all));
    CHECK(run("ip -o link show | grep -c tun").output == "0\n");
    CHECK(io.statistics().small_buffers_free == cotun::pool_options{}.small_count);

    cotun::reactor little({.pool = {.small_count = 16}});
    std::vector<cotun::device> few;
    refusal(
        [&] {
            for (unsigned i = 0; i < 100; ++i)
                few.push_back(cotun::open_tun(little, {.up = false, .offload = cotun::no_offload}));
        },
        {"devices and sockets", "raise pool_options::small_count"});
    CHECK(few.size() == 15);
    run_bounded(little, close_all(little, few));
}
