// SPDX-License-Identifier: Apache-2.0
//
// Whether a descriptor that is taken out of a ring's table of registered files is let go at once.
//
// Before Linux 6.13 the kernel held it until every request that used any descriptor of the table had ended: a device
// that was closed stayed for as long as another was being read, and its name with it.
#pragma once

namespace cotun::ring {

/// Found by trying, once a process. False also where it cannot be tried. Any thread.
bool removal_is_immediate() noexcept;

} // namespace cotun::ring
