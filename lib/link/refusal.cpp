// SPDX-License-Identifier: Apache-2.0
#include "link/refusal.hpp"

#include "io/fail.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <string>

namespace cotun::link {

void refuse(std::string_view intent, int error, std::string_view kernel_says, std::string_view remedy) {
    std::string text = fmt::format("cotun: cannot {}", intent);
    if (!kernel_says.empty()) text += fmt::format(": {}", kernel_says);
    if (!remedy.empty()) text += fmt::format(" ({})", remedy);
    detail::fail(error, text);
}

const char* general_remedy(int error) noexcept {
    switch (error) {
    case EPERM:
        return "this needs CAP_NET_ADMIN in the user namespace that owns this network namespace: run as root, give the "
               "program the capability (setcap cap_net_admin+ep), or run it in 'unshare --user --map-root-user --net'";
    case ENODEV: return "there is no such link in this network namespace; it may have been deleted, renamed or moved";
    case EBUSY: return "somebody else is changing it; try again";
    case ENOMEM:
    case ENOBUFS: return "the kernel is short of memory for it; try again later";
    case EBADF: return "this socket was moved from";
    default: return "";
    }
}

} // namespace cotun::link
