// SPDX-License-Identifier: Apache-2.0
#include "ring/wake.hpp"

#include <cerrno>
#include <cstdint>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <system_error>
#include <unistd.h>

namespace cotun::ring {

uring_waker::uring_waker(int ring) : event_(eventfd(0, EFD_CLOEXEC)), ring_(ring) {
    if (event_ < 0)
        throw std::system_error(errno, std::generic_category(),
                                "reactor: eventfd for wake-ups (out of descriptors? see `ulimit -n`)");
}

uring_waker::~uring_waker() {
    ::close(event_);
    if (owns_number_) ::close(ring_);
}

void uring_waker::wake() noexcept {
    if (process_.forked()) return;
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(event_, &one, sizeof one);
}

// dup3 closes the ring as close(2) would; io_uring_queue_exit() finds nothing to close then. A registered descriptor
// would keep the ring, and is let go first.
void uring_waker::leave(io_uring& ring, bool named) noexcept {
    if (!named) return;
    if ((ring.int_flags & 1) != 0) io_uring_unregister_ring_fd(&ring); // INT_FLAG_REG_RING
    int taken = -1;
    do taken = dup3(event_, ring_, O_CLOEXEC);
    while (taken < 0 && (errno == EINTR || errno == EBUSY));
    if (taken < 0) return;
    owns_number_ = true;
    ring.ring_fd = ring.enter_ring_fd = -1;
}

// A target that only this table has is one whose driver is gone.
std::optional<unsigned> wake_targets::number_of(const std::shared_ptr<waker>& target, bool forget) noexcept {
    unsigned place = used_;
    for (unsigned i = 0; i < used_; ++i) {
        if (targets_[i] == target) return i;
        if (forget && targets_[i].use_count() == 1) targets_[i].reset();
        if (targets_[i] == nullptr && place == used_) place = i;
    }
    auto ring = std::dynamic_pointer_cast<uring_waker>(target);
    if (ring == nullptr || place == most) return std::nullopt;
    targets_[place] = std::move(ring);
    if (place == used_) ++used_;
    return place;
}

} // namespace cotun::ring
