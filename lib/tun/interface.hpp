// SPDX-License-Identifier: Apache-2.0
//
// Making the interface: from device_options to a descriptor.
#pragma once

#include <cotun/io/unique_fd.hpp>
#include <cotun/tun/device_options.hpp>

#include <string>
#include <string_view>

namespace cotun::detail {

/// A descriptor of /dev/net/tun that is attached to an interface, and what is known of it.
struct open_interface {
    unique_fd descriptor;
    std::string name;
    unsigned flags = 0; // as TUNGETIFF tells
    bool packet_information = false;
    bool virtio_header = false;
    bool bounded = false;                                 // its send buffer is
    superpacket_kinds agreed = superpacket_kinds::none(); // that the kernel hands over; none without virtio-net headers
    unsigned index = 0;                                   // 0: in a namespace that cannot be entered
    unsigned mtu = 0;

    device_kind kind() const noexcept;
};

/// Throws std::system_error; then no interface is left that was not there before. `call`: what errors begin with.
open_interface make_interface(const device_options& options, device_kind kind, const char* call);

/// Finds out what the descriptor is attached to, and refuses what does not fit. Throws std::system_error.
open_interface adopt_interface(unique_fd descriptor, const adopt_options& options);

/// One more queue of the interface that `descriptor` is attached to.
unique_fd open_another_queue(int descriptor, std::string_view clone_device);

/// Opens the clone device. Throws std::system_error with the remedy, begun by `subject`.
unique_fd open_clone_device(std::string_view path, std::string_view subject);

} // namespace cotun::detail
