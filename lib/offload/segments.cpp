// SPDX-License-Identifier: Apache-2.0
#include "cotun/offload/segments.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "cotun/wire/checksum.hpp"
#include "offload/superpacket.hpp"

namespace cotun::offload {

static_assert(std::forward_iterator<segmenter::iterator>);
static_assert(std::is_trivially_copyable_v<segmenter> && std::is_trivially_destructible_v<segmenter>);

segmenter::segmenter(std::span<const std::byte> packet, const offload_state& state, std::size_t network_offset) noexcept
    : packet_(packet), state_(state) {
    if (!state.is_superpacket()) {
        plan_whole();
        return;
    }
    headers found;
    refusal_ = check_superpacket(packet, network_offset, state, found);
    if (refusal_ != refusal::none) return;
    network_ = found.network;
    transport_ = found.transport;
    header_size_ = found.payload;
    tcp_ = found.tcp;
    v6_ = found.v6;
    options_ = found.options;
    plan_segments();
}

// The IP header ends where the checksum begins, and says how long it is.
std::size_t find_network(std::span<const std::byte> packet, const offload_state& state) noexcept {
    const bool v6 = state.type == segment_type::tcp6 || state.type == segment_type::udp6;
    const std::size_t end = std::min<std::size_t>(state.checksum_start, packet.size());
    const std::size_t least = v6 ? ipv6::header_size : ipv4::header_size;
    const std::size_t step = v6 ? 8 : 4;
    const std::size_t most = v6 ? longest_headers : 60;
    for (std::size_t length = least; length <= std::min(end, most); length += step) {
        const std::byte* const ip = packet.data() + end - length;
        const std::size_t size = packet.size() - (end - length);
        if (v6 && get_byte(ip) >> 4 == 6 && get_word(ip + ipv6::payload_length) + ipv6::header_size == size)
            return end - length;
        if (!v6 && get_byte(ip) == (0x40 | length / 4) && get_word(ip + ipv4::total_length) == size)
            return end - length;
    }
    return 0;
}

// A packet whose checksum is to be completed has a header that ends with the checksum; another has none.
void segmenter::plan_whole() noexcept {
    std::size_t header = 0;
    if (state_.needs_checksum) {
        header = std::size_t{state_.checksum_start} + state_.checksum_offset + 2;
        if (header > packet_.size())
            refusal_ = refusal::checksum_place;
        else if (header > longest_headers)
            refusal_ = refusal::headers_too_long;
        if (refusal_ != refusal::none) return;
    }
    header_size_ = static_cast<std::uint16_t>(header);
    segment_size_ = last_size_ = packet_.size() - header;
    count_ = 1;
}

// Whatever is the same in all segments is added up here, once.
void segmenter::plan_segments() noexcept {
    const std::size_t payload = packet_.size() - header_size_;
    segment_size_ = state_.segment_size;
    count_ = (payload + segment_size_ - 1) / segment_size_;
    last_size_ = payload - (count_ - 1) * segment_size_;

    const std::byte* ip = packet_.data() + network_;
    const std::byte* transport = packet_.data() + transport_;
    if (!v6_) {
        id_ = get_word(ip + ipv4::id);
        network_sum_ = wire::add_to_sum(packet_.subspan(network_ + ipv4::fragment, 4));
        network_sum_ = wire::add_to_sum(
            packet_.subspan(network_ + ipv4::addresses, transport_ - network_ - ipv4::addresses), network_sum_);
        network_sum_ += get_word(ip);
    }
    transport_sum_ = sum_of_addresses() + std::uint64_t{get_word(transport)} + get_word(transport + 2);
    if (!tcp_) return;
    sequence_ = get_long(transport + tcp::sequence);
    flags_ = get_byte(transport + tcp::flags);
    transport_sum_ += std::uint64_t{get_long(transport + tcp::acknowledgement)} + get_word(transport + tcp::window);
    transport_sum_ += std::uint64_t{get_byte(transport + tcp::offset)} << 8;
    // Behind the checksum: the urgent pointer, and options.
    transport_sum_ = wire::add_to_sum(
        packet_.subspan(transport_ + tcp::checksum + 2U, header_size_ - transport_ - tcp::checksum - 2U),
        transport_sum_);
}

// Of the pseudo header without the length. A source route or a home address makes other addresses count than those of
// the IP header; so where there are options, the sum is taken from where the sender has put it.
std::uint64_t segmenter::sum_of_addresses() const noexcept {
    const std::uint8_t protocol = tcp_ ? tcp::protocol : udp::protocol;
    if (!options_) {
        const auto addresses = v6_ ? packet_.subspan(network_ + ipv6::addresses, ipv6::addresses_size)
                                   : packet_.subspan(network_ + ipv4::addresses, ipv4::addresses_size);
        return wire::pseudo_header_sum(addresses, protocol, 0);
    }
    const std::uint64_t with_length = get_word(packet_.data() + transport_ + state_.checksum_offset);
    const std::size_t length = packet_.size() - transport_; // of 17 bits at most
    return with_length + 2 * 0xffffULL - wire::fold_sum(length);
}

// `header` is a copy of the superpacket's headers; `sum` is that of the segment's payload.
void segmenter::finish_header(std::byte* header, std::size_t index, std::size_t payload,
                              std::uint64_t sum) const noexcept {
    const bool last = index + 1 == count_;
    std::byte* ip = header + network_;
    std::byte* transport = header + transport_;
    const std::size_t length = header_size_ - transport_ + payload;
    if (v6_) {
        put_word(ip + ipv6::payload_length,
                 static_cast<std::uint16_t>(header_size_ - network_ - ipv6::header_size + payload));
    } else {
        const auto total = static_cast<std::uint16_t>(header_size_ - network_ + payload);
        const auto id = static_cast<std::uint16_t>(id_ + index);
        put_word(ip + ipv4::total_length, total);
        put_word(ip + ipv4::id, id);
        put_word(ip + ipv4::checksum, wire::finish_checksum(network_sum_ + total + id));
    }
    sum = wire::add_to_sum(wire::fold_sum(sum), transport_sum_ + length);
    if (tcp_) {
        const auto sequence = static_cast<std::uint32_t>(sequence_ + index * segment_size_);
        std::uint8_t flags = flags_;
        if (index > 0) flags &= static_cast<std::uint8_t>(~tcp::cwr);
        if (!last) flags &= static_cast<std::uint8_t>(~(tcp::fin | tcp::psh));
        put_long(transport + tcp::sequence, sequence);
        put_byte(transport + tcp::flags, flags);
        put_word(transport + tcp::checksum, wire::finish_checksum(sum + sequence + flags));
    } else {
        const std::uint16_t checksum = wire::finish_checksum(sum + length);
        put_word(transport + udp::length, static_cast<std::uint16_t>(length));
        put_word(transport + udp::checksum, checksum != 0 ? checksum : std::uint16_t{0xffff});
    }
}

// `packet` begins with a copy of the headers up to the checksum; `sum_behind` is that of all behind them.
void segmenter::finish_whole(std::byte* packet, std::uint64_t sum_behind) const noexcept {
    if (!state_.needs_checksum) return;
    const std::span<const std::byte> covered{packet + state_.checksum_start, packet + header_size_};
    // The payload is at an odd offset of what the checksum covers if the checksum's own place is: its words are then
    // those of the other parity, which changes the places of the bytes in the sum.
    std::uint16_t behind = wire::fold_sum(sum_behind);
    if (covered.size() % 2 != 0) behind = static_cast<std::uint16_t>(behind << 8 | behind >> 8);
    const std::uint16_t checksum = wire::finish_checksum(wire::add_to_sum(covered, behind));
    put_word(packet + header_size_ - 2, checksum != 0 ? checksum : std::uint16_t{0xffff});
}

void segmenter::write(std::byte* to, std::size_t index) const noexcept {
    if (header_size_ > 0) std::memcpy(to, packet_.data(), header_size_);
    const std::span<const std::byte> data = payload(index);
    const wire::partial_sum sum = wire::checksum_copy(to + header_size_, data);
    if (state_.is_superpacket())
        finish_header(to, index, data.size(), sum);
    else
        finish_whole(to, sum);
}

std::span<const std::byte> segment::write_header(std::span<std::byte> to) const noexcept {
    const std::size_t size = header_size();
    if (size == 0) return {};
    std::memcpy(to.data(), plan_->packet_.data(), size);
    const wire::partial_sum sum = wire::add_to_sum(payload());
    if (plan_->state_.is_superpacket())
        plan_->finish_header(to.data(), index_, payload().size(), sum);
    else
        plan_->finish_whole(to.data(), sum);
    return to.first(size);
}

std::span<const std::byte> segment::write(std::span<std::byte> to) const noexcept {
    plan_->write(to.data(), index_);
    return to.first(size());
}

segment_run write_segments(std::span<std::byte> out, const segmenter& plan, const run_options& options) noexcept {
    segment_run run;
    run.stride = options.prefix + plan.header_size_ + plan.segment_size_;
    const std::size_t end = plan.count_ - std::min(options.first, plan.count_);
    const std::size_t most = std::min(options.most, end) + options.first;
    for (std::size_t index = options.first; index < most; ++index, ++run.count) {
        const std::size_t size = options.prefix + plan.header_size_ + plan.payload(index).size();
        if (out.size() - run.size < size) break;
        plan.write(out.data() + run.size + options.prefix, index);
        run.size += size;
    }
    return run;
}

} // namespace cotun::offload
