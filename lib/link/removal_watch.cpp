// SPDX-License-Identifier: Apache-2.0
#include "link/removal_watch.hpp"

#include "io/fail.hpp"

#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <cstddef>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <unistd.h>

namespace cotun::link {
namespace {

// Loads of a filter are big-endian, and netlink is the host's: so what they are compared with is turned around.
std::array<sock_filter, 6> only_removal_of(unsigned index) {
    constexpr auto type_at = offsetof(nlmsghdr, nlmsg_type);
    constexpr auto index_at = NLMSG_HDRLEN + offsetof(ifinfomsg, ifi_index);
    return {{
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, type_at),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(RTM_DELLINK), 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, index_at),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl(index), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, ~0U),
        BPF_STMT(BPF_RET | BPF_K, 0),
    }};
}

} // namespace

int open_removal_watch(unsigned index) {
    const auto refuse = [index](int error, const char* step) {
        detail::fail(error, fmt::format("cotun: watching for the removal of link {}: {}", index, step));
    };
    const int descriptor = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    if (descriptor < 0) refuse(errno, "opening a netlink socket (out of descriptors? see `ulimit -n`)");
    std::array<sock_filter, 6> code = only_removal_of(index);
    const sock_fprog filter{static_cast<unsigned short>(code.size()), code.data()};
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    address.nl_groups = RTMGRP_LINK;
    const char* step = nullptr;
    if (setsockopt(descriptor, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) != 0)
        step = "attaching its filter";
    else if (bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
        step = "joining the group of link messages";
    if (step != nullptr) {
        const int error = errno;
        close(descriptor);
        refuse(error, step);
    }
    return descriptor;
}

} // namespace cotun::link
