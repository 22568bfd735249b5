// SPDX-License-Identifier: Apache-2.0
#include "net/ancillary.hpp"

#include "net/socket_options.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <netinet/udp.h>

namespace cotun::detail {
namespace {

constexpr std::array<std::byte, 12> mapped_prefix{std::byte{0}, std::byte{0}, std::byte{0},   std::byte{0},
                                                  std::byte{0}, std::byte{0}, std::byte{0},   std::byte{0},
                                                  std::byte{0}, std::byte{0}, std::byte{255}, std::byte{255}};

// A message's value, if it is whole.
template <class Value>
bool get(std::span<const std::byte> data, Value& value) noexcept {
    if (data.size() < sizeof value) return false;
    std::memcpy(&value, data.data(), sizeof value);
    return true;
}

void read_address(const in_pktinfo& info, ancillary& into) noexcept {
    into.is_v6 = false;
    into.address = {};
    std::memcpy(into.address.data(), &info.ipi_addr, 4);
    std::memcpy(into.answer_from.data(), &info.ipi_spec_dst, 4);
    into.interface = static_cast<std::uint32_t>(info.ipi_ifindex);
    into.fields |= ancillary::has_address;
}

void read_address(const in6_pktinfo& info, ancillary& into) noexcept {
    const auto* bytes = reinterpret_cast<const std::byte*>(&info.ipi6_addr);
    if (std::equal(mapped_prefix.begin(), mapped_prefix.end(), bytes)) return; // IPv4's own message says it better
    into.is_v6 = true;
    std::copy(bytes, bytes + 16, into.address.begin());
    into.interface = info.ipi6_ifindex;
    into.fields |= ancillary::has_address;
}

// TTL and hop limit come as an int, the traffic class too, TOS as a byte.
void read_ttl(std::span<const std::byte> data, ancillary& into) noexcept {
    int value = 0;
    if (!get(data, value)) return;
    into.ttl = static_cast<std::uint8_t>(value);
    into.fields |= ancillary::has_ttl;
}

void read_tos(std::span<const std::byte> data, ancillary& into) noexcept {
    int value = 0;
    std::uint8_t byte = 0;
    if (get(data, value))
        into.tos = static_cast<std::uint8_t>(value);
    else if (get(data, byte))
        into.tos = byte;
    else
        return;
    into.fields |= ancillary::has_tos;
}

void read_message(int level, int type, std::span<const std::byte> data, ancillary& into) noexcept {
    in_pktinfo v4{};
    in6_pktinfo v6{};
    if (level == IPPROTO_IP && type == IP_PKTINFO && get(data, v4)) read_address(v4, into);
    if (level == IPPROTO_IPV6 && type == IPV6_PKTINFO && get(data, v6)) read_address(v6, into);
    if ((level == IPPROTO_IP && type == IP_TTL) || (level == IPPROTO_IPV6 && type == IPV6_HOPLIMIT))
        read_ttl(data, into);
    if ((level == IPPROTO_IP && type == IP_TOS) || (level == IPPROTO_IPV6 && type == IPV6_TCLASS)) read_tos(data, into);
}

// Calls f(level, type, data) for each message that is whole.
template <class F>
void for_each_message(std::span<const std::byte> control, F f) noexcept {
    cmsghdr header{};
    while (get(control, header)) {
        if (header.cmsg_len < CMSG_LEN(0) || header.cmsg_len > control.size()) break;
        f(header.cmsg_level, header.cmsg_type, control.subspan(CMSG_LEN(0), header.cmsg_len - CMSG_LEN(0)));
        control = control.subspan(std::min<std::size_t>(CMSG_ALIGN(header.cmsg_len), control.size()));
    }
}

} // namespace

int ask_for_ancillary(int descriptor, int family) noexcept {
    for (const int name : {IP_PKTINFO, IP_RECVTTL, IP_RECVTOS})
        if (const int error = set_option(descriptor, IPPROTO_IP, name, 1)) return error;
    if (family != AF_INET6) return 0;
    for (const int name : {IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS})
        if (const int error = set_option(descriptor, IPPROTO_IPV6, name, 1)) return error;
    return 0;
}

bool read_control(std::span<const std::byte> control, ancillary& into) noexcept {
    into = {};
    for_each_message(control, [&into](int level, int type, std::span<const std::byte> data) {
        read_message(level, type, data, into);
    });
    return (into.fields & ancillary::has_address) != 0;
}

std::uint32_t size_of_merged(std::span<const std::byte> control) noexcept {
    int size = 0;
    for_each_message(control, [&size](int level, int type, std::span<const std::byte> data) {
        if (level == IPPROTO_UDP && type == UDP_GRO) get(data, size);
    });
    return size > 0 ? static_cast<std::uint32_t>(size) : 0;
}

template <class Value>
void send_control::add(int level, int type, const Value& value) noexcept {
    assert(size_ + CMSG_SPACE(sizeof value) <= bytes_.size());
    cmsghdr header{};
    header.cmsg_level = level;
    header.cmsg_type = type;
    header.cmsg_len = CMSG_LEN(sizeof value);
    std::memcpy(bytes_.data() + size_, &header, sizeof header);
    std::memcpy(bytes_.data() + size_ + CMSG_LEN(0), &value, sizeof value);
    size_ += CMSG_SPACE(sizeof value);
}

void send_control::clear() noexcept {
    size_ = 0;
    bytes_.fill(std::byte{}); // what lies between the messages
}

void send_control::add_segment_size(std::uint16_t bytes) noexcept { add(IPPROTO_UDP, UDP_SEGMENT, bytes); }

void send_control::write(const ancillary& from) noexcept {
    if (from.is_v6)
        write_v6(from);
    else
        write_v4(from);
}

void send_control::write_v4(const ancillary& from) noexcept {
    if ((from.fields & ancillary::has_address) != 0 || from.interface != 0) {
        in_pktinfo info{};
        std::memcpy(&info.ipi_spec_dst, from.address.data(), 4);
        info.ipi_ifindex = static_cast<int>(from.interface);
        add(IPPROTO_IP, IP_PKTINFO, info);
    }
    if ((from.fields & ancillary::has_ttl) != 0) add(IPPROTO_IP, IP_TTL, int{from.ttl});
    if ((from.fields & ancillary::has_tos) != 0) add(IPPROTO_IP, IP_TOS, int{from.tos});
}

void send_control::write_v6(const ancillary& from) noexcept {
    if ((from.fields & ancillary::has_address) != 0 || from.interface != 0) {
        in6_pktinfo info{};
        std::memcpy(&info.ipi6_addr, from.address.data(), 16);
        info.ipi6_ifindex = from.interface;
        add(IPPROTO_IPV6, IPV6_PKTINFO, info);
    }
    if ((from.fields & ancillary::has_ttl) != 0) add(IPPROTO_IPV6, IPV6_HOPLIMIT, int{from.ttl});
    if ((from.fields & ancillary::has_tos) != 0) add(IPPROTO_IPV6, IPV6_TCLASS, int{from.tos});
}

} // namespace cotun::detail
