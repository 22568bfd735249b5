// SPDX-License-Identifier: Apache-2.0
//
// Making the interface: from device_options to a descriptor.
#pragma once

#include <cotun/tun/device.hpp>

#include <string>

namespace cotun::detail {

/// A descriptor of /dev/net/tun that is attached to an interface, and one that watches for its removal. Move-only.
class open_interface {
public:
    open_interface() noexcept = default;
    open_interface(open_interface&& other) noexcept { *this = std::move(other); }
    open_interface& operator=(open_interface&& other) noexcept;
    ~open_interface();
    void release() noexcept { descriptor = watch = -1; }

    int descriptor = -1;
    int watch = -1; // link/removal_watch.hpp
    std::string name;
    unsigned index = 0;
    unsigned mtu = 0;
};

/// Throws std::system_error; then no interface is left. `call`: "open_tun" or "open_tap", for errors.
open_interface make_interface(const device_options& options, bool tap, const char* call);

} // namespace cotun::detail
