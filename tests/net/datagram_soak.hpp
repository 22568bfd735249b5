// SPDX-License-Identifier: Apache-2.0
//
// What the soak of datagrams knows of one socket: what the kernel was given and gave, and what became of it.
#pragma once

#include <cotun/io/statistics.hpp>

#include "../support/scripted_port.hpp"
#include "../support/seed.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

namespace cotun::test {

/// The counter of a failure, as the headers have it; nullptr: it is the end of the socket.
inline std::uint64_t write_statistics::*cause_of(int error) {
    switch (error) {
    case EMSGSIZE: return &write_statistics::too_large;
    case ECONNREFUSED:
    case ECONNRESET:
    case ENOTCONN:
    case ENOENT: return &write_statistics::refused;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case EADDRNOTAVAIL: return &write_statistics::unreachable;
    case ENOBUFS:
    case ENOMEM: return &write_statistics::no_memory;
    case EPERM:
    case EACCES: return &write_statistics::not_permitted;
    case EINVAL:
    case EAFNOSUPPORT: return &write_statistics::invalid;
    case ENETDOWN:
    case EIO: return &write_statistics::link_down;
    default: return &write_statistics::other;
    }
}

/// What was sent, by number: each once, in order, or failed, or never given to the kernel because its write was stopped
/// or destroyed, or its socket closed.
class sent_ledger {
public:
    /// Four of one size, and then four of another.
    static std::size_t size_of(unsigned n) { return sizeof n + n / 4 * 37 % 1100; }

    static constexpr std::size_t largest = sizeof(unsigned) + 1100;
    /// A packet of `largest` bytes becomes the datagram.
    static void fill(packet& p, unsigned n) {
        p.remove_suffix(p.size() - size_of(n));
        const auto bytes = p.bytes();
        std::memset(bytes.data(), static_cast<int>(n % 251), bytes.size());
        std::memcpy(bytes.data(), &n, sizeof n);
    }

    // --- those who send -------------------------------------------------------------------------------------------

    unsigned next() {
        fates_.push_back(fate::given);
        return static_cast<unsigned>(fates_.size() - 1);
    }
    void accepted(unsigned n) {
        if (fates_[n] == fate::given) fates_[n] = fate::accepted; // else the kernel has had it already
        known_ = n + 1;
    }
    /// Its write was stopped, or refused: it must never go out.
    void not_accepted(unsigned n) {
        if (fates_[n] != fate::given) wrong("a datagram was sent whose write was not accepted", n);
        fates_[n] = fate::not_accepted;
    }

    // --- the kernel -----------------------------------------------------------------------------------------------

    void taken(std::span<const std::byte> bytes) { over(bytes, fate::taken); }
    void failed(std::span<const std::byte> bytes, int error) {
        over(bytes, fate::failed);
        ++(expected.*cause_of(error));
    }

    // --- what holds -----------------------------------------------------------------------------------------------

    /// Those before it are all that are known to have been accepted.
    unsigned known() const { return known_; }
    /// None before it is still on its way.
    bool is_over_up_to(unsigned end) {
        for (; settled_ < end; ++settled_)
            if (fates_[settled_] == fate::accepted) return false;
        return true;
    }
    std::uint64_t on_their_way() const {
        std::uint64_t count = 0;
        for (const fate f : fates_) count += f == fate::accepted;
        return count;
    }
    std::uint64_t unknown() const {
        std::uint64_t count = 0;
        for (const fate f : fates_) count += f == fate::given;
        return count;
    }
    void check(const write_statistics& counted) const {
        CHECK(counted.packets == expected.packets);
        CHECK(counted.link_down == expected.link_down);
        CHECK(counted.invalid == expected.invalid);
        CHECK(counted.too_large == expected.too_large);
        CHECK(counted.refused == expected.refused);
        CHECK(counted.unreachable == expected.unreachable);
        CHECK(counted.no_memory == expected.no_memory);
        CHECK(counted.not_permitted == expected.not_permitted);
        CHECK(counted.other == expected.other);
    }
    const std::string& complaint() const { return complaint_; }

    write_statistics expected;

private:
    enum class fate : std::uint8_t { given, not_accepted, accepted, taken, failed };

    // Thrown by nobody: the driver's functions do not throw. It is looked at after each step.
    void wrong(const char* what, unsigned n) {
        if (complaint_.empty()) complaint_ = std::string(what) + ": number " + std::to_string(n);
    }
    void over(std::span<const std::byte> bytes, fate end) {
        unsigned n = ~0U;
        if (bytes.size() >= sizeof n) std::memcpy(&n, bytes.data(), sizeof n);
        if (n >= fates_.size() || bytes.size() != size_of(n))
            return wrong("what the kernel was given is no datagram", n);
        if (bytes.size() > sizeof n && bytes.back() != static_cast<std::byte>(n % 251)) wrong("it was overwritten", n);
        if (fates_[n] == fate::not_accepted) wrong("sent, though its write was not accepted", n);
        if (fates_[n] >= fate::taken) wrong("sent twice", n);
        if (n < least_) wrong("out of order", n);
        least_ = n + 1;
        fates_[n] = end;
        if (end == fate::taken) {
            ++expected.packets;
            expected.bytes += bytes.size();
        }
    }

    std::vector<fate> fates_;
    unsigned known_ = 0;
    unsigned settled_ = 0; // those before it are over
    unsigned least_ = 0;   // that the next to go out may have
    std::string complaint_;
};

} // namespace cotun::test
