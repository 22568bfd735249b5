// SPDX-License-Identifier: Apache-2.0

// The loop that everybody writes first: epoll, read(2), write(2). Level-triggered; a ready device is read until it
// has nothing more or its quota is used up, so that neither direction can starve the other.

#include "devices.hpp"

#include <array>

#include <sys/epoll.h>

namespace {

constexpr int quota = 64; // packets a device may move for each wake-up

void watch(int poll, int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) < 0) baseline::fail("watch a descriptor with epoll");
}

void move_packets(int from, int to, std::vector<char>& buffer, baseline::counters& total) {
    for (int moved = 0; moved < quota; ++moved) {
        const ssize_t length = ::read(from, buffer.data(), buffer.size());
        if (length < 0) {
            if (errno == EAGAIN || errno == EINTR) return;
            baseline::fail("read from a device");
        }
        if (::write(to, buffer.data(), static_cast<std::size_t>(length)) == length)
            ++total.forwarded;
        else if (baseline::is_transient(errno))
            ++total.refused;
        else
            baseline::fail("write to a device");
    }
}

baseline::counters forward(const baseline::options& options) {
    const auto stop = baseline::open_stop_signal();
    const auto a = baseline::open_device(options.a, options);
    const auto b = baseline::open_device(options.b, options);
    const baseline::descriptor poll(::epoll_create1(EPOLL_CLOEXEC));
    if (poll.get() < 0) baseline::fail("create an epoll instance");
    for (const int fd : {stop.get(), a.get(), b.get()}) watch(poll.get(), fd);

    baseline::counters total;
    std::vector<char> buffer(baseline::largest_packet(options));
    std::array<epoll_event, 3> events{};
    for (;;) {
        const int ready = ::epoll_wait(poll.get(), events.data(), static_cast<int>(events.size()), -1);
        if (ready < 0 && errno != EINTR) baseline::fail("wait with epoll");
        for (int i = 0; i < ready; ++i) {
            const int fd = events[static_cast<std::size_t>(i)].data.fd;
            if (fd == stop.get()) return total;
            move_packets(fd, fd == a.get() ? b.get() : a.get(), buffer, total);
        }
    }
}

} // namespace

int main(int argc, char** argv) { return baseline::run_baseline(argc, argv, forward); }
