// SPDX-License-Identifier: Apache-2.0
//
// Netlink messages: how a request is put together, and how the attributes of an answer are taken apart. Numbers are in
// the machine's order and everything is aligned to 4 bytes. Source: Documentation/userspace-api/netlink/intro.rst.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <linux/netlink.h>
#include <span>
#include <stdexcept>
#include <string_view>

namespace cotun::link {

using byte_view = std::span<const std::byte>;

[[nodiscard]] constexpr std::size_t aligned(std::size_t size) noexcept { return (size + 3) & ~std::size_t{3}; }

// A copy of the T at the front of `bytes`; zeros where the bytes are too few, so that a short answer cannot fault.
template <typename T>
[[nodiscard]] T load(byte_view bytes) noexcept {
    T value{};
    if (bytes.size() >= sizeof value) std::memcpy(&value, bytes.data(), sizeof value);
    return value;
}

[[nodiscard]] inline byte_view skip(byte_view bytes, std::size_t count) noexcept {
    return bytes.subspan(std::min(count, bytes.size()));
}

[[nodiscard]] inline std::string_view text_of(byte_view bytes) noexcept {
    const std::string_view text{reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    return text.substr(0, text.find('\0'));
}

// Calls visit(type, payload) for each attribute. Ends at the first that does not fit.
template <typename Visit>
void for_each_attribute(byte_view bytes, Visit visit) {
    while (bytes.size() >= sizeof(nlattr)) {
        const auto header = load<nlattr>(bytes);
        if (header.nla_len < sizeof header || header.nla_len > bytes.size()) return;
        visit(header.nla_type & NLA_TYPE_MASK, bytes.subspan(sizeof header, header.nla_len - sizeof header));
        bytes = skip(bytes, aligned(header.nla_len));
    }
}

// A message while it is put together. The largest that is needed, an IPv6 address with its flags, has about 80 bytes.
class request {
public:
    template <typename Header>
    request(std::uint16_t type, unsigned flags, const Header& header) {
        head_.nlmsg_type = type;
        head_.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
        append(&header, sizeof header);
    }

    void attribute(std::uint16_t type, const void* value, std::size_t size) {
        const nlattr header{static_cast<std::uint16_t>(sizeof header + size), type};
        append(&header, sizeof header);
        append(value, size);
    }

    void number(std::uint32_t sequence, std::uint32_t port) noexcept {
        head_.nlmsg_seq = sequence;
        head_.nlmsg_pid = port;
    }

    [[nodiscard]] byte_view bytes() const noexcept {
        std::memcpy(storage_.data(), &head_, sizeof head_);
        return byte_view{storage_}.first(head_.nlmsg_len);
    }

private:
    // What lies between the end of one piece and the alignment of the next stays zero.
    void append(const void* piece, std::size_t size) {
        const std::size_t at = aligned(head_.nlmsg_len);
        if (at + size > storage_.size())
            throw std::length_error("cotun: a netlink request has a name or address longer than any the kernel knows");
        std::memcpy(storage_.data() + at, piece, size);
        head_.nlmsg_len = static_cast<std::uint32_t>(at + size);
    }

    nlmsghdr head_{.nlmsg_len = sizeof(nlmsghdr), .nlmsg_type = 0, .nlmsg_flags = 0, .nlmsg_seq = 0, .nlmsg_pid = 0};
    mutable std::array<std::byte, 256> storage_{};
};

} // namespace cotun::link
