// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/task.hpp>

#include <cerrno>
#include <system_error>

namespace cotun::detail {

void refuse_empty_await() {
    throw std::system_error(EINVAL, std::generic_category(),
                            "task: await of an empty task; was it moved from, or awaited twice? Call the coroutine "
                            "again for each await");
}

} // namespace cotun::detail
