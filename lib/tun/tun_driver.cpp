// SPDX-License-Identifier: Apache-2.0
#include "tun/tun_driver.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <utility>

namespace cotun::detail {

int get_attachment(int descriptor, attachment& found) noexcept {
    ifreq request{};
    if (ioctl(descriptor, TUNGETIFF, &request) != 0) return errno;
    found.name = request.ifr_name;
    found.flags = static_cast<unsigned short>(request.ifr_flags);
    return 0;
}

int attach(int descriptor, std::string& name, unsigned flags) noexcept {
    ifreq request{};
    std::memcpy(request.ifr_name, name.data(), std::min<std::size_t>(name.size(), IFNAMSIZ - 1));
    request.ifr_flags = static_cast<short>(flags);
    if (ioctl(descriptor, TUNSETIFF, &request) != 0) return errno;
    name = request.ifr_name;
    return 0;
}

bool has_bounded_send_buffer(int descriptor) noexcept {
    int bytes = 0;
    return ioctl(descriptor, TUNGETSNDBUF, &bytes) == 0 && bytes != INT32_MAX;
}

unsigned driver_features(int descriptor) noexcept {
    unsigned features = 0;
    return ioctl(descriptor, TUNGETFEATURES, &features) == 0 ? features : 0;
}

unique_fd namespace_of(int descriptor) noexcept {
    const int told = ioctl(descriptor, TUNGETDEVNETNS);
    if (told >= 0) return unique_fd(told);
    return unique_fd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
}

std::string flag_names(unsigned flags) {
    constexpr std::array<std::pair<unsigned, std::string_view>, 11> names{{
        {IFF_TUN, "IFF_TUN"},
        {IFF_TAP, "IFF_TAP"},
        {IFF_NAPI, "IFF_NAPI"},
        {IFF_NAPI_FRAGS, "IFF_NAPI_FRAGS"},
        {IFF_NO_CARRIER, "IFF_NO_CARRIER"},
        {IFF_MULTI_QUEUE, "IFF_MULTI_QUEUE"},
        {IFF_PERSIST, "IFF_PERSIST"},
        {IFF_NO_PI, "IFF_NO_PI"},
        {IFF_ONE_QUEUE, "IFF_ONE_QUEUE"},
        {IFF_VNET_HDR, "IFF_VNET_HDR"},
        {IFF_TUN_EXCL, "IFF_TUN_EXCL"},
    }};
    std::string text;
    for (const auto& [flag, name] : names)
        if ((flags & flag) != 0) text += fmt::format("{}{}", text.empty() ? "" : " | ", name);
    return text.empty() ? "none" : text;
}

} // namespace cotun::detail
