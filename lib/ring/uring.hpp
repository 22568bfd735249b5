// SPDX-License-Identifier: Apache-2.0
//
// The driver's first body: io_uring, from Linux 5.19 on.
#pragma once

#include "ring/driver.hpp"

#include <memory>
#include <string>

namespace cotun::ring {

/// How completions are brought to the thread that waits, the best first; each steps down to the next where the kernel
/// refuses it, unless it was asked for by name.
enum class task_mode : std::uint8_t {
    automatic,
    deferred,    // SINGLE_ISSUER | DEFER_TASKRUN, Linux 6.1
    cooperative, // COOP_TASKRUN, Linux 5.19
    plain,
};

struct uring_options {
    unsigned requests = 1024; // the most in flight
    unsigned buffers = 2048;  // the most in groups
    task_mode mode = task_mode::automatic;
    std::chrono::microseconds coalesce{100}; // how long a wait may gather completions while many come; 0: not at all
    std::chrono::microseconds busy_poll{0};  // how long a wait looks for completions before it sleeps
    bool registered_files = true;            // where they are let go at once when they are removed
    bool messages = true;                    // from ring to ring, to wake other drivers
};

/// Throws std::system_error that says why the kernel refuses io_uring and what to do about it. Under a tight
/// RLIMIT_MEMLOCK the ring is made smaller: look at capacity() and buffer_capacity().
std::unique_ptr<driver> make_uring(const uring_options&);

/// Why io_uring_setup(2) was refused, and what to do about it (empty where there is nothing). `proc` is where procfs is
/// mounted.
struct ring_refusal {
    std::string cause;
    std::string remedy;
};
ring_refusal refused_ring(int error, const char* proc = "/proc");
/// Both in one line.
std::string explain_refused_ring(int error, const char* proc = "/proc");

} // namespace cotun::ring
