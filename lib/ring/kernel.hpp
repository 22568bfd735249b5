// SPDX-License-Identifier: Apache-2.0
//
// What newer kernels offer beyond the headers of Linux 6.1 and liburing 2.3 (Debian 12): the one place where their
// numbers are written down. Whether the running kernel knows them is found by trying.
#pragma once

#include <cstdint>

namespace cotun::ring::kernel {

// enum io_uring_op (include/uapi/linux/io_uring.h)
inline constexpr std::uint8_t op_read_multishot = 49; // IORING_OP_READ_MULTISHOT, Linux 6.7

// io_uring_params::features
inline constexpr std::uint32_t feature_min_timeout = 1U << 15; // IORING_FEAT_MIN_TIMEOUT, Linux 6.12

// The argument of io_uring_enter(2) with IORING_ENTER_EXT_ARG (struct io_uring_getevents_arg); min_wait_usec was
// padding before Linux 6.12.
struct getevents_arg {
    std::uint64_t sigmask;
    std::uint32_t sigmask_size;
    std::uint32_t min_wait_usec;
    std::uint64_t timeout; // address of a __kernel_timespec, 0: none
};
static_assert(sizeof(getevents_arg) == 24);

// A filled buffer of a multishot recvmsg begins with this (struct io_uring_recvmsg_out, Linux 6.0).
struct recvmsg_out {
    std::uint32_t name_size;
    std::uint32_t control_size;
    std::uint32_t payload_size;
    std::uint32_t flags; // MSG_TRUNC, MSG_CTRUNC
};
static_assert(sizeof(recvmsg_out) == 16);

} // namespace cotun::ring::kernel
