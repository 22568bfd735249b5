// SPDX-License-Identifier: Apache-2.0
//
// A descriptor of /dev/net/tun by plain ioctl(2): for trying what the driver knows. Source:
// Documentation/networking/tuntap.rst.
#pragma once

#include <cotun/io/unique_fd.hpp>

#include <string>

namespace cotun::command {

/// What newer kernels than the oldest that cotun is built with have.
namespace tun_flag {
inline constexpr unsigned no_carrier = 0x0040;
inline constexpr unsigned uso4 = 0x20, uso6 = 0x40;
inline constexpr unsigned udp_tunnel_gso = 0x80, udp_tunnel_gso_csum = 0x100;
} // namespace tun_flag

class trial_device {
public:
    trial_device();

    bool is_open() const noexcept { return static_cast<bool>(descriptor_); }
    int descriptor() const noexcept { return descriptor_.get(); }
    const std::string& name() const noexcept { return name_; }

    /// TUNSETIFF. 0, or an errno.
    int create(const std::string& name, unsigned flags);
    /// TUNGETIFF's flags; 0 where it is refused.
    unsigned flags() const noexcept;
    /// TUNSETOFFLOAD. 0, or an errno.
    int set_offloads(unsigned) const noexcept;
    /// SIOCGIFTXQLEN; -1 where it is refused.
    int queue_length() const noexcept;

private:
    cotun::unique_fd descriptor_;
    std::string name_;
};

/// A name for an interface that nobody has: this process's number is in it.
std::string unique_name();

} // namespace cotun::command
