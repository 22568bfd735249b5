// SPDX-License-Identifier: Apache-2.0
#include <cotun/io/unique_fd.hpp>

#include "io/fail.hpp"

#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

namespace cotun {

unique_fd unique_fd::duplicate_of(int descriptor) {
    const int made = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
    if (made < 0)
        detail::fail(errno, fmt::format("duplicating descriptor {} (is it open? see also `ulimit -n`)", descriptor));
    return unique_fd(made);
}

void unique_fd::reset() noexcept {
    if (descriptor_ >= 0) ::close(release());
}

} // namespace cotun
