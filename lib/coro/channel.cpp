// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/channel.hpp>

#include <cerrno>
#include <string>
#include <system_error>

namespace cotun::detail {

void refuse_send_to_closed(const char* what) {
    throw std::system_error(EPIPE, std::generic_category(),
                            std::string(what) + ": send: it is closed, and takes no more values");
}

void throw_channel_gone(const char* what) {
    throw std::system_error(ECANCELED, std::generic_category(),
                            std::string(what) + ": it was destroyed while a task or a thread waited at it");
}

} // namespace cotun::detail
