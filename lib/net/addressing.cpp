// SPDX-License-Identifier: Apache-2.0
#include "net/addressing.hpp"

#include "io/fail.hpp"
#include "io/packet_port.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>

namespace cotun {
namespace detail {
namespace {

// The address as the table has it, and back. The family is told beside.
wire::ip_address read_address(std::span<const std::byte> bytes, bool v6) noexcept {
    if (v6) {
        wire::ipv6_address::bytes_type b{};
        std::memcpy(b.data(), bytes.data(), b.size());
        return wire::ipv6_address(b);
    }
    wire::ipv4_address::bytes_type b{};
    std::memcpy(b.data(), bytes.data(), b.size());
    return wire::ipv4_address(b);
}

void write_address(const wire::ip_address& from, ancillary& into) noexcept {
    into.address = {};
    std::memcpy(into.address.data(), from.bytes().data(), from.bytes().size());
    into.fields |= ancillary::has_address;
}

// Which address of this host answers what came with `received`; unspecified: the kernel chooses.
wire::ip_address answering(const ancillary& received) noexcept {
    if (!received.is_v6) return read_address(received.answer_from, false);
    const wire::ip_address local = read_address(received.address, true);
    return local.is_multicast() ? wire::ipv6_address::any() : local;
}

bool is_link_local(const wire::ip_address& a) noexcept {
    return a.is_v6() ? a.v6().is_link_local() : a.v4().is_link_local();
}

// How to answer what came with `received`. By the route that leads to the sender, which need not be the way that it
// came; but a link-local address is meaningful on its interface only.
ancillary answer_to(const ancillary& received) noexcept {
    const wire::ip_address from = answering(received);
    ancillary answer;
    answer.is_v6 = received.is_v6;
    if (from.is_unspecified()) return answer;
    write_address(from, answer);
    if (is_link_local(from)) answer.interface = received.interface;
    return answer;
}

bool says_anything(const ancillary& data) noexcept { return data.fields != 0 || data.interface != 0; }

void check(const char* name, std::optional<unsigned> value, unsigned least, const packet_port& port) {
    if (value && (*value < least || *value > 255))
        fail(EINVAL, fmt::format("{}: sending with {} {}: it must be {} to 255", port.describe(), name, *value, least));
}

} // namespace

void address_to_peer(const packet& p) noexcept {
    packet_slot* slot = packet_pool::look(p);
    if (slot == nullptr) return;
    slot->origin_size = 0;
    slot->ancillary = ancillary_state::none;
}

void address_to(const packet& p, const socket_address& to) noexcept {
    packet_slot* slot = packet_pool::look(p);
    if (slot == nullptr) return;
    slot->origin = to.bytes;
    slot->origin_size = static_cast<std::uint8_t>(to.size);
    slot->ancillary = ancillary_state::none;
}

bool address_back(const packet& p, bool as_v6) noexcept {
    packet_slot* slot = packet_pool::look(p);
    if (slot == nullptr) return false;
    // What a socket of the other family received, this one answers too.
    if (slot->origin_size == (as_v6 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6))) {
        const socket_address to = to_sockaddr(sender(p), as_v6);
        slot->origin = to.bytes;
        slot->origin_size = static_cast<std::uint8_t>(to.size);
    }
    const bool known = slot->ancillary == ancillary_state::received;
    slot->ancillary = ancillary_state::none;
    if (!known) return false;
    ancillary& data = slot->pool->ancillary_of(*slot);
    data = answer_to(data);
    if (says_anything(data)) slot->ancillary = ancillary_state::to_send;
    return slot->ancillary == ancillary_state::to_send;
}

bool address_as_answer(const packet& p, const packet& request, bool as_v6) {
    packet_slot* slot = packet_pool::look(p);
    const packet_slot* asked = packet_pool::look(request);
    if (slot == nullptr || asked == nullptr) {
        address_to_peer(p);
        return false;
    }
    slot->origin = asked->origin;
    slot->origin_size = asked->origin_size;
    slot->ancillary = asked->ancillary;
    if (asked->ancillary != ancillary_state::none) {
        slot->pool->keep_ancillary();
        slot->pool->ancillary_of(*slot) = asked->pool->ancillary_of(*asked);
    }
    return address_back(p, as_v6);
}

ancillary ancillary_for(const datagram_options& how, const wire::ip_address& to, const packet_port& port) {
    check("ttl", how.ttl, 1, port);
    check("tos", how.tos, 0, port);
    const wire::ip_address from = how.from.unmapped();
    const bool v6 = to.unmapped().is_v6();
    ancillary data;
    data.is_v6 = v6;
    data.interface = how.interface;
    if (!from.is_unspecified()) {
        if (from.is_v6() != v6)
            fail(EAFNOSUPPORT, fmt::format("{}: sending to {} from {}: they are not of the same family",
                                           port.describe(), to.unmapped().to_string(), from.to_string()));
        write_address(from, data);
    }
    if (how.ttl) {
        data.ttl = static_cast<std::uint8_t>(*how.ttl);
        data.fields |= ancillary::has_ttl;
    }
    if (how.tos) {
        data.tos = static_cast<std::uint8_t>(*how.tos);
        data.fields |= ancillary::has_tos;
    }
    return data;
}

void attach(const packet& p, const ancillary& data) {
    packet_slot* slot = packet_pool::look(p);
    if (slot == nullptr || !says_anything(data)) return;
    slot->pool->keep_ancillary();
    slot->pool->ancillary_of(*slot) = data;
    slot->ancillary = ancillary_state::to_send;
}

} // namespace detail

endpoint sender(const packet& received) noexcept { return detail::from_sockaddr(received.origin()); }

std::optional<packet_info> info_of(const packet& received) noexcept {
    const detail::packet_slot* slot = detail::packet_pool::look(received);
    if (slot == nullptr || slot->ancillary != detail::ancillary_state::received) return std::nullopt;
    const detail::ancillary& data = slot->pool->ancillary_of(*slot);
    packet_info info;
    info.local = detail::read_address(data.address, data.is_v6);
    info.answer_from = detail::answering(data);
    info.interface = data.interface;
    info.ttl = data.ttl;
    info.tos = data.tos;
    return info;
}

datagram::datagram(packet&& received) noexcept
    : payload(std::move(received)), sender(cotun::sender(payload)), info(info_of(payload)) {}

} // namespace cotun
