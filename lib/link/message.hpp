// SPDX-License-Identifier: Apache-2.0
//
// Netlink messages: how a request is put together, and how the attributes of an answer are taken apart. Numbers are in
// the machine's order and everything is aligned to 4 bytes. Source: Documentation/userspace-api/netlink/intro.rst.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <linux/netlink.h>
#include <span>
#include <stdexcept>
#include <string_view>
#include <type_traits>
#include <vector>

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

// The number in an attribute, or 0 where it has not that size.
template <typename T>
[[nodiscard]] T number_of(byte_view value) noexcept {
    return value.size() == sizeof(T) ? load<T>(value) : T{};
}

// Calls visit(header, payload) for each message of a datagram. False where the last one does not fit into it.
template <typename Visit>
bool for_each_message(byte_view bytes, Visit visit) {
    while (bytes.size() >= sizeof(nlmsghdr)) {
        const auto header = load<nlmsghdr>(bytes);
        if (header.nlmsg_len < sizeof header || header.nlmsg_len > bytes.size()) return false;
        visit(header, bytes.subspan(sizeof header, header.nlmsg_len - sizeof header));
        bytes = skip(bytes, aligned(header.nlmsg_len));
    }
    return true;
}

// A message while it is put together.
class request {
public:
    template <typename Header>
    request(std::uint16_t type, unsigned flags, const Header& header) {
        nlmsghdr head{};
        head.nlmsg_type = type;
        head.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
        storage_.reserve(256);
        append(&head, sizeof head);
        append(&header, sizeof header);
    }

    void attribute(std::uint16_t type, const void* value, std::size_t size) {
        const std::size_t at = begin(type);
        append(value, size);
        end(at);
    }
    void attribute(std::uint16_t type, std::span<const std::uint8_t> bytes) {
        attribute(type, bytes.data(), bytes.size());
    }
    template <typename Number>
    requires std::is_arithmetic_v<Number>
    void attribute(std::uint16_t type, Number value) { attribute(type, &value, sizeof value); }
    // With the zero at its end, as the kernel wants names.
    void text(std::uint16_t type, std::string_view value) {
        const std::size_t at = begin(type);
        append(value.data(), value.size());
        storage_.push_back(std::byte{0});
        end(at);
    }

    // What is put in until the end is within an attribute of this type. Gives its place, for end().
    [[nodiscard]] std::size_t begin(std::uint16_t type) {
        align();
        const std::size_t at = storage_.size();
        const nlattr header{sizeof(nlattr), type};
        append(&header, sizeof header);
        return at;
    }
    [[nodiscard]] std::size_t nest(std::uint16_t type) {
        return begin(static_cast<std::uint16_t>(type | NLA_F_NESTED));
    }
    void end(std::size_t at) {
        const std::size_t size = storage_.size() - at;
        if (size > 0xffff)
            throw std::length_error("cotun: a netlink request has an attribute longer than any the kernel takes");
        const auto length = static_cast<std::uint16_t>(size);
        std::memcpy(storage_.data() + at, &length, sizeof length);
    }
    // Any header, within an attribute (IFLA_INFO_DATA of a veth pair). Gives its place.
    template <typename Header>
    std::size_t raw(const Header& header) {
        align();
        const std::size_t at = storage_.size();
        append(&header, sizeof header);
        return at;
    }

    // Right behind what is there.
    void append_bytes(std::span<const std::uint8_t> bytes) { append(bytes.data(), bytes.size()); }

    void number(std::uint32_t sequence, std::uint32_t port) noexcept {
        std::memcpy(storage_.data() + offsetof(nlmsghdr, nlmsg_seq), &sequence, sizeof sequence);
        std::memcpy(storage_.data() + offsetof(nlmsghdr, nlmsg_pid), &port, sizeof port);
    }

    [[nodiscard]] byte_view bytes() noexcept {
        const auto length = static_cast<std::uint32_t>(storage_.size());
        std::memcpy(storage_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof length);
        return storage_;
    }

private:
    void append(const void* piece, std::size_t size) {
        const std::size_t at = storage_.size();
        storage_.resize(at + size);
        if (size != 0) std::memcpy(storage_.data() + at, piece, size);
    }
    // What lies between the end of one piece and the alignment of the next is zero.
    void align() { storage_.resize(aligned(storage_.size())); }

    std::vector<std::byte> storage_;
};

} // namespace cotun::link
