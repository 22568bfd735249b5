// SPDX-License-Identifier: Apache-2.0
//
// A small synchronous rtnetlink client: what is needed while a device is opened, and by tests. Private to the library.
//
// A socket speaks to the network namespace in which its thread was when the socket was made, and goes on doing so
// wherever the thread moves later. Every call sends one request and blocks until the kernel has answered it, which it
// does within the send, so no call waits for anything but the kernel's own locks. One thread at a time a socket.
//
// A refusal is std::system_error with the kernel's errno. Its text says what was tried, on
// which link, what the kernel says about it (its extended error text, Linux 4.12), and what to do.
// After a failure the socket can be used again. Source: rtnetlink(7), Documentation/userspace-api/netlink/intro.rst.
#pragma once

#include <cotun/link/link_info.hpp>
#include <cotun/wire/address.hpp>

#include "link/answer.hpp"
#include "link/netlink_port.hpp"

#include <cstdint>
#include <string_view>
#include <vector>

namespace cotun::link {

using cotun::link_info;

class order;

class netlink_socket {
public:
    // Opens a socket in the calling thread's network namespace.
    netlink_socket() : port_(false) {}

    // ENODEV where there is no such link; EINVAL where the name cannot be one (empty, 16 bytes or more, '/', blank).
    [[nodiscard]] link_info get_link(std::string_view name);
    [[nodiscard]] link_info get_link(unsigned index);

    // Bytes without the link header. EINVAL, with the range in the text, where the link cannot have it.
    void set_mtu(unsigned index, unsigned mtu);
    void set_up(unsigned index);
    void set_down(unsigned index);
    void set_txqueuelen(unsigned index, unsigned packets);
    void set_gso_max_size(unsigned index, unsigned bytes);
    // EOPNOTSUPP for links without Ethernet addresses (TUN); EADDRNOTAVAIL for a multicast or zero address.
    void set_mac(unsigned index, const wire::mac_address& mac);

    // Gives the link the address and, by the prefix, the route to its network. EEXIST where the link has it already.
    // IPv6 addresses skip duplicate address detection (IFA_F_NODAD). As with ip(8), an IPv4 address gets no
    // IFA_BROADCAST; the kernel makes the broadcast route of its prefix all the same.
    void add_address(unsigned index, const wire::ip_prefix& prefix);
    // Whether packets to the address are this machine's own. For an IPv4 address of a link that is up: at once. For
    // IPv6 a moment later, because the kernel enters the route in a work queue (addrconf_dad_work,
    // net/ipv6/addrconf.c).
    [[nodiscard]] bool is_delivered(const wire::ip_address& address);
    // All addresses of the link, IPv4 first, in the kernel's order; among them the IPv6 link-local ones that the
    // kernel gave it. Empty for a link that has none.
    [[nodiscard]] std::vector<wire::ip_prefix> addresses(unsigned index);

    // EOPNOTSUPP where the link cannot be deleted (lo, hardware).
    void delete_link(unsigned index);

private:
    const outcome& exchange(request& req, answer& a);
    outcome acknowledge(request& req);
    outcome dump(request& req, answer& a);
    outcome find_link(request& req, link_info& found);
    link_info get_link(order asked);
    void perform(order asked);
    [[noreturn]] void refuse_for(order& asked, const outcome& why);

    netlink_port port_;
    std::vector<std::byte> buffer_;
    std::uint32_t sequence_ = 0; // of the last request
};

} // namespace cotun::link
