// SPDX-License-Identifier: Apache-2.0
//
// The one way in which the library throws an errno.
#pragma once

#include <string>
#include <system_error>

namespace cotun::detail {

/// `what`: what was tried, on what, and the remedy; the kernel's own words for `error` are put behind it.
[[noreturn]] inline void fail(int error, const std::string& what) {
    throw std::system_error(error, std::generic_category(), what);
}

bool is_final(int error) noexcept;

} // namespace cotun::detail
