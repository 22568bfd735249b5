// SPDX-License-Identifier: Apache-2.0
//
// Trying a request as cotun makes it: through the library's own driver over io_uring (lib/ring), so that what is found
// here is what a program will find.
#pragma once

#include "ring/driver.hpp"
#include "ring/uring.hpp"

#include <cotun/io/unique_fd.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

namespace cotun::command {

/// Pairs and pipes for requests to work on. Throws std::system_error.
struct descriptor_pair {
    cotun::unique_fd first, second;
};
descriptor_pair make_pair(int socket_type); // of Unix sockets
descriptor_pair make_pipe();                // reading end, writing end

class trial_ring {
public:
    static constexpr ring::token name = 1;

    /// Throws std::system_error.
    explicit trial_ring(const ring::uring_options& options = small());

    static ring::uring_options small();
    ring::driver& driver() noexcept { return *driver_; }
    /// A group of buffers; valid as long as the ring. Throws std::system_error.
    std::uint16_t group();

    /// Submits what is queued; returns the first completion of `request`, or none if there is none in time.
    std::optional<ring::completion> outcome(ring::token request = name,
                                            std::chrono::milliseconds patience = std::chrono::milliseconds(1000));

private:
    std::unique_ptr<ring::driver> driver_;
};

} // namespace cotun::command
