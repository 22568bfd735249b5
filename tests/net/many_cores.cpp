// SPDX-License-Identifier: Apache-2.0
//
// One address, a socket for it on each reactor of a group: datagrams are echoed by all of them, each sender's by one.
#include <cotun/io/reactor_group.hpp>
#include <cotun/net/udp.hpp>

#include "sockets.hpp"

#include <catch2/catch_test_macros.hpp>

#include <arpa/inet.h>
#include <array>
#include <atomic>
#include <cerrno>
#include <netinet/in.h>
#include <string>
#include <sys/socket.h>
#include <sys/time.h>
#include <vector>

using namespace test;

namespace {

struct alignas(64) counted {
    unsigned datagrams = 0;
};

cotun::task<> echo(cotun::reactor& io, endpoint local, counted& count, std::atomic<unsigned>& open) {
    cotun::udp_options options;
    options.local = local;
    options.socket.reuse_port = true;
    cotun::udp_socket socket = cotun::open_udp(io, options);
    ++open;
    for (;;) {
        cotun::datagram d = co_await socket.receive();
        ++count.datagrams;
        co_await socket.send_to(std::move(d.payload), d.sender);
    }
}

// A socket of the kernel's, on a port of its own.
class client {
public:
    explicit client(std::uint16_t port) : descriptor_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(port);
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::connect(descriptor_, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
        const timeval patient{20, 0};
        setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &patient, sizeof patient);
    }
    client(const client&) = delete;
    client& operator=(const client&) = delete;
    ~client() { ::close(descriptor_); }
    std::string ask(const std::string& words) {
        if (::send(descriptor_, words.data(), words.size(), 0) < 0) return "not sent";
        std::array<char, 64> back{};
        // A ring that this thread had and that is gone interrupts it once more, when the kernel lets go of it.
        ssize_t n = -1;
        do n = ::recv(descriptor_, back.data(), back.size(), 0);
        while (n < 0 && errno == EINTR);
        return n < 0 ? "nothing" : std::string(back.data(), static_cast<std::size_t>(n));
    }

private:
    int descriptor_;
};

} // namespace

TEST_CASE("udp: a socket a reactor echoes at one address, and takes part in the load") {
    const own_namespace here;
    cotun::reactor_group group({.reactors = 3});
    std::array<counted, 3> counts;
    std::atomic<unsigned> open{0};
    const endpoint local = endpoint::from_string("127.0.0.1:7000");
    for (std::size_t i = 0; i < group.size(); ++i) group.spawn_on(i, echo, local, std::ref(counts[i]), std::ref(open));
    REQUIRE(wait_until([&] { return open == 3; }));
    static constexpr unsigned clients = 48;
    static constexpr unsigned rounds = 5;
    for (unsigned c = 0; c < clients; ++c) {
        client from(7000);
        for (unsigned r = 0; r < rounds; ++r) {
            const std::string words = std::to_string(c) + " " + std::to_string(r);
            CHECK(from.ask(words) == words);
        }
    }
    group.request_stop();
    group.join();
    unsigned all = 0;
    for (const counted& c : counts) {
        CHECK(c.datagrams > 0); // 48 senders: all with two of three once in 10^8
        CHECK(c.datagrams % rounds == 0);
        all += c.datagrams;
    }
    CHECK(all == clients * rounds);
}

TEST_CASE("udp: of a group, an address that is in use ends all, and says so") {
    const own_namespace here;
    cotun::reactor io;
    cotun::udp_socket taken = cotun::open_udp(io, bound("127.0.0.1:7000"));
    cotun::reactor_group group({.reactors = 2});
    std::array<counted, 2> counts;
    std::atomic<unsigned> open{0};
    group.spawn_on(0, echo, endpoint::from_string("127.0.0.1:7001"), std::ref(counts[0]), std::ref(open));
    group.spawn_on(1, echo, endpoint::from_string("127.0.0.1:7000"), std::ref(counts[1]), std::ref(open));
    try {
        group.run();
        FAIL("no error");
    } catch (const std::system_error& e) {
        CHECK(e.code() == std::errc::address_in_use);
    }
    client nobody(7001); // its socket is closed
    CHECK((nobody.ask("x") == "nothing"));
}
