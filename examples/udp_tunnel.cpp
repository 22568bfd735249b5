// SPDX-License-Identifier: Apache-2.0
//
// A tunnel: packets of a TUN device (or frames of a TAP device) travel to the peer in UDP datagrams, one in each. It
// neither encrypts nor authenticates. At both ends, as root:
//
//     udp_tunnel --dev tun0 --address 10.9.0.1/24,fd09::1/64 --local 192.0.2.1:5000 --peer 192.0.2.2:5000
//     udp_tunnel --dev tun0 --address 10.9.0.2/24,fd09::2/64 --local 192.0.2.2:5000 --peer 192.0.2.1:5000
//
// The MTU leaves room for the outer headers (IPv6 40, UDP 8, and 14 for an inner Ethernet header) in 1500 bytes.
//
// A superpacket that the device hands over is cut by the socket, which sends all of its segments at once; datagrams that
// came at once are merged by the device. Nothing here says so, but for `receive_merged`; --no-offload leaves it all out.
#include "program.hpp"

namespace {

constexpr const char* usage = "usage: udp_tunnel --dev NAME --address CIDR[,CIDR] --local ADDR:PORT --peer ADDR:PORT\n"
                              "                  [--mtu N] [--tap] [--no-offload]\n";

cotun::task<> outwards(cotun::device& dev, cotun::udp_socket& peer) {
    for (;;) {
        cotun::packet_batch batch = co_await dev.read_packets(); // all that has arrived, at least one
        co_await peer.send_packets(std::move(batch));
    }
}

cotun::task<> inwards(cotun::udp_socket& peer, cotun::device& dev) {
    for (;;) {
        cotun::packet_batch batch = co_await peer.receive_packets();
        co_await dev.write_packets(std::move(batch));
    }
}

cotun::device open_device(cotun::reactor& io, const example::arguments& args) {
    cotun::device_options options;
    options.name = args.need("--dev");
    options.addresses = args.prefixes("--address");
    options.mtu = args.has("--mtu") ? args.number("--mtu") : 1420;
    if (args.has("--no-offload")) options.offload = cotun::no_offload;
    return args.has("--tap") ? cotun::open_tap(io, options) : cotun::open_tun(io, options);
}

void tunnel(int argc, char** argv) {
    const example::arguments args(argc, argv, usage, {"--tap", "--no-offload"});
    cotun::reactor io;
    example::stop_on_signals(io);
    cotun::device dev = open_device(io, args);
    cotun::udp_options options;
    options.local = cotun::endpoint::from_string(args.need("--local"));
    options.peer = cotun::endpoint::from_string(args.need("--peer"));
    options.largest_datagram = dev.mtu() + 18; // an Ethernet header with a VLAN tag
    options.receive_merged = !args.has("--no-offload");
    options.socket.receive_buffer = options.socket.send_buffer = 4 << 20;
    cotun::udp_socket peer = cotun::open_udp(io, options);
    io.spawn(outwards(dev, peer));
    io.run(inwards(peer, dev));
}

} // namespace

int main(int argc, char** argv) { return example::run(tunnel, argc, argv); }
