// SPDX-License-Identifier: Apache-2.0
#include "doctor.hpp"

#include "command.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fmt/format.h>
#include <getopt.h>
#include <unistd.h>

namespace cotun::command {
namespace {

constexpr const char* usage =
    "Usage: cotun doctor [--json] [--binary PATH]\n"
    "\n"
    "Looks whether a tunnel can run here, and tries what of the kernel cotun would use: says of each thing whether it\n"
    "works, what cotun uses instead where it does not, and what to do about it. It leaves nothing behind.\n"
    "\n"
    "      --json         the same facts, for programs\n"
    "      --binary PATH  whether this program would gain what it needs, by its file capabilities\n"
    "  -h, --help         this text\n"
    "\n"
    "Exit status: 0 if a tunnel can run, 1 if not, 2 if the words given make no sense.\n";

struct arguments {
    bool json = false;
    std::optional<std::string> binary;
};

// Each group in one piece, in the order in which groups are first seen.
report grouped(const report& all) {
    report result;
    std::vector<std::string> groups;
    for (const finding& f : all.findings())
        if (std::find(groups.begin(), groups.end(), f.group) == groups.end()) groups.push_back(f.group);
    for (const std::string& group : groups)
        for (const finding& f : all.findings())
            if (f.group == group) result.add(f);
    return result;
}

report examine(const arguments& asked) {
    report found;
    examine_node(found);
    examine_privileges(found, asked.binary);
    examine_surroundings(found);
    examine_ring_policy(found);
    examine_ring(found);
    examine_devices(found); // has the first of the requests
    examine_requests(found);
    examine_sockets(found);
    examine_bounds(found);
    return grouped(found);
}

} // namespace

int doctor(int argc, char** argv) {
    enum { json_option = 256, binary_option };
    static const option options[]{{"json", no_argument, nullptr, json_option},
                                  {"binary", required_argument, nullptr, binary_option},
                                  {"help", no_argument, nullptr, 'h'},
                                  {}};
    arguments asked;
    for (int c = 0; (c = ::getopt_long(argc, argv, ":h", options, nullptr)) != -1;) {
        switch (c) {
        case json_option: asked.json = true; break;
        case binary_option: asked.binary = ::optarg; break;
        case 'h': return print(usage);
        default: return refuse_option("doctor", c, argv);
        }
    }
    if (::optind < argc) return refuse_usage("doctor", fmt::format("unexpected '{}'", argv[::optind]));
    if (asked.binary && ::access(asked.binary->c_str(), F_OK) != 0)
        return refuse_usage("doctor", fmt::format("{}: {}", *asked.binary, std::strerror(errno)));
    const report found = examine(asked);
    const int shown = print(asked.json ? as_json(found) : as_text(found, wants_colour()));
    if (shown != exit_well) return shown;
    return found.tunnel_can_run() ? exit_well : exit_no;
}

} // namespace cotun::command
