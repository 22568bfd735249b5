// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/task.hpp>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>

namespace cotun::detail {

void refuse_empty_await() {
    throw std::system_error(EINVAL, std::generic_category(),
                            "task: await of an empty task; was it moved from, or awaited twice? Call the coroutine "
                            "again for each await");
}

void refuse_shifted_frame() noexcept {
    std::fputs(
        "cotun: GCC has miscompiled a coroutine whose body declares nothing and has a co_await in a condition: give "
        "what is awaited a name there, as in `while (auto value = co_await x)`\n",
        stderr);
    std::abort();
}

} // namespace cotun::detail
