// SPDX-License-Identifier: Apache-2.0
#include "ring/set_up.hpp"

#include "ring/entry.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <system_error>
#include <utility>

namespace cotun::ring {
namespace {

constexpr unsigned smallest_ring = 32; // below this many requests, memory is refused rather than stepped down

// liburing maps and unmaps a ring's memory without the C library: so a thread sanitizer does not see that what one
// thread gave back is what another has now. This shows it.
std::atomic<unsigned> mappings{0};

unsigned flags_of(task_mode mode) {
    switch (mode) {
    case task_mode::automatic:
    case task_mode::deferred:
        return IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    case task_mode::cooperative: return IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    case task_mode::plain: break;
    }
    return 0;
}

} // namespace

// A cancel needs a place in the submission queue besides its target's, and may, if it fails, complete as well; so the
// submission queue holds two entries a request, and the completion queue two and one for each buffer in a group.
int owned_ring::try_set_up(task_mode mode, unsigned most_requests, unsigned most_buffers, unsigned own) {
    io_uring_params params{};
    params.flags =
        IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_R_DISABLED | flags_of(mode);
    const unsigned submissions = std::bit_ceil(2 * most_requests);
    params.cq_entries = std::bit_ceil(submissions + most_buffers);
    const int result = io_uring_queue_init_params(submissions, &ring, &params);
    mappings.fetch_add(1, std::memory_order_acq_rel);
    if (result < 0) return result;
    open_ = true;
    prepare_entries(ring);
    requests = std::min(most_requests, params.sq_entries / 2 - own);
    buffers = std::min(most_buffers, params.cq_entries - params.sq_entries);
    return 0;
}

owned_ring::owned_ring(const uring_options& options, unsigned own) {
    unsigned most_requests = std::max(options.requests, smallest_ring);
    unsigned most_buffers = options.buffers;
    task_mode mode = options.mode == task_mode::automatic ? task_mode::deferred : options.mode;
    for (;;) {
        const int result = try_set_up(mode, most_requests, most_buffers, own);
        if (result == 0) return;
        if (result == -EINVAL && options.mode == task_mode::automatic && mode != task_mode::plain) {
            mode = mode == task_mode::deferred ? task_mode::cooperative : task_mode::plain;
        } else if (result == -ENOMEM && most_requests / 2 >= smallest_ring) {
            most_requests /= 2;
            most_buffers /= 2;
        } else {
            throw std::system_error(-result, std::generic_category(), explain_refused_ring(-result));
        }
    }
}

void owned_ring::close() noexcept {
    if (!std::exchange(open_, false)) return;
    mappings.fetch_add(1, std::memory_order_acq_rel); // before: another may have the memory at once
    io_uring_queue_exit(&ring);
}

} // namespace cotun::ring
