// SPDX-License-Identifier: Apache-2.0
#include <cotun/io/error.hpp>

#include "io/fail.hpp"

#include <cerrno>

namespace cotun {

bool detail::is_final(int error) noexcept {
    switch (error) {
    case EBADFD: // the interface was deleted under its descriptor
    case EBADF:
    case ENODEV:
    case ENXIO:
    case ENOTSOCK:
    case EOPNOTSUPP:
    case EFAULT:
    case EPIPE:
    case ESHUTDOWN:
    case ECANCELED: // closed by the program
        return true;
    default: return false;
    }
}

bool is_final(const std::error_code& error) noexcept {
    if (error.category() == std::generic_category() || error.category() == std::system_category())
        return detail::is_final(error.value());
    const std::error_condition condition = error.default_error_condition(); // of a category of its own, such as resolve
    return condition.category() == std::generic_category() ? detail::is_final(condition.value())
                                                           : static_cast<bool>(error);
}

} // namespace cotun
