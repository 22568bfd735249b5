// SPDX-License-Identifier: Apache-2.0
//
// Which superpackets a device and the kernel hand to one another.
//
// A superpacket is what the kernel would cut into many packets of the link's MTU for the network: up to 64 KiB with one
// set of headers (generic segmentation offload). A device that takes it whole saves the kernel, and the program, the
// work of each packet. A packet says what it is: packet::offload().
//
//     for (cotun::packet& p : co_await dev.read_packets())
//         if (p.offload().is_superpacket()) ...                  // whoever looks into packets may meet one
//
// It is on unless no_offload is given. Programs that pass packets on need not know: devices write a superpacket as it
// is, or cut it where the other device has no such thing; UDP and Unix sockets send its segments, with whatever the
// program has put in front of it in front of each. Programs that make something else of the bytes, such as encrypting
// them or writing them to a stream, cut it first (offload/segments.hpp), or give no_offload. So do those that change
// what a checksum covers: where packet::offload() says needs_checksum, the field holds the pseudo header's sum alone.
//
// What the running kernel has is found by trying, from the richest set to none. Source:
// Documentation/networking/tuntap.rst; the virtio specification, 5.1.6.
#pragma once

#include <cotun/offload/coalescer.hpp>

namespace cotun {

/// The kinds of superpackets.
struct superpacket_kinds {
    bool tcp4 = true; // TCP over IPv4
    bool tcp6 = true; // TCP over IPv6
    bool ecn = true;  // TCP segments of which the first says CWR; without it, they come and go one by one
    bool udp = true;  // datagrams of one size, over IPv4 and IPv6 (Linux 6.2)

    static constexpr superpacket_kinds none() noexcept { return {false, false, false, false}; }
    friend bool operator==(const superpacket_kinds&, const superpacket_kinds&) noexcept = default;
};

/// Merging of what is written: packets of one flow that are accepted in one pass of the reactor become one superpacket,
/// of pieces that stay where they are, by the rules of the kernel's own GRO (offload/coalescer.hpp). Nothing is held
/// back for it, and no packet overtakes another of its flow; one that is out of order ends a superpacket, and is never
/// put in front of one.
struct merge_options {
    bool enabled = true;
    /// Which identifications of IPv4 may follow each other.
    offload::id_rule ids = offload::id_rule::incrementing_or_same;
    /// `trusted` is for packets that an AEAD cipher has vouched for: it saves the sum over each.
    offload::checksum_trust checksums = offload::checksum_trust::verify;
};

struct offload_options {
    /// False: no virtio-net headers (IFF_VNET_HDR). Each packet is read and written as one packet within the MTU, its
    /// checksums complete, and its buffer is no larger than that needs.
    bool enabled = true;
    /// What the kernel may hand over; what is switched off comes as single packets. A switch of the interface's, not
    /// of one queue's.
    superpacket_kinds read{};
    /// What is written as it is; what is switched off is written segment by segment.
    superpacket_kinds write{};
    merge_options merge{};
};

/// No offload at all: for programs that make something of each packet's bytes for which it must be a whole one.
inline constexpr offload_options no_offload{false, superpacket_kinds::none(), superpacket_kinds::none(), {}};

/// What a device and the kernel have agreed upon.
struct device_offload {
    bool enabled = false;      // the device has virtio-net headers
    superpacket_kinds read{};  // that may be read
    superpacket_kinds write{}; // that are written as they are

    friend bool operator==(const device_offload&, const device_offload&) noexcept = default;
};

} // namespace cotun
