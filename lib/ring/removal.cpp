// SPDX-License-Identifier: Apache-2.0
#include "ring/removal.hpp"

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <unistd.h>

namespace cotun::ring {
namespace {

struct pipe_ends {
    pipe_ends() noexcept { made = ::pipe2(ends, O_CLOEXEC) == 0; }
    pipe_ends(const pipe_ends&) = delete;
    pipe_ends& operator=(const pipe_ends&) = delete;
    ~pipe_ends() {
        close_reader();
        if (ends[1] >= 0) ::close(ends[1]);
    }
    void close_reader() noexcept {
        if (ends[0] >= 0) ::close(ends[0]);
        ends[0] = -1;
    }
    /// What the writing end sees once nothing holds the reading end any more.
    bool reader_is_gone() const noexcept {
        pollfd writer{ends[1], POLLOUT, 0};
        return ::poll(&writer, 1, 0) == 1 && (writer.revents & POLLERR) != 0;
    }
    int ends[2]{-1, -1};
    bool made;
};

struct small_ring {
    small_ring() noexcept { made = io_uring_queue_init(4, &ring, 0) == 0; }
    small_ring(const small_ring&) = delete;
    small_ring& operator=(const small_ring&) = delete;
    ~small_ring() {
        if (made) io_uring_queue_exit(&ring);
    }
    io_uring ring{};
    bool made;
};

// Removes a registered descriptor while a request holds another, and looks whether it is gone.
bool try_removal() noexcept {
    pipe_ends held;
    pipe_ends removed;
    small_ring r;
    if (!held.made || !removed.made || !r.made) return false;
    const int files[]{held.ends[0], removed.ends[0]};
    if (io_uring_register_files(&r.ring, files, 2) < 0) return false;
    io_uring_sqe* entry = io_uring_get_sqe(&r.ring);
    io_uring_prep_poll_add(entry, 0, POLLIN);
    entry->flags |= IOSQE_FIXED_FILE;
    if (io_uring_submit(&r.ring) != 1) return false;
    const int none = -1;
    if (io_uring_register_files_update(&r.ring, 1, &none, 1) != 1) return false;
    removed.close_reader();
    return removed.reader_is_gone();
}

} // namespace

bool removal_is_immediate() noexcept {
    static const bool immediate = try_removal();
    return immediate;
}

} // namespace cotun::ring
