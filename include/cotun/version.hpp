// SPDX-License-Identifier: Apache-2.0
//
// The version of cotun that a program is compiled with. Semantic versioning; meson.build has the same number.
#pragma once

#define COTUN_VERSION_MAJOR 0
#define COTUN_VERSION_MINOR 1
#define COTUN_VERSION_PATCH 0

namespace cotun {

inline constexpr const char* version = "0.1.0";

} // namespace cotun
