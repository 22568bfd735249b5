// SPDX-License-Identifier: Apache-2.0
//
// How this room says no: "cotun: cannot A: B (C)", where A is what was tried and on what, B the kernel's extended error
// text, and C the remedy; std::system_error puts the errno's own text behind it.
#pragma once

#include <string_view>

namespace cotun::link {

[[noreturn]] void refuse(std::string_view intent, int error, std::string_view kernel_says, std::string_view remedy);

// What helps against this errno, whatever was tried; "" where that is not known.
[[nodiscard]] const char* general_remedy(int error) noexcept;

} // namespace cotun::link
