// SPDX-License-Identifier: Apache-2.0
#include <cotun/net/unix_datagram.hpp>

#include "io/fail.hpp"
#include "net/unix_packet_port.hpp"

#include <cassert>
#include <cerrno>
#include <fmt/format.h>
#include <utility>

namespace cotun {
namespace {

void connect_socket(int descriptor, std::string_view peer) {
    const detail::unix_address address = detail::unix_address_of(peer);
    if (::connect(descriptor, address.get(), address.size) == 0) return;
    const int error = errno;
    const char* why = error == ENOENT         ? "there is no such file"
                      : error == ECONNREFUSED ? "nobody is bound to it"
                      : error == EACCES       ? "the file's permissions do not allow it"
                      : error == EPROTOTYPE   ? "it is a stream or a seqpacket socket"
                      : error == EPERM        ? "it is connected to another socket"
                                              : "the kernel refused";
    detail::fail(error, fmt::format("Unix datagram socket: connecting to \"{}\": {}", peer, why));
}

// The kernel's choice is what a name of no bytes asks for.
detail::bound_file bind_socket(int descriptor, const unix_datagram_options& options) {
    constexpr const char* who = "open_unix_datagram";
    if (options.local.empty()) return {};
    if (options.local.view() != "@") return detail::bind_unix(descriptor, options.local, options.mode, who);
    sockaddr any{};
    any.sa_family = AF_UNIX;
    if (::bind(descriptor, &any, sizeof any.sa_family) != 0)
        detail::fail(errno, "open_unix_datagram: the kernel has no name to give");
    return {};
}

} // namespace

unix_datagram::unix_datagram(detail::unix_packet_port* port) noexcept : port_(port) { port_->hold(); }
unix_datagram::unix_datagram(unix_datagram&& other) noexcept : port_(std::exchange(other.port_, nullptr)) {}
unix_datagram& unix_datagram::operator=(unix_datagram&& other) noexcept {
    if (this != &other) {
        reset();
        port_ = std::exchange(other.port_, nullptr);
    }
    return *this;
}
unix_datagram::~unix_datagram() { reset(); }

void unix_datagram::reset() noexcept {
    if (port_ == nullptr) return;
    port_->close_now();
    std::exchange(port_, nullptr)->drop();
}

detail::unix_packet_port& unix_datagram::port() const noexcept {
    assert(port_ != nullptr && "the socket was moved from");
    return *port_;
}

std::string unix_datagram::local() const { return detail::unix_name_of(port().descriptor()); }
void unix_datagram::connect(std::string_view peer) { connect_socket(port().descriptor(), peer); }
int unix_datagram::native_handle() const noexcept { return port().descriptor(); }
bool unix_datagram::uses_multishot() const noexcept { return port().in().uses_multishot(); }
unix_receive_operation unix_datagram::receive() noexcept { return unix_receive_operation(port().in()); }
unix_receive_packets_operation unix_datagram::receive_packets() noexcept {
    return unix_receive_packets_operation(port().in());
}

write_packet_operation unix_datagram::send(packet payload) noexcept {
    detail::unix_outbox::address_to_peer(payload);
    return {port().out(), std::move(payload)};
}

write_packets_operation unix_datagram::send_packets(packet_batch payloads) noexcept {
    for (const packet& p : payloads) detail::unix_outbox::address_to_peer(p);
    return {port().out(), std::move(payloads)};
}

unix_send_operation unix_datagram::send(packet payload, std::vector<unique_fd> descriptors) {
    detail::unix_attachment* const attached = port().out().attach(payload, {}, std::move(descriptors));
    return {port().out(), std::move(payload), attached};
}

unix_send_operation unix_datagram::send_to(packet payload, std::string_view to) {
    return send_to(std::move(payload), to, {});
}

unix_send_operation unix_datagram::send_to(packet payload, std::string_view to, std::vector<unique_fd> descriptors) {
    if (to.empty()) (void)detail::unix_address_of(to); // throws
    detail::unix_attachment* const attached = port().out().attach(payload, to, std::move(descriptors));
    return {port().out(), std::move(payload), attached};
}

flush_operation unix_datagram::flush() noexcept { return flush_operation(port().out()); }

task<> unix_datagram::close() { return detail::packet_port::close(detail::port_reference(&port())); }

read_statistics unix_datagram::reads() const noexcept { return port().in().statistics(); }
write_statistics unix_datagram::writes() const noexcept { return port().out().statistics(); }

unix_datagram open_unix_datagram(reactor& io, const unix_datagram_options& options) {
    const detail::unix_packet_port::shape shape{false, options.largest_datagram, options.descriptors,
                                                options.send_buffer, options.read};
    detail::unix_packet_port::check(shape, "open_unix_datagram");
    unique_fd made = detail::make_unix_socket(SOCK_DGRAM);
    detail::bound_file file = bind_socket(made.get(), options);
    if (!options.peer.empty()) connect_socket(made.get(), options.peer);
    std::string name = fmt::format("Unix datagram socket{}{}{}", options.local.empty() ? "" : " ", options.local.view(),
                                   options.peer.empty() ? "" : fmt::format(" to {}", options.peer.view()));
    auto* const port = detail::unix_packet_port::open(io.core(), made, shape, std::move(name));
    port->owns(std::move(file));
    return unix_datagram(port);
}

} // namespace cotun
