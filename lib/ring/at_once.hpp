// SPDX-License-Identifier: Apache-2.0
//
// The part of a driver that is plain system calls, made at once, without the ring.
#pragma once

#include "ring/driver.hpp"

namespace cotun::ring {

class at_once : public driver {
public:
    ssize_t read_now(file, std::span<std::byte>) noexcept final;
    ssize_t write_now(file, std::span<const iovec>) noexcept final;
    ssize_t receive_now(file, msghdr&) noexcept final;
    int send_now(file, std::span<mmsghdr>) noexcept final;
    ssize_t unsent_bytes(file) noexcept final;
    int take_error(file) noexcept final;
    int shutdown_send(file) noexcept final;
};

} // namespace cotun::ring
