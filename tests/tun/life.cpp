// SPDX-License-Identifier: Apache-2.0
//
// Devices that come and go: closed, destroyed, deleted from outside, set down; with reads and writes under way.
#include <cotun/io/error.hpp>
#include <cotun/tun/device.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <array>
#include <filesystem>
#include <optional>
#include <thread>

#include "link/netlink.hpp"
#include "traffic.hpp"

using namespace test;
using namespace std::chrono_literals;
using cotun::wire::ipv4_address;

namespace {

// Reads until that fails; says with what.
cotun::task<> read_to_the_end(cotun::device& dev, std::error_code& end, std::uint64_t& ours) {
    try {
        for (;;) {
            const cotun::packet pkt = co_await dev.read_packet();
            if (number_of(pkt.bytes())) ++ours;
        }
    } catch (const std::system_error& e) {
        end = e.code();
    }
}

cotun::task<std::uint64_t> next_number(cotun::device& dev) {
    for (;;) {
        const cotun::packet pkt = co_await dev.read_packet();
        if (const auto number = number_of(pkt.bytes())) co_return *number;
    }
}

cotun::task<> until_set(cotun::reactor& io, const std::error_code& code) {
    while (!code) co_await io.sleep_for(1ms);
}

// The kernel sends nothing of its own by the devices of this namespace, such as router solicitations: a reader that had
// just been given such a packet would go on to use a device that was destroyed meanwhile.
void without_ipv6() { std::ofstream("/proc/sys/net/ipv6/conf/default/disable_ipv6") << "1"; }

// All that is ready has had its turn, and the kernel what it queued.
cotun::task<> a_pass(cotun::reactor& io) {
    co_await io.yield();
    co_await io.yield();
}

cotun::task<> open_and_close(cotun::reactor& io, cotun::read_mode mode, int rounds, bool by_destructor, int& done) {
    for (int round = 0; round < rounds; ++round) {
        std::error_code end, other_end;
        std::uint64_t ours = 0;
        {
            cotun::device dev = cotun::open_tun(io, {.name = "again", .addresses = {"10.9.0.1/24"}, .read = mode});
            io.spawn(read_to_the_end(dev, end, ours));
            io.spawn(read_to_the_end(dev, other_end, ours));
            co_await a_pass(io);
            if (!by_destructor) {
                co_await dev.close();
                if (has_interface("again")) throw std::runtime_error("the interface is still there after close()");
                co_await dev.close();
            }
        }
        if (has_interface("again")) throw std::runtime_error("the interface is still there");
        co_await until_set(io, end);
        co_await until_set(io, other_end);
        if (end != std::errc::operation_canceled) throw std::system_error(end, "the waiter's end");
        done = round + 1;
    }
}

} // namespace

TEST_CASE("200 rounds of opening and closing one name with reads pending", "[tun][close]") {
    tun_namespace here;
    without_ipv6();
    const cotun::read_mode mode = each_read_mode();
    const bool by_destructor = GENERATE(false, true);
    CAPTURE(name_of(mode), by_destructor);
    cotun::reactor io;
    const int rounds = static_cast<int>(scaled(200));
    int done = 0;
    const std::ptrdiff_t files = open_files();
    run_bounded(io, open_and_close(io, mode, rounds, by_destructor, done));
    CHECK(done == rounds);
    CHECK(open_files() == files);
    CHECK(io.statistics().strays == 0);
    CHECK(io.statistics().small_buffers_free == cotun::pool_options{}.small_count);
}

// Before Linux 6.13, what was registered with the ring is kept for as long as any other registered file has a request
// in flight, and the interface would outlive its close(): the option must not register there.
TEST_CASE("devices are closed while another one is being read", "[tun][close]") {
    tun_namespace here;
    without_ipv6();
    const cotun::read_mode mode = each_read_mode();
    const bool registered = GENERATE(false, true);
    const bool by_destructor = GENERATE(false, true);
    CAPTURE(name_of(mode), registered, by_destructor);
    constexpr int rounds = 10;
    cotun::reactor io({.registered_files = registered});
    cotun::device stays = cotun::open_tun(io, {.name = "stays", .addresses = {"10.8.0.1/24"}, .read = mode});
    const plain_socket socket;
    std::error_code end;
    std::uint64_t ours = 0;
    io.spawn(read_to_the_end(stays, end, ours));
    for (std::uint64_t n = 0; n < 20; ++n) socket.send(n, "10.8.0.2");
    int done = 0;
    run_bounded(io, open_and_close(io, mode, rounds, by_destructor, done));
    CHECK(done == rounds);
    CHECK(ours == 20);
    for (std::uint64_t n = 0; n < 20; ++n) socket.send(n, "10.8.0.2");
    const auto until_read = [](cotun::reactor& r, const std::uint64_t& got) -> cotun::task<> {
        while (got < 40) co_await r.sleep_for(1ms);
    };
    io.run(until_read(io, ours));
    CHECK_FALSE(end);
    CHECK(has_interface("stays"));
}

namespace {

std::size_t threads_here() {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator("/proc/self/task")) ++count;
    return count;
}

std::string many_name(int number) { return "many" + std::to_string(number); }

} // namespace

// The kernel goes on for a while with each: more of them than there are threads for that.
TEST_CASE("each of many devices is gone when its destructor or close() has returned, its traces with the reactor",
          "[tun][close]") {
    tun_namespace here;
    without_ipv6();
    const bool by_destructor = GENERATE(false, true);
    CAPTURE(by_destructor);
    constexpr int count = 40;
    const std::size_t threads = threads_here();
    const std::ptrdiff_t files = open_files();
    {
        cotun::reactor io;
        std::vector<cotun::device> all;
        for (int i = 0; i < count; ++i) all.push_back(cotun::open_tun(io, {.name = many_name(i)}));
        io.run(a_pass(io));
        for (int i = count - 1; i >= 0; --i) {
            if (!by_destructor) run_bounded(io, all.back().close());
            if (!by_destructor) CHECK_FALSE(has_interface(many_name(i)));
            all.pop_back();
            CHECK_FALSE(has_interface(many_name(i)));
            const cotun::unique_fd again = cotun::make_tun({.name = many_name(i), .persist = i % 2 == 0});
            CHECK(has_interface(many_name(i)));
        }
        CHECK(has_interface(many_name(0))); // the persistent one of its successor
        CHECK_FALSE(has_interface(many_name(1)));
    }
    CHECK(threads_here() == threads);
    CHECK(open_files() == files);
}

// Nothing tells of an end there: the interface stays.
TEST_CASE("closing a persistent device, or one queue of two, ends with close(2)", "[tun][close]") {
    tun_namespace here;
    const bool by_destructor = GENERATE(false, true);
    CAPTURE(by_destructor);
    cotun::reactor io;
    std::optional<cotun::device> stays(cotun::open_tun(io, {.name = "stays", .persist = true}));
    cotun::device first = cotun::open_tun(io, {.name = "queues", .multi_queue = true});
    std::optional<cotun::device> second(cotun::adopt_device(io, first.open_queue()));
    io.run(a_pass(io));
    for (std::optional<cotun::device>* each : {&stays, &second}) {
        if (!by_destructor) run_bounded(io, (*each)->close());
        each->reset();
    }
    CHECK(has_interface("stays"));
    CHECK(has_interface("queues"));
    run_bounded(io, first.close());
    CHECK_FALSE(has_interface("queues"));
    stays.emplace(cotun::open_tun(io, {.name = "stays", .existing = cotun::existing_interface::require}));
    stays->set_persistent(false);
    stays.reset();
    CHECK_FALSE(has_interface("stays"));
}

TEST_CASE("closing with packets unread, unwritten and held", "[tun][close]") {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    CAPTURE(name_of(mode));
    cotun::packet held; // outlives the device and the reactor
    {
        cotun::reactor io;
        cotun::device dev = cotun::open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24"}, .read = mode});
        const plain_socket socket;
        for (std::uint64_t n = 0; n < 300; ++n) socket.send(n, "10.9.0.2");
        std::uint64_t got = run_bounded(io, next_number(dev));
        CHECK(got == 0);
        held = io.try_allocate(100);
        write_numbered(held.bytes(), 7, ipv4_address(10, 9, 0, 2), ipv4_address(10, 9, 0, 1));
        run_bounded(io, dev.close());
        CHECK_FALSE(has_interface("tun0"));
        const std::error_code code = refusal([&] { io.run(next_number(dev)); }, {"tun0", "reading", "closed"});
        CHECK(code == std::errc::operation_canceled);
    }
    CHECK(number_of(held.bytes()) == 7);
}

TEST_CASE("a write to a closed device is refused", "[tun][close]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "tun0"});
    run_bounded(io, dev.close());
    const auto write = [](cotun::reactor& r, cotun::device& d) -> cotun::task<> {
        cotun::packet pkt = r.try_allocate(100);
        co_await d.write_packet(std::move(pkt));
    };
    const std::error_code code = refusal([&] { io.run(write(io, dev)); }, {"tun0", "writing", "closed"});
    CHECK(code == std::errc::operation_canceled);
}

namespace {

cotun::task<> write_numbers(cotun::reactor& io, cotun::device& dev, std::uint64_t count) {
    for (std::uint64_t n = 0; n < count; ++n) {
        cotun::packet pkt = co_await io.allocate(numbered_size);
        write_numbered(pkt.bytes(), n, ipv4_address(10, 9, 0, 2), ipv4_address(10, 9, 0, 1));
        co_await dev.write_packet(std::move(pkt));
    }
}

} // namespace

TEST_CASE("what was accepted is written before the device closes", "[tun][close]") {
    tun_namespace here;
    const bool by_destructor = GENERATE(false, true);
    CAPTURE(by_destructor);
    cotun::reactor io;
    const plain_socket socket;
    {
        cotun::device dev = cotun::open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24"}});
        run_bounded(io, write_numbers(io, dev, 100)); // fewer than the window: accepted at once
        if (!by_destructor) io.run(dev.close());
    }
    for (std::uint64_t n = 0; n < 100; ++n) REQUIRE(socket.receive() == n);
}

TEST_CASE("a device deleted from outside ends for good, the others go on", "[tun][deleted]") {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    CAPTURE(name_of(mode));
    cotun::reactor io;
    cotun::device gone = cotun::open_tun(io, {.name = "gone", .addresses = {"10.8.0.1/24"}, .read = mode});
    cotun::device stays = cotun::open_tun(io, {.name = "stays", .addresses = {"10.9.0.1/24"}, .read = mode});
    const plain_socket socket;
    std::error_code end, stays_end;
    std::uint64_t ours = 0;
    io.spawn(read_to_the_end(gone, end, ours));
    io.run(a_pass(io));
    output_of("ip link delete gone");
    run_bounded(io, until_set(io, end));
    INFO(end.message());
    CHECK(end.value() == EBADFD);
    CHECK(cotun::is_final(end));
    const std::error_code reading = refusal([&] { io.run(next_number(gone)); }, {"\"gone\"", "deleted from outside"});
    CHECK(cotun::is_final(reading));
    // A write is accepted before the kernel says so; flush() tells, and the next write throws.
    const auto flush = [](cotun::device& d) -> cotun::task<> { co_await d.flush(); };
    const std::error_code flushed = refusal(
        [&] {
            io.run(write_numbers(io, gone, 1));
            io.run(flush(gone));
        },
        {"\"gone\"", "deleted from outside"});
    CHECK(cotun::is_final(flushed));
    const std::error_code next = refusal([&] { io.run(write_numbers(io, gone, 1)); }, {"\"gone\"", "writing"});
    CHECK(cotun::is_final(next));
    // The name is free at once, and the other device works.
    for (std::uint64_t n = 0; n < 50; ++n) socket.send(n, "10.9.0.2");
    for (std::uint64_t n = 0; n < 50; ++n) {
        const std::uint64_t number = io.run(next_number(stays));
        REQUIRE(number == n);
    }
    io.run(write_numbers(io, stays, 1));
    io.run(flush(stays));
    CHECK(socket.receive() == 0);
    io.run(gone.close());
    cotun::device again = cotun::open_tun(io, {.name = "gone"});
    CHECK(has_interface("gone"));
}

// The kernel wakes the readers of a device before it takes the device from them (tun_detach_all), and not again: a
// reader that looks in between finds nothing, and would wait for ever.
TEST_CASE("a device deleted from outside ends for good, whenever its reader looks", "[tun][deleted]") {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    CAPTURE(name_of(mode));
    cotun::reactor io;
    const plain_socket socket;
    const std::uint64_t rounds = cotun::test::scaled(30);
    for (std::uint64_t round = 0; round < rounds; ++round) {
        cotun::device dev = cotun::open_tun(io, {.name = "gone", .addresses = {"10.9.0.1/24"}, .read = mode});
        std::error_code end;
        std::uint64_t ours = 0;
        io.spawn(read_to_the_end(dev, end, ours));
        io.run(a_pass(io));
        std::thread deleter([&] { // while packets come, and the reader is at work
            cotun::link::netlink_socket netlink;
            const unsigned index = netlink.get_link("gone").index;
            for (std::uint64_t n = 0; n < round % 8; ++n) socket.send(n, "10.9.0.2");
            netlink.delete_link(index);
        });
        run_bounded(io, until_set(io, end));
        deleter.join();
        REQUIRE(end.value() == EBADFD);
    }
}

namespace {

cotun::task<std::error_code> write_and_flush(cotun::reactor& io, cotun::device& dev, std::uint64_t number) {
    cotun::packet pkt = co_await io.allocate(numbered_size);
    write_numbered(pkt.bytes(), number, ipv4_address(10, 9, 0, 2), ipv4_address(10, 9, 0, 1));
    co_await dev.write_packet(std::move(pkt));
    std::error_code code;
    try {
        co_await dev.flush();
    } catch (const std::system_error& e) {
        code = e.code();
    }
    co_return code;
}

} // namespace

// The descriptor keeps the namespace: deleting its name takes nothing from the device.
TEST_CASE("a namespace deleted by name with its device in it", "[tun][deleted][netns]") {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    CAPTURE(name_of(mode));
    cotun::reactor io;
    std::error_code end;
    std::uint64_t ours = 0;
    std::optional<named_namespace> there(std::in_place, "going");
    cotun::device dev =
        cotun::open_tun(io, {.name = "far", .addresses = {"10.9.0.1/24"}, .netns = there->name(), .read = mode});
    io.spawn(read_to_the_end(dev, end, ours));
    io.run(a_pass(io));
    there.reset();
    const std::error_code written = io.run(write_and_flush(io, dev, 1));
    CHECK_FALSE(written);
    CHECK_FALSE(end);
    io.run(dev.close());
    run_bounded(io, until_set(io, end));
    CHECK(end == std::errc::operation_canceled);
}

TEST_CASE("a link set down and up again goes on", "[tun][down]") {
    tun_bench b;
    CAPTURE(name_of(b.mode));
    const plain_socket socket;
    std::error_code end;
    std::uint64_t ours = 0;
    b.io.spawn(read_to_the_end(b.dev, end, ours)); // waits all the while
    for (std::uint64_t round = 1; round <= 5; ++round) {
        CAPTURE(round);
        std::error_code code = b.io.run(write_and_flush(b.io, b.dev, round));
        CHECK_FALSE(code);
        CHECK(socket.receive() == round);
        output_of("ip link set tun0 down");
        code = b.io.run(write_and_flush(b.io, b.dev, 99));
        CHECK(code.value() == EIO);
        CHECK_FALSE(cotun::is_final(code));
        CHECK(b.dev.writes().link_down == round);
        output_of("ip link set tun0 up");
        CHECK(socket.send(round, "10.9.0.2"));
        const auto pass = [](cotun::reactor& r, std::uint64_t& got, std::uint64_t want) -> cotun::task<> {
            for (int i = 0; i < 5000 && got < want; ++i) co_await r.sleep_for(1ms);
        };
        b.io.run(pass(b.io, ours, round));
        REQUIRE(ours == round);
        REQUIRE_FALSE(end);
    }
}

namespace {

cotun::task<std::error_code> write_raw(cotun::reactor& io, cotun::device& dev, std::size_t size, std::byte fill) {
    cotun::packet pkt = co_await io.allocate(size);
    const auto bytes = pkt.bytes();
    std::fill(bytes.begin(), bytes.end(), fill);
    std::error_code code;
    try {
        co_await dev.write_packet(std::move(pkt));
        co_await dev.flush();
    } catch (const std::system_error& e) {
        code = e.code();
    }
    co_return code;
}

cotun::task<> write_large(cotun::reactor& io, cotun::device& dev, std::size_t size) {
    cotun::packet pkt = co_await io.allocate(size);
    write_numbered(pkt.bytes(), 17, ipv4_address(10, 9, 0, 2), ipv4_address(10, 9, 0, 1));
    co_await dev.write_packet(std::move(pkt));
    co_await dev.flush();
}

} // namespace

TEST_CASE("packets that are none: counted, told by flush(), and not the end", "[tun][invalid]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24"}, .mtu = 1400});
    const plain_socket socket;
    std::error_code code = io.run(write_raw(io, dev, 0, std::byte{0}));
    CHECK(code == std::errc::invalid_argument);
    CHECK_FALSE(cotun::is_final(code));
    code = io.run(write_raw(io, dev, 100, std::byte{0}));
    CHECK(code == std::errc::invalid_argument);
    code = io.run(write_raw(io, dev, 1, std::byte{0xff}));
    CHECK(code == std::errc::invalid_argument);
    CHECK(dev.writes().invalid == 3);
    CHECK(dev.writes().packets == 0);
    io.run(write_large(io, dev, 5000)); // the MTU is the kernel's bound for what it sends, not for what comes in
    CHECK(socket.receive() == 17);
    io.run(write_large(io, dev, 65535));
    CHECK(socket.receive() == 17);
    code = io.run(write_and_flush(io, dev, 4));
    CHECK_FALSE(code);
    CHECK(socket.receive() == 4);
    CHECK(dev.writes().packets == 3);
}

TEST_CASE("an MTU that was raised from outside reaches the packet pool", "[tun][invalid]") {
    tun_bench b(1400);
    CAPTURE(name_of(b.mode));
    output_of("ip link set tun0 mtu 9000");
    const plain_socket socket;
    for (std::uint64_t n = 0; n < 10; ++n) {
        socket.send(n, "10.9.0.2", 8000);
        socket.send(n, "10.9.0.2", 8);
    }
    for (std::uint64_t n = 0; n < 20; ++n) {
        const std::uint64_t number = run_bounded(b.io, next_number(b.dev));
        REQUIRE(number == n / 2);
    }
    CHECK(b.dev.reads().truncated == 0);
    CHECK(b.dev.mtu() == 9000);
}

TEST_CASE("packets larger than any buffer, after the MTU was raised from outside", "[tun][invalid]") {
    tun_bench b(1400, {.large_count = 0});
    CAPTURE(name_of(b.mode));
    output_of("ip link set tun0 mtu 9000");
    const plain_socket socket;
    for (std::uint64_t n = 0; n < 10; ++n) {
        socket.send(n, "10.9.0.2", 8000);
        socket.send(n, "10.9.0.2", 8);
    }
    for (std::uint64_t n = 0; n < 10; ++n) {
        const std::uint64_t number = run_bounded(b.io, next_number(b.dev));
        REQUIRE(number == n);
    }
    CHECK(b.dev.reads().truncated == 10);
}

namespace {

cotun::task<> send_and_stop(cotun::reactor& io, const plain_socket& socket, std::uint64_t number) {
    co_await io.yield(); // the reader waits by now
    socket.send(number, "10.9.0.2");
    io.stop();
}

} // namespace

TEST_CASE("a coroutine destroyed while it waits loses no packet", "[tun][cancel]") {
    tun_bench b;
    CAPTURE(name_of(b.mode));
    const plain_socket socket;
    int destroyed = 0;
    std::uint64_t next = 0;
    for (std::uint64_t sent = 0; sent < 300; ++sent) {
        b.io.spawn(send_and_stop(b.io, socket, sent));
        std::uint64_t got = ~std::uint64_t{0};
        try {
            got = b.io.run(next_number(b.dev)); // stopped before it resumes with the packet, or just not
        } catch (const std::system_error&) {
            ++destroyed;
            continue;
        }
        REQUIRE(got == next++);
    }
    CHECK(destroyed > 0);
    while (next < 300) {
        std::uint64_t got = 0;
        try {
            got = b.io.run(next_number(b.dev));
        } catch (const std::system_error& e) {
            REQUIRE(e.code() == std::errc::operation_canceled); // a stop() that was left over
            continue;
        }
        REQUIRE(got == next++);
    }
}

namespace {

cotun::task<> destroy_soon(cotun::reactor& io, std::optional<cotun::device>& dev) {
    co_await io.yield();
    dev.reset();
}

} // namespace

TEST_CASE("a device destroyed while others wait for it", "[tun][destroy]") {
    tun_namespace here;
    without_ipv6();
    const cotun::read_mode mode = each_read_mode();
    CAPTURE(name_of(mode));
    cotun::reactor io;
    std::optional<cotun::device> dev(cotun::open_tun(io, {.name = "tun0", .read = mode}));
    std::array<std::error_code, 3> ends;
    const auto wait = [](cotun::device& d, std::error_code& end) -> cotun::task<> {
        try {
            for (;;) co_await d.read_packet();
        } catch (const std::system_error& e) {
            end = e.code();
        }
    };
    for (std::error_code& end : ends) io.spawn(wait(*dev, end));
    run_bounded(io, destroy_soon(io, dev));
    CHECK_FALSE(has_interface("tun0"));
    for (const std::error_code& end : ends) run_bounded(io, until_set(io, end));
    for (const std::error_code& end : ends) CHECK(end == std::errc::operation_canceled);
}

TEST_CASE("a reactor destroyed before its devices", "[tun][destroy]") {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    CAPTURE(name_of(mode));
    std::optional<cotun::reactor> io(std::in_place);
    std::error_code end;
    std::uint64_t ours = 0;
    cotun::device dev = cotun::open_tun(*io, {.name = "tun0", .addresses = {"10.9.0.1/24"}, .read = mode});
    cotun::device unused = cotun::open_tap(*io, {.name = "tap0", .read = mode});
    const plain_socket socket;
    for (std::uint64_t n = 0; n < 20; ++n) socket.send(n, "10.9.0.2");
    io->spawn(read_to_the_end(dev, end, ours));
    const auto wait_a_little = [](cotun::reactor& r) -> cotun::task<> { co_await r.sleep_for(5ms); };
    io->run(wait_a_little(*io));
    CHECK(ours == 20);
    io.reset();
    CHECK_FALSE(has_interface("tun0"));
    CHECK_FALSE(has_interface("tap0"));
    CHECK(dev.name() == "tun0");
    CHECK(dev.reads().packets >= 20);
}
