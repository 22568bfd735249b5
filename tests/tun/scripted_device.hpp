// SPDX-License-Identifier: Apache-2.0
//
// A TUN device with superpackets, on a kernel that the test plays.
#pragma once

#include "tun/device_port.hpp"

#include <cotun/offload/segments.hpp>

#include "../offload/packets.hpp"
#include "../support/scripted_port.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cerrno>
#include <deque>
#include <optional>
#include <string>
#include <unistd.h>
#include <vector>

namespace cotun::test {

using offload::offload_state;
using ring::scripted;

constexpr std::size_t segment_size = 1000;

/// A packet that is written, and what it stands for.
struct given {
    bytes packet;
    offload_state state;
    std::vector<bytes> parts;
};

inline given plain(unsigned n) {
    bytes packet = make_packet({.tcp = false, .id = static_cast<std::uint16_t>(n), .payload = bytes(100)});
    return {packet, {}, {packet}};
}

inline given super(unsigned n, fields f = {}) {
    f.id = static_cast<std::uint16_t>(n);
    f.source_port = static_cast<std::uint16_t>(1000 + n); // IPv6 has no identification
    f.payload = bytes(3 * segment_size + 500);
    return {make_packet(f, true), superpacket_state(f, segment_size), make_segments(f, segment_size)};
}

inline std::vector<bytes> parts_of(const std::vector<given>& all) {
    std::vector<bytes> parts;
    for (const given& g : all) parts.insert(parts.end(), g.parts.begin(), g.parts.end());
    return parts;
}

/// As in the kernel's queue: without what stands in front.
inline bytes packet_of(const scripted::request& r) {
    bytes all(r.bytes.begin(), r.bytes.end());
    for (const iovec& piece : r.pieces) {
        const auto* from = static_cast<const std::byte*>(piece.iov_base);
        all.insert(all.end(), from, from + piece.iov_len);
    }
    return all;
}

inline bool is_super(const bytes& written) { return std::to_integer<int>(written[1]) != 0; } // its type of segments
inline bytes without_front(const bytes& written) {
    return {written.begin() + offload::virtio_header_size, written.end()};
}

inline task<> write_given(rig& r, detail::device_port& to, std::vector<given> all, outcome& end) {
    try {
        for (const given& g : all) {
            packet p = co_await r.io.allocate(g.packet.size());
            p.assign(g.packet);
            p.set_offload(g.state);
            co_await write_packet_operation(to.out(), std::move(p));
        }
    } catch (const std::system_error& e) {
        end.failed(e);
    }
    end.ended = true;
}

inline task<> flush_all(detail::device_port& of, outcome& end) {
    try {
        co_await flush_operation(of.out());
    } catch (const std::system_error& e) {
        end.failed(e);
    }
    end.ended = true;
}

inline task<> close_port(detail::device_port& closed, outcome& end) {
    co_await detail::packet_port::close(detail::port_reference(&closed));
    end.ended = true;
}

inline task<> next_event(detail::device_port& of, std::optional<link_event>& into) {
    const link_event event = co_await of.events().next();
    into = event;
}

/// A device on a kernel that the test plays. `taken` is what that has taken, in order, superpackets as their parts.
struct device_rig {
    explicit device_rig(bool bounded = false, const rig_options& options = {}, bool merges = false)
        : r(options), before(free()), descriptor(::dup(STDERR_FILENO)) {
        r.kernel.writes_complete = false;
        detail::open_interface made;
        made.descriptor = unique_fd(descriptor);
        made.name = "tun0";
        made.flags = IFF_TUN;
        made.virtio_header = true;
        made.bounded = bounded;
        made.mtu = 1500;
        port = new detail::device_port(
            r.io.core(), std::move(made),
            {.write = superpacket_kinds(), .merge = {.enabled = merges, .ids = offload::id_rule::incrementing}});
        port->hold();
        r.settle();
    }
    ~device_rig() {
        shut();
        CHECK(r.kernel.in_flight.empty());
        CHECK(free() == before); // every buffer is back, whatever has happened
    }
    device_rig(const device_rig&) = delete;
    device_rig& operator=(const device_rig&) = delete;

    void shut() {
        if (port == nullptr) return;
        port->close_now();
        std::exchange(port, nullptr)->drop();
    }
    std::size_t free() const { return r.io.statistics().small_buffers_free + r.io.statistics().large_buffers_free; }
    void write(std::vector<given> all) {
        known.insert(known.end(), all.begin(), all.end());
        r.io.spawn(write_given(r, *port, std::move(all), ends.emplace_back()));
        r.settle();
    }
    /// What of it is with the kernel now.
    std::vector<bytes> writing() const {
        std::vector<bytes> all;
        for (const scripted::request& q : r.kernel.in_flight)
            if (is_ours(q)) all.push_back(without_front(packet_of(q)));
        return all;
    }
    /// Ends write number `index` of those.
    void answer(std::size_t index, int error = 0) {
        collect();
        for (const scripted::request& q : r.kernel.in_flight) {
            if (!is_ours(q) || index-- != 0) continue;
            if (error == 0) take(packet_of(q));
            return r.kernel.complete(q.name, error != 0 ? -error : static_cast<int>(scripted::total(q)));
        }
        FAIL("no such write");
    }
    /// What was written without the ring.
    void collect() {
        for (std::vector<bytes>& at_once = r.kernel.written_at_once[descriptor]; const bytes& segment : at_once) {
            CHECK_FALSE(is_super(segment));
            taken.push_back(without_front(segment));
        }
        r.kernel.written_at_once[descriptor].clear();
    }
    void take(const bytes& written) {
        const bytes packet = without_front(written);
        if (!is_super(written)) return taken.push_back(packet);
        for (const given& g : known) {
            if (g.packet != packet) continue;
            taken.insert(taken.end(), g.parts.begin(), g.parts.end());
            return;
        }
        take_merged(written);
    }
    /// The type of segments (virtio-net) of write number `index` of those; 0: it is no superpacket.
    unsigned merged_type(std::size_t index) const {
        for (const scripted::request& q : r.kernel.in_flight)
            if (is_ours(q) && index-- == 0) return std::to_integer<unsigned>(packet_of(q)[1]);
        return 0;
    }
    /// Packets that the device has merged.
    void take_merged(const bytes& written) {
        const std::span<const std::byte> all(written);
        const auto front = all.first<offload::virtio_header_size>();
        const bytes packet = without_front(written);
        const offload::checked_offload checked = offload::check_offload(offload::read_virtio_header(front), packet);
        REQUIRE(checked);
        const offload::segmenter plan = offload::segments(packet, checked.state);
        REQUIRE(plan.size() > 1);
        bytes room(plan.header_size() + plan.payload_size());
        for (const offload::segment& segment : plan) {
            const auto part = segment.write(room);
            taken.emplace_back(part.begin(), part.end());
        }
    }
    bool is_ours(const scripted::request& q) const {
        return q.what == scripted::kind::write && q.descriptor == descriptor;
    }
    /// One kind was refused, once, which leaves these; nothing has failed by it, and the device's events tell.
    void check_switched_off(const superpacket_kinds& left, const std::optional<link_event>& event) const {
        CHECK(writes().superpackets == 0);
        CHECK(writes().offload_refused == 1);
        CHECK(writes().failed() == 0);
        CHECK(whole() == left);
        REQUIRE(event);
        CHECK(event->kind == link_event_kind::offload_refused);
        CHECK(event->name.view() == "tun0");
    }
    write_statistics writes() const { return port->out().statistics(); }
    superpacket_kinds whole() const { return port->offload().write; }

    mutable rig r;
    const std::size_t before;
    const int descriptor;
    detail::device_port* port = nullptr;
    std::vector<given> known;
    std::vector<bytes> taken;
    std::deque<outcome> ends;
};

} // namespace cotun::test
