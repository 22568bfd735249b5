// SPDX-License-Identifier: Apache-2.0
//
// The offloads of a link, as `ethtool -k` shows them. Source: linux/ethtool.h; Documentation/networking/
// netdev-features.rst.
#pragma once

#include <string>
#include <vector>

namespace cotun::command {

/// The names of those that are on, of segmentation, checksums and receive offload; in the kernel's order. Empty where
/// the link has none or is gone.
std::vector<std::string> active_offloads(const std::string& link);

} // namespace cotun::command
