// SPDX-License-Identifier: Apache-2.0
#include <cotun/net/unix_seqpacket.hpp>

#include "io/acceptor.hpp"
#include "io/connector.hpp"
#include "io/reactor_core.hpp"
#include "io/reader_places.hpp"
#include "net/unix_connector.hpp"
#include "net/unix_packet_port.hpp"

#include <cassert>
#include <string>
#include <utility>

namespace cotun {
namespace {

using detail::unix_packet_port;

unix_packet_port::shape shape_of(const unix_seqpacket_options& options) noexcept {
    return {true, options.largest_record, options.descriptors, options.send_buffer, options.read};
}

} // namespace

unix_seqpacket::unix_seqpacket(unix_packet_port* port) noexcept : port_(port) { port_->hold(); }
unix_seqpacket::unix_seqpacket(unix_seqpacket&& other) noexcept : port_(std::exchange(other.port_, nullptr)) {}
unix_seqpacket& unix_seqpacket::operator=(unix_seqpacket&& other) noexcept {
    if (this != &other) {
        reset();
        port_ = std::exchange(other.port_, nullptr);
    }
    return *this;
}
unix_seqpacket::~unix_seqpacket() { reset(); }

void unix_seqpacket::reset() noexcept {
    if (port_ == nullptr) return;
    port_->close_now();
    std::exchange(port_, nullptr)->drop();
}

unix_packet_port& unix_seqpacket::port() const noexcept {
    assert(port_ != nullptr && "the socket was moved from");
    return *port_;
}

unix_peer unix_seqpacket::peer() const noexcept { return detail::unix_peer_of(port().descriptor()); }
int unix_seqpacket::native_handle() const noexcept { return port().descriptor(); }
bool unix_seqpacket::uses_multishot() const noexcept { return port().in().uses_multishot(); }
unix_receive_operation unix_seqpacket::receive() noexcept { return unix_receive_operation(port().in()); }
unix_receive_packets_operation unix_seqpacket::receive_packets() noexcept {
    return unix_receive_packets_operation(port().in());
}

write_packet_operation unix_seqpacket::send(packet record) noexcept {
    detail::unix_outbox::address_to_peer(record);
    return {port().out(), std::move(record)};
}

write_packets_operation unix_seqpacket::send_packets(packet_batch records) noexcept {
    for (const packet& p : records) detail::unix_outbox::address_to_peer(p);
    return {port().out(), std::move(records)};
}

unix_send_operation unix_seqpacket::send(packet record, std::vector<unique_fd> descriptors) {
    detail::unix_attachment* const attached = port().out().attach(record, {}, std::move(descriptors));
    return {port().out(), std::move(record), attached};
}

flush_operation unix_seqpacket::flush() noexcept { return flush_operation(port().out()); }
void unix_seqpacket::shutdown_send() { port().out().shut_down(); }
task<> unix_seqpacket::close() { return detail::packet_port::close(detail::port_reference(&port())); }
read_statistics unix_seqpacket::reads() const noexcept { return port().in().statistics(); }
write_statistics unix_seqpacket::writes() const noexcept { return port().out().statistics(); }

// --- connections ---------------------------------------------------------------------------------------------------

namespace {

// Throws where no buffer is large enough.
detail::reader_places& places_for(detail::reactor_core& core, const unix_seqpacket_options& options) {
    return core.places(unix_packet_port::class_of(core, shape_of(options)));
}

// The place that the connection was admitted to becomes the reader's, or stays the connection's.
unix_packet_port* open_in(detail::reader_places& places, detail::reactor_core& core, unique_fd& made,
                          const unix_seqpacket_options& options, std::string name) {
    places.use();
    try {
        return unix_packet_port::open(core, made, shape_of(options), std::move(name));
    } catch (...) {
        places.unuse();
        throw;
    }
}

} // namespace

unix_seqpacket unix_seqpacket_accept_operation::await_resume() {
    unique_fd made(take());
    detail::reactor_core& core = from_->core();
    try {
        return unix_seqpacket(open_in(places_for(core, options_), core, made, options_, from_->name()));
    } catch (...) {
        put_back(made.release());
        throw;
    }
}

unix_seqpacket unix_seqpacket_connect_operation::await_resume() {
    unique_fd made(take());
    detail::reactor_core& core = of_->core();
    detail::reader_places& places = places_for(core, options_);
    try {
        return unix_seqpacket(open_in(places, core, made, options_, "Unix seqpacket"));
    } catch (...) {
        places.dismiss();
        throw;
    }
}

unix_seqpacket_listener::unix_seqpacket_listener(reactor& io, std::string_view name,
                                                 const unix_seqpacket_options& options)
    : unix_listening(io, SOCK_SEQPACKET, name, options.backlog, options.mode, "listen_unix_seqpacket",
                     &places_for(io.core(), options)),
      options_(options) {}

unix_seqpacket_listener listen_unix_seqpacket(reactor& io, std::string_view name,
                                              const unix_seqpacket_options& options) {
    unix_packet_port::check(shape_of(options), "listen_unix_seqpacket");
    return {io, name, options};
}

unix_seqpacket_connect_operation connect_unix_seqpacket(reactor& io, std::string_view name,
                                                        const unix_seqpacket_options& options) {
    unix_packet_port::check(shape_of(options), "connect_unix_seqpacket");
    detail::reader_places& places = places_for(io.core(), options);
    return {new detail::unix_connector(io.core(), SOCK_SEQPACKET, name, &places), options};
}

} // namespace cotun
