// SPDX-License-Identifier: Apache-2.0
#include "io/reader_places.hpp"

#include "io/acceptor.hpp"
#include "io/reactor_core.hpp"

namespace cotun::detail {

bool reader_places::admit() noexcept {
    if (core_->lack_of_readers(class_) != reactor_core::lack::none) return false;
    ++admitted_;
    return true;
}

void reader_places::dismiss() noexcept {
    --admitted_;
    core_->serve_connections();
}

void reader_places::await_admission(acceptor& a) noexcept { core_->await_reader_place(a); }

std::string reader_places::refusal() const { return core_->explain_lack_of_readers(class_); }

} // namespace cotun::detail
