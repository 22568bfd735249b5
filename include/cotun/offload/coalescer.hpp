// SPDX-License-Identifier: Apache-2.0
//
// Merging packets of a flow into superpackets, without copying their payload.
//
//     merging.begin();
//     for (const packet& p : batch) merging.add(p.bytes());
//     for (const superpacket& s : merging.finish()) writev(device, s.pieces.data(), s.pieces.size());
//
// The rules are those of the kernel's own GRO (tools/testing/selftests/net/lib/gro.c). A packet is only ever appended
// to the packet of its flow that came last, and only if everything in their headers agrees but for what a segmenter
// would make of it again: splitting what was merged gives the same packets back (of the identification of IPv4, see
// id_rule). In particular:
//
//   TCP   the next sequence number, and the same acknowledgement, window, flags and options. PSH and FIN end a
//         superpacket; CWR begins one. SYN, RST, URG, pure acknowledgements and all other packets of the flow end it.
//   UDP   a checksum, and the length of the first; a shorter datagram is the last. Empty ones and those without a
//         checksum end it.
//   IP    the same TOS and TTL (traffic class, flow label and hop limit), no options; in IPv6, the same extension
//         headers. A fragment, and a packet whose headers are malformed, end all superpackets: one cannot know whose it
//         is. Such packets, and all that cannot be merged, come out as they came in.
//
// Order: the results are in the order of their first packets, and no packet overtakes one of its own flow. Nothing is
// held back: finish() returns all that was added since begin().
//
// Lifetime: superpackets refer to the packets that were added, whose bytes must stay and not change, and to the
// coalescer, until the next begin(). The memory of a coalescer is kept from one batch to the next: once it has grown to
// the largest batch, nothing is allocated.
// Thread: one at a time. Errors: std::bad_alloc where it has to grow; no others, whatever the bytes are.
#pragma once

#include <sys/uio.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <cotun/offload/virtio_header.hpp>

namespace cotun::offload {

/// Which identifications of IPv4 packets may follow each other in a superpacket, which has room for the first only. A
/// segmenter, and the kernel, number the segments from there.
enum class id_rule : std::uint8_t {
    /// Each one more than the last: split again, all come back.
    incrementing,
    /// Or all the same, as the kernel's GRO has it. With don't-fragment, and for whole packets in general, the
    /// identification means nothing (RFC 6864).
    incrementing_or_same,
    /// Or, with don't-fragment, any.
    any,
};

enum class checksum_trust : std::uint8_t {
    /// A packet is merged only if its checksums are right: of IPv4 and of TCP or UDP.
    verify,
    /// They are taken for right: for packets that an AEAD cipher has vouched for. A damaged packet that is merged is
    /// damaged for good, because a superpacket's checksums are made anew.
    trusted,
};

struct coalescer_options {
    /// Which packets are merged; the others pass through.
    bool tcp4 = true;
    bool tcp6 = true;
    bool udp4 = true;
    bool udp6 = true;
    /// Whether a superpacket may begin with CWR. Off where the device was not given TUN_F_TSO_ECN.
    bool ecn = true;
    id_rule id = id_rule::incrementing_or_same;
    checksum_trust checksums = checksum_trust::verify;
    /// Packets in a superpacket at most, 1 to 128 of UDP (of the kernel's GRO 64), 1 to 1023 of TCP (IOV_MAX).
    std::uint16_t most_tcp_segments = 128;
    std::uint16_t most_datagrams = 64;
    /// Bytes of a superpacket with its IP header at most.
    std::uint16_t most_bytes = 65535;
    /// Where the IP header begins: behind an Ethernet header, at 14.
    std::uint16_t network_offset = 0;
    /// Of the virtio-net headers that are made, and their size: 10 to 24.
    std::endian order = virtio_order;
    std::uint8_t virtio_header_size = offload::virtio_header_size;
};

/// What finish() returns: one packet, merged or not, ready to be written.
struct superpacket {
    offload_state state;
    /// The first piece is the virtio-net header, and the headers behind it if packets were merged: it lies in the
    /// coalescer. The others lie in the packets: of each its payload, or all of the only one. A caller with room in
    /// front of the first packet can copy this piece there, over the packet's own headers, and write one piece less.
    std::span<const iovec> pieces;
    /// The packets in it, counted by add() from 0.
    std::span<const std::uint32_t> packets;
    /// Bytes, without the virtio-net header.
    std::size_t size = 0;

    [[nodiscard]] bool is_merged() const noexcept { return packets.size() > 1; }
};

class coalescer {
public:
    /// Has room for batches of so many packets from the start.
    explicit coalescer(const coalescer_options& options = {}, std::size_t packets = 64);

    /// Forgets the last batch.
    void begin() noexcept;
    /// Takes the next packet. One with a state of its own keeps it; a superpacket is not merged further.
    void add(std::span<const std::byte> packet, const offload_state& state = {});
    /// The batch, merged. Valid until the next begin().
    [[nodiscard]] std::span<const superpacket> finish();

private:
    struct candidate;

    static constexpr std::uint32_t nobody = ~std::uint32_t{0};

    // A packet that was added, and the next one of the same superpacket.
    struct member {
        std::span<const std::byte> bytes;
        std::uint32_t next = nobody;
    };
    // A superpacket in the making. `headers` are those of its first packet.
    struct run {
        std::uint32_t first = 0;
        std::uint32_t last = 0;
        std::uint32_t count = 1;
        std::uint32_t payload = 0; // bytes
        std::uint32_t next_sequence = 0;
        std::uint16_t segment_size = 0;
        std::uint16_t headers_size = 0;
        std::uint16_t transport = 0;
        std::uint16_t id = 0; // of the last packet
        bool v6 = false;
        bool tcp = false;
        bool open = false;           // takes more packets
        bool intact = false;         // the first packet's checksums have been verified
        bool same_ids = false;       // of all packets, once there are two
        std::uint8_t last_flags = 0; // FIN and PSH of the last packet
        offload_state state;         // of a packet that passes through
    };
    // Where the open run of a flow is. A flow has at most one such place; one that is given to another flow closes its
    // run, so what does not fit into the table is not merged, but in order.
    struct place {
        std::uint32_t hash = 0;
        std::uint32_t run = 0;
        std::uint32_t batch = 0; // in which it was written
    };
    static constexpr std::size_t ways = 4, places_count = 256;

    [[nodiscard]] bool is_enabled(const candidate& seen) const noexcept;
    [[nodiscard]] bool is_mergeable(const candidate& seen) const noexcept;
    [[nodiscard]] bool is_intact(const candidate& seen) const noexcept;
    [[nodiscard]] bool is_intact(run& of) const noexcept;
    [[nodiscard]] bool is_of_flow(const run& of, const candidate& seen) const noexcept;
    [[nodiscard]] bool continues(const run& of, const candidate& seen) const noexcept;
    [[nodiscard]] bool network_continues(const run& of, const candidate& seen) const noexcept;
    [[nodiscard]] bool id_follows(const run& of, const candidate& seen) const noexcept;
    [[nodiscard]] std::uint32_t find_run(const candidate& seen) const noexcept;
    [[nodiscard]] const std::byte* first_of(const run& of) const noexcept { return members_[of.first].bytes.data(); }
    [[nodiscard]] std::size_t most_segments(const run& of) const noexcept {
        return of.tcp ? options_.most_tcp_segments : options_.most_datagrams;
    }
    void append(run& to, const candidate& seen, std::uint32_t index) noexcept;
    void start(const candidate& seen, std::uint32_t index);
    void pass(std::uint32_t index, const offload_state& state);
    void remember(const candidate& seen, std::uint32_t run) noexcept;
    void close_all() noexcept;
    void make_room();
    void make_headers(const run& from, std::byte* header, offload_state& state) const noexcept;

    coalescer_options options_;
    std::vector<member> members_;
    std::vector<run> runs_;
    std::array<place, places_count> places_{};
    std::uint32_t batch_ = 1;
    std::uint32_t last_ = nobody; // the run that the last packet went to

    std::vector<std::byte> headers_;
    std::vector<iovec> pieces_;
    std::vector<std::uint32_t> order_;
    std::vector<superpacket> results_;
};

} // namespace cotun::offload
