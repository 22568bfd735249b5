// SPDX-License-Identifier: Apache-2.0
//
// Doing something in another network namespace, while the calling thread stays where it is: on a thread of its own,
// since a thread can be in another namespace than the rest of its process. What is opened there belongs there.
#pragma once

#include <cotun/io/unique_fd.hpp>
#include <cotun/link/network_namespace.hpp>

#include <concepts>
#include <functional>
#include <string_view>

namespace cotun::link {

// Its descriptor. Throws std::system_error if it is gone, or no namespace. `call`: for errors, "open_tun".
[[nodiscard]] unique_fd open_namespace(const netns_reference& which, std::string_view call);

// Whether the descriptor is of the calling thread's own.
[[nodiscard]] bool is_current_namespace(int descriptor) noexcept;

// Calls `body` there, waits for it, and throws what it throws. `what`: for errors, how the namespace is called.
void run_in_namespace(int descriptor, std::string_view what, std::string_view call, const std::function<void()>& body);

// The same; where `which` is the calling thread's own, without a thread.
void run_in_namespace(const netns_reference& which, std::string_view call, const std::function<void()>& body);

} // namespace cotun::link
