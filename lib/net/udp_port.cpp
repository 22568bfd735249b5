// SPDX-License-Identifier: Apache-2.0
#include "net/udp_port.hpp"

#include <cotun/io/unique_fd.hpp>

#include "io/fail.hpp"
#include "io/packet_pool.hpp"
#include "io/reactor_core.hpp"
#include "net/multicast.hpp"
#include "net/sockaddr.hpp"
#include "net/socket_options.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

namespace cotun::detail {
namespace {

unique_fd make_socket(const udp_options& options, int family) {
    unique_fd made(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!made)
        fail(errno,
             family == AF_INET6 ? "open_udp: an IPv6 socket (is IPv6 switched off?)" : "open_udp: an IPv4 socket");
    if (family == AF_INET6) set_option(made.get(), IPPROTO_IPV6, IPV6_V6ONLY, options.v6_only ? 1 : 0);
    if (options.broadcast) set_option(made.get(), SOL_SOCKET, SO_BROADCAST, 1);
    set_options(made.get(), family, options.socket, "open_udp");
    set_multicast_options(made.get(), family, options);
    if (options.receive_merged)
        if (const int error = set_option(made.get(), IPPROTO_UDP, UDP_GRO, 1))
            fail(error, "open_udp: receive_merged: the kernel refused (UDP_GRO needs Linux 5.0)");
    if (options.packet_info)
        if (const int error = ask_for_ancillary(made.get(), family))
            fail(error, "open_udp: packet_info: the kernel refused");
    return made;
}

constexpr const char* scope_is_missing = "a link-local address needs its interface, as in [fe80::1%eth0]:5000";

void bind_socket(int descriptor, const endpoint& local, bool as_v6) {
    const socket_address address = to_sockaddr(local, as_v6);
    if (::bind(descriptor, address.get(), address.size) == 0) return;
    const int error = errno;
    const char* why = error == EADDRINUSE      ? "another socket has the port: choose another, or 0 for any"
                      : error == EADDRNOTAVAIL ? "no interface of this network namespace has the address"
                      : error == EACCES        ? "ports below 1024 need CAP_NET_BIND_SERVICE"
                      : error == EINVAL        ? scope_is_missing
                                               : "bind was refused";
    fail(error, fmt::format("open_udp: binding to {}: {}", local.to_string(), why));
}

void connect_socket(int descriptor, const endpoint& peer, bool as_v6) {
    const socket_address address = to_sockaddr(peer, as_v6);
    if (::connect(descriptor, address.get(), address.size) == 0) return;
    const int error = errno;
    const char* why = error == ENETUNREACH || error == EHOSTUNREACH ? "there is no route to it"
                      : error == EAFNOSUPPORT ? "the socket is of the other family: bind it to an address of the peer's"
                      : error == EACCES       ? "a broadcast address needs udp_options::broadcast"
                      : error == EINVAL       ? scope_is_missing
                                              : "connect was refused";
    fail(error, fmt::format("UDP socket: connecting to {}: {}", peer.to_string(), why));
}

int family_of(const udp_options& options) {
    const std::optional<endpoint>& decides = options.local ? options.local : options.peer;
    return decides && decides->address().unmapped().is_v6() ? AF_INET6 : AF_INET;
}

size_class class_for(const packet_pool& pool, const udp_options& options) {
    const udp_inbox::wanted wanted{.packet_info = options.packet_info, .merged = options.receive_merged};
    return pool.class_for((wanted.merged ? 65535 : options.largest_datagram) + wanted.payload_offset());
}

} // namespace

udp_port* udp_port::open(reactor_core& core, const udp_options& wanted) {
    udp_options options = wanted;
    options.receive_merged = wanted.receive_merged && core.has_readers_to_spare(large_packets);
    if (options.largest_datagram < 1 || options.largest_datagram > 65535)
        fail(EINVAL, fmt::format("open_udp: largest_datagram is {}; it must be 1 to 65535", options.largest_datagram));
    const int family = family_of(options);
    const bool v6 = family == AF_INET6;
    unique_fd made = make_socket(options, family);
    if (options.local || !options.peer) bind_socket(made.get(), options.local.value_or(endpoint()), v6);
    if (options.peer) connect_socket(made.get(), *options.peer, v6);
    if (options.packet_info) core.pool().keep_ancillary();
    if (options.receive_merged) core.pool().keep_views();
    auto* const port = new udp_port(core, made.get(), options);
    (void)made.release(); // the port's
    return port;
}

udp_port::udp_port(reactor_core& core, int descriptor, const udp_options& options)
    : packet_port(core, descriptor),
      family_(family_of(options)),
      peer_(options.peer),
      inbox_(*this, core, class_for(core.pool(), options), options.read,
             {.packet_info = options.packet_info, .merged = options.receive_merged}),
      outbox_(*this, core, inbox_) {
    packet_port::open();
}

bool udp_port::v6() const noexcept { return family_ == AF_INET6; }

endpoint udp_port::local() const { return descriptor() < 0 ? closed_local_ : bound_to(); }

endpoint udp_port::bound_to() const noexcept {
    socket_address address;
    address.size = sizeof(sockaddr_in6);
    if (getsockname(descriptor(), reinterpret_cast<sockaddr*>(address.bytes.data()), &address.size) < 0) return {};
    return from_sockaddr({address.bytes.data(), address.size});
}

void udp_port::connect(const endpoint& peer) {
    connect_socket(descriptor(), peer, v6());
    peer_ = peer;
}

wire::ip_address udp_port::peer_address(const wire::ip_address& otherwise) const noexcept {
    return peer_ ? peer_->address() : otherwise;
}

std::optional<unsigned> udp_port::path_mtu() const noexcept {
    if (!peer_) return std::nullopt;
    const bool to_v6 = peer_->address().unmapped().is_v6();
    int bytes = 0;
    socklen_t size = sizeof bytes;
    const int level = to_v6 ? IPPROTO_IPV6 : IPPROTO_IP;
    if (getsockopt(descriptor(), level, to_v6 ? IPV6_MTU : IP_MTU, &bytes, &size) < 0) return std::nullopt;
    return static_cast<unsigned>(bytes);
}

std::string udp_port::describe() const {
    return peer_ ? fmt::format("UDP socket {} to {}", local().to_string(), peer_->to_string())
                 : fmt::format("UDP socket {}", local().to_string());
}

std::string udp_port::explain(int error) const {
    switch (error) {
    case ECANCELED: return "the socket was closed by this program";
    case EDESTADDRREQ: return "no peer: connect(), or use send_to()";
    case EMSGSIZE:
        return "the datagram is larger than the path allows (65,507 bytes over IPv4; with "
               "socket_options::mtu_discovery `keep` or `probe` an MTU, see path_mtu())";
    case ECONNREFUSED: return "nobody listens at the peer, as it said to an earlier datagram";
    case ENOBUFS:
        return "the send buffer cannot hold all fragments of the datagram: raise socket_options::send_buffer (or "
               "the "
               "kernel is out of memory)";
    case EACCES: return "a broadcast address needs udp_options::broadcast";
    case EPERM: return "a firewall of this machine forbids it";
    case ENETUNREACH:
    case EHOSTUNREACH:
        return "there is no route to the address, its link does not answer, or an address or interface to send from is "
               "not this host's";
    case EAFNOSUPPORT: return "an IPv4 socket cannot send to IPv6 addresses: bind it to [::], which reaches both";
    case EINVAL:
        return "port 0, an address to send from that is not this host's, or multishot receiving was asked for and is "
               "not there";
    default: return "the kernel refused";
    }
}

} // namespace cotun::detail
