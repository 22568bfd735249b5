// SPDX-License-Identifier: Apache-2.0
//
// Cutting a superpacket into the packets that it stands for.
//
//     for (const auto& segment : segments(packet, state)) ...           // lazily: nothing is copied
//     segment_run run = write_segments(out, segments(packet, state));   // each byte copied once, checksums complete
//
// Segments are what Linux itself would send: each has all headers of the superpacket, IP options and extension headers
// of IPv6 too, with its own lengths and checksums; the identification of IPv4 goes up by one and TCP's sequence number
// by the payload from each to the next; CWR is only on the first, FIN and PSH only on the last; a UDP checksum of 0 is
// 0xffff. Lengths and places are taken from the packet's own headers, never from the virtio-net header.
//
// A packet that is no superpacket is one segment, whose checksum is completed where its state asks for it.
//
// Lifetime: a segmenter and its segments refer to the packet, whose bytes must stay and not change meanwhile. They own
// nothing and are trivially copyable.
// Thread: any. Errors: refusal() of the segmenter, which then has no segments. Nothing allocates or throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <span>

#include <cotun/offload/virtio_header.hpp>

namespace cotun::offload {

class segmenter;

/// One segment to be: a place in a segmenter, which must outlive it.
class segment {
public:
    [[nodiscard]] inline std::size_t index() const noexcept { return index_; }
    /// Bytes of its headers, of its payload, and of both.
    [[nodiscard]] inline std::size_t header_size() const noexcept;
    [[nodiscard]] inline std::span<const std::byte> payload() const noexcept;
    [[nodiscard]] inline std::size_t size() const noexcept;
    /// Makes the headers, with complete checksums, in `to`, which has room for header_size() bytes; returns them.
    std::span<const std::byte> write_header(std::span<std::byte> to) const noexcept;
    /// Makes the whole segment in `to`, which has room for size() bytes and does not overlap the packet; returns it.
    std::span<const std::byte> write(std::span<std::byte> to) const noexcept;

private:
    friend class segmenter;
    segment(const segmenter& plan, std::size_t index) noexcept : plan_(&plan), index_(index) {}

    const segmenter* plan_;
    std::size_t index_;
};

struct run_options {
    /// Bytes left as they are before each segment: room for the header of a tunnel.
    std::size_t prefix = 0;
    /// The first segment to write, and how many at most.
    std::size_t first = 0;
    std::size_t most = std::numeric_limits<std::size_t>::max();
};

/// Segments in one run of bytes, each `stride` bytes behind the one before: what one send with UDP_SEGMENT takes.
struct segment_run {
    std::size_t count = 0;  // of segments
    std::size_t stride = 0; // prefix and segment; the last may be shorter
    std::size_t size = 0;   // of the whole run, prefixes included
};

/// How a packet is cut: checked once, so that making a segment cannot fail. A range of its segments.
class segmenter {
public:
    class iterator {
    public:
        using value_type = segment;
        using difference_type = std::ptrdiff_t;
        using iterator_concept = std::forward_iterator_tag;

        iterator() noexcept = default;
        segment operator*() const noexcept { return {*plan_, index_}; }
        iterator& operator++() noexcept { return ++index_, *this; }
        iterator operator++(int) noexcept {
            const iterator before = *this;
            ++index_;
            return before;
        }
        friend bool operator==(const iterator& a, const iterator& b) noexcept { return a.index_ == b.index_; }

    private:
        friend class segmenter;
        iterator(const segmenter& plan, std::size_t index) noexcept : plan_(&plan), index_(index) {}

        const segmenter* plan_ = nullptr;
        std::size_t index_ = 0;
    };

    /// See segments(), below.
    segmenter(std::span<const std::byte> packet, const offload_state& state, std::size_t network_offset) noexcept;

    [[nodiscard]] offload::refusal refusal() const noexcept { return refusal_; }
    explicit operator bool() const noexcept { return refusal_ == offload::refusal::none; }

    /// Segments: 0 if refused, else at least 1.
    [[nodiscard]] std::size_t size() const noexcept { return count_; }
    [[nodiscard]] bool empty() const noexcept { return count_ == 0; }
    [[nodiscard]] segment operator[](std::size_t index) const noexcept { return {*this, index}; }
    [[nodiscard]] iterator begin() const noexcept { return {*this, 0}; }
    [[nodiscard]] iterator end() const noexcept { return {*this, count_}; }

    /// Bytes of headers and of payload in each segment; in the last, of payload.
    [[nodiscard]] std::size_t header_size() const noexcept { return header_size_; }
    [[nodiscard]] std::size_t payload_size() const noexcept { return segment_size_; }
    [[nodiscard]] std::size_t last_payload_size() const noexcept { return last_size_; }
    /// Bytes of all segments together, each with so many bytes before it.
    [[nodiscard]] std::size_t total_size(std::size_t prefix = 0) const noexcept {
        return count_ == 0 ? 0 : count_ * (prefix + header_size_ + segment_size_) - (segment_size_ - last_size_);
    }

private:
    friend class segment;
    friend segment_run write_segments(std::span<std::byte>, const segmenter&, const run_options&) noexcept;

    void plan_whole() noexcept;
    void plan_segments() noexcept;
    [[nodiscard]] std::uint64_t sum_of_addresses() const noexcept;
    std::span<const std::byte> payload(std::size_t index) const noexcept;
    void write(std::byte* to, std::size_t index) const noexcept;
    void finish_header(std::byte* header, std::size_t index, std::size_t payload, std::uint64_t sum) const noexcept;
    void finish_whole(std::byte* packet, std::uint64_t sum_behind) const noexcept;

    std::span<const std::byte> packet_;
    offload_state state_;
    offload::refusal refusal_ = offload::refusal::none;
    bool tcp_ = false;
    bool v6_ = false;
    bool options_ = false;
    std::uint8_t flags_ = 0; // of TCP, as in the superpacket
    std::uint16_t id_ = 0;
    std::uint16_t network_ = 0;
    std::uint16_t transport_ = 0;
    std::uint16_t header_size_ = 0;
    std::uint32_t sequence_ = 0;
    std::size_t count_ = 0;
    std::size_t segment_size_ = 0;
    std::size_t last_size_ = 0;
    std::uint64_t network_sum_ = 0;   // of what is the same in the IPv4 headers of all segments
    std::uint64_t transport_sum_ = 0; // the same of pseudo and transport headers
};

/// Plans how `packet` is cut. It begins with the IP header, or has it at `network_offset`. Its state is checked against
/// its bytes, as by check_offload(); both may be anything.
[[nodiscard]] inline segmenter segments(std::span<const std::byte> packet, const offload_state& state,
                                        std::size_t network_offset = 0) noexcept {
    return {packet, state, network_offset};
}

/// Where the IP header of a superpacket begins, which may have anything in front of it: an Ethernet header and VLAN
/// tags, or what a tunnel has put there, which each segment then begins with, too. Found from where the state says that
/// the checksum begins, and confirmed by the header's own length; 0 if there is none.
[[nodiscard]] std::size_t find_network(std::span<const std::byte> packet, const offload_state& state) noexcept;

/// Writes segments one behind the other, as many as fit into `out` whole; call again with `first` where it ended for
/// the rest. `out` does not overlap the packet. A run of none means that there is no room for one, or nothing to write.
[[nodiscard]] segment_run write_segments(std::span<std::byte> out, const segmenter& plan,
                                         const run_options& options = {}) noexcept;

inline std::size_t segment::header_size() const noexcept { return plan_->header_size(); }
inline std::span<const std::byte> segment::payload() const noexcept { return plan_->payload(index_); }
inline std::size_t segment::size() const noexcept { return header_size() + payload().size(); }

inline std::span<const std::byte> segmenter::payload(std::size_t index) const noexcept {
    return packet_.subspan(header_size_ + index * segment_size_, index + 1 == count_ ? last_size_ : segment_size_);
}

} // namespace cotun::offload
