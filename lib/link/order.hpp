// SPDX-License-Identifier: Apache-2.0
//
// order: a request with its words: what an error says was tried, and what helps. Made here for the synchronous client
// and for link_control, so that each request is put together in one place.
//
// In an intent the word LINK stands for the link, whose name is looked up when there is an error to tell. Those that
// take a device's name look at nothing: an index is what the kernel wants.
#pragma once

#include <cotun/io/unique_fd.hpp>
#include <cotun/link/link_info.hpp>
#include <cotun/link/link_options.hpp>
#include <cotun/link/route.hpp>

#include "link/answer.hpp"
#include "link/message.hpp"

#include <functional>
#include <memory>
#include <span>
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
    // The kernel may take some tens of milliseconds for it: it waits until nobody uses what goes (RCU).
    order& takes_a_while() noexcept {
        slow_ = true;
        return *this;
    }
    [[nodiscard]] bool is_slow() const noexcept { return slow_; }
    // A descriptor that the message names, and that must be open until the kernel has read it.
    order& holds(std::shared_ptr<const unique_fd> descriptor) noexcept {
        held_ = std::move(descriptor);
        return *this;
    }
    [[nodiscard]] const std::shared_ptr<const unique_fd>& held() const noexcept { return held_; }

    // Throws the refusal. `link`: "link tun0"; `range`: of the MTU, where it is wanted and known.
    [[noreturn]] void refuse(const outcome& why, std::string_view link, std::string_view range = {}) const;

private:
    request message_;
    std::string intent_;
    unsigned index_;
    remedy helps_;
    bool mtu_ = false;
    bool slow_ = false;
    std::shared_ptr<const unique_fd> held_;
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
[[nodiscard]] order rename_link(unsigned index, std::string_view name);
// Of 0: none.
[[nodiscard]] order set_master(unsigned index, unsigned master);
// Under another name there, if one is given.
[[nodiscard]] order move_link(unsigned index, std::string_view name, const netns_reference& there);
[[nodiscard]] order create_veth(const veth_options& options);
[[nodiscard]] order create_bridge(const bridge_options& options);
[[nodiscard]] order create_dummy(const dummy_options& options);

// --- addresses -----------------------------------------------------------------------------------------------------

enum class creation { add, replace }; // replace: add, or change what is there

[[nodiscard]] order add_address(unsigned index, const link_address& address, creation how);
[[nodiscard]] order delete_address(unsigned index, const link_address& address);
[[nodiscard]] order list_addresses(int family);

// --- routes, rules, neighbours: with the index of the device that they name, or 0 ----------------------------------

[[nodiscard]] order add_route(unsigned index, const ip_route& route, creation how);
// The hops have the indices of their devices.
[[nodiscard]] order add_route(const ip_route& route, std::span<const ip_next_hop> hops, creation how);
[[nodiscard]] order delete_route(unsigned index, const ip_route& route);
[[nodiscard]] order list_routes(int family);
// How a packet to the address would go.
[[nodiscard]] order find_route(const wire::ip_address& destination);

[[nodiscard]] order add_rule(const ip_rule& rule);
[[nodiscard]] order delete_rule(const ip_rule& rule);
[[nodiscard]] order list_rules();

[[nodiscard]] order add_neighbour(unsigned index, const ip_neighbour& neighbour, creation how);
[[nodiscard]] order delete_neighbour(unsigned index, const ip_neighbour& neighbour);
[[nodiscard]] order list_neighbours();

// --- for those above -----------------------------------------------------------------------------------------------

[[nodiscard]] std::uint8_t family_number(bool v6) noexcept;
void attribute(request& req, std::uint16_t type, const wire::ip_address& address);

} // namespace cotun::link
