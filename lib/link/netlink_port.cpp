// SPDX-License-Identifier: Apache-2.0
#include "link/netlink_port.hpp"

#include "link/refusal.hpp"

#include <sys/socket.h>

#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <cerrno>

namespace cotun::link {

netlink_port::netlink_port(bool non_blocking)
    : descriptor_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | (non_blocking ? SOCK_NONBLOCK : 0), NETLINK_ROUTE)) {
    if (!descriptor_)
        refuse("open a netlink socket", errno, {},
               errno == EMFILE || errno == ENFILE ? "too many files are open: raise 'ulimit -n'"
                                                  : "the kernel lacks NETLINK_ROUTE or a sandbox forbids AF_NETLINK");
    // Both only make answers better or shorter. NETLINK_GET_STRICT_CHK is left off: with it a dump can be narrowed to
    // one link, but the kernel (measured on 6.18) then does not tell when the table changed while it was read.
    const int on = 1;
    for (const int option : {NETLINK_EXT_ACK, NETLINK_CAP_ACK})
        (void)::setsockopt(descriptor_.get(), SOL_NETLINK, option, &on, sizeof on);

    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    socklen_t size = sizeof address;
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(descriptor_.get(), generic, size) < 0 || ::getsockname(descriptor_.get(), generic, &size) < 0)
        refuse("bind a netlink socket", errno, {}, general_remedy(errno));
    port_ = address.nl_pid;
}

int netlink_port::send(byte_view bytes) noexcept {
    sockaddr_nl kernel{};
    kernel.nl_family = AF_NETLINK;
    while (::sendto(descriptor_.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&kernel),
                    sizeof kernel) < 0)
        if (errno != EINTR) return errno;
    return 0;
}

netlink_port::received netlink_port::receive(std::vector<std::byte>& buffer) {
    if (buffer.size() < usual_answer) buffer.resize(usual_answer);
    for (int flags = MSG_PEEK | MSG_TRUNC;;) {
        sockaddr_nl sender{};
        iovec piece{buffer.data(), buffer.size()};
        msghdr message{};
        message.msg_name = &sender;
        message.msg_namelen = sizeof sender;
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        const ssize_t result = ::recvmsg(descriptor_.get(), &message, flags);
        if (result < 0 && errno == EINTR) continue;
        if (result < 0) return {{}, errno};
        const auto size = static_cast<std::size_t>(result);
        const bool from_kernel = sender.nl_pid == 0;
        if ((flags & MSG_PEEK) != 0) { // its size is known now, and it is taken
            if (from_kernel && size > buffer.size()) buffer.resize(size);
            flags = MSG_TRUNC;
            continue;
        }
        if (from_kernel) return {byte_view{buffer}.first(std::min(size, buffer.size())), 0};
        flags = MSG_PEEK | MSG_TRUNC;
    }
}

void netlink_port::join(unsigned group) {
    const int number = static_cast<int>(group);
    if (::setsockopt(descriptor_.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &number, sizeof number) != 0)
        refuse("have the kernel tell of changes (NETLINK_ADD_MEMBERSHIP)", errno, {}, general_remedy(errno));
}

} // namespace cotun::link
