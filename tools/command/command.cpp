// SPDX-License-Identifier: Apache-2.0
#include "command.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fmt/format.h>
#include <getopt.h>
#include <unistd.h>

namespace cotun::command {
namespace {

void say(std::string_view command, std::string_view text) {
    fmt::print(stderr, "cotun{}{}: {}\n", command.empty() ? "" : " ", command, text);
}

} // namespace

int print(std::string_view text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return exit_well;
    say({}, fmt::format("writing to the standard output: {}", std::strerror(errno)));
    return exit_no;
}

int complain(std::string_view command, std::string_view text) {
    say(command, text);
    return exit_no;
}

int refuse_usage(std::string_view command, std::string_view text) {
    say(command, text);
    fmt::print(stderr, "Try 'cotun {}{}--help'.\n", command, command.empty() ? "" : " ");
    return exit_usage;
}

std::string describe_option(int answer, char** argv) {
    const std::string word = ::optind > 0 ? argv[::optind - 1] : "";
    return answer == ':' ? fmt::format("option '{}' needs a value", word) : fmt::format("unknown option '{}'", word);
}

int refuse_option(std::string_view command, int answer, char** argv) {
    return refuse_usage(command, describe_option(answer, argv));
}

bool wants_colour() {
    const char* const refused = std::getenv("NO_COLOR");
    const char* const terminal = std::getenv("TERM");
    return ::isatty(STDOUT_FILENO) == 1 && (refused == nullptr || *refused == '\0') && terminal != nullptr &&
           std::string_view(terminal) != "dumb";
}

} // namespace cotun::command
