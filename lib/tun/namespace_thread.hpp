// SPDX-License-Identifier: Apache-2.0
//
// Doing something in another network namespace, while the caller stays where it is.
#pragma once

#include <cotun/io/unique_fd.hpp>

#include <functional>
#include <string_view>

namespace cotun::detail {

/// By a name as in `ip netns`, or a path. Throws std::system_error; `call`: what the error begins with.
unique_fd open_namespace(std::string_view netns, std::string_view call);

/// Whether the descriptor is the calling thread's own network namespace.
bool is_current_namespace(int netns) noexcept;

/// Runs `body` there, and returns when it has ended, with its exception. Throws std::system_error when the namespace
/// cannot be entered. A thread can be in another namespace than the rest of its process, so it is on one of its own.
void run_in_namespace(int netns, std::string_view call, const std::function<void()>& body);

} // namespace cotun::detail
