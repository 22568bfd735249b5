// SPDX-License-Identifier: Apache-2.0
//
// Answers pings to every address behind a TUN device. As root:
//
//     ping_responder --dev ping0 --address 10.9.0.1/24 &
//     ping 10.9.0.7
#include "program.hpp"

namespace {

constexpr const char* usage = "usage: ping_responder --dev NAME --address CIDR[,CIDR]\n";

cotun::task<> answer_pings(cotun::device& dev) {
    for (;;) {
        cotun::packet pkt = co_await dev.read_packet(); // ready at once while packets are waiting
        if (cotun::wire::reply_to_echo(pkt.bytes()))    // in place; checksum updated, not recomputed
            co_await dev.write_packet(std::move(pkt));
    }
}

void respond(int argc, char** argv) {
    const example::arguments args(argc, argv, usage);
    cotun::reactor io;
    example::stop_on_signals(io);
    cotun::device dev =
        cotun::open_tun(io, {.name = args.need("--dev"), .addresses = args.prefixes("--address"), .mtu = 1400});
    io.run(answer_pings(dev));
}

} // namespace

int main(int argc, char** argv) { return example::run(respond, argc, argv); }
