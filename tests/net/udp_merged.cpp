// SPDX-License-Identifier: Apache-2.0
//
// Datagrams that the kernel hands over many at a time (UDP_GRO): each is a packet of its own, and none is lost.
#include <cotun/coro/result.hpp>
#include <cotun/net/tcp.hpp>
#include <cotun/net/udp.hpp>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <cstring>
#include <vector>

#include "../support/namespace.hpp"

using namespace cotun;

namespace {

constexpr std::uint16_t port = 4712;

/// Sends `count` datagrams of `size` bytes in one call; each begins with its number, from `first` on.
void send_run(std::uint32_t first, std::uint32_t count, std::size_t size, std::size_t last) {
    const int from = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const int segment = static_cast<int>(size);
    REQUIRE(setsockopt(from, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment) == 0);
    std::vector<std::byte> run((count - 1) * size + last, std::byte{0x55});
    for (std::uint32_t n = 0; n < count; ++n) {
        const std::uint32_t number = first + n;
        std::memcpy(&run[n * size], &number, sizeof number);
    }
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const ssize_t sent = sendto(from, run.data(), run.size(), 0, reinterpret_cast<const sockaddr*>(&to), sizeof to);
    close(from);
    REQUIRE(sent == static_cast<ssize_t>(run.size()));
}

std::uint32_t number_of(const packet& p) {
    std::uint32_t number = 0;
    std::memcpy(&number, p.bytes().data(), sizeof number);
    return number;
}

udp_options merged(read_mode mode) {
    udp_options options;
    options.local = endpoint::from_string("127.0.0.1:4712");
    options.receive_merged = true;
    options.read = mode;
    return options;
}

} // namespace

TEST_CASE("datagrams that came as one are packets of their own, in order", "[net][merged]") {
    test::own_namespace here;
    const read_mode mode = GENERATE(read_mode::automatic, read_mode::poll);
    reactor io;
    const auto body = [](reactor& on, read_mode how) -> task<> {
        udp_options options = merged(how);
        options.packet_info = true;
        udp_socket s = open_udp(on, options);
        send_run(0, 40, 1000, 300);
        send_run(40, 1, 1000, 1000);
        send_run(41, 3, 8, 8);
        std::vector<packet> kept;
        while (kept.size() < 44) {
            packet_batch batch = co_await s.receive_packets();
            for (packet& p : batch) kept.push_back(std::move(p));
        }
        for (std::uint32_t n = 0; n < 44; ++n) {
            INFO("datagram " << n);
            CHECK(number_of(kept[n]) == n);
            CHECK(kept[n].size() == (n < 39 || n == 40 ? 1000U : n == 39 ? 300U : 8U));
            CHECK(sender(kept[n]).address().to_string() == "127.0.0.1");
        }
        CHECK(s.reads().packets == 44);
        CHECK(s.reads().truncated == 0);
        // One that needs room moves, and does not write over its neighbours.
        const std::span<std::byte> front = kept[5].prepend(4);
        std::fill(front.begin(), front.end(), std::byte{0xaa});
        const std::span<std::byte> behind = kept[6].append(4);
        std::fill(behind.begin(), behind.end(), std::byte{0xaa});
        CHECK(number_of(kept[4]) == 4);
        CHECK(kept[4].bytes()[999] == std::byte{0x55});
        CHECK(number_of(kept[7]) == 7);
        kept[5].remove_prefix(4);
        CHECK(number_of(kept[5]) == 5);
        CHECK(number_of(kept[6]) == 6);
        CHECK(kept[6].size() == 1004);
        // Given back in any order, they give their buffer back.
        const std::size_t free = on.statistics().large_buffers_free;
        for (std::size_t n = 0; n < 40; n += 2) kept[n].reset();
        CHECK(on.statistics().large_buffers_free == free);
        for (std::size_t n = 1; n < 40; n += 2) kept[n].reset();
        CHECK(on.statistics().large_buffers_free == free + 1);
        kept.clear();
        co_await s.close();
    };
    io.run(body(io, mode));
    CHECK(io.statistics().large_buffers_free == 64);
    CHECK(io.statistics().small_buffers_free == 1024);
}

TEST_CASE("a consumer that is slow holds up datagrams that came as one, and loses none", "[net][merged]") {
    test::own_namespace here;
    reactor io({.pool = {.large_count = 4}});
    const auto body = [](reactor& on) -> task<> {
        udp_socket s = open_udp(on, merged(read_mode::automatic));
        for (std::uint32_t n = 0; n < 6; ++n) send_run(n * 10, 10, 100, 100);
        for (std::uint32_t n = 0; n < 60; ++n) {
            datagram d = co_await s.receive();
            CHECK(number_of(d.payload) == n);
            if (n % 7 == 0) co_await on.yield();
        }
        co_await s.close();
    };
    io.run(body(io));
    CHECK(io.statistics().large_buffers_free == 4);
}

TEST_CASE("a socket closed with unread parts gives their buffers back", "[net][merged]") {
    test::own_namespace here;
    reactor io;
    const auto body = [](reactor& on) -> task<> {
        udp_socket s = open_udp(on, merged(read_mode::automatic));
        send_run(0, 30, 1000, 1000);
        const datagram d = co_await s.receive();
        co_await s.close();
        CHECK(number_of(d.payload) == 0);
    };
    io.run(body(io));
    CHECK(io.statistics().large_buffers_free == 64);
}

TEST_CASE("datagrams that came as one go on to a stream, whole and in order", "[net][merged]") {
    test::own_namespace here;
    reactor io;
    const auto body = [](reactor& on) -> task<> {
        udp_socket from = open_udp(on, merged(read_mode::automatic));
        const auto write = [](udp_socket& source, tcp_stream& to) -> task<> {
            for (std::uint32_t left = 40; left > 0; --left) {
                datagram d = co_await source.receive();
                d.payload.set_offload({.data_valid = true}); // each has its own
                co_await to.write(std::move(d.payload));
            }
        };
        tcp_listener at = listen_tcp(on, {.local = endpoint::from_string("127.0.0.1:4713")});
        tcp_stream there = co_await connect_tcp(on, endpoint::from_string("127.0.0.1:4713"));
        tcp_stream here_too = co_await at.accept();
        packet super = co_await on.allocate(3000);
        super.set_offload({.segment_size = 1000, .header_length = 40, .type = offload::segment_type::tcp4});
        const auto refused = co_await as_result(there.write(std::move(super)));
        CHECK(refused.error() == std::errc::invalid_argument); // its reader could not tell
        send_run(0, 20, 1000, 1000);
        send_run(20, 20, 3000, 3000); // larger than a small buffer
        co_await write(from, there);
        std::vector<std::byte> got(20 * 4000);
        co_await here_too.read(got);
        for (std::uint32_t n = 0; n < 40; ++n) {
            std::uint32_t number = 0;
            std::memcpy(&number, &got[n < 20 ? n * 1000 : 20'000 + (n - 20) * 3000], sizeof number);
            CHECK(number == n);
        }
        co_await from.close();
        co_await there.close();
        co_await here_too.close();
        co_await at.close();
    };
    io.run(body(io));
    CHECK(io.statistics().large_buffers_free == 64);
    CHECK(io.statistics().small_buffers_free == 1024);
}
