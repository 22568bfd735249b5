// SPDX-License-Identifier: Apache-2.0
//
// Devices with several queues, on one reactor and on several.
#include <cotun/tun/device.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <linux/bpf.h>
#include <sys/syscall.h>

#include <map>
#include <set>

#include <fmt/format.h>

#include "traffic.hpp"

using namespace test;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;

namespace {

cotun::device open_two(cotun::reactor& io) {
    return cotun::open_tun(io, {.name = "mq0", .addresses = {"10.9.0.1/24"}, .multi_queue = true});
}

cotun::task<> collect(cotun::device& queue, std::set<std::uint64_t>& into) {
    for (;;) {
        cotun::packet pkt = co_await queue.read_packet();
        if (const auto number = number_of(pkt.bytes())) into.insert(*number);
    }
}

cotun::task<> collect_until(cotun::reactor& io, cotun::device& a, cotun::device& b, std::size_t count,
                            std::set<std::uint64_t>& of_a, std::set<std::uint64_t>& of_b) {
    cotun::scope tasks(io);
    tasks.spawn(collect(a, of_a));
    tasks.spawn(collect(b, of_b));
    for (unsigned i = 0; i < 2000; ++i) {
        if (of_a.size() + of_b.size() >= count) break;
        co_await io.sleep_for(2ms);
    }
    tasks.request_stop();
    co_await cotun::as_result(tasks.join());
}

// One packet of each of many flows: ports by the number.
void send_flows(unsigned count) {
    for (unsigned n = 0; n < count; ++n) {
        const int sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(traffic_port);
        inet_pton(AF_INET, ("10.9.0." + std::to_string(2 + n % 200)).c_str(), &to.sin_addr);
        const std::uint64_t number = n;
        CHECK(sendto(sender, &number, sizeof number, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 8);
        close(sender);
    }
}

// An eBPF program that answers a constant: r0 = queue; exit.
cotun::unique_fd constant_program(int queue) {
    std::array<bpf_insn, 2> code{};
    code[0].code = BPF_ALU64 | BPF_MOV | BPF_K;
    code[0].imm = queue;
    code[1].code = BPF_JMP | BPF_EXIT;
    bpf_attr attributes{};
    attributes.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
    attributes.insns = reinterpret_cast<std::uintptr_t>(code.data());
    attributes.insn_cnt = code.size();
    static const char licence[] = "Apache-2.0";
    attributes.license = reinterpret_cast<std::uintptr_t>(licence);
    return cotun::unique_fd(static_cast<int>(syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes)));
}

} // namespace

TEST_CASE("flows are spread over the queues, and none is lost", "[tun][queues]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device first = open_two(io);
    cotun::device second = cotun::adopt_device(io, first.open_queue());
    CHECK(second.name() == first.name());
    CHECK(second.index() == first.index());
    CHECK(second.is_multi_queue());
    CHECK_THAT(output_of("ip -d -j link show dev mq0"),
               ContainsSubstring("\"multi_queue\":true") && ContainsSubstring("\"numqueues\":2"));
    send_flows(150);
    std::set<std::uint64_t> a, b;
    run_bounded(io, collect_until(io, first, second, 150, a, b));
    CHECK(a.size() + b.size() == 150);
    CHECK(a.size() > 15);
    CHECK(b.size() > 15);
}

TEST_CASE("an eBPF program steers, until the kernel does again", "[tun][queues]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device first = open_two(io);
    cotun::device second = cotun::adopt_device(io, first.open_queue());
    const cotun::unique_fd program = constant_program(1);
    if (!program) SKIP("no eBPF program can be loaded here: " << std::strerror(errno));
    first.set_steering_program(program.get());
    send_flows(50);
    std::set<std::uint64_t> a, b;
    run_bounded(io, collect_until(io, first, second, 50, a, b));
    CHECK(a.empty());
    CHECK(b.size() == 50);
    first.set_steering_program(-1);
    refusal([&] { first.set_steering_program(first.native_handle()); }, {"set_steering_program", "eBPF"});
}

TEST_CASE("a queue that is detached gets nothing until it is attached again", "[tun][queues]") {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    INFO(name_of(mode));
    cotun::reactor io;
    cotun::device first =
        cotun::open_tun(io, {.name = "mq0", .addresses = {"10.9.0.1/24"}, .multi_queue = true, .read = mode});
    cotun::adopt_options options;
    options.read = mode;
    cotun::device second = cotun::adopt_device(io, first.open_queue(), options);
    second.detach_queue();
    send_flows(60);
    std::set<std::uint64_t> a, b;
    run_bounded(io, collect_until(io, first, second, 60, a, b));
    CHECK(a.size() == 60);
    CHECK(b.empty());
    refusal([&] { second.detach_queue(); }, {"detach_queue", "not twice"});
    second.attach_queue();
    refusal([&] { second.attach_queue(); }, {"attach_queue", "not twice"});
    first.detach_queue();
    a.clear();
    send_flows(60);
    cotun::reactor& same = io;
    same.run(collect_until(io, first, second, 60, a, b));
    CHECK(a.empty());
    CHECK(b.size() == 60);
}

TEST_CASE("the interface goes with its last queue", "[tun][queues]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device first = open_two(io);
    cotun::device second = cotun::adopt_device(io, first.open_queue());
    run_bounded(io, first.close());
    CHECK(has_interface("mq0"));
    cotun::device third = cotun::adopt_device(io, second.open_queue());
    io.run(second.close());
    CHECK(has_interface("mq0"));
    io.run(third.close());
    CHECK_FALSE(has_interface("mq0"));
}

TEST_CASE("queues are refused where there can be none, or no more", "[tun][queues]") {
    tun_namespace here;
    cotun::reactor io;
    {
        cotun::device one = cotun::open_tun(io, {.name = "one0"});
        CHECK(refusal([&] { const auto none = one.open_queue(); }, {"one0", "multi_queue"}).value() == EINVAL);
        CHECK(refusal([&] { one.detach_queue(); }, {"one0", "multi_queue"}).value() == EINVAL);
    }
    cotun::device first = open_two(io);
    std::vector<cotun::unique_fd> more;
    const auto code = refusal(
        [&] {
            for (unsigned n = 0; n < 300; ++n) more.push_back(first.open_queue());
        },
        {"mq0", "256"});
    CHECK(code.value() == E2BIG);
    CHECK(more.size() == 255);
}
