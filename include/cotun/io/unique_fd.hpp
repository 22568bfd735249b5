// SPDX-License-Identifier: Apache-2.0
//
// unique_fd: a descriptor that is closed with its owner.
//
//     cotun::unique_fd log = std::move(message.descriptors.front());
//     ::write(log.get(), "hello\n", 6);
//
// It is move-only; an empty one has the number -1. Thread: any, one at a time.
#pragma once

#include <utility>

namespace cotun {

class unique_fd {
public:
    unique_fd() noexcept = default;
    /// Takes the descriptor.
    explicit unique_fd(int descriptor) noexcept : descriptor_(descriptor) {}
    unique_fd(unique_fd&& other) noexcept : descriptor_(other.release()) {}
    unique_fd& operator=(unique_fd&& other) noexcept {
        if (this != &other) {
            reset();
            descriptor_ = other.release();
        }
        return *this;
    }
    ~unique_fd() { reset(); }

    /// Another descriptor of the same open file, close-on-exec (F_DUPFD_CLOEXEC). Throws std::system_error.
    static unique_fd duplicate_of(int descriptor);

    int get() const noexcept { return descriptor_; }
    explicit operator bool() const noexcept { return descriptor_ >= 0; }
    /// The descriptor is the caller's.
    [[nodiscard]] int release() noexcept { return std::exchange(descriptor_, -1); }
    /// Closes it.
    void reset() noexcept;

private:
    int descriptor_ = -1;
};

} // namespace cotun
