// SPDX-License-Identifier: Apache-2.0
//
// cotun COMMAND: what an administrator needs besides the library.
#include "command.hpp"
#include "doctor.hpp"
#include "monitor.hpp"
#include "tun.hpp"

#include <cotun/version.hpp>

#include <csignal>
#include <exception>
#include <fmt/format.h>
#include <string>
#include <string_view>

namespace cotun::command {
namespace {

struct named_command {
    std::string_view name;
    std::string_view purpose;
    int (*run)(int argc, char** argv);
};

constexpr named_command commands[]{
    {"doctor", "whether a tunnel can run here, and what to do if not", doctor},
    {"tun", "TUN and TAP interfaces: add, del, show", tun},
    {"monitor", "what happens to links, addresses and routes, as it happens", monitor},
};

std::string usage() {
    std::string text = "Usage: cotun COMMAND [ARGUMENT...]\n\nCommands:\n";
    for (const named_command& c : commands) text += fmt::format("  {:<10} {}\n", c.name, c.purpose);
    return text + "\n`cotun COMMAND --help` tells of each. `cotun --version` prints the version.\n"
                  "Exit status: 0 well, 1 no, 2 the words given make no sense.\n";
}

int dispatch(int argc, char** argv) {
    if (argc < 2) return refuse_usage("", "which command?");
    const std::string_view word = argv[1];
    if (word == "--help" || word == "-h") return print(usage());
    if (word == "--version" || word == "-V") return print(fmt::format("cotun {}\n", version));
    for (const named_command& c : commands)
        if (c.name == word) return c.run(argc - 1, argv + 1);
    return refuse_usage("", fmt::format("no command '{}'", word));
}

} // namespace
} // namespace cotun::command

int main(int argc, char** argv) {
    std::signal(SIGPIPE, SIG_IGN); // who no longer reads is told by print()
    try {
        return cotun::command::dispatch(argc, argv);
    } catch (const std::exception& e) {
        return cotun::command::complain("", e.what());
    }
}
