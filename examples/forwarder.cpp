// SPDX-License-Identifier: Apache-2.0
//
// Moves packets between two TUN devices, which may live in different network namespaces: a cable in user space. As
// root:
//
//     ip netns add left; ip netns add right
//     forwarder --a tun0@left --address-a 10.8.0.1/24 --b tun0@right --address-b 10.8.0.2/24 &
//     ip netns exec left ping 10.8.0.2
//
// Superpackets pass through whole, unless --no-offload is given.
//
// It is written one packet at a time, as a first program would be: reads take what has already come without a system
// call, and writes are gathered and handed over in one.
#include "program.hpp"

namespace {

constexpr const char* usage =
    "usage: forwarder --a NAME[@NETNS] --address-a CIDR[,CIDR]\n"
    "                 --b NAME[@NETNS] --address-b CIDR[,CIDR] [--mtu N] [--read poll|multishot] [--no-offload]\n";

cotun::task<> pump(cotun::device& from, cotun::device& to) {
    for (;;) {
        cotun::packet pkt = co_await from.read_packet();
        co_await to.write_packet(std::move(pkt));
    }
}

cotun::device open_end(cotun::reactor& io, const example::arguments& args, const std::string& side) {
    const std::string where = args.need("--" + side);
    const std::size_t at = where.find('@');
    const std::string mode = args.get("--read", "");
    cotun::device_options options;
    options.name = where.substr(0, at);
    options.netns = at == std::string::npos ? "" : where.substr(at + 1);
    options.addresses = args.prefixes("--address-" + side);
    options.mtu = args.number("--mtu");
    if (args.has("--no-offload")) options.offload = cotun::no_offload;
    if (mode == "poll") options.read = cotun::read_mode::poll;
    if (mode == "multishot") options.read = cotun::read_mode::multishot;
    return cotun::open_tun(io, options);
}

void forward(int argc, char** argv) {
    const example::arguments args(argc, argv, usage, {"--no-offload"});
    cotun::reactor io;
    example::stop_on_signals(io);
    cotun::device a = open_end(io, args, "a");
    cotun::device b = open_end(io, args, "b");
    io.spawn(pump(a, b));
    io.run(pump(b, a));
}

} // namespace

int main(int argc, char** argv) { return example::run(forward, argc, argv); }
