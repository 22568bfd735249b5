// SPDX-License-Identifier: Apache-2.0
//
// What link_control is given: which link, and what a new one is to be. Values without destructors
// (io/option_values.hpp says why).
#pragma once

#include <cotun/link/link_info.hpp>
#include <cotun/link/link_name.hpp>
#include <cotun/link/network_namespace.hpp>
#include <cotun/wire/address.hpp>

#include <concepts>
#include <optional>
#include <string_view>
#include <type_traits>

namespace cotun {

/// A link by its index, which stays with it, or by its name, which is looked up.
class link_reference {
public:
    template <std::integral Index>
    constexpr link_reference(Index index) noexcept : index_(static_cast<unsigned>(index)) {} // NOLINT: implicit
    template <class Text>
    requires std::convertible_to<const Text&, std::string_view>
    constexpr link_reference(const Text& name) : name_(name) {}                      // NOLINT: implicit
    constexpr link_reference(const link_info& link) noexcept : index_(link.index) {} // NOLINT: implicit

    /// 0: it is to be found by its name.
    constexpr unsigned index() const noexcept { return index_; }
    constexpr const link_name& name() const noexcept { return name_; }

private:
    unsigned index_ = 0;
    link_name name_{};
};

/// Two links of which each receives what the other sends.
struct veth_options {
    link_name name{};
    link_name peer_name{};
    /// Where the peer is made. Empty: in the same namespace.
    netns_reference peer_netns{};
    /// Of both. 0: the kernel's default, 1500.
    unsigned mtu = 0;
    /// Empty: random.
    std::optional<wire::mac_address> mac{};
    std::optional<wire::mac_address> peer_mac{};
};
static_assert(std::is_trivially_destructible_v<veth_options>);

/// A switch, of which other links become ports (link_control::set_master).
struct bridge_options {
    link_name name{};
    unsigned mtu = 0;
    std::optional<wire::mac_address> mac{};
    bool spanning_tree = false;
    bool vlan_filtering = false;
};
static_assert(std::is_trivially_destructible_v<bridge_options>);

/// A link that drops what is sent by it: a place for addresses and routes.
struct dummy_options {
    link_name name{};
    unsigned mtu = 0;
    std::optional<wire::mac_address> mac{};
};
static_assert(std::is_trivially_destructible_v<dummy_options>);

} // namespace cotun
