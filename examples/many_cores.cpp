// SPDX-License-Identifier: Apache-2.0
//
// A UDP echo server on all cores: a reactor on each, with a socket of its own. They have the same address, and the
// kernel spreads the senders over them, each staying with one (SO_REUSEPORT). Try it with
//
//     many_cores --local 127.0.0.1:7000 [--reactors N]
//     socat - UDP:127.0.0.1:7000
//
// SIGINT and SIGTERM end it; it prints how many datagrams each reactor has answered.
#include "program.hpp"

namespace {

constexpr const char* usage = "usage: many_cores --local ADDR:PORT [--reactors N]\n";

struct alignas(64) served { // one a reactor: cores that count side by side would be in each other's way
    unsigned long long datagrams = 0;
};

// A task is made where it runs: what it opens belongs to that thread.
cotun::task<> echo(cotun::reactor& io, cotun::endpoint local, served& count) {
    cotun::udp_options options;
    options.local = local;
    options.socket.reuse_port = true;
    cotun::udp_socket socket = cotun::open_udp(io, options);
    for (;;) {
        cotun::datagram d = co_await socket.receive();
        ++count.datagrams;
        co_await socket.send_to(std::move(d.payload), d.sender);
    }
}

cotun::reactor_group* stopped_group = nullptr;

// request_stop() is safe in a signal handler. Ends before the group does.
struct stop_on_signals {
    explicit stop_on_signals(cotun::reactor_group& group) {
        stopped_group = &group;
        for (const int number : {SIGINT, SIGTERM}) std::signal(number, [](int) { stopped_group->request_stop(); });
    }
    ~stop_on_signals() {
        for (const int number : {SIGINT, SIGTERM}) std::signal(number, SIG_DFL);
    }
};

void serve(int argc, char** argv) {
    const example::arguments args(argc, argv, usage);
    const cotun::endpoint local = cotun::endpoint::from_string(args.need("--local"));
    cotun::reactor_group group({.reactors = args.number("--reactors"), .pin = true}); // 0: one a CPU
    std::vector<served> counts(group.size());
    for (std::size_t i = 0; i < group.size(); ++i) group.spawn_on(i, echo, local, std::ref(counts[i]));
    const stop_on_signals stop(group);
    group.run(); // throws, if one of them cannot open its socket, and ends the others
    for (std::size_t i = 0; i < group.size(); ++i) std::printf("reactor %zu: %llu datagrams\n", i, counts[i].datagrams);
}

} // namespace

int main(int argc, char** argv) { return example::run(serve, argc, argv); }
