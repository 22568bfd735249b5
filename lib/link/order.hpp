// SPDX-License-Identifier: Apache-2.0
//
// order: a request with its words: what an error says was tried, and what helps. Made here for the synchronous client
// and for link_control, so that each request is put together in one place.
//
// In an intent the word LINK stands for the link, whose name is looked up when there is an error to tell. Those that
// take a device's name look at nothing: an index is what the kernel wants.
#pragma once

#include <cotun/link/link_info.hpp>
#include <cotun/link/route.hpp>

#include "link/answer.hpp"
#include "link/message.hpp"

#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace cotun::link {

class order {
public:
    // What helps against an errno; "" where the general remedy is right.
    using remedy = std::function<std::string_view(int error)>;

    order(request message, std::string intent, unsigned index = 0, remedy helps = {})
        : message_(std::move(message)), intent_(std::move(intent)), index_(index), helps_(std::move(helps)) {}

    [[nodiscard]] request& message() noexcept { return message_; }
    [[nodiscard]] const std::string& intent() const noexcept { return intent_; }
    [[nodiscard]] unsigned index() const noexcept { return index_; }
    // What the link can have is told when an MTU was refused.
    order& about_mtu() noexcept {
        mtu_ = true;
        return *this;
    }
    [[nodiscard]] bool wants_range(int error) const noexcept;

    // Throws the refusal. `link`: "link tun0"; `range`: of the MTU, where it is wanted and known.
    [[noreturn]] void refuse(const outcome& why, std::string_view link, std::string_view range = {}) const;

private:
    request message_;
    std::string intent_;
    unsigned index_;
    remedy helps_;
    bool mtu_ = false;
};

// "it can be 68 to 65535 bytes"; "" where the link does not tell.
[[nodiscard]] std::string describe_range(const link_info& link);
// "link tun0", or "the link of index 7" where it is not known.
[[nodiscard]] std::string describe_link(const link_info* link, unsigned index);

// The names that the kernel accepts (dev_valid_name() in net/core/dev.c). Throws EINVAL; `role`: "a link's name".
void check_link_name(std::string_view name, std::string_view intent);

// --- links ---------------------------------------------------------------------------------------------------------

[[nodiscard]] order find_link(std::string_view name);
[[nodiscard]] order find_link(unsigned index);
[[nodiscard]] order list_links();
[[nodiscard]] order set_up(unsigned index);
[[nodiscard]] order set_down(unsigned index);
[[nodiscard]] order set_mtu(unsigned index, unsigned mtu);
[[nodiscard]] order set_transmit_queue_length(unsigned index, unsigned packets);
[[nodiscard]] order set_gso_max_size(unsigned index, unsigned bytes);
[[nodiscard]] order set_mac(unsigned index, const wire::mac_address& mac);
[[nodiscard]] order delete_link(unsigned index);

// --- addresses -----------------------------------------------------------------------------------------------------

enum class creation { add, replace }; // replace: add, or change what is there

[[nodiscard]] order add_address(unsigned index, const link_address& address, creation how);
[[nodiscard]] order list_addresses(int family);

// --- routes --------------------------------------------------------------------------------------------------------

// How a packet to the address would go.
[[nodiscard]] order find_route(const wire::ip_address& destination);

} // namespace cotun::link
