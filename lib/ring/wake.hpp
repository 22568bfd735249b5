// SPDX-License-Identifier: Apache-2.0
//
// How drivers over io_uring are woken: by a write to an eventfd that a read of theirs is always waiting on, or by a
// message from ring to ring, which goes with what the sender submits anyway. Measured on Linux 6.18 between two pinned
// reactors that sleep: both arrive in the same time (7 us), but a message leaves the sender 4 us of its time, and takes
// about a tenth less of both together, since the target has no read to submit again.
#pragma once

#include "ring/driver.hpp"
#include "ring/process.hpp"

#include <array>
#include <liburing.h>
#include <memory>
#include <optional>

namespace cotun::ring {

/// Owns the eventfd. Whoever is about to send a message names the ring by its descriptor, and may be late: so the
/// descriptor's number stays taken, by something that is no ring, as long as somebody may name it.
class uring_waker final : public waker {
public:
    /// Throws std::system_error.
    explicit uring_waker(int ring);
    ~uring_waker() override;

    void wake() noexcept override;
    int descriptor() const noexcept { return event_; }
    int ring() const noexcept { return ring_; }

    /// The ring goes, before io_uring_queue_exit(). `named`: others have this waker.
    void leave(io_uring& ring, bool named) noexcept;

private:
    const process_mark process_; // a child's copy would wake the parent
    int event_;
    int ring_;
    bool owns_number_ = false;
};

/// The drivers that one has sent messages to, by number. Those that are gone are forgotten as new ones come.
class wake_targets {
public:
    static constexpr unsigned most = 256;

    /// None: it is no ring's, or there are too many. `forget`: whether those that are gone may be; not while a message
    /// that names them is not submitted.
    std::optional<unsigned> number_of(const std::shared_ptr<waker>& target, bool forget) noexcept;
    uring_waker& operator[](unsigned number) noexcept { return *targets_[number]; }
    /// Where the message had a number that is another's by now, that one is woken for nothing; or nobody.
    void wake(unsigned number) noexcept {
        if (targets_[number]) targets_[number]->wake();
    }

private:
    std::array<std::shared_ptr<uring_waker>, most> targets_;
    unsigned used_ = 0; // places that were ever taken
};

} // namespace cotun::ring
