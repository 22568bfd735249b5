// SPDX-License-Identifier: Apache-2.0
#include "ring/entry.hpp"

#include "ring/kernel.hpp"

#include <cerrno>
#include <csignal>
#include <sys/syscall.h>
#include <unistd.h>

namespace cotun::ring {
namespace {

constexpr unsigned kernel_signals = 64; // _NSIG: what the size of a signal mask is checked against

constexpr unsigned looks_a_time = 16; // between two looks at the clock

// Leaves the core to its other thread for a moment.
void relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Shows the kernel the queued entries; returns how many it has not taken yet.
unsigned flush(io_uring_sq& queue) noexcept {
    queue.sqe_head = queue.sqe_tail;
    __atomic_store_n(queue.ktail, queue.sqe_tail, __ATOMIC_RELEASE);
    return queue.sqe_tail - __atomic_load_n(queue.khead, __ATOMIC_ACQUIRE);
}

} // namespace

void prepare_entries(io_uring& ring) noexcept {
    if (ring.sq.array == nullptr) return; // IORING_SETUP_NO_SQARRAY, which liburing sets from 2.6 on: always in place
    for (unsigned i = 0; i < ring.sq.ring_entries; ++i) ring.sq.array[i] = i;
}

bool coalesces(const io_uring& ring) noexcept {
    return (ring.features & kernel::feature_min_timeout) != 0 && (ring.features & IORING_FEAT_EXT_ARG) != 0;
}

// Deferred work shows as a flag, and becomes completions in the next entry.
bool spin(const io_uring& ring, std::chrono::steady_clock::time_point end) noexcept {
    for (;;) {
        for (unsigned i = 0; i < looks_a_time; ++i) {
            if (io_uring_cq_ready(&ring) != 0) return true;
            if ((__atomic_load_n(ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN) != 0) return true;
            relax();
        }
        if (std::chrono::steady_clock::now() >= end) return false;
    }
}

int enter_ring(io_uring& ring, const entry_wait& wait) noexcept {
    __kernel_timespec limit{};
    kernel::getevents_arg argument{};
    argument.sigmask_size = kernel_signals / 8;
    if (wait.at_most) {
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(*wait.at_most);
        limit.tv_sec = seconds.count();
        limit.tv_nsec = (*wait.at_most - seconds).count();
        argument.timeout = reinterpret_cast<std::uintptr_t>(&limit);
    }
    argument.min_wait_usec = static_cast<std::uint32_t>(wait.at_least.count());
    unsigned flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
    if ((ring.int_flags & 1) != 0) flags |= IORING_ENTER_REGISTERED_RING; // INT_FLAG_REG_RING
    const long result = syscall(__NR_io_uring_enter, ring.enter_ring_fd, flush(ring.sq), wait.completions, flags,
                                &argument, sizeof argument);
    return result < 0 ? -errno : static_cast<int>(result);
}

} // namespace cotun::ring
