// SPDX-License-Identifier: Apache-2.0

// What the TUN libraries do that know superpackets but do not give them to their users (wireguard-go's tun, tun-rs):
// each superpacket that is read is cut into packets of the MTU, copied and their checksums computed; packets that are
// written are verified, looked up by flow, and those that follow one another copied into one buffer, which is written
// as a superpacket. Between the two is where such a library's user sees packets. The loop around it is that of
// baseline_epoll.

#include "epoll_loop.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <memory>
#include <unordered_map>

namespace {

constexpr std::size_t most_packets = 128; // that one superpacket is cut into; what the libraries take for a batch
constexpr std::size_t room = baseline::offload_header_size + 65535;

struct offload_header {
    std::uint8_t flags;
    std::uint8_t type;
    std::uint16_t header_size; // and the rest in the byte order of the machine
    std::uint16_t segment_size;
    std::uint16_t checksum_start;
    std::uint16_t checksum_offset;
};
static_assert(sizeof(offload_header) == baseline::offload_header_size);

constexpr std::uint8_t needs_checksum = 1;
constexpr std::uint8_t type_none = 0, type_tcp4 = 1, type_tcp6 = 4, type_udp = 5, type_ecn = 0x80;
constexpr std::uint8_t protocol_tcp = 6, protocol_udp = 17;
constexpr std::uint8_t tcp_fin = 0x01, tcp_push = 0x08, tcp_ack = 0x10, tcp_congestion_reduced = 0x80;

using bytes = std::uint8_t*;

std::uint16_t load16(const std::uint8_t* at) { return static_cast<std::uint16_t>(at[0] << 8 | at[1]); }
std::uint32_t load32(const std::uint8_t* at) { return std::uint32_t{load16(at)} << 16 | load16(at + 2); }
void store16(bytes at, std::size_t value) {
    at[0] = static_cast<std::uint8_t>(value >> 8);
    at[1] = static_cast<std::uint8_t>(value);
}
void store32(bytes at, std::uint32_t value) {
    store16(at, value >> 16);
    store16(at + 2, value & 0xffff);
}

/// The Internet checksum's sum, not folded, in the byte order of the network; four bytes at a time, which the compiler
/// makes as wide as it may.
std::uint64_t sum(const std::uint8_t* data, std::size_t length) {
    std::uint64_t total = 0;
    for (; length >= 4; data += 4, length -= 4) {
        std::uint32_t word;
        std::memcpy(&word, data, 4);
        total += word;
    }
    std::uint32_t rest = 0;
    std::memcpy(&rest, data, length);
    return total + rest;
}

std::uint16_t fold(std::uint64_t total) {
    total = (total & 0xffff'ffff) + (total >> 32);
    total = (total & 0xffff'ffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    return static_cast<std::uint16_t>(total);
}

void store_sum(bytes at, std::uint16_t value) { std::memcpy(at, &value, 2); }

/// Where things are in a packet that is TCP or UDP right behind an IP header without options or extensions.
struct layout {
    bool ipv6 = false;
    bool tcp = false;
    std::size_t transport = 0;
    std::size_t payload = 0; ///< 0: it is no such packet

    bytes checksum(bytes packet) const { return packet + transport + (tcp ? 16 : 6); }
};

layout look_at(const std::uint8_t* packet, std::size_t length) {
    layout found;
    if (length < 20) return found;
    found.ipv6 = packet[0] >> 4 == 6;
    found.transport = found.ipv6 ? 40 : 20;
    const std::uint8_t protocol = found.ipv6 ? packet[6] : packet[9];
    if ((!found.ipv6 && packet[0] != 0x45) || length < found.transport + 8) return found;
    found.tcp = protocol == protocol_tcp;
    if (!found.tcp && protocol != protocol_udp) return found;
    if (found.tcp && length < found.transport + 20) return found;
    const std::size_t header = found.tcp ? std::size_t{packet[found.transport + 12]} >> 4 << 2 : 8;
    if (length >= found.transport + header && header >= 8) found.payload = found.transport + header;
    return found;
}

std::uint64_t pseudo_header(const std::uint8_t* packet, const layout& at, std::size_t length) {
    std::array<std::uint8_t, 4> tail{0, at.tcp ? protocol_tcp : protocol_udp, 0, 0};
    store16(tail.data() + 2, length - at.transport);
    return (at.ipv6 ? sum(packet + 8, 32) : sum(packet + 12, 8)) + sum(tail.data(), 4);
}

void set_lengths(bytes packet, const layout& at, std::size_t length) {
    if (at.ipv6) {
        store16(packet + 4, length - at.transport);
    } else {
        store16(packet + 2, length);
        store16(packet + 10, 0);
        store_sum(packet + 10, static_cast<std::uint16_t>(~fold(sum(packet, 20))));
    }
    if (!at.tcp) store16(packet + at.transport + 4, length - at.transport);
}

void complete_checksum(bytes packet, const layout& at, std::size_t length) {
    const bytes place = at.checksum(packet);
    store16(place, 0);
    const auto value = static_cast<std::uint16_t>(
        ~fold(pseudo_header(packet, at, length) + sum(packet + at.transport, length - at.transport)));
    store_sum(place, value == 0 && !at.tcp ? std::uint16_t{0xffff} : value);
}

bool checksum_valid(const std::uint8_t* packet, const layout& at, std::size_t length) {
    return fold(pseudo_header(packet, at, length) + sum(packet + at.transport, length - at.transport)) == 0xffff;
}

/// A packet in a buffer of its own, with room in front for the offload header, and behind for what is merged into it.
struct slot {
    std::unique_ptr<std::uint8_t[]> memory = std::make_unique<std::uint8_t[]>(room);
    std::size_t length = 0; ///< 0: it was merged into another
    std::size_t segment_size = 0;
    unsigned merged = 0;
    bool ended = false; ///< nothing may follow: PSH, or a segment shorter than the others
    bool verified = false;

    bytes packet() const { return memory.get() + baseline::offload_header_size; }
};

struct flow {
    std::array<std::uint8_t, 32> addresses{};
    std::uint32_t ports = 0;
    std::uint32_t acknowledged = 0;
    bool tcp = false;
    bool operator==(const flow&) const = default;
};

struct flow_hash {
    std::size_t operator()(const flow& of) const {
        std::uint64_t value = std::uint64_t{of.ports} << 32 ^ of.acknowledged;
        for (std::size_t i = 0; i < of.addresses.size(); i += 8) {
            std::uint64_t word;
            std::memcpy(&word, of.addresses.data() + i, 8);
            value = std::rotl(value * 0x9e3779b97f4a7c15, 31) ^ word;
        }
        return static_cast<std::size_t>(value * 0x9e3779b97f4a7c15);
    }
};

class batch {
public:
    /// Cuts what was read into packets; false: it cannot be (a type that was not asked for, or a broken header).
    bool split(bytes data, std::size_t length);
    /// Merges packets that follow one another in their flow, and puts the offload headers in front.
    void merge();
    template <typename Write>
    void for_each(Write write) {
        for (std::size_t i = 0; i < count_; ++i)
            if (slots_[i].length != 0) write(slots_[i].memory.get(), slots_[i].length + baseline::offload_header_size);
    }

private:
    bool cut(const std::uint8_t* packet, std::size_t length, std::size_t segment_size);
    bool append(slot& head, slot& next, const layout& at);
    static bool headers_agree(const slot& head, const slot& next, const layout& at);
    static void put_header(slot& one);

    std::array<slot, most_packets> slots_;
    std::size_t count_ = 0;
    std::unordered_map<flow, slot*, flow_hash> heads_;
};

bool batch::split(bytes data, std::size_t length) {
    offload_header header;
    count_ = 0;
    if (length <= sizeof header) return false;
    std::memcpy(&header, data, sizeof header);
    const bytes packet = data + sizeof header;
    length -= sizeof header;
    if ((header.type & ~type_ecn) != type_none) return cut(packet, length, header.segment_size);

    if ((header.flags & needs_checksum) != 0) {
        const std::size_t start = header.checksum_start;
        const std::size_t place = start + header.checksum_offset;
        if (place + 2 > length) return false;
        const auto value = static_cast<std::uint16_t>(~fold(sum(packet + start, length - start)));
        store_sum(packet + place, value == 0 && header.checksum_offset == 6 ? std::uint16_t{0xffff} : value);
    }
    slots_[0].length = length;
    std::memcpy(slots_[0].packet(), packet, length);
    count_ = 1;
    return true;
}

bool batch::cut(const std::uint8_t* packet, std::size_t length, std::size_t segment_size) {
    const layout at = look_at(packet, length);
    if (at.payload == 0 || segment_size == 0) return false;
    const std::uint16_t identification = load16(packet + 4);
    const std::uint32_t sequence = load32(packet + at.transport + 4);
    for (std::size_t from = at.payload; from < length; from += segment_size) {
        if (count_ == most_packets) return false;
        slot& next = slots_[count_];
        const std::size_t payload = std::min(segment_size, length - from);
        const bytes out = next.packet();
        next.length = at.payload + payload;
        std::memcpy(out, packet, at.payload);
        std::memcpy(out + at.payload, packet + from, payload);
        if (!at.ipv6) store16(out + 4, identification + count_);
        if (at.tcp) {
            store32(out + at.transport + 4, sequence + static_cast<std::uint32_t>(from - at.payload));
            std::uint8_t& flags = out[at.transport + 13];
            if (from + payload < length) flags &= static_cast<std::uint8_t>(~(tcp_fin | tcp_push));
            if (count_ != 0) flags &= static_cast<std::uint8_t>(~tcp_congestion_reduced);
        }
        set_lengths(out, at, next.length);
        complete_checksum(out, at, next.length);
        ++count_;
    }
    return true;
}

void batch::merge() {
    heads_.clear();
    for (std::size_t i = 0; i < count_; ++i) {
        slot& next = slots_[i];
        const std::uint8_t* packet = next.packet();
        const layout at = look_at(packet, next.length);
        next.merged = 0;
        next.verified = false;
        next.segment_size = next.length - at.payload;
        next.ended = at.tcp && (packet[at.transport + 13] & tcp_push) != 0;
        const bool whole = at.ipv6 || (load16(packet + 6) & 0x3fff) == 0; // no fragment
        const bool plain =
            at.tcp ? (packet[at.transport + 13] & ~tcp_push) == tcp_ack : load16(packet + at.transport + 6) != 0;
        if (at.payload == 0 || next.segment_size == 0 || !whole || !plain) continue;
        flow key;
        std::memcpy(key.addresses.data(), packet + (at.ipv6 ? 8 : 12), at.ipv6 ? 32 : 8);
        key.ports = load32(packet + at.transport);
        key.acknowledged = at.tcp ? load32(packet + at.transport + 8) : 0;
        key.tcp = at.tcp;
        const auto [known, added] = heads_.try_emplace(key, &next);
        if (!added && !append(*known->second, next, at)) known->second = &next;
    }
    for (std::size_t i = 0; i < count_; ++i)
        if (slots_[i].length != 0) put_header(slots_[i]);
}

bool batch::headers_agree(const slot& head, const slot& next, const layout& at) {
    const std::uint8_t* a = head.packet();
    const std::uint8_t* b = next.packet();
    const bool ip = at.ipv6 ? a[0] == b[0] && a[1] >> 4 == b[1] >> 4 && a[7] == b[7]
                            : a[1] == b[1] && a[6] >> 5 == b[6] >> 5 && a[8] == b[8];
    if (!ip || !at.tcp) return ip;
    const std::size_t options = at.transport + 20;
    return a[at.transport + 12] == b[at.transport + 12] &&
           load32(b + at.transport + 4) ==
               load32(a + at.transport + 4) + static_cast<std::uint32_t>(head.length - at.payload) &&
           std::memcmp(a + options, b + options, at.payload - options) == 0;
}

bool batch::append(slot& head, slot& next, const layout& at) {
    const std::size_t payload = next.length - at.payload;
    if (head.ended || payload > head.segment_size || head.length + payload > 65535) return false;
    if (!headers_agree(head, next, at)) return false;
    if (!head.verified && !checksum_valid(head.packet(), at, head.length)) return false;
    head.verified = true;
    if (!checksum_valid(next.packet(), at, next.length)) return false;
    std::memcpy(head.packet() + head.length, next.packet() + at.payload, payload);
    head.length += payload;
    ++head.merged;
    if (at.tcp && next.ended) head.packet()[at.transport + 13] |= tcp_push;
    head.ended = next.ended || payload < head.segment_size;
    next.length = 0;
    return true;
}

/// A packet that stayed alone has its checksum; a merged one has that of its pseudo header, and the kernel does the
/// rest, if it is ever needed.
void batch::put_header(slot& one) {
    offload_header header{};
    if (one.merged != 0) {
        const bytes packet = one.packet();
        const layout at = look_at(packet, one.length);
        set_lengths(packet, at, one.length);
        store_sum(at.checksum(packet), fold(pseudo_header(packet, at, one.length)));
        header.flags = needs_checksum;
        header.type = !at.tcp ? type_udp : at.ipv6 ? type_tcp6 : type_tcp4;
        header.header_size = static_cast<std::uint16_t>(at.payload);
        header.segment_size = static_cast<std::uint16_t>(one.segment_size);
        header.checksum_start = static_cast<std::uint16_t>(at.transport);
        header.checksum_offset = at.tcp ? 16 : 6;
    }
    std::memcpy(one.memory.get(), &header, sizeof header);
}

baseline::counters forward(const baseline::options& options) {
    if (!options.offload) throw std::invalid_argument("without --offload there is nothing to split or to merge");
    const auto packets = std::make_unique<batch>();
    return baseline::forward_by_epoll(
        options, [&packets](int to, std::uint8_t* data, std::size_t size, baseline::counters& total) {
            if (!packets->split(data, size)) {
                ++total.refused;
                return;
            }
            packets->merge();
            packets->for_each([to, &total](const std::uint8_t* merged, std::size_t length) {
                baseline::write_packet(to, merged, length, total);
            });
        });
}

} // namespace

int main(int argc, char** argv) { return baseline::run_baseline(argc, argv, forward); }
