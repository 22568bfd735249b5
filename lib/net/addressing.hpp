// SPDX-License-Identifier: Apache-2.0
//
// Where a packet that is given to a socket is to go, and how: kept with the packet, in its slot and, beyond an address,
// in the pool's table of ancillary data, until it is sent. An empty handle is let be.
#pragma once

#include <cotun/net/datagram.hpp>

#include "io/packet_pool.hpp"
#include "net/sockaddr.hpp"

namespace cotun::detail {

class packet_port;

/// To the connected peer. A packet that came from somewhere is not sent back there because of that.
void address_to_peer(const packet& p) noexcept;
void address_to(const packet& p, const socket_address& to) noexcept;

/// Back to where it came from, from where it was sent to. `as_v6`: over an IPv6 socket. True: there is ancillary data
/// to send.
bool address_back(const packet& p, bool as_v6) noexcept;
/// To where `request` came from. Throws std::bad_alloc.
bool address_as_answer(const packet& p, const packet& request, bool as_v6);

/// What `how` asks for, to be sent to an address of the family of `to`. Throws std::system_error that names the port.
ancillary ancillary_for(const datagram_options& how, const wire::ip_address& to, const packet_port& port);
/// Puts it beside the address of the packet. Throws std::bad_alloc.
void attach(const packet& p, const ancillary& data);

} // namespace cotun::detail
