// SPDX-License-Identifier: Apache-2.0
//
// What the commands of `cotun` have in common: exit statuses, what is printed where.
#pragma once

#include <string>
#include <string_view>

namespace cotun::command {

inline constexpr int exit_well = 0;
inline constexpr int exit_no = 1;    // what was asked is not so, or could not be done
inline constexpr int exit_usage = 2; // the words given make no sense

/// Writes to the standard output. Returns exit_well, or exit_no, said on the standard error, where it cannot be
/// written.
int print(std::string_view text);

/// "cotun COMMAND: text" on the standard error. Returns exit_no.
int complain(std::string_view command, std::string_view text);
/// The same, with a hint at --help. Returns exit_usage.
int refuse_usage(std::string_view command, std::string_view text);
/// What getopt_long(3) answered with '?' or ':' (its option string begins with ':').
int refuse_option(std::string_view command, int answer, char** argv);
std::string describe_option(int answer, char** argv);

/// Whether the standard output is a terminal that shows colours, and nobody objects (NO_COLOR).
bool wants_colour();

} // namespace cotun::command
