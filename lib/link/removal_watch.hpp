// SPDX-License-Identifier: Apache-2.0
//
// removal_watch: a netlink socket that tells of the end of one link.
//
// It becomes readable when the link of that index leaves the calling thread's network namespace: deleted, or moved to
// another one. Its filter drops all other messages in the kernel, so it costs nothing while the links of others come
// and go. What is read from it does not matter; whether the link is really gone, its own descriptor tells. Source:
// rtnetlink(7), RTM_DELLINK; Documentation/networking/filter.rst.
#pragma once

namespace cotun::link {

/// A descriptor, non-blocking and closed on exec, that the caller owns. Throws std::system_error.
[[nodiscard]] int open_removal_watch(unsigned index);

} // namespace cotun::link
