// SPDX-License-Identifier: Apache-2.0
//
// What newer kernels offer beyond the headers of Linux 6.1 and liburing 2.3 (Debian 12): the one place where their
// numbers are written down. Whether the running kernel knows them is found by trying.
#pragma once

#include <cstdint>

namespace cotun::ring::kernel {

// enum io_uring_op (include/uapi/linux/io_uring.h)
inline constexpr std::uint8_t op_read_multishot = 49; // IORING_OP_READ_MULTISHOT, Linux 6.7

// A filled buffer of a multishot recvmsg begins with this (struct io_uring_recvmsg_out, Linux 6.0).
struct recvmsg_out {
    std::uint32_t name_size;
    std::uint32_t control_size;
    std::uint32_t payload_size;
    std::uint32_t flags; // MSG_TRUNC, MSG_CTRUNC
};
static_assert(sizeof(recvmsg_out) == 16);

} // namespace cotun::ring::kernel
