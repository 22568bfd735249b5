// SPDX-License-Identifier: Apache-2.0
#include "cotun/offload/coalescer.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cotun/wire/checksum.hpp"
#include "offload/headers.hpp"

namespace cotun::offload {

static_assert(std::is_trivially_destructible_v<coalescer_options>);

namespace {

constexpr std::uint8_t ends_run = tcp::fin | tcp::psh;
constexpr std::uint8_t ecn_echo = 0x40;

template <typename Number>
Number load(const std::byte* at) noexcept {
    Number number;
    std::memcpy(&number, at, sizeof number);
    return number;
}

// By loads of fixed sizes, which need no call.
template <std::size_t Size>
bool same(const std::byte* a, const std::byte* b) noexcept {
    if constexpr (Size == 8)
        return load<std::uint64_t>(a) == load<std::uint64_t>(b);
    else if constexpr (Size == 4)
        return load<std::uint32_t>(a) == load<std::uint32_t>(b);
    else if constexpr (Size == 2)
        return load<std::uint16_t>(a) == load<std::uint16_t>(b);
    else
        return same<8>(a, b) && same<Size - 8>(a + 8, b + 8);
}

// Of a number of bytes that is a multiple of four.
bool same_words(const std::byte* a, const std::byte* b, std::size_t size) noexcept {
    for (std::size_t at = 0; at < size; at += 4)
        if (!same<4>(a + at, b + at)) return false;
    return true;
}

std::uint32_t hash_of(std::uint64_t a, std::uint64_t b) noexcept {
    const std::uint64_t mixed = (a ^ b * 0x9e3779b97f4a7c15U) * 0xd6e8feb86659fd93U;
    return static_cast<std::uint32_t>(mixed >> 32);
}

} // namespace

// A packet that is looked at, with its headers found.
struct coalescer::candidate {
    std::span<const std::byte> bytes;
    const offload_state& state;
    headers found;

    const std::byte* network() const noexcept { return bytes.data() + found.network; }
    const std::byte* transport() const noexcept { return bytes.data() + found.transport; }
    std::size_t payload() const noexcept { return bytes.size() - found.payload; }
    std::uint8_t flags() const noexcept { return found.tcp ? get_byte(transport() + tcp::flags) : std::uint8_t{0}; }
    std::uint16_t id() const noexcept { return found.v6 ? std::uint16_t{0} : get_word(network() + ipv4::id); }
    std::uint32_t hash() const noexcept {
        const std::uint64_t ports = load<std::uint32_t>(transport()) | std::uint64_t{found.protocol()} << 32;
        if (!found.v6) return hash_of(load<std::uint64_t>(network() + ipv4::addresses), ports);
        const std::byte* at = network() + ipv6::addresses;
        const std::uint64_t addresses = load<std::uint64_t>(at) ^ load<std::uint64_t>(at + 8) * 3 ^
                                        load<std::uint64_t>(at + 16) * 5 ^ load<std::uint64_t>(at + 24) * 7;
        return hash_of(addresses, ports);
    }
};

coalescer::coalescer(const coalescer_options& options, std::size_t packets) : options_(options) {
    options_.most_tcp_segments = std::clamp<std::uint16_t>(options.most_tcp_segments, 1, 1023);
    options_.most_datagrams = std::clamp<std::uint16_t>(options.most_datagrams, 1, most_datagrams);
    options_.virtio_header_size = std::clamp<std::uint8_t>(options.virtio_header_size, offload::virtio_header_size, 24);
    members_.reserve(packets);
    runs_.reserve(packets);
    pieces_.reserve(2 * packets);
    order_.reserve(packets);
    results_.reserve(packets);
    headers_.reserve(64 * packets);
}

void coalescer::begin() noexcept {
    members_.clear();
    runs_.clear();
    close_all();
}

// A new number makes all places those of another batch.
void coalescer::close_all() noexcept {
    last_ = nobody;
    if (++batch_ != 0) return;
    places_.fill({});
    batch_ = 1;
}

void coalescer::add(std::span<const std::byte> packet, const offload_state& state) {
    const auto index = static_cast<std::uint32_t>(members_.size());
    if (runs_.size() == runs_.capacity()) runs_.reserve(2 * runs_.size() + 16); // now, or a packet would be in no run
    members_.push_back({packet});
    candidate seen{packet, state, {}};
    const refusal why = find_headers(packet, options_.network_offset, seen.found);
    if (why != refusal::none) {
        if (why != refusal::other_protocol) close_all();
        return pass(index, state);
    }
    if (!is_enabled(seen)) return pass(index, state); // no run of its kind is ever open

    const bool mergeable = is_mergeable(seen);
    if (const std::uint32_t at = find_run(seen); at != nobody) {
        run& of = runs_[at];
        if (mergeable && continues(of, seen)) {
            last_ = at;
            const bool first_is_intact = is_intact(of), intact = is_intact(seen);
            if (first_is_intact && intact) return append(of, seen, index);
            of.open = false;
            if (!intact) return pass(index, state);
        }
        of.open = false;
    }
    if (!mergeable) return pass(index, state);
    start(seen, index);
}

bool coalescer::is_enabled(const candidate& seen) const noexcept {
    if (seen.found.tcp) return seen.found.v6 ? options_.tcp6 : options_.tcp4;
    return seen.found.v6 ? options_.udp6 : options_.udp4;
}

// Whether it may be in a run at all, be it alone for now.
bool coalescer::is_mergeable(const candidate& seen) const noexcept {
    const headers& found = seen.found;
    if (seen.payload() == 0 || seen.state.is_superpacket()) return false;
    if (seen.bytes.size() - found.network > options_.most_bytes) return false;
    if (!found.v6 && (found.options || (get_word(seen.network() + ipv4::fragment) & ~ipv4::dont_fragment) != 0))
        return false;
    if (seen.state.needs_checksum &&
        (found.options || seen.state.checksum_start != found.transport ||
         seen.state.checksum_start + seen.state.checksum_offset != static_cast<int>(found.checksum())))
        return false;
    if (!found.tcp)
        return get_word(seen.transport() + udp::length) == seen.bytes.size() - found.transport &&
               (seen.state.needs_checksum || get_word(seen.transport() + udp::checksum) != 0);
    const std::uint8_t flags = seen.flags();
    if ((flags & tcp::cwr) != 0 && !options_.ecn) return false;
    return (flags & ~(ends_run | ecn_echo | tcp::cwr)) == tcp::ack;
}

// Whether its checksums are right. A field of 0xffff that no sum gives (but of UDP, where it stands for 0) would not
// come back from a segmenter, so it is none.
bool coalescer::is_intact(const candidate& seen) const noexcept {
    const headers& found = seen.found;
    // With extension headers the pseudo header may have other addresses than the IP header; then only a sum can tell.
    if (options_.checksums == checksum_trust::trusted && !found.options) return true;
    if (!found.v6 && (wire::checksum({seen.network(), ipv4::header_size}) != 0 ||
                      get_word(seen.network() + ipv4::checksum) == 0xffff))
        return false;
    if (seen.state.needs_checksum || (seen.state.data_valid && !found.options)) return true;
    const std::size_t length = seen.bytes.size() - found.transport;
    const std::span<const std::byte> addresses{seen.bytes.data() + found.addresses(), found.addresses_size()};
    const wire::partial_sum pseudo =
        wire::pseudo_header_sum(addresses, found.protocol(), static_cast<std::uint32_t>(length));
    if (found.tcp && get_word(seen.transport() + tcp::checksum) == 0xffff) return false;
    return wire::finish_checksum(wire::add_to_sum({seen.transport(), length}, pseudo)) == 0;
}

// The first packet of a run is verified when the second comes: many runs never get one.
bool coalescer::is_intact(run& of) const noexcept {
    if (of.intact) return true;
    candidate first{members_[of.first].bytes, of.state, {}};
    first.found.network = options_.network_offset;
    first.found.transport = of.transport;
    first.found.payload = of.headers_size;
    first.found.v6 = of.v6;
    first.found.tcp = of.tcp;
    first.found.options =
        of.transport - options_.network_offset != static_cast<int>(of.v6 ? ipv6::header_size : ipv4::header_size);
    return of.intact = is_intact(first);
}

bool coalescer::is_of_flow(const run& of, const candidate& seen) const noexcept {
    if (of.v6 != seen.found.v6 || of.tcp != seen.found.tcp) return false;
    const std::byte* first = first_of(of);
    if (!same<4>(first + of.transport, seen.transport())) return false;
    const std::byte* network = first + options_.network_offset;
    return of.v6 ? same<32>(network + ipv6::addresses, seen.network() + ipv6::addresses)
                 : same<8>(network + ipv4::addresses, seen.network() + ipv4::addresses);
}

std::uint32_t coalescer::find_run(const candidate& seen) const noexcept {
    // The newest run of a flow is its only open one; and the last packet went to the newest of its own.
    if (last_ != nobody && is_of_flow(runs_[last_], seen)) return runs_[last_].open ? last_ : nobody;
    const std::uint32_t hash = seen.hash();
    const place* set = &places_[hash % (places_count / ways) * ways];
    for (const place* p = set; p != set + ways; ++p)
        if (p->batch == batch_ && p->hash == hash && runs_[p->run].open && is_of_flow(runs_[p->run], seen))
            return p->run;
    return nobody;
}

bool coalescer::id_follows(const run& of, const candidate& seen) const noexcept {
    const auto step = static_cast<std::uint16_t>(seen.id() - of.id);
    if (options_.id == id_rule::incrementing) return step == 1;
    if (options_.id == id_rule::any && (get_word(seen.network() + ipv4::fragment) & ipv4::dont_fragment) != 0)
        return true;
    if (of.count == 1) return step <= 1;
    return step == (of.same_ids ? 0 : 1);
}

bool coalescer::network_continues(const run& of, const candidate& seen) const noexcept {
    const std::byte* first = first_of(of) + options_.network_offset;
    const std::byte* next = seen.network();
    if (options_.network_offset > 0 && std::memcmp(first_of(of), seen.bytes.data(), options_.network_offset) != 0)
        return false;
    if (!of.v6)
        return same<2>(first, next) && same<2>(first + ipv4::fragment, next + ipv4::fragment) &&
               first[ipv4::ttl] == next[ipv4::ttl] && id_follows(of, seen);
    return same<4>(first, next) && same<2>(first + ipv6::next_header, next + ipv6::next_header) &&
           same_words(first + ipv6::header_size, next + ipv6::header_size,
                      seen.found.transport - seen.found.network - ipv6::header_size);
}

// Whether a packet of the same flow, which may be in a run, may be in this one.
bool coalescer::continues(const run& of, const candidate& seen) const noexcept {
    const std::size_t payload = seen.payload();
    if (payload > of.segment_size || of.transport != seen.found.transport || of.headers_size != seen.found.payload ||
        of.headers_size - options_.network_offset + of.payload + payload > options_.most_bytes)
        return false;
    if (of.tcp) {
        const std::byte* first = first_of(of) + of.transport;
        const std::byte* next = seen.transport();
        constexpr int may_differ = tcp::cwr | ends_run;
        if (get_long(next + tcp::sequence) != of.next_sequence ||
            !same<4>(first + tcp::acknowledgement, next + tcp::acknowledgement) ||
            first[tcp::offset] != next[tcp::offset] || (seen.flags() & tcp::cwr) != 0 ||
            ((get_byte(first + tcp::flags) ^ seen.flags()) & ~may_differ) != 0 ||
            !same<2>(first + tcp::window, next + tcp::window))
            return false;
        // Behind the checksum: the urgent pointer, and options.
        if (!same<2>(first + tcp::checksum + 2, next + tcp::checksum + 2) ||
            !same_words(first + tcp::header_size, next + tcp::header_size,
                        of.headers_size - of.transport - tcp::header_size))
            return false;
    }
    return network_continues(of, seen);
}

void coalescer::append(run& to, const candidate& seen, std::uint32_t index) noexcept {
    const std::size_t payload = seen.payload();
    const std::uint8_t flags = seen.flags();
    if (to.count == 1) to.same_ids = to.id == seen.id();
    members_[to.last].next = index;
    to.last = index;
    to.id = seen.id();
    to.next_sequence += static_cast<std::uint32_t>(payload);
    to.payload += static_cast<std::uint32_t>(payload);
    to.last_flags = flags & ends_run;
    ++to.count;
    to.open = payload == to.segment_size && to.last_flags == 0 && to.count < most_segments(to);
}

void coalescer::start(const candidate& seen, std::uint32_t index) {
    const auto payload = static_cast<std::uint16_t>(seen.payload());
    const std::uint8_t flags = seen.flags();
    run fresh;
    fresh.first = fresh.last = index;
    fresh.payload = fresh.segment_size = payload;
    fresh.headers_size = seen.found.payload;
    fresh.transport = seen.found.transport;
    fresh.id = seen.id();
    fresh.v6 = seen.found.v6;
    fresh.tcp = seen.found.tcp;
    fresh.next_sequence = fresh.tcp ? get_long(seen.transport() + tcp::sequence) + payload : 0;
    fresh.last_flags = flags & ends_run;
    fresh.state = seen.state;
    fresh.open = fresh.last_flags == 0 && most_segments(fresh) > 1;
    const auto at = static_cast<std::uint32_t>(runs_.size());
    runs_.push_back(fresh);
    if (!fresh.open) return;
    remember(seen, at);
    last_ = at;
}

void coalescer::pass(std::uint32_t index, const offload_state& state) {
    run alone;
    alone.first = alone.last = index;
    alone.state = state;
    runs_.push_back(alone);
}

// In the place of the flow's former run, or in a free one, or in that of another flow.
void coalescer::remember(const candidate& seen, std::uint32_t at) noexcept {
    const std::uint32_t hash = seen.hash();
    place* set = &places_[hash % (places_count / ways) * ways];
    place* chosen = nullptr;
    for (place* p = set; p != set + ways; ++p) {
        const bool in_use = p->batch == batch_ && runs_[p->run].open;
        if (!in_use && chosen == nullptr) chosen = p;
    }
    if (chosen == nullptr) {
        chosen = set + (hash >> 16) % ways;
        runs_[chosen->run].open = false;
    }
    *chosen = {hash, at, batch_};
}

void coalescer::make_room() {
    std::size_t headers = 0;
    for (const run& r : runs_) headers += options_.virtio_header_size + (r.count > 1 ? r.headers_size : std::size_t{0});
    if (headers_.size() < headers) headers_.resize(headers);
    pieces_.clear();
    pieces_.reserve(runs_.size() + members_.size());
    order_.clear();
    order_.reserve(members_.size());
    results_.clear();
    results_.reserve(runs_.size());
}

std::span<const superpacket> coalescer::finish() {
    make_room(); // what follows points into these vectors, which grow no more
    std::byte* header = headers_.data();
    const auto piece = [](const std::byte* at, std::size_t size) {
        return iovec{const_cast<std::byte*>(at), size}; // writev only reads, but its type does not say so
    };
    for (const run& from : runs_) {
        const std::size_t skipped = from.count > 1 ? from.headers_size : 0;
        superpacket result;
        result.state = from.state;
        if (from.count > 1) make_headers(from, header + options_.virtio_header_size, result.state);
        const std::size_t first_piece = pieces_.size(), first_packet = order_.size();
        pieces_.push_back(piece(header, options_.virtio_header_size + skipped));
        result.size = skipped;
        for (std::uint32_t at = from.first; at != nobody; at = members_[at].next) {
            const std::span<const std::byte> rest = members_[at].bytes.subspan(skipped);
            pieces_.push_back(piece(rest.data(), rest.size()));
            order_.push_back(at);
            result.size += rest.size();
        }
        std::memset(header, 0, options_.virtio_header_size);
        if (result.state != offload_state{})
            write_virtio_header(std::span<std::byte, offload::virtio_header_size>{header, offload::virtio_header_size},
                                to_virtio_header(result.state), options_.order);
        header += options_.virtio_header_size + skipped;
        result.pieces = std::span{pieces_}.subspan(first_piece);
        result.packets = std::span{order_}.subspan(first_packet);
        results_.push_back(result);
    }
    return results_;
}

// The headers of the first packet with the lengths of all, and what they need to be segmented again.
void coalescer::make_headers(const run& from, std::byte* header, offload_state& state) const noexcept {
    std::memcpy(header, first_of(from), from.headers_size);
    std::byte* network = header + options_.network_offset;
    std::byte* transport = header + from.transport;
    const std::size_t behind_network = from.headers_size - options_.network_offset + from.payload;
    const std::size_t length = from.headers_size - from.transport + from.payload;
    std::span<const std::byte> addresses;
    if (from.v6) {
        put_word(network + ipv6::payload_length, static_cast<std::uint16_t>(behind_network - ipv6::header_size));
        addresses = {network + ipv6::addresses, ipv6::addresses_size};
    } else {
        put_word(network + ipv4::total_length, static_cast<std::uint16_t>(behind_network));
        put_word(network + ipv4::checksum, 0);
        put_word(network + ipv4::checksum, wire::checksum({network, ipv4::header_size}));
        addresses = {network + ipv4::addresses, ipv4::addresses_size};
    }
    state = {};
    state.segment_size = from.segment_size;
    state.header_length = from.headers_size;
    state.checksum_start = from.transport;
    state.needs_checksum = true;
    const std::uint8_t protocol = from.tcp ? tcp::protocol : udp::protocol;
    const std::uint16_t pseudo =
        wire::fold_sum(wire::pseudo_header_sum(addresses, protocol, static_cast<std::uint32_t>(length)));
    if (from.tcp) {
        const std::uint8_t flags = get_byte(transport + tcp::flags);
        put_byte(transport + tcp::flags, flags | from.last_flags);
        put_word(transport + tcp::checksum, pseudo);
        state.type = from.v6 ? segment_type::tcp6 : segment_type::tcp4;
        state.checksum_offset = tcp::checksum;
        state.ecn = (flags & tcp::cwr) != 0;
    } else {
        put_word(transport + udp::length, static_cast<std::uint16_t>(length));
        put_word(transport + udp::checksum, pseudo);
        state.type = from.v6 ? segment_type::udp6 : segment_type::udp4;
        state.checksum_offset = udp::checksum;
    }
}

} // namespace cotun::offload
