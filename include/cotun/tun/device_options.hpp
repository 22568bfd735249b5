// SPDX-License-Identifier: Apache-2.0
//
// What a TUN or TAP device is to be like: for opening one, and for adopting a descriptor that somebody else opened.
//
// Each option that the running kernel lacks is found by trying, and refused by name (std::errc::operation_not_supported
// for a flag of the TUN driver). Source: Documentation/networking/tuntap.rst; rtnetlink(7).
#pragma once

#include <cotun/io/option_values.hpp>
#include <cotun/io/read_mode.hpp>
#include <cotun/link/network_namespace.hpp>
#include <cotun/tun/offload_options.hpp>
#include <cotun/wire/address.hpp>

#include <cstdint>
#include <optional>
#include <sys/types.h>
#include <type_traits>

namespace cotun {

/// What to do about an interface of the given name that is there already.
enum class existing_interface : std::uint8_t {
    refuse,  // an error: nobody else's device is ever taken over
    attach,  // taken if it is there and of the same kind and flags, made if not
    require, // taken, and an error if it is not there
};

struct device_options {
    /// 1 to 15 bytes without '/' and blanks; may hold one "%d", for which the kernel puts the first free number. Empty:
    /// the kernel's choice (tun0, tap0, ...).
    option_text name{};
    /// IPv4 and IPv6, each with its prefix length; up to 16. Those that an existing interface has already stay.
    option_list<wire::ip_prefix, 16> addresses{};
    /// Bytes of the largest packet (68 to 65535; from 1280 on for IPv6), without the Ethernet header. 0: the kernel's
    /// default, 1500, or what an existing interface has.
    unsigned mtu = 0;
    /// Room for packets up to this MTU from the start, bytes (0 to 65535). An MTU that is raised later within it loses
    /// nothing; one that is raised beyond reaches the packet pool with the kernel's message about it, and a larger
    /// packet that is read in the same turn is cut, counted as truncated, and dropped. 0: the MTU.
    unsigned mtu_room = 0;
    /// Whether to set the interface up. False leaves it as it is.
    bool up = true;
    /// The network namespace to open it in: by a name as in `ip netns`, a path, a handle, a descriptor, or a process
    /// (link/network_namespace.hpp). Empty: the calling thread's. The reactor stays where it is.
    netns_reference netns{};

    existing_interface existing = existing_interface::refuse;
    /// Several queues, each a descriptor of its own: see device::open_queue(). An interface has it for good or not.
    bool multi_queue = false;
    /// Whether the interface stays when its last descriptor is closed (TUNSETPERSIST). Unset: as it is; one that was
    /// just made goes with it.
    std::optional<bool> persist{};
    /// The user and the group that may attach to it without CAP_NET_ADMIN (TUNSETOWNER, TUNSETGROUP).
    std::optional<uid_t> owner{};
    std::optional<gid_t> group{};

    /// The kernel puts a struct tun_pi in front of each packet: it carries the EtherType, which packet::protocol()
    /// gives and packet::set_protocol() sets, so that a TUN device can carry more than IP. It needs 4 bytes of headroom
    /// (pool_options::headroom).
    bool packet_information = false;
    /// Written packets go through NAPI (IFF_NAPI): generic receive offload in the kernel, at some cost for each packet.
    bool napi = false;
    /// TAP alone: frames are taken apart by the driver (IFF_NAPI_FRAGS). For tests of the kernel's; with `napi`.
    bool napi_fragments = false;
    /// False: the link has no carrier until device::set_carrier(true): what routes over it sees that it is dead.
    bool carrier = true;
    /// Bytes of written packets that the kernel may have under way (TUNSETSNDBUF). 0: no bound, the driver's default.
    /// With a bound there is one write in flight at a time, since the kernel would let a later one overtake.
    unsigned send_buffer = 0;
    /// Packets that wait for this program in the kernel, for each queue (1 to 1 million); beyond, they are dropped
    /// there. 0: the kernel's default, 500.
    unsigned txqueuelen = 0;
    /// TAP alone: the interface's own MAC address. Unset: the kernel makes one up.
    std::optional<wire::mac_address> mac{};
    /// Superpackets, unless no_offload: see tun/offload_options.hpp. They need large buffers
    /// (pool_options::large_count); where the reactor has no more than half of them left to share, the device goes
    /// without, as it does where the kernel has no such thing, and where others have the interface open without:
    /// device::offloads() tells.
    offload_options offload{};
    /// Bytes of the largest superpacket that the kernel makes for the device (its IFLA_GSO_MAX_SIZE, up to 65,536).
    /// 0: the kernel's default. Less makes superpackets of TCP that fit one send of a UDP socket, once cut; but what
    /// programs send that is larger (UDP_SEGMENT), the kernel cuts up before the device.
    unsigned gso_max_size = 0;

    /// Forces one way of reading; for trying, and for kernels whose multishot read misbehaves.
    read_mode read = read_mode::automatic;
    /// The clone device.
    option_text clone_device = "/dev/net/tun";
};
static_assert(std::is_trivially_destructible_v<device_options>); // see option_values.hpp

enum class device_kind : std::uint8_t { tun, tap };

/// What a descriptor that somebody else opened must be. What is set and is otherwise is refused by name
/// (std::errc::invalid_argument).
struct adopt_options {
    std::optional<device_kind> kind{};
    bool packet_information = false;
    std::optional<bool> multi_queue{};
    /// The interface's MTU, where it is in a network namespace that this process cannot enter. 0: it is looked up.
    unsigned mtu = 0;
    /// As in device_options.
    unsigned mtu_room = 0;
    /// Of no effect where the descriptor has no virtio-net headers (IFF_VNET_HDR). Where it has, and no_offload is
    /// given, it is refused.
    offload_options offload{};
    read_mode read = read_mode::automatic;
};
static_assert(std::is_trivially_destructible_v<adopt_options>);

} // namespace cotun
