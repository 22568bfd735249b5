// SPDX-License-Identifier: Apache-2.0
//
// link_info, link_address: what a link is, as the kernel tells it at one moment. Values, for any thread.
//
// Kernel: rtnetlink(7); numbers without a name here are those of <linux/if.h>, <linux/if_addr.h> and <linux/if_link.h>.
#pragma once

#include <cotun/link/link_name.hpp>
#include <cotun/wire/address.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <type_traits>

namespace cotun {

/// Whether packets can go (RFC 2863, IF_OPER_*).
enum class operational_state : std::uint8_t {
    unknown = 0, // the driver does not say, as TUN devices and loopback
    not_present = 1,
    down = 2,
    lower_layer_down = 3,
    testing = 4,
    dormant = 5, // waits for something, such as a login
    up = 6,
};

/// The kernel's counters (IFLA_STATS64). What a TUN device sends, a program reads.
struct link_statistics {
    std::uint64_t received_packets = 0, received_bytes = 0, receive_errors = 0, receive_drops = 0;
    std::uint64_t sent_packets = 0, sent_bytes = 0, send_errors = 0, send_drops = 0;
    std::uint64_t multicast = 0, collisions = 0;

    friend bool operator==(const link_statistics&, const link_statistics&) noexcept = default;
};

/// What is particular to TUN and TAP devices.
struct tun_info {
    bool tap = false;
    bool persistent = false;
    bool packet_information = false; // packets have struct tun_pi in front
    bool vnet_header = false;        // packets have a virtio-net header in front
    bool multi_queue = false;
    unsigned queues = 0; // that are attached; told of multi-queue devices
    unsigned disabled_queues = 0;
    std::optional<std::uint32_t> owner{}; // the user and the group who may attach to it
    std::optional<std::uint32_t> group{};

    friend bool operator==(const tun_info&, const tun_info&) noexcept = default;
};

struct link_info {
    unsigned index = 0; // never 0 for a link that exists
    link_name name{};
    link_name kind{};                       // "tun", "veth", "bridge", ...; empty for hardware and loopback
    unsigned mtu = 0;                       // bytes, without the link header
    unsigned mtu_min = 0, mtu_max = 0;      // what it can be; both 0 where the kernel does not tell
    unsigned flags = 0;                     // IFF_*
    std::optional<wire::mac_address> mac{}; // empty for a link without Ethernet addresses, such as a TUN device
    operational_state state = operational_state::unknown;
    bool carrier = false;
    unsigned master = 0; // the bridge, bond or VRF that it belongs to; 0: none
    unsigned peer = 0;   // of a veth, or the link that it is made on (VLAN): its index, in its own namespace; 0: none
    std::optional<int> peer_namespace{}; // the number that this namespace has for that one; empty: the same
    unsigned transmit_queue_length = 0;  // packets
    unsigned gso_max_size = 0;           // bytes of the largest superpacket; 0 where the kernel does not tell
    unsigned transmit_queues = 0, receive_queues = 0;
    link_statistics statistics{};
    std::optional<tun_info> tun{};

    [[nodiscard]] bool is_up() const noexcept { return (flags & 1U) != 0; } // IFF_UP
};
static_assert(std::is_trivially_destructible_v<link_info>);

/// How long an address is used. Empty: for ever.
struct address_lifetimes {
    std::optional<std::chrono::seconds> valid{};
    std::optional<std::chrono::seconds> preferred{}; // afterwards new connections do not choose it

    friend bool operator==(const address_lifetimes&, const address_lifetimes&) noexcept = default;
};

struct link_address {
    /// The link's own, with the length of its network.
    wire::ip_prefix address{};
    /// The other end's, of a point-to-point link; the length above is then that of its network.
    std::optional<wire::ip_address> peer{};
    /// IPv4 only. Empty: none, as with ip(8); the kernel takes packets to the network's last address all the same.
    std::optional<wire::ip_address> broadcast{};
    /// IPv6: whether it is used at once, without asking whether somebody else has it (duplicate address detection).
    bool no_dad = true;
    address_lifetimes lifetimes{};
    /// RT_SCOPE_*. Empty: host for loopback addresses, else universe.
    std::optional<std::uint8_t> scope{};
    /// Told, not asked for: the link, and IFA_F_* (tentative, failed, deprecated, ...).
    unsigned index = 0;
    std::uint32_t flags = 0;
};
static_assert(std::is_trivially_destructible_v<link_address>);

} // namespace cotun
