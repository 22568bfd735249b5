// SPDX-License-Identifier: Apache-2.0
//
// What a program leaves behind that ends without a word (SIGKILL), and how the next one takes it over.
#include <cotun/tun/device.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>

#include "traffic.hpp"

using namespace test;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;

namespace {

cotun::task<std::uint64_t> next_number(cotun::device& dev) {
    for (;;) {
        cotun::packet pkt = co_await dev.read_packet();
        if (const auto number = number_of(pkt.bytes())) co_return *number;
    }
}

// A child that opens a device and is killed while it reads and writes. False: it could not.
bool killed_with_a_device(const cotun::device_options& options) {
    std::array<int, 2> ends{};
    REQUIRE(pipe2(ends.data(), O_CLOEXEC) == 0);
    const pid_t child = fork();
    if (child == 0) {
        try {
            cotun::reactor io;
            cotun::device dev = cotun::open_tun(io, options);
            if (write(ends[1], "o", 1) == 1)
                for (;;) static_cast<void>(io.run(next_number(dev)));
        } catch (const std::exception&) {}
        _exit(1);
    }
    close(ends[1]);
    char opened = 0;
    const bool well = read(ends[0], &opened, 1) == 1;
    close(ends[0]);
    if (well) plain_socket().send(1, "10.9.0.2"); // it is at work
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    return well && WIFSIGNALED(status);
}

} // namespace

TEST_CASE("a persistent device of a program that was killed is refused by name, or attached to", "[tun][killed]") {
    tun_namespace here;
    REQUIRE(killed_with_a_device({.name = "left0", .addresses = {"10.9.0.1/24"}, .mtu = 1400, .persist = true}));
    REQUIRE(has_interface("left0"));
    // Its ring lets go of the device a moment after it: then nobody has it, and it has no carrier.
    REQUIRE(wait_until([] { return output_of("ip -j link show dev left0").find("NO-CARRIER") != std::string::npos; }));
    CHECK_THAT(output_of("ip -d -j link show dev left0"), ContainsSubstring(R"("persist":true)"));
    cotun::reactor io;
    const auto code = refusal([&] { const cotun::device dev = cotun::open_tun(io, {.name = "left0"}); },
                              {"left0", "the name is in use", "device_options::existing", "ip link delete"});
    CHECK(code.value() == EBUSY);
    for (const auto how : {cotun::existing_interface::attach, cotun::existing_interface::require}) {
        cotun::device dev = cotun::open_tun(io, {.name = "left0", .addresses = {"10.9.0.1/24"}, .existing = how});
        CHECK(dev.mtu() == 1400);
        REQUIRE(plain_socket().send(5, "10.9.0.2"));
        const auto read = [](cotun::device& from) -> cotun::task<> {
            for (;;) { // what the one that was killed has left in the queue comes first
                const std::uint64_t number = co_await next_number(from);
                if (number == 5) co_return;
            }
        };
        run_bounded(io, read(dev));
        run_bounded(io, dev.close());
        CHECK(has_interface("left0")); // it still persists
    }
    {
        cotun::device dev =
            cotun::open_tun(io, {.name = "left0", .existing = cotun::existing_interface::require, .persist = false});
        run_bounded(io, dev.close());
    }
    CHECK_FALSE(has_interface("left0"));
}

TEST_CASE("a device of a program that was killed goes with it, and its name is free", "[tun][killed]") {
    tun_namespace here;
    REQUIRE(killed_with_a_device({.name = "gone0", .addresses = {"10.9.0.1/24"}}));
    REQUIRE(wait_until([] { return !has_interface("gone0"); })); // its ring goes a moment after it
    cotun::reactor io;
    const cotun::device dev = cotun::open_tun(io, {.name = "gone0"});
    CHECK(dev.name() == "gone0");
}

TEST_CASE("queues that a killed program has left are free for others", "[tun][killed][queues]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device first = cotun::open_tun(io, {.name = "many0", .addresses = {"10.9.0.1/24"}, .multi_queue = true});
    REQUIRE(
        killed_with_a_device({.name = "many0", .existing = cotun::existing_interface::attach, .multi_queue = true}));
    // The kernel steers flows to what queues there are: all come to the one that is left.
    const auto one_is_left = [] {
        return output_of("ip -d -j link show dev many0").find(R"("numqueues":1,)") != std::string::npos;
    };
    REQUIRE(wait_until(one_is_left));
    for (std::uint64_t flow = 100; flow < 140; ++flow) {
        REQUIRE(plain_socket().send(flow, "10.9.0.2"));
        const auto read = [](cotun::device& from, std::uint64_t wanted) -> cotun::task<> {
            for (;;) {
                const std::uint64_t number = co_await next_number(from);
                if (number == wanted) co_return;
            }
        };
        run_bounded(io, read(first, flow));
    }
}
