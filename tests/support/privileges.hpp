// SPDX-License-Identifier: Apache-2.0
//
// Giving up privileges, and what can be had without them. All of it serves root of a user namespace, too, who may be
// the only user there, and has no privilege outside of it.
#pragma once

#include <linux/capability.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

namespace test {

/// Gives up all capabilities, for good: in a child. That needs no other user.
inline bool give_up_capabilities() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    const std::array<__user_cap_data_struct, 2> none{};
    return syscall(SYS_capset, &header, none.data()) == 0;
}

/// What a socket's buffer can be made here, in bytes as getsockopt(2) tells it: SO_RCVBUFFORCE and SO_RCVBUF, or those
/// of sending. Whoever has no privilege outside of a user namespace is held to net.core.rmem_max.
inline int largest_buffer(int forced, int usual, int bytes) {
    const int file = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (setsockopt(file, SOL_SOCKET, forced, &bytes, sizeof bytes) != 0)
        setsockopt(file, SOL_SOCKET, usual, &bytes, sizeof bytes);
    int got = 0;
    socklen_t size = sizeof got;
    getsockopt(file, SOL_SOCKET, usual, &got, &size);
    close(file);
    return got;
}

} // namespace test
