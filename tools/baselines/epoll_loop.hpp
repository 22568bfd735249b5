// SPDX-License-Identifier: Apache-2.0

// The loop that everybody writes first: epoll, level-triggered; a ready device is read until it has nothing more or its
// quota is used up, so that neither direction can starve the other.
#pragma once

#include "devices.hpp"

#include <array>
#include <vector>

#include <sys/epoll.h>

namespace baseline {

constexpr int quota = 64; // reads that a device may have for each wake-up

inline void watch(int poll, int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) < 0) fail("watch a descriptor with epoll");
}

inline void write_packet(int to, const void* data, std::size_t size, counters& total) {
    if (::write(to, data, size) == static_cast<ssize_t>(size))
        ++total.forwarded;
    else if (is_transient(errno))
        ++total.refused;
    else
        fail("write to a device");
}

/// Moves packets between the two devices until it is told to stop: `handle(to, bytes, size, total)` is given what was
/// read from one of them, and writes it to the other.
template <class Handle>
counters forward_by_epoll(const options& options, Handle handle) {
    const auto stop = open_stop_signal();
    const auto a = open_device(options.a, options);
    const auto b = open_device(options.b, options);
    const descriptor poll(::epoll_create1(EPOLL_CLOEXEC));
    if (poll.get() < 0) fail("create an epoll instance");
    for (const int fd : {stop.get(), a.get(), b.get()}) watch(poll.get(), fd);

    counters total;
    std::vector<std::uint8_t> buffer(largest_packet(options));
    const auto move_packets = [&](int from, int to) {
        for (int moved = 0; moved < quota; ++moved) {
            const ssize_t length = ::read(from, buffer.data(), buffer.size());
            if (length < 0) {
                if (errno == EAGAIN || errno == EINTR) return;
                fail("read from a device");
            }
            handle(to, buffer.data(), static_cast<std::size_t>(length), total);
        }
    };
    std::array<epoll_event, 3> events{};
    for (;;) {
        const int ready = ::epoll_wait(poll.get(), events.data(), static_cast<int>(events.size()), -1);
        if (ready < 0 && errno != EINTR) fail("wait with epoll");
        for (int i = 0; i < ready; ++i) {
            const int fd = events[static_cast<std::size_t>(i)].data.fd;
            if (fd == stop.get()) return total;
            move_packets(fd, fd == a.get() ? b.get() : a.get());
        }
    }
}

} // namespace baseline
