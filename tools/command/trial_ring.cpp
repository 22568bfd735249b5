// SPDX-License-Identifier: Apache-2.0
#include "trial_ring.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace cotun::command {
namespace {

constexpr unsigned buffer_count = 4;
constexpr unsigned buffer_size = 4096;

// The kernel may write to them until the ring is gone for good, which is after it is closed: they stay.
std::array<std::byte, buffer_count * buffer_size> buffers;

// The memory of a ring that was closed is given back a moment later, by a work queue: under a tight RLIMIT_MEMLOCK the
// trial before leaves none. So what is refused for want of memory is tried again for a while.
template <class Attempt>
auto with_patience(Attempt attempt) {
    constexpr int tries = 20;
    constexpr std::chrono::milliseconds pause{20};
    for (int tried = 1;; ++tried) {
        try {
            return attempt();
        } catch (const std::system_error& e) {
            if (e.code().value() != ENOMEM || tried == tries) throw;
        }
        std::this_thread::sleep_for(pause);
    }
}

[[noreturn]] void fail(const char* call) { throw std::system_error(errno, std::generic_category(), call); }

} // namespace

descriptor_pair make_pair(int socket_type) {
    int ends[2];
    if (::socketpair(AF_UNIX, socket_type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) fail("socketpair");
    return {cotun::unique_fd(ends[0]), cotun::unique_fd(ends[1])};
}

descriptor_pair make_pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) fail("pipe2");
    return {cotun::unique_fd(ends[0]), cotun::unique_fd(ends[1])};
}

ring::uring_options trial_ring::small() {
    ring::uring_options options;
    options.requests = 32;
    options.buffers = 32;
    return options;
}

trial_ring::trial_ring(const ring::uring_options& options)
    : driver_(with_patience([&] { return ring::make_uring(options); })) {}

std::uint16_t trial_ring::group() {
    const std::uint16_t made = with_patience([&] { return driver_->add_group(buffer_count); });
    std::array<ring::group_buffer, buffer_count> all{};
    for (unsigned i = 0; i < buffer_count; ++i)
        all[i] = {buffers.data() + std::size_t{i} * buffer_size, buffer_size, static_cast<std::uint16_t>(i)};
    driver_->provide(made, all);
    return made;
}

std::optional<ring::completion> trial_ring::outcome(ring::token request, std::chrono::milliseconds patience) {
    const auto until = ring::clock::now() + patience;
    std::array<ring::completion, 8> done{};
    for (;;) {
        const std::size_t count = driver_->enter(true, until, done);
        for (std::size_t i = 0; i < count; ++i)
            if (done[i].request == request) return done[i];
        if (ring::clock::now() >= until) return std::nullopt;
    }
}

} // namespace cotun::command
