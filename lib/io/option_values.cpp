// SPDX-License-Identifier: Apache-2.0
#include <cotun/io/option_values.hpp>

#include "io/fail.hpp"

#include <cerrno>
#include <fmt/format.h>

namespace cotun::detail {

void refuse_option_text(std::size_t size, std::size_t most) {
    fail(ENAMETOOLONG, fmt::format("an option's text has {} bytes; {} are the most", size, most));
}

void refuse_option_list(std::size_t most) {
    fail(E2BIG, fmt::format("an option's list has more than {} values, which are the most", most));
}

} // namespace cotun::detail
