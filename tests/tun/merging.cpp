// SPDX-License-Identifier: Apache-2.0
//
// Packets of a flow that a device merges as they are written, with a kernel that the test plays: what it is given, and
// what becomes of it where it does not take it.
#include "scripted_device.hpp"

#include "../offload/merging.hpp"
#include "../offload/streams.hpp"
#include "../support/scale.hpp"
#include "../support/seed.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <map>

using namespace cotun;
using namespace cotun::test;

namespace {

constexpr std::size_t payload = 900;

given single(const fields& f) {
    const bytes packet = make_packet(f);
    return {packet, {}, {packet}};
}

/// Consecutive segments of one flow.
std::vector<given> flow(unsigned number, std::size_t count, fields f = {}) {
    f.source_port = static_cast<std::uint16_t>(2000 + number);
    f.payload.assign(count * payload, static_cast<std::byte>(number));
    std::vector<given> all;
    for (const bytes& segment : make_segments(f, payload)) all.push_back({segment, {}, {segment}});
    return all;
}

struct merging_rig : device_rig {
    merging_rig() : device_rig(false, {}, true) {}

    /// The kernel knows all kinds.
    void prove() {
        for (const bool v6 : {false, true})
            for (const bool tcp : {false, true}) {
                fields f;
                f.v6 = v6;
                f.tcp = tcp;
                write(flow(99, 2, f));
                answer_all();
            }
        taken.clear();
        proven = device_rig::writes();
    }
    void answer_all(int error = 0) {
        while (!writing().empty()) {
            answer(0, error);
            r.settle();
        }
    }
    std::vector<std::size_t> written_sizes() const {
        std::vector<std::size_t> all;
        for (const bytes& b : writing()) all.push_back(b.size());
        return all;
    }
    std::uint64_t packets() const { return writes().packets - proven.packets; }
    std::uint64_t superpackets() const { return writes().superpackets - proven.superpackets; }
    write_statistics proven;
};

} // namespace

TEST_CASE("merging: packets of a flow that one pass has accepted are one superpacket", "[tun][merging]") {
    merging_rig t;
    t.prove();
    std::vector<given> all = flow(1, 5);
    const std::vector<given> other = flow(2, 3);
    all.insert(all.begin() + 2, other[0]); // mixed
    all.insert(all.begin() + 4, other[1]);
    all.push_back(other[2]);
    fields lone;
    lone.tcp = false;
    lone.payload = bytes(50);
    all.push_back(single(lone));
    t.write(all);
    CHECK(t.written_sizes() == std::vector<std::size_t>{40 + 5 * payload, 40 + 3 * payload, 20 + 8 + 50});
    std::size_t pieces = 0;
    for (const scripted::request& q : t.r.kernel.in_flight)
        if (t.is_ours(q)) pieces = std::max(pieces, q.pieces.size());
    CHECK(pieces == 1 + 5); // what is in front, and each payload where it lies
    t.answer_all();
    CHECK(t.taken == parts_of({flow(1, 5)[0], flow(1, 5)[1], flow(1, 5)[2], flow(1, 5)[3], flow(1, 5)[4], other[0],
                               other[1], other[2], single(lone)}));
    CHECK(t.packets() == 9);
    CHECK(t.superpackets() == 2);
}

TEST_CASE("merging: the next batch waits until the last one is over", "[tun][merging]") {
    merging_rig t;
    t.prove();
    t.write(flow(1, 4));
    REQUIRE(t.writing().size() == 1);
    t.write(flow(2, 4));
    CHECK(t.writing().size() == 1);
    t.answer_all();
    CHECK(t.packets() == 8);
    CHECK(t.superpackets() == 2);
}

TEST_CASE("merging: the first of a kind is the last of its batch", "[tun][merging]") {
    merging_rig t;
    std::vector<given> all = flow(1, 3);
    for (const given& g : flow(2, 2)) all.push_back(g);
    fields after;
    after.source_port = 2001;
    after.sequence = 1 + 3 * payload;
    after.payload = bytes(10);
    after.flags = ack | urg; // of the first flow, and not to be merged
    all.push_back(single(after));
    t.write(all);
    CHECK(t.written_sizes() == std::vector<std::size_t>{40 + 3 * payload});
    const bool refused = GENERATE(false, true);
    t.answer(0, refused ? EINVAL : 0);
    t.r.settle();
    if (refused)
        CHECK(t.written_sizes() == std::vector<std::size_t>{40 + payload});
    else
        CHECK(t.written_sizes() == std::vector<std::size_t>{40 + 2 * payload, 50});
    t.answer_all();
    CHECK(t.taken == parts_of(all));
    CHECK(t.writes().packets == 6);
}

TEST_CASE("merging: what is refused goes again as it came, in its place, and is not merged any more",
          "[tun][merging]") {
    merging_rig t;
    std::optional<link_event> event;
    t.r.io.spawn(next_event(*t.port, event));
    const std::vector<given> all = flow(1, 4);
    t.write(all);
    t.answer(0, EINVAL);
    t.r.settle();
    t.write(flow(2, 2));
    for (std::size_t i = 0; i < 4; ++i) { // one by one
        REQUIRE(t.writing() == std::vector<bytes>{all[i].packet});
        t.answer(0);
        t.r.settle();
    }
    CHECK(t.writing().size() == 2);
    t.answer_all();
    CHECK(t.writes().packets == 6);
    t.check_switched_off({.tcp4 = false}, event);
    fields f;
    f.v6 = true; // another kind is
    t.write(flow(3, 2, f));
    CHECK(t.writing().size() == 1);
    t.answer_all();
    CHECK(t.writes().superpackets == 1);
}

TEST_CASE("merging: a kernel without memory for a superpacket may have it for packets", "[tun][merging]") {
    merging_rig t;
    t.prove();
    t.write(flow(1, 3));
    t.answer(0, ENOMEM);
    t.r.settle();
    t.answer_all();
    CHECK(t.taken == parts_of(flow(1, 3)));
    t.write(flow(1, 3));
    CHECK(t.writing().size() == 1);
    t.answer_all();
    CHECK(t.writes().failed() == 0);
    CHECK(t.whole() == superpacket_kinds());
}

TEST_CASE("merging: a link that is down fails each packet of a superpacket", "[tun][merging]") {
    merging_rig t;
    t.prove();
    t.write(flow(1, 3));
    outcome flushed;
    t.r.io.spawn(flush_all(*t.port, flushed));
    t.answer(0, EIO);
    t.r.settle();
    CHECK(flushed.error == EIO);
    CHECK(t.writes().link_down == 3);
    CHECK(t.packets() == 0);
}

TEST_CASE("merging: a device that is closed, or gone, with superpackets under way", "[tun][merging]") {
    merging_rig t;
    t.prove();
    t.write(flow(1, 3));
    t.write(flow(2, 3));
    SECTION("it writes what it has accepted") {
        outcome closed;
        t.r.io.spawn(close_port(*t.port, closed));
        t.r.settle();
        t.answer_all();
        CHECK(t.packets() == 6);
        CHECK(t.writes().dropped == 0);
    }
    SECTION("it does not wait for ever") {
        t.r.kernel.cancels_answered = true;
        t.shut();
    }
    SECTION("it is gone") {
        t.answer(0, EBADFD);
        t.r.settle();
        CHECK(t.writes().other == 3);
        CHECK(t.writes().dropped == 3);
    }
}

TEST_CASE("merging: frames, of IP and of anything else", "[tun][merging]") {
    // Which are looked at is decided by the EtherType; the rest is as with packets.
    bytes frame(60);
    CHECK(detail::ether_type(frame) == 0);
    frame[12] = std::byte{0x08};
    CHECK(detail::ether_type(frame) == 0x0800);
    CHECK(detail::ether_type(bytes(13)) == 0);
}

TEST_CASE("soak: merged or not, every packet arrives once, those of a flow in order", "[tun][merging][soak]") {
    with_seeds(static_cast<unsigned>(scaled(60)), [](std::uint64_t seed) {
        INFO("COTUN_SEED=" << seed);
        quick_dice roll(seed);
        merging_rig t;
        stream_maker<quick_dice> stream(roll);
        const unsigned refused_types = roll(3) == 0 ? static_cast<unsigned>(roll.next()) : 0; // a bit for each
        const bool short_of_memory = roll(4) == 0; // what goes again then is behind what was under way with it
        std::vector<bytes> sent;
        for (int round = 0; round < 200; ++round) {
            std::vector<given> batch;
            for (std::size_t i = roll(20); i > 0; --i) {
                bytes p = stream.next();
                offload_state state = stream.state();
                if (state.needs_checksum) REQUIRE(complete_checksum(p, state) == offload::refusal::none);
                batch.push_back({p, {}, {p}});
                sent.push_back(p);
            }
            t.known.clear(); // no superpackets among them
            t.write(std::move(batch));
            // Another task would write beside one that waits.
            for (std::size_t i = roll(6); (i > 0 || !t.ends.back().ended) && !t.writing().empty(); i -= i > 0) {
                const unsigned type = t.merged_type(0);
                const bool refused = type != 0 && (refused_types >> (type & 7U) & 1U) != 0;
                t.answer(0, refused ? EINVAL : type != 0 && short_of_memory && roll(20) == 0 ? ENOMEM : 0);
                if (roll(2) == 0 || t.writing().empty()) t.r.settle();
            }
            t.r.settle();
        }
        while (!t.writing().empty()) {
            const unsigned type = t.merged_type(0);
            t.answer(0, type != 0 && (refused_types >> (type & 7U) & 1U) != 0 ? EINVAL : 0);
            t.r.settle();
        }
        CHECK(t.writes().packets == sent.size());
        CHECK(t.writes().failed() == 0);
        CHECK(t.taken.size() == sent.size());
        INFO("superpackets " << t.writes().superpackets << " refused " << t.writes().offload_refused);
        std::map<std::string, std::vector<bytes>> due, got;
        for (const bytes& p : sent) due[flow_of(p, 0).value_or("fragment")].push_back(p);
        for (const bytes& p : t.taken) got[flow_of(p, 0).value_or("fragment")].push_back(p);
        for (auto& [flow, packets] : due) {
            if (short_of_memory) {
                std::sort(packets.begin(), packets.end());
                std::sort(got[flow].begin(), got[flow].end());
            }
            const std::vector<bytes>& came = got[flow];
            CHECK(came.size() == packets.size());
            for (std::size_t i = 0; i < std::min(came.size(), packets.size()); ++i) {
                if (came[i] == packets[i]) continue;
                FAIL("refused " << (refused_types & 255U) << " packet " << i << " of a flow: " << hex(packets[i])
                                << " came as " << hex(came[i]));
            }
        }
    });
}
