// SPDX-License-Identifier: Apache-2.0
//
// `cotun monitor`: what happens to links, addresses and routes, a line each, as it happens.
#pragma once

namespace cotun::command {

/// The words after `cotun`. Returns the exit status.
int monitor(int argc, char** argv);

} // namespace cotun::command
