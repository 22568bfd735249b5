// SPDX-License-Identifier: Apache-2.0
#include "../support/allocations.hpp"
#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"

#include "cotun/io/reactor.hpp"
#include "cotun/net/udp.hpp"
#include "ring/uring.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <system_error>

using namespace cotun;

namespace {

constexpr unsigned burst = 32;

// Sends bursts to itself, and reads each back before the next.
task<unsigned> echo(udp_socket& s, reactor& io, unsigned rounds) {
    const endpoint here = s.local();
    unsigned received = 0;
    for (unsigned round = 0; round < rounds; ++round) {
        for (unsigned i = 0; i < burst; ++i) {
            packet p = co_await io.allocate(64);
            co_await s.send_to(std::move(p), here);
        }
        unsigned back = 0;
        while (back < burst) {
            const packet_batch batch = co_await s.receive_packets();
            back += static_cast<unsigned>(batch.size());
        }
        received += back;
    }
    co_return received;
}

} // namespace

TEST_CASE("reading and writing packets allocates nothing, once warm") {
    try {
        (void)ring::make_uring({});
    } catch (const std::system_error& e) {
        SKIP(e.what());
    }
    reactor io;
    udp_options options;
    options.local = endpoint::from_string("127.0.0.1:0");
    options.read = GENERATE(read_mode::automatic, read_mode::poll);
    udp_socket s = open_udp(io, options);
    CHECK(io.run(echo(s, io, 100)) == 100 * burst);
    const auto rounds = static_cast<unsigned>(test::scaled(test::sanitized ? 300 : 3200)); // 100,000 packets
    const std::size_t before = test::allocations.load();
    const unsigned received = io.run(echo(s, io, rounds));
    const std::size_t allocated = test::allocations.load() - before;
    CHECK(received == rounds * burst);
    CHECK(allocated < 16); // of run() itself
}
