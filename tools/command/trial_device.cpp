// SPDX-License-Identifier: Apache-2.0
#include "trial_device.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace cotun::command {

trial_device::trial_device() : descriptor_(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK)) {}

int trial_device::create(const std::string& name, unsigned flags) {
    ifreq request{};
    std::memcpy(request.ifr_name, name.c_str(), std::min(name.size(), std::size_t{IFNAMSIZ - 1}));
    request.ifr_flags = static_cast<short>(flags);
    if (::ioctl(descriptor(), TUNSETIFF, &request) != 0) return errno;
    name_ = request.ifr_name;
    return 0;
}

unsigned trial_device::flags() const noexcept {
    ifreq request{};
    if (::ioctl(descriptor(), TUNGETIFF, &request) != 0) return 0;
    return static_cast<unsigned short>(request.ifr_flags);
}

int trial_device::set_offloads(unsigned offloads) const noexcept {
    return ::ioctl(descriptor(), TUNSETOFFLOAD, static_cast<unsigned long>(offloads)) == 0 ? 0 : errno;
}

int trial_device::queue_length() const noexcept {
    const cotun::unique_fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{};
    std::memcpy(request.ifr_name, name_.c_str(), std::min(name_.size(), std::size_t{IFNAMSIZ - 1}));
    return ::ioctl(socket.get(), SIOCGIFTXQLEN, &request) == 0 ? request.ifr_qlen : -1;
}

// 13 bytes at most; the letter keeps apart what one process makes at a time.
std::string unique_name() {
    static unsigned made = 0;
    return fmt::format("ctd{}{}", ::getpid(), static_cast<char>('a' + made++ % 26));
}

} // namespace cotun::command
