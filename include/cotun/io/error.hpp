// SPDX-License-Identifier: Apache-2.0
//
// How cotun reports failures: std::system_error, with an errno of the kernel's as its code (std::generic_category) and
// a text that says what was tried, on what, and what to do about it.
#pragma once

#include <system_error>

namespace cotun {

/// Whether a failure is the end of the device, socket or operation (the interface was deleted, the descriptor closed,
/// the privilege is missing), as against one that a later try may survive (the link is down, the peer refuses, memory
/// is short).
[[nodiscard]] bool is_final(const std::error_code& error) noexcept;

} // namespace cotun
