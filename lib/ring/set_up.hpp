// SPDX-License-Identifier: Apache-2.0
//
// Making a ring: the best that the kernel takes, and as large as it has memory for.
#pragma once

#include "ring/uring.hpp"

#include <liburing.h>

namespace cotun::ring {

struct owned_ring {
    /// `own`: requests of the driver's own, which it has room for besides. Throws std::system_error.
    owned_ring(const uring_options& options, unsigned own);
    owned_ring(const owned_ring&) = delete;
    owned_ring& operator=(const owned_ring&) = delete;
    ~owned_ring() { close(); }
    /// Once is enough.
    void close() noexcept;

    io_uring ring{};
    unsigned requests = 0;
    unsigned buffers = 0;

private:
    int try_set_up(task_mode mode, unsigned most_requests, unsigned most_buffers, unsigned own);
    bool open_ = false;
};

} // namespace cotun::ring
