// SPDX-License-Identifier: Apache-2.0
//
// Random streams of packets of mixed flows, most of which go on as a real sender's would.
#pragma once

#include <array>

#include "packets.hpp"

namespace cotun::test {

// splitmix64: so fast that the packets are what takes the time.
class quick_dice {
public:
    explicit quick_dice(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next() {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15U;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
        z = (z ^ z >> 27) * 0x94d049bb133111ebU;
        return z ^ z >> 31;
    }
    /// 0 to `below` - 1.
    std::size_t operator()(std::size_t below) { return static_cast<std::size_t>((next() >> 32) * below >> 32); }

private:
    std::uint64_t state_;
};

template <class Dice>
class stream_maker {
public:
    explicit stream_maker(Dice& roll) : roll_(roll) {
        flows_ = 1 + roll(4);
        for (std::size_t i = 0; i < flows_; ++i) make_flow(state_[i], i);
    }

    // The next packet of some flow; now and then one that is odd, or damaged.
    bytes next() {
        if (roll_(3) == 0) current_ = roll_(flows_);
        fields& flow = state_[current_];
        fields f = flow;
        std::size_t size = segment_[current_];
        if (roll_(12) == 0) size = roll_(size + 3);
        if (roll_(12) == 0) f.flags |= psh;
        if (roll_(24) == 0) make_odd(f);
        f.payload.resize(size);
        const std::size_t fill = roll_(256);
        for (std::size_t i = 0; i < size; ++i) f.payload[i] = static_cast<std::byte>(fill + i * 7);
        flow.sequence += static_cast<std::uint32_t>(size);
        flow.id += id_step_[current_];
        if (roll_(16) == 0) flow.acknowledgement += 1000;
        const bool partial = roll_(10) == 0 && !f.zero_checksum;
        packet_state_ = {};
        packet_state_.needs_checksum = partial;
        packet_state_.checksum_start = static_cast<std::uint16_t>(partial ? f.transport() : 0);
        packet_state_.checksum_offset = static_cast<std::uint16_t>(partial ? f.checksum_offset() : 0);
        bytes packet = make_packet(f, partial);
        if (roll_(40) == 0) {
            damage(packet);
            packet_state_ = {}; // what is said to be partial is believed
        }
        return packet;
    }
    // Of the last packet.
    const offload::offload_state& state() const { return packet_state_; }

private:
    void make_flow(fields& f, std::size_t number) {
        f.v6 = roll_(2) == 0, f.tcp = roll_(2) == 0;
        f.source = static_cast<std::uint8_t>(number / 2); // some differ in their ports only
        f.source_port = static_cast<std::uint16_t>(1000 + number);
        f.id = static_cast<std::uint16_t>(roll_(65536)), f.fragment = roll_(2) == 0 ? 0x4000 : 0;
        f.sequence = static_cast<std::uint32_t>(roll_.next());
        if (f.tcp && roll_(2) == 0) f.tcp_options.assign(12, std::byte{1});
        if (f.v6 && roll_(4) == 0) f.ip_options = extension_headers(1 + roll_(2), f.tcp ? 6 : 17);
        segment_[number] = 1 + roll_(60);
        id_step_[number] = static_cast<std::uint16_t>(roll_(4) == 0 ? 0 : 1);
    }

    void make_odd(fields& f) {
        switch (roll_(16)) {
        case 0: f.flags ^= static_cast<std::uint8_t>(1U << roll_(8)); break;
        case 1: f.tos ^= 1; break;
        case 2: f.ttl ^= 1; break;
        case 3: f.window ^= 1; break;
        case 4: f.acknowledgement ^= 1; break;
        case 5: f.sequence += 1; break;
        case 6: f.id += 5; break;
        case 7: f.fragment = static_cast<std::uint16_t>(0x2000 >> roll_(4) | roll_(2)); break;
        case 8: f.flow_label ^= 1; break;
        case 9: f.zero_checksum = !f.tcp; break;
        case 10: f.urgent ^= 1; break;
        case 11: f.reserved ^= 1; break;
        case 12: f.tcp_options.resize(f.tcp_options.empty() ? 4 : f.tcp_options.size() - 4); break;
        case 13: f.ip_options = f.v6 ? extension_headers(roll_(3), f.tcp ? 6 : 17) : bytes(4 * roll_(3)); break;
        case 14: f.fragment ^= 0x8000; break;
        default: f.tcp = !f.tcp; break;
        }
        if (!f.tcp) f.tcp_options.clear();
        if (f.v6 && !f.ip_options.empty()) f.ip_options = extension_headers(f.ip_options.size() / 8, f.tcp ? 6 : 17);
    }

    void damage(bytes& packet) {
        switch (roll_(3)) {
        case 0: packet[roll_(packet.size())] ^= static_cast<std::byte>(1U << roll_(8)); break;
        case 1: packet.resize(roll_(packet.size() + 1)); break;
        default: packet.resize(packet.size() + roll_(9)); break;
        }
    }

    Dice& roll_;
    std::size_t flows_ = 1, current_ = 0;
    std::array<fields, 4> state_;
    std::array<std::size_t, 4> segment_{};
    std::array<std::uint16_t, 4> id_step_{};
    offload::offload_state packet_state_;
};

} // namespace cotun::test
