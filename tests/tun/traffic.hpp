// SPDX-License-Identifier: Apache-2.0
//
// Packets with a sequence number, as UDP over IPv4, and what sends and receives them on the kernel's side of a device.
#pragma once

#include <cotun/cotun.hpp>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <catch2/generators/catch_generators_range.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "../support/namespace.hpp"
#include "../support/scale.hpp"

namespace test {

using cotun::test::scaled;

inline constexpr std::uint16_t traffic_port = 4711;
inline constexpr std::size_t headers_size = 20 + 8;
inline constexpr std::size_t numbered_size = headers_size + 8;

inline bool kernel_is_from(long major, long minor) {
    utsname about{};
    uname(&about);
    char* rest = nullptr;
    const long its_major = std::strtol(about.release, &rest, 10);
    const long its_minor = *rest == '.' ? std::strtol(rest + 1, nullptr, 10) : 0;
    return its_major > major || (its_major == major && its_minor >= minor);
}

inline bool kernel_reads_multishot() { return kernel_is_from(6, 7); }

inline std::vector<cotun::read_mode> read_modes() {
    std::vector<cotun::read_mode> all{cotun::read_mode::automatic, cotun::read_mode::poll};
    if (kernel_reads_multishot()) all.push_back(cotun::read_mode::multishot);
    return all;
}

inline const char* name_of(cotun::read_mode mode) {
    return mode == cotun::read_mode::automatic ? "automatic" : mode == cotun::read_mode::poll ? "poll" : "multishot";
}

/// In turn, every way that the kernel has.
inline cotun::read_mode each_read_mode() { return GENERATE(from_range(read_modes())); }

/// What most tests of a device begin with: a namespace of their own with the device "tun0", 10.9.0.1/24, in it; once
/// for every way of reading.
struct tun_bench {
    explicit tun_bench(unsigned mtu = 0, const cotun::pool_options& pool = {})
        : mode(each_read_mode()),
          io({.pool = pool}),
          dev(cotun::open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24"}, .mtu = mtu, .read = mode})) {}

    tun_namespace here;
    const cotun::read_mode mode;
    cotun::reactor io;
    cotun::device dev;
};

/// Fills `packet` (at least numbered_size bytes) with IPv4 and UDP headers and the number behind them.
inline void write_numbered(std::span<std::byte> packet, std::uint64_t number, cotun::wire::ipv4_address from,
                           cotun::wire::ipv4_address to) {
    std::fill(packet.begin(), packet.end(), std::byte{0});
    const auto put = [&](std::size_t at, unsigned value) {
        packet[at] = static_cast<std::byte>(value >> 8);
        packet[at + 1] = static_cast<std::byte>(value);
    };
    put(0, 0x4500);
    put(2, static_cast<unsigned>(packet.size()));
    put(8, 0x4011); // TTL 64, UDP
    std::memcpy(&packet[12], from.bytes().data(), 4);
    std::memcpy(&packet[16], to.bytes().data(), 4);
    put(10, cotun::wire::checksum(packet.first(20)));
    put(20, traffic_port);
    put(22, traffic_port);
    put(24, static_cast<unsigned>(packet.size() - 20));
    std::memcpy(&packet[headers_size], &number, sizeof number);
}

/// The number in a packet of ours; none in others, such as router solicitations that the kernel sends by itself.
inline std::optional<std::uint64_t> number_of(std::span<const std::byte> packet) {
    if (packet.size() < numbered_size || packet[0] != std::byte{0x45} || packet[9] != std::byte{17}) return {};
    const unsigned port = std::to_integer<unsigned>(packet[22]) << 8 | std::to_integer<unsigned>(packet[23]);
    if (port != traffic_port) return {};
    std::uint64_t number = 0;
    std::memcpy(&number, &packet[headers_size], sizeof number);
    return number;
}

/// A plain UDP socket in the calling thread's namespace, bound to the port above.
class plain_socket {
public:
    explicit plain_socket(const std::string& local = "0.0.0.0") {
        descriptor_ = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        const int size = 16 << 20;
        setsockopt(descriptor_, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
        const timeval time{patience.count(), 0};
        setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
        const sockaddr_in a = address(local);
        if (bind(descriptor_, reinterpret_cast<const sockaddr*>(&a), sizeof a) != 0)
            throw std::system_error(errno, std::generic_category(), "binding to " + local);
    }
    plain_socket(const plain_socket&) = delete;
    plain_socket& operator=(const plain_socket&) = delete;
    ~plain_socket() { close(descriptor_); }

    bool send(std::uint64_t number, const std::string& to, std::size_t payload = sizeof(std::uint64_t)) const {
        std::vector<std::byte> bytes(payload);
        std::memcpy(bytes.data(), &number, sizeof number);
        const sockaddr_in a = address(to);
        return sendto(descriptor_, bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&a), sizeof a) ==
               static_cast<ssize_t>(bytes.size());
    }
    /// None if nothing has come for long.
    std::optional<std::uint64_t> receive() const {
        std::uint64_t number = 0;
        ssize_t size = -1;
        do size = recv(descriptor_, &number, sizeof number, 0);
        while (size < 0 && errno == EINTR); // a ring of this thread's that is gone interrupts it once more
        if (size < static_cast<ssize_t>(sizeof number)) return {};
        return number;
    }
    int descriptor() const noexcept { return descriptor_; }

private:
    static sockaddr_in address(const std::string& ip) {
        sockaddr_in a{};
        a.sin_family = AF_INET;
        a.sin_port = htons(traffic_port);
        inet_pton(AF_INET, ip.c_str(), &a.sin_addr);
        return a;
    }
    int descriptor_ = -1;
};

/// Whether sockets can have buffers beyond net.core.rmem_max, which takes CAP_NET_ADMIN outside of any user namespace.
inline bool may_have_large_buffers() {
    const int probe = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const int size = 16 << 20;
    const bool may = setsockopt(probe, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) == 0;
    close(probe);
    return may;
}

/// Lets a sender go on only `window` packets ahead of its receiver, so that no queue of the kernel's overflows. A
/// socket's usual buffer holds a hundred.
class pace {
public:
    explicit pace(std::uint64_t window)
        : window_(may_have_large_buffers() ? window : std::min<std::uint64_t>(window, 100)) {}
    void received(std::uint64_t count) { received_.store(count, std::memory_order_release); }
    bool may_send(std::uint64_t sent) const { return sent < received_.load(std::memory_order_acquire) + window_; }
    void give_up() { over_.store(true); }
    /// Blocks; false when there is no point in going on.
    bool wait(std::uint64_t sent) const {
        const auto until = std::chrono::steady_clock::now() + patience;
        while (!may_send(sent)) {
            if (over_.load() || std::chrono::steady_clock::now() > until) return false;
            std::this_thread::sleep_for(std::chrono::microseconds(100));
        }
        return true;
    }

private:
    std::uint64_t window_;
    std::atomic<std::uint64_t> received_{0};
    std::atomic<bool> over_{false};
};

/// A thread that sends numbers 0 to count - 1 to `to`, paced; it ends with the object.
class paced_sender {
public:
    paced_sender(std::uint64_t count, const std::string& to, pace& p, std::size_t payload = sizeof(std::uint64_t))
        : pace_(p), thread_([this, count, to, payload, &p] {
              const plain_socket socket;
              for (std::uint64_t n = 0; n < count && p.wait(n) && socket.send(n, to, payload); ++n) sent_.store(n + 1);
          }) {}
    ~paced_sender() {
        pace_.give_up();
        thread_.join();
    }
    std::uint64_t sent() const { return sent_.load(); }

private:
    pace& pace_;
    std::atomic<std::uint64_t> sent_{0};
    std::thread thread_;
};

inline cotun::task<> time_out(cotun::reactor& io, std::chrono::seconds after) {
    co_await io.sleep_for(after);
    throw std::runtime_error("the test's time is up");
}

/// Runs `body` to its end, or throws when that takes too long. Once a reactor.
template <typename T>
T run_bounded(cotun::reactor& io, cotun::task<T> body, std::chrono::seconds longest = std::chrono::seconds(60)) {
    io.spawn(time_out(io, longest));
    return io.run(std::move(body));
}

/// The error that `call` is refused with; its text holds each of `words`.
template <typename Call>
std::error_code refusal(Call call, const std::vector<std::string>& words) {
    try {
        call();
    } catch (const std::system_error& refused) {
        const std::string text = refused.what();
        INFO(text);
        for (const std::string& w : words) {
            INFO("expected: " << w);
            CHECK(text.find(w) != std::string::npos);
        }
        return refused.code();
    }
    FAIL_CHECK("it was not refused");
    return {};
}

} // namespace test
