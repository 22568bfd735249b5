// SPDX-License-Identifier: Apache-2.0
//
// Many TCP flows through two multi-queue devices, each queue on a reactor and a thread of its own: the order within
// each flow, as the kernel at the far end sees it.
#include <cotun/cotun.hpp>

#include <catch2/catch_test_macros.hpp>

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>

#include <array>
#include <iostream>
#include <map>
#include <set>

#include "traffic.hpp"

using namespace test;

namespace {

constexpr unsigned queues = 2;
constexpr unsigned flows = 64;

using flow = std::uint32_t; // both ports; the addresses are the same for all

std::optional<flow> flow_of(std::span<const std::byte> packet) {
    if (packet.size() < 40 || packet[0] != std::byte{0x45} || packet[9] != std::byte{IPPROTO_TCP}) return {};
    flow ports = 0;
    std::memcpy(&ports, &packet[20], sizeof ports);
    return ports;
}

// Of a socket's segments each has the next number, sent again or not (ip_select_ident_segs(), net/ipv4/ip_output.c).
std::uint16_t number_in_flow(std::span<const std::byte> packet) {
    return static_cast<std::uint16_t>(std::to_integer<unsigned>(packet[4]) << 8 | std::to_integer<unsigned>(packet[5]));
}

/// Sees what comes in by an interface of the calling thread's namespace, in the kernel's order.
class arrivals {
public:
    explicit arrivals(const std::string& interface) {
        socket_ = cotun::unique_fd(socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_IP)));
        const int size = 64 << 20;
        setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
        const timeval time{0, 100'000};
        setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
        sockaddr_ll address{};
        address.sll_family = AF_PACKET;
        address.sll_protocol = htons(ETH_P_IP);
        address.sll_ifindex = static_cast<int>(if_nametoindex(interface.c_str()));
        REQUIRE(bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
        thread_ = std::thread([this] { watch(); });
    }
    arrivals(const arrivals&) = delete;
    arrivals& operator=(const arrivals&) = delete;
    ~arrivals() { end(); }
    void end() {
        over_ = true;
        if (thread_.joinable()) thread_.join();
    }

    std::map<flow, std::uint64_t> packets; // after end()
    std::uint64_t out_of_order = 0;

private:
    void watch() {
        std::map<flow, std::uint16_t> last;
        std::array<std::byte, 64> head{};
        while (!over_) {
            sockaddr_ll from{};
            socklen_t size = sizeof from;
            const ssize_t got =
                recvfrom(socket_.get(), head.data(), head.size(), 0, reinterpret_cast<sockaddr*>(&from), &size);
            if (got < 40 || from.sll_pkttype == PACKET_OUTGOING) continue;
            const auto of = flow_of(head);
            const std::uint16_t number = number_in_flow(head);
            if (!of || number == 0) continue; // before the connection is made they have none
            const auto known = last.find(*of);
            if (known != last.end() && static_cast<std::int16_t>(number - known->second) <= 0) ++out_of_order;
            last[*of] = number;
            ++packets[*of];
        }
    }
    cotun::unique_fd socket_;
    std::atomic<bool> over_{false};
    std::thread thread_;
};

struct seen {
    std::set<flow> flows; // by the queue's own thread; read when that has ended
    std::uint64_t packets = 0;
};

cotun::task<> move_packets(cotun::device& from, cotun::device& to, seen& by) {
    for (;;) {
        cotun::packet_batch batch = co_await from.read_packets();
        for (const cotun::packet& pkt : batch)
            if (const auto of = flow_of(pkt.bytes())) by.flows.insert(*of);
        by.packets += batch.size();
        co_await to.write_packets(std::move(batch));
    }
}

cotun::task<> forward_queue(cotun::reactor& io, int left, int right, seen& there, seen& back) {
    cotun::device a = cotun::adopt_device(io, cotun::unique_fd(left));
    cotun::device b = cotun::adopt_device(io, cotun::unique_fd(right));
    cotun::scope both(io);
    both.spawn(move_packets(a, b, there));
    both.spawn(move_packets(b, a, back));
    co_await both.join();
}

// A queue's descriptor, and further ones of the same interface.
std::vector<cotun::unique_fd> open_queues(const std::string& name, const char* address, const std::string& netns) {
    cotun::device_options options;
    options.name = name;
    options.addresses = {address};
    options.netns = netns;
    options.multi_queue = true;
    options.txqueuelen = 4000;
    std::vector<cotun::unique_fd> all;
    all.push_back(cotun::make_tun(options));
    options.existing = cotun::existing_interface::require;
    while (all.size() < queues) all.push_back(cotun::make_tun(options));
    return all;
}

std::uint64_t number_behind(const std::string& text, const std::string& word) {
    const std::size_t at = text.find(word);
    return at == std::string::npos ? ~std::uint64_t{0} : std::strtoull(text.c_str() + at + word.size(), nullptr, 10);
}

} // namespace

TEST_CASE("64 TCP flows over two queues on two reactors keep their order", "[tun][queues][netns]") {
    need_tun();
    if (!is_installed("iperf3")) SKIP("no iperf3(1)");
    const named_namespace left("flows-l"), right("flows-r");
    std::vector<cotun::unique_fd> a = open_queues("left0", "10.9.0.1/24", left.name());
    std::vector<cotun::unique_fd> b = open_queues("right0", "10.9.0.2/24", right.name());
    std::array<seen, queues> there, back;
    std::string said;
    std::uint64_t out_of_order = 0;
    std::map<flow, std::uint64_t> arrived;
    {
        cotun::reactor_group group({.reactors = queues});
        for (unsigned q = 0; q < queues; ++q)
            group.spawn_on(q, forward_queue, a[q].release(), b[q].release(), std::ref(there[q]), std::ref(back[q]));
        right.inside([&] {
            program server({"iperf3", "-s", "-1", "-B", "10.9.0.2"});
            REQUIRE(wait_until([&] { return run("ss -ltn | grep -q 5201").good(); }));
            arrivals watched("right0");
            said = run("nsenter --net=" + left.path() + " iperf3 -J -c 10.9.0.2 -t 3 -P " + std::to_string(flows),
                       std::chrono::seconds(90))
                       .output;
            watched.end();
            out_of_order = watched.out_of_order;
            arrived = watched.packets;
        });
        group.request_stop();
        group.join();
    }
    INFO(said.substr(0, 2000));
    const std::size_t sum = said.find("\"sum_sent\"");
    REQUIRE(sum != std::string::npos);
    const std::uint64_t retransmits = number_behind(said.substr(sum), "\"retransmits\":\t");
    std::cout << "64 flows over 2 queues: " << retransmits << " retransmits, "
              << number_behind(said.substr(sum), "\"bits_per_second\":\t") / 1'000'000 << " Mb/s, packets by queue "
              << there[0].packets << " and " << there[1].packets << ", flows " << there[0].flows.size() << " and "
              << there[1].flows.size() << "\n";
    CHECK(retransmits != ~std::uint64_t{0});
    CHECK(arrived.size() >= flows);
    CHECK(out_of_order == 0);
    CHECK(there[0].flows.size() > 4);
    CHECK(there[1].flows.size() > 4);
}
