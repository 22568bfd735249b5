// SPDX-License-Identifier: Apache-2.0
//
// netlink_port: a netlink socket and its address: what the synchronous client, link_control and the sockets of events
// send and receive by.
//
// It speaks to the network namespace in which its thread was when it was made, and goes on doing so wherever the thread
// moves later. Only what the kernel itself has sent is received: anyone with CAP_NET_ADMIN can send to our address.
// One thread at a time. Source: rtnetlink(7), Documentation/userspace-api/netlink/intro.rst.
#pragma once

#include <cotun/io/unique_fd.hpp>

#include "link/message.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace cotun::link {

// The kernel never puts more than this into one read of a dump, and the one message about a link is mostly far smaller;
// one that is not makes the buffer grow.
inline constexpr std::size_t usual_answer = 32 * 1024;

class netlink_port {
public:
    // Opens it in the calling thread's namespace. Non-blocking: receive() then gives EAGAIN. Throws std::system_error.
    explicit netlink_port(bool non_blocking);

    // 0, or the kernel's errno. Everything that the request does is done when this returns.
    [[nodiscard]] int send(byte_view bytes) noexcept;

    struct received {
        byte_view bytes;
        int error = 0; // EAGAIN: there is nothing; ENOBUFS: there was more than the kernel could keep, and it is lost
    };
    // One datagram, in `buffer`, which grows where it is too small. It may be empty.
    [[nodiscard]] received receive(std::vector<std::byte>& buffer);

    // Receives what the kernel tells this group (RTNLGRP_*) from here on.
    void join(unsigned group);

    [[nodiscard]] int descriptor() const noexcept { return descriptor_.get(); }
    [[nodiscard]] std::uint32_t port() const noexcept { return port_; }
    void close() noexcept { descriptor_.reset(); }

private:
    unique_fd descriptor_;
    std::uint32_t port_ = 0; // by which the kernel answers
};

} // namespace cotun::link
