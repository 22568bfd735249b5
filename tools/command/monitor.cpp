// SPDX-License-Identifier: Apache-2.0
#include "monitor.hpp"

#include "command.hpp"
#include "json.hpp"

#include <cotun/io/reactor.hpp>
#include <cotun/io/signal.hpp>
#include <cotun/link/link_monitor.hpp>

#include <csignal>
#include <fmt/format.h>
#include <getopt.h>
#include <string>
#include <utility>

namespace cotun::command {
namespace {

constexpr const char* usage =
    "Usage: cotun monitor [--json] [--initial] [--rules] [--neighbours] [--netns NETNS]\n"
    "\n"
    "Tells what happens to links, addresses and routes, a line each, until it is interrupted.\n"
    "\n"
    "      --json         an object a line\n"
    "      --initial      tells first of what there is, then `resynchronised`\n"
    "      --rules        of rules, too\n"
    "      --neighbours   of neighbours, too\n"
    "      --netns NETNS  of this network namespace: a name as in `ip netns`, or a path\n"
    "\n"
    "Exit status: 0 when it was interrupted, 1 refused, 2 the words given make no sense.\n";

struct arguments {
    bool json = false;
    std::string netns;
    link_monitor_options options;
};

bool is_of_address(link_event_kind kind) noexcept {
    return kind == link_event_kind::address_added || kind == link_event_kind::address_removed;
}
bool is_of_route(link_event_kind kind) noexcept {
    return kind == link_event_kind::route_added || kind == link_event_kind::route_removed;
}

void put_route(json_writer& out, const ip_route& route) {
    out.key("route");
    out.begin_object();
    out.member("destination", route.destination.to_string());
    if (route.gateway) out.member("gateway", route.gateway->to_string());
    out.member("device", route.device.view());
    out.member("metric", route.metric);
    out.member("table", route.table);
    out.member("protocol", unsigned{route.protocol});
    out.end_object();
}

void put_link(json_writer& out, const link_event& event) {
    if (event.index == 0) return;
    out.member("index", event.index);
    out.member("name", event.name.view());
    if (event.kind == link_event_kind::renamed) out.member("old_name", event.old_name.view());
    if (event.mtu != 0) out.member("mtu", event.mtu);
    if (event.kind == link_event_kind::mtu_changed) out.member("old_mtu", event.old_mtu);
    if (event.mac) out.member("mac", event.mac->to_string());
}

// What is particular to rules and neighbours is in the text.
std::string json_of(const link_event& event) {
    json_writer out(true);
    out.begin_object();
    out.member("event", to_string(event.kind));
    put_link(out, event);
    if (is_of_address(event.kind)) out.member("address", event.address.to_string());
    if (is_of_address(event.kind) && event.peer) out.member("peer", event.peer->to_string());
    if (is_of_route(event.kind)) put_route(out, event.route);
    out.member("text", describe(event));
    out.end_object();
    return std::move(out).text();
}

task<> stop_on_signal(reactor& io) {
    co_await io.signal(SIGINT, SIGTERM);
    io.stop();
}

task<> tell(link_monitor& events, bool json, reactor& io, int& status) {
    for (;;) {
        const link_event event = co_await events.next();
        status = print((json ? json_of(event) : describe(event)) + "\n");
        if (status != exit_well) break;
    }
    io.stop();
}

int watch(const arguments& asked) {
    reactor io;
    link_monitor_options options = asked.options;
    if (!asked.netns.empty()) options.netns = asked.netns;
    link_monitor events(io, options);
    int status = exit_well;
    io.spawn(stop_on_signal(io));
    io.spawn(tell(events, asked.json, io, status));
    io.run();
    return status;
}

} // namespace

int monitor(int argc, char** argv) {
    enum { json = 256, initial, rules, neighbours, netns };
    static const option options[]{{"json", no_argument, nullptr, json},
                                  {"initial", no_argument, nullptr, initial},
                                  {"rules", no_argument, nullptr, rules},
                                  {"neighbours", no_argument, nullptr, neighbours},
                                  {"netns", required_argument, nullptr, netns},
                                  {"help", no_argument, nullptr, 'h'},
                                  {}};
    arguments asked;
    for (int c = 0; (c = ::getopt_long(argc, argv, ":h", options, nullptr)) != -1;) {
        switch (c) {
        case json: asked.json = true; break;
        case initial: asked.options.initial = true; break;
        case rules: asked.options.rules = true; break;
        case neighbours: asked.options.neighbours = true; break;
        case netns: asked.netns = ::optarg; break;
        case 'h': return print(usage);
        default: return refuse_option("monitor", c, argv);
        }
    }
    if (::optind < argc) return refuse_usage("monitor", fmt::format("unexpected '{}'", argv[::optind]));
    try {
        return watch(asked);
    } catch (const std::exception& e) {
        return complain("monitor", e.what());
    }
}

} // namespace cotun::command
