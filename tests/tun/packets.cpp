// SPDX-License-Identifier: Apache-2.0
//
// Packets through real devices: all of them, in order, also with few buffers and slow consumers.
#include <cotun/tun/device.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "traffic.hpp"

using namespace test;
using namespace std::chrono_literals;
using cotun::wire::ipv4_address;

namespace {

const ipv4_address local_end(10, 9, 0, 1);
const ipv4_address far_end(10, 9, 0, 2);

// How many of our packets came in order, from 0 on, before one did not or there were `count`.
cotun::task<std::uint64_t> read_in_order(cotun::device& dev, std::uint64_t count, pace& p, bool batches) {
    std::uint64_t next = 0;
    while (next < count) {
        cotun::packet_batch batch;
        if (batches)
            batch = co_await dev.read_packets();
        else
            batch.push_back(co_await dev.read_packet());
        for (const cotun::packet& pkt : batch) {
            const auto number = number_of(pkt.bytes());
            if (number && *number != next) co_return next;
            if (number) ++next;
        }
        p.received(next);
    }
    co_return next;
}

cotun::packet numbered(cotun::packet pkt, std::uint64_t n) {
    write_numbered(pkt.bytes(), n, far_end, local_end);
    return pkt;
}

cotun::task<> write_in_order(cotun::reactor& io, cotun::device& dev, std::uint64_t count, pace& p, bool batches) {
    for (std::uint64_t n = 0; n < count;) {
        while (!p.may_send(n + 64)) co_await io.sleep_for(200us);
        if (batches) {
            cotun::packet_batch batch;
            for (; n < count && !batch.full(); ++n) batch.push_back(numbered(co_await io.allocate(numbered_size), n));
            co_await dev.write_packets(std::move(batch));
        } else {
            cotun::packet pkt = co_await io.allocate(numbered_size);
            pkt = numbered(std::move(pkt), n++);
            co_await dev.write_packet(std::move(pkt));
        }
    }
    co_await dev.flush();
}

struct listener {
    explicit listener(std::uint64_t count, pace& p)
        : thread([this, count, &p] {
              for (std::uint64_t n = 0; n < count; ++n) {
                  const auto number = socket.receive();
                  if (number != n) break;
                  in_order = n + 1;
                  p.received(n + 1);
              }
          }) {}
    ~listener() { join(); }
    void join() {
        if (thread.joinable()) thread.join();
    }
    plain_socket socket;
    std::uint64_t in_order = 0;
    std::thread thread;
};

} // namespace

TEST_CASE("100,000 packets are read in order, none lost", "[tun][order]") {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    const bool batches = GENERATE(true, false);
    CAPTURE(name_of(mode), batches);
    const std::uint64_t count = scaled(100'000);
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24"}, .read = mode});
    pace p(300); // the device's queue holds 500
    const paced_sender sender(count, "10.9.0.2", p);
    const std::uint64_t in_order = run_bounded(io, read_in_order(dev, count, p, batches));
    const interface_counters kernel = counters_of("tun0");
    CHECK(in_order == count);
    CHECK(kernel.send_drops == 0);
    CHECK(kernel.send_errors == 0);
    CHECK(kernel.sent >= count);
    CHECK(dev.reads().packets >= count);
    CHECK(dev.reads().truncated == 0);
    CHECK(dev.uses_multishot() == (mode == cotun::read_mode::poll ? false : kernel_reads_multishot()));
    const cotun::reactor_statistics s = io.statistics();
    CHECK(s.strays == 0);
    CHECK(s.overflows == 0);
}

TEST_CASE("100,000 packets are written in order, none lost", "[tun][order]") {
    tun_namespace here;
    const bool batches = GENERATE(true, false);
    CAPTURE(batches);
    const std::uint64_t count = scaled(100'000);
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24"}});
    pace p(2000);
    listener l(count, p);
    run_bounded(io, write_in_order(io, dev, count, p, batches));
    l.join();
    CHECK(l.in_order == count);
    CHECK(dev.writes().packets == count);
    CHECK(dev.writes().failed() == 0);
    CHECK(counters_of("tun0").received == count);
    CHECK(counters_of("tun0").receive_drops == 0);
}

namespace {

cotun::task<> forward(cotun::device& from, cotun::device& to, std::uint64_t& moved) {
    for (;;) {
        cotun::packet pkt = co_await from.read_packet();
        co_await to.write_packet(std::move(pkt));
        ++moved;
    }
}

cotun::task<> until(cotun::reactor& io, const std::atomic<bool>& over) {
    while (!over.load()) co_await io.sleep_for(1ms);
}

} // namespace

TEST_CASE("forwarding with few buffers never stalls", "[tun][pressure]") {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    const unsigned buffers = GENERATE(4U, 5U, 16U);
    const bool both_ways = GENERATE(false, true);
    CAPTURE(name_of(mode), buffers, both_ways);
    const std::uint64_t count = scaled(20'000);
    const named_namespace right("few");
    cotun::reactor io({.pool = {.small_count = buffers, .large_count = 0}});
    cotun::device a = cotun::open_tun(io, {.name = "left", .addresses = {"10.9.0.1/24"}, .read = mode});
    cotun::device b =
        cotun::open_tun(io, {.name = "right", .addresses = {"10.9.0.2/24"}, .netns = right.name(), .read = mode});
    pace there(300), back(300);
    std::atomic<int> ended{0};
    std::atomic<bool> over{false};
    std::uint64_t right_got = 0, left_got = 0, moved_right = 0, moved_left = 0;
    const auto receive = [count](const plain_socket& socket, pace& p, std::uint64_t& got) {
        while (got < count && socket.receive() == got) p.received(++got);
    };
    // Both are bound before anything is sent, and stay in the namespace in which they were made.
    const plain_socket left_socket("10.9.0.1");
    std::optional<plain_socket> right_socket;
    right.inside([&] { right_socket.emplace("10.9.0.2"); });
    std::thread at_right([&] {
        std::thread sender([&] {
            for (std::uint64_t n = 0; both_ways && n < count && back.wait(n); ++n)
                right_socket->send(n, "10.9.0.1", 100);
        });
        receive(*right_socket, there, right_got);
        sender.join();
        if (++ended == 2) over = true;
    });
    std::thread at_left([&] {
        std::thread sender([&] {
            for (std::uint64_t n = 0; n < count && there.wait(n); ++n) left_socket.send(n, "10.9.0.2", 100);
        });
        if (both_ways) receive(left_socket, back, left_got);
        sender.join();
        if (++ended == 2) over = true;
    });
    io.spawn(forward(a, b, moved_right));
    io.spawn(forward(b, a, moved_left));
    std::string failure;
    try {
        run_bounded(io, until(io, over));
    } catch (const std::exception& e) {
        failure = e.what();
    }
    there.give_up();
    back.give_up();
    at_left.join();
    at_right.join();
    CHECK(failure.empty());
    CHECK(right_got == count);
    CHECK(left_got == (both_ways ? count : 0));
    const interface_counters left_kernel = counters_of("left");
    interface_counters right_kernel;
    right.inside([&] { right_kernel = counters_of("right"); });
    CHECK(left_kernel.send_drops == 0);
    CHECK(right_kernel.send_drops == 0);
    CHECK(a.reads().packets == left_kernel.sent);
    CHECK(b.reads().packets == right_kernel.sent);
    CHECK(b.writes().packets == right_kernel.received);
    CHECK(a.writes().packets == left_kernel.received);
    CHECK(io.statistics().strays == 0);
}

namespace {

cotun::task<std::uint64_t> read_slowly(cotun::reactor& io, cotun::device& dev, std::uint64_t count) {
    std::uint64_t next = 0;
    while (next < count) {
        cotun::packet pkt = co_await dev.read_packet();
        const auto number = number_of(pkt.bytes());
        if (number && *number != next) co_return next;
        if (number && ++next % 16 == 0) co_await io.sleep_for(2ms); // holding the packet
    }
    co_return next;
}

cotun::task<std::uint64_t> hoard(cotun::reactor& io, cotun::device& dev, std::uint64_t count) {
    std::uint64_t next = 0;
    while (next < count) {
        std::vector<cotun::packet> kept; // more than there are: reading pauses until they are back
        while (kept.size() < 7 && next < count) {
            cotun::packet pkt = co_await dev.read_packet();
            const auto number = number_of(pkt.bytes());
            if (number && *number != next) co_return next;
            if (number) ++next;
            kept.push_back(std::move(pkt));
        }
        co_await io.sleep_for(1ms);
    }
    co_return next;
}

} // namespace

TEST_CASE("a slow consumer makes reading pause, and loses nothing", "[tun][pressure]") {
    tun_bench b(0, {.small_count = 8, .large_count = 0});
    CAPTURE(name_of(b.mode));
    output_of("ip link set tun0 txqueuelen 2000");
    const plain_socket socket;
    for (std::uint64_t n = 0; n < 400; ++n) socket.send(n, "10.9.0.2"); // at once: they wait in the kernel
    SECTION("slow") {
        const std::uint64_t in_order = run_bounded(b.io, read_slowly(b.io, b.dev, 400));
        CHECK(in_order == 400);
    }
    SECTION("holding all but one of the buffers") {
        const std::uint64_t in_order = run_bounded(b.io, hoard(b.io, b.dev, 400));
        CHECK(in_order == 400);
        CHECK(b.dev.reads().buffers_exhausted + b.io.statistics().buffers_exhausted > 0);
    }
    CHECK(counters_of("tun0").send_drops == 0);
}

namespace {

cotun::task<> read_into(cotun::device& dev, std::vector<std::uint64_t>& numbers, std::size_t& together,
                        std::size_t count, pace& p) {
    while (together < count) {
        const cotun::packet pkt = co_await dev.read_packet();
        const auto number = number_of(pkt.bytes());
        if (!number) continue;
        numbers.push_back(*number);
        p.received(++together);
    }
}

cotun::task<> until_count(cotun::reactor& io, const std::size_t& reached, std::size_t count) {
    while (reached < count) co_await io.sleep_for(1ms);
}

} // namespace

TEST_CASE("two coroutines read one device: each packet goes to one of them, in order", "[tun]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device dev = cotun::open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24"}});
    constexpr std::size_t count = 5000;
    std::vector<std::uint64_t> one, other;
    std::size_t together = 0;
    pace p(200);
    const paced_sender sender(count + 2, "10.9.0.2", p);
    io.spawn(read_into(dev, one, together, count, p));
    io.spawn(read_into(dev, other, together, count, p));
    run_bounded(io, until_count(io, together, count));
    CHECK(std::is_sorted(one.begin(), one.end()));
    CHECK(std::is_sorted(other.begin(), other.end()));
    std::vector<std::uint64_t> all(one);
    all.insert(all.end(), other.begin(), other.end());
    std::sort(all.begin(), all.end());
    CHECK(std::adjacent_find(all.begin(), all.end()) == all.end());
    CHECK(all.size() >= count);
    CHECK(counters_of("tun0").send_drops == 0);
}
