// SPDX-License-Identifier: Apache-2.0
#include "link/order.hpp"

#include "link/refusal.hpp"

#include <linux/if.h>
#include <sys/socket.h>

#include <fmt/format.h>

#include <cerrno>

namespace cotun::link {

// --- refusals ------------------------------------------------------------------------------------------------------

bool order::wants_range(int error) const noexcept { return mtu_ && (error == EINVAL || error == ERANGE); }

void order::refuse(const outcome& why, std::string_view link, std::string_view range) const {
    constexpr std::string_view placeholder = "LINK";
    std::string text = intent_;
    if (const std::size_t at = text.find(placeholder); !link.empty() && at != std::string::npos)
        text.replace(at, placeholder.size(), link);
    std::string_view help = range;
    if (help.empty() && helps_) help = helps_(why.error);
    if (help.empty()) help = general_remedy(why.error);
    link::refuse(text, why.error, why.text, help);
}

std::string describe_range(const link_info& link) {
    if (link.mtu_max != 0) return fmt::format("it can be {} to {} bytes", link.mtu_min, link.mtu_max);
    if (link.mtu_min != 0) return fmt::format("it must be {} bytes at least", link.mtu_min);
    return {};
}

std::string describe_link(const link_info* link, unsigned index) {
    return link != nullptr ? fmt::format("link {}", link->name.view()) : fmt::format("the link of index {}", index);
}

namespace {

bool is_link_name(std::string_view name) noexcept {
    constexpr std::string_view forbidden{"/: \t\n\v\f\r\0", 9};
    return !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
           name.find_first_of(forbidden) == std::string_view::npos;
}

} // namespace

std::uint8_t family_number(bool v6) noexcept { return static_cast<std::uint8_t>(v6 ? AF_INET6 : AF_INET); }

void attribute(request& req, std::uint16_t type, const wire::ip_address& address) {
    req.attribute(type, address.bytes());
}

void check_link_name(std::string_view name, std::string_view intent) {
    if (!is_link_name(name))
        refuse(intent, EINVAL, {}, "a link's name has 1 to 15 bytes, without '/', ':' or blanks, like tun0");
}

} // namespace cotun::link
