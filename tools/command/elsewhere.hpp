// SPDX-License-Identifier: Apache-2.0
//
// --netns: commands that work in another network namespace enter it, for good; they end soon after.
#pragma once

#include <cotun/link/network_namespace.hpp>

#include <cerrno>
#include <sched.h>
#include <string>
#include <system_error>

namespace cotun::command {

/// Throws std::system_error. Empty: stays.
inline void enter_namespace(const std::string& netns) {
    if (netns.empty()) return;
    const network_namespace there = network_namespace::open(netns);
    if (::setns(there.native_handle(), CLONE_NEWNET) != 0)
        throw std::system_error(errno, std::generic_category(),
                                "cotun: entering network namespace '" + netns + "' (needs CAP_SYS_ADMIN)");
}

} // namespace cotun::command
