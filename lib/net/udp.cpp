// SPDX-License-Identifier: Apache-2.0
#include <cotun/net/udp.hpp>

#include "io/inbox.hpp"
#include "io/outbox.hpp"
#include "io/reactor_core.hpp"
#include "net/addressing.hpp"
#include "net/multicast.hpp"
#include "net/sockaddr.hpp"
#include "net/socket_options.hpp"
#include "net/udp_port.hpp"

#include <cassert>
#include <utility>

namespace cotun {

udp_socket::udp_socket(detail::udp_port* port) noexcept : port_(port) { port_->hold(); }
udp_socket::udp_socket(udp_socket&& other) noexcept : port_(std::exchange(other.port_, nullptr)) {}
udp_socket& udp_socket::operator=(udp_socket&& other) noexcept {
    if (this != &other) {
        reset();
        port_ = std::exchange(other.port_, nullptr);
    }
    return *this;
}
udp_socket::~udp_socket() { reset(); }

void udp_socket::reset() noexcept {
    if (port_ == nullptr) return;
    port_->close_now();
    std::exchange(port_, nullptr)->drop();
}

detail::udp_port& udp_socket::port() const noexcept {
    assert(port_ != nullptr && "the socket was moved from");
    return *port_;
}

endpoint udp_socket::local() const { return port().local(); }
std::optional<endpoint> udp_socket::peer() const noexcept { return port().peer(); }
void udp_socket::connect(const endpoint& peer) { port().connect(peer); }
std::optional<unsigned> udp_socket::path_mtu() const noexcept { return port().path_mtu(); }
int udp_socket::native_handle() const noexcept { return port().descriptor(); }
bool udp_socket::uses_multishot() const noexcept { return port().in().uses_multishot(); }
receive_operation udp_socket::receive() noexcept { return receive_operation(port().in()); }
read_packets_operation udp_socket::receive_packets() noexcept { return read_packets_operation(port().in()); }

// --- sending ------------------------------------------------------------------------------------------------------

write_packet_operation udp_socket::send(packet payload) noexcept {
    detail::address_to_peer(payload);
    return {port().out(), std::move(payload)};
}

write_packets_operation udp_socket::send_packets(packet_batch payloads) noexcept {
    for (const packet& p : payloads) detail::address_to_peer(p);
    return {port().out(), std::move(payloads)};
}

write_packet_operation udp_socket::send_to(packet payload, const endpoint& to) noexcept {
    detail::address_to(payload, detail::to_sockaddr(to, port().v6()));
    return {port().out(), std::move(payload)};
}

write_packets_operation udp_socket::send_packets_to(packet_batch payloads, const endpoint& to) noexcept {
    const detail::socket_address address = detail::to_sockaddr(to, port().v6());
    for (const packet& p : payloads) detail::address_to(p, address);
    return {port().out(), std::move(payloads)};
}

write_packet_operation udp_socket::reply(packet answer) {
    if (detail::address_back(answer, port().v6())) port().allow_ancillary();
    return {port().out(), std::move(answer)};
}

write_packet_operation udp_socket::reply(packet answer, const packet& request) {
    if (detail::address_as_answer(answer, request, port().v6())) port().allow_ancillary();
    return {port().out(), std::move(answer)};
}

write_packets_operation udp_socket::reply_packets(packet_batch answers) {
    bool ancillary = false;
    for (const packet& p : answers) ancillary |= detail::address_back(p, port().v6());
    if (ancillary) port().allow_ancillary();
    return {port().out(), std::move(answers)};
}

write_packet_operation udp_socket::send(packet payload, const datagram_options& how) {
    const detail::ancillary data = detail::ancillary_for(how, port().peer_address(how.from), port());
    port().allow_ancillary();
    detail::address_to_peer(payload);
    detail::attach(payload, data);
    return {port().out(), std::move(payload)};
}

write_packets_operation udp_socket::send_packets(packet_batch payloads, const datagram_options& how) {
    const detail::ancillary data = detail::ancillary_for(how, port().peer_address(how.from), port());
    port().allow_ancillary();
    for (const packet& p : payloads) {
        detail::address_to_peer(p);
        detail::attach(p, data);
    }
    return {port().out(), std::move(payloads)};
}

write_packet_operation udp_socket::send_to(packet payload, const endpoint& to, const datagram_options& how) {
    const detail::ancillary data = detail::ancillary_for(how, to.address(), port());
    port().allow_ancillary();
    detail::address_to(payload, detail::to_sockaddr(to, port().v6()));
    detail::attach(payload, data);
    return {port().out(), std::move(payload)};
}

write_packets_operation udp_socket::send_packets_to(packet_batch payloads, const endpoint& to,
                                                    const datagram_options& how) {
    const detail::ancillary data = detail::ancillary_for(how, to.address(), port());
    port().allow_ancillary();
    const detail::socket_address address = detail::to_sockaddr(to, port().v6());
    for (const packet& p : payloads) {
        detail::address_to(p, address);
        detail::attach(p, data);
    }
    return {port().out(), std::move(payloads)};
}

// --- multicast ----------------------------------------------------------------------------------------------------

void udp_socket::join(const wire::ip_address& group, std::uint32_t interface) {
    detail::change_membership(port().descriptor(), port().family(), detail::membership::join, group, interface,
                              port().describe());
    port().joined();
}

void udp_socket::join(const wire::ip_address& group, std::string_view interface) {
    join(group, detail::interface_index(port().descriptor(), interface, port().describe()));
}

void udp_socket::leave(const wire::ip_address& group, std::uint32_t interface) {
    detail::change_membership(port().descriptor(), port().family(), detail::membership::leave, group, interface,
                              port().describe());
}

void udp_socket::leave(const wire::ip_address& group, std::string_view interface) {
    leave(group, detail::interface_index(port().descriptor(), interface, port().describe()));
}

// --- the end ------------------------------------------------------------------------------------------------------

flush_operation udp_socket::flush() noexcept { return flush_operation(port().out()); }
task<> udp_socket::close() { return detail::packet_port::close(detail::port_reference(&port())); }
read_statistics udp_socket::reads() const noexcept { return port().in().statistics(); }
write_statistics udp_socket::writes() const noexcept { return port().out().statistics(); }

udp_socket open_udp(reactor& io, const udp_options& options) {
    return udp_socket(detail::udp_port::open(io.core(), options));
}

} // namespace cotun
