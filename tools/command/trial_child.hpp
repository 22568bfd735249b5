// SPDX-License-Identifier: Apache-2.0
//
// Trials in a process of their own: what they change, such as the namespaces they are in, and what they leave open ends
// with them, even where they crash or hang.
#pragma once

#include "report.hpp"

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace cotun::command {

/// Runs `trials` in a child and adds what it has found. Returns what went wrong with the child itself; empty: nothing.
/// This process must have one thread only.
std::string try_in_child(report& into, const std::function<void(report&)>& trials,
                         std::chrono::milliseconds patience = std::chrono::seconds(20));

} // namespace cotun::command
