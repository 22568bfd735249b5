// SPDX-License-Identifier: Apache-2.0
//
// counted<T>: keeps a T from being destroyed, by its hold() and drop(). Not for threads.
#pragma once

#include <utility>

namespace cotun::detail {

template <class T>
class counted {
public:
    explicit counted(T& to) noexcept : to_(&to) { to_->hold(); }
    counted(counted&& other) noexcept : to_(std::exchange(other.to_, nullptr)) {}
    counted& operator=(counted&&) = delete;
    ~counted() {
        if (to_ != nullptr) to_->drop();
    }
    T* operator->() const noexcept { return to_; }

private:
    T* to_;
};

} // namespace cotun::detail
