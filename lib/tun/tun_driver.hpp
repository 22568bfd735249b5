// SPDX-License-Identifier: Apache-2.0
//
// The TUN driver's ioctls, by what they do. Source: include/uapi/linux/if_tun.h; Documentation/networking/tuntap.rst.
#pragma once

#include <cotun/io/unique_fd.hpp>
#include <cotun/tun/device_options.hpp>

#include <linux/if.h>
#include <linux/if_tun.h>

#include <string>
#include <string_view>

#ifndef IFF_NO_CARRIER // Linux 6.1
#define IFF_NO_CARRIER 0x0040
#endif

namespace cotun::detail {

/// What an interface is that a descriptor is attached to.
struct attachment {
    std::string name;
    unsigned flags = 0; // IFF_* of <linux/if_tun.h>

    device_kind kind() const noexcept { return (flags & IFF_TAP) != 0 ? device_kind::tap : device_kind::tun; }
    bool has(unsigned flag) const noexcept { return (flags & flag) != 0; }
};

/// TUNGETIFF. It does not tell of packet information: IFF_NO_PI has the value of IFF_NOFILTER, which it sets for any
/// descriptor without a filter. Returns 0, or an errno: EBADFD for a descriptor that is attached to none, ENOTTY (or
/// another) for one that is not the driver's.
int get_attachment(int descriptor, attachment& found) noexcept;

/// TUNSETIFF: returns 0 or an errno; `name` is then the kernel's.
int attach(int descriptor, std::string& name, unsigned flags) noexcept;

/// Whether a write may have to wait: the driver's default is no bound (INT_MAX).
bool has_bounded_send_buffer(int descriptor) noexcept;

/// The flags that the running driver knows (TUNGETFEATURES); 0 if it does not tell.
unsigned driver_features(int descriptor) noexcept;

/// The interface's network namespace (TUNGETDEVNETNS, Linux 5.2), or that of the calling thread where the driver does
/// not tell; empty where there is neither.
unique_fd namespace_of(int descriptor) noexcept;

/// The names of the set flags: "IFF_TUN | IFF_NO_PI".
std::string flag_names(unsigned flags);

inline constexpr std::size_t packet_information_size = sizeof(tun_pi);

} // namespace cotun::detail
