// SPDX-License-Identifier: Apache-2.0
//
// Two hosts on a wire: ours, with several addresses on one interface, and a peer whose programs are not ours.
#pragma once

#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <system_error>

#include "net/sockaddr.hpp"
#include "sockets.hpp"

namespace test {

inline bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// This thread is in a namespace whose interface "near" has 192.0.2.1 to .3/24, 2001:db8::1 to ::3/64 and fe80::1; the
/// peer's has "far", with 192.0.2.100, 2001:db8::100 and fe80::100.
class two_hosts {
public:
    two_hosts() : peer_("peer") {
        std::string commands = "set -e; ip link add near type veth peer name far netns " + peer_.name() +
                               "\nip -batch - <<end\nlink set near addrgenmode none\n";
        for (const char* a : {"192.0.2.1/24 broadcast +", "192.0.2.2/24", "192.0.2.3/24", "2001:db8::1/64 nodad",
                              "2001:db8::2/64 nodad", "2001:db8::3/64 nodad", "fe80::1/64 nodad"})
            commands += std::string("address add ") + a + " dev near\n";
        commands += "link set near up\nend\nip -n " + peer_.name() + " -batch - <<end\nlink set far addrgenmode none\n";
        for (const char* a : {"192.0.2.100/24 broadcast +", "2001:db8::100/64 nodad", "fe80::100/64 nodad"})
            commands += std::string("address add ") + a + " dev far\n";
        output_of(commands + "link set far up\nroute add 224.0.0.0/4 dev far\nend");
        // The kernel delivers to an IPv6 address only a moment after it has it, and the link needs one too.
        for (const char* command : {"ping -c1 -W1 -I 192.0.2.3 192.0.2.100",
                                    "ping -c1 -W1 -I 2001:db8::3 2001:db8::100", "ping -c1 -W1 -I near fe80::100"})
            if (!wait_until([&] { return run(command).good(); }))
                SKIP("the two hosts do not reach each other: " << command);
        near_ = if_nametoindex("near");
    }

    unsigned near() const noexcept { return near_; }
    const named_namespace& peer() const noexcept { return peer_; }

    /// A Python program on the peer, with the functions that `preamble` has.
    std::unique_ptr<program> python(const std::string& body) const {
        return std::make_unique<program>(
            std::vector<std::string>{"ip", "netns", "exec", peer_.name(), "python3", "-c", preamble + body});
    }

private:
    // open(): a socket of the family of `host`, which may be connected, with TTL and TOS. told(): the next datagram,
    // "DATA from ADDRESS PORT ttl TTL tos TOS", or "nothing".
    static constexpr const char* preamble = R"(
import socket, struct, sys, time
def say(*words):
    print(*words, flush=True)
def open(host, ttl=None, tos=None, timeout=10):
    six = ':' in host
    s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    level = socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP
    if ttl is not None: s.setsockopt(level, socket.IPV6_UNICAST_HOPS if six else socket.IP_TTL, ttl)
    if tos is not None: s.setsockopt(level, socket.IPV6_TCLASS if six else socket.IP_TOS, tos)
    for name in ((socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVTCLASS) if six else (12, 13)): # IP_RECVTTL, IP_RECVTOS
        s.setsockopt(level, name, 1)
    s.settimeout(timeout)
    return s
def told(s):
    try:
        data, messages, flags, address = s.recvmsg(65536, 256)
    except (TimeoutError, socket.timeout):
        return 'nothing'
    ttl = tos = None
    for level, kind, value in messages:
        number = int.from_bytes(value, sys.byteorder)
        if kind in (2, socket.IPV6_HOPLIMIT) and len(value) == 4: ttl = number
        else: tos = number
    return '%s from %s %d ttl %s tos %s' % (data.decode(), address[0], address[1], ttl, tos)
def ask(host, port, words='ask', ttl=None, tos=None, connected=True, timeout=10):
    s = open(host, ttl, tos, timeout)
    to = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4]
    if connected: s.connect(to)
    else: s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.sendto(words.encode(), to) if not connected else s.send(words.encode())
    return told(s)
)";

    own_namespace here_;
    named_namespace peer_;
    unsigned near_ = 0;
};

/// What getsockopt(2) says of it; a negative errno where it fails.
template <class Socket>
int option_of(const Socket& s, int level, int name) {
    int value = 0;
    socklen_t size = sizeof value;
    return getsockopt(s.native_handle(), level, name, &value, &size) < 0 ? -errno : value;
}

} // namespace test
