// SPDX-License-Identifier: Apache-2.0
//
// A kernel that refuses superpackets which it should take: a scripted one, since no kernel is at hand that does.
#include "scripted_device.hpp"

#include "../support/scale.hpp"
#include "../support/scripted_port.hpp"
#include "../support/seed.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <cerrno>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <unistd.h>
#include <vector>

using namespace cotun;
using namespace cotun::test;
using cotun::ring::scripted;

TEST_CASE("a superpacket that the kernel refuses goes again as segments, in its place", "[tun][superpackets]") {
    device_rig t;
    std::optional<link_event> event;
    t.r.io.spawn(next_event(*t.port, event));
    const std::vector<given> all{plain(1), super(2), plain(3), super(4), plain(5)};
    t.write(all);
    CHECK(t.writing() == std::vector<bytes>{all[0].packet}); // the first of its kind goes alone
    t.answer(0);
    t.r.settle();
    REQUIRE(t.writing() == std::vector<bytes>{all[1].packet});
    CHECK_FALSE(event);
    t.answer(0, EINVAL);
    t.r.settle();
    REQUIRE(t.writing() == std::vector<bytes>{all[2].packet}); // and then the next superpacket, cut as well
    t.answer(0);
    t.r.settle();
    REQUIRE(t.writing() == std::vector<bytes>{all[4].packet});
    outcome flushed;
    t.r.io.spawn(flush_all(*t.port, flushed));
    t.r.settle();
    CHECK_FALSE(flushed.ended);
    t.answer(0);
    t.r.settle();
    CHECK((flushed.ended && flushed.error == 0));
    CHECK(t.taken == parts_of(all));
    CHECK(t.writes().packets == 5);
    CHECK(t.writes().bytes == 3 * all[0].packet.size() + 2 * all[1].packet.size());
    CHECK(t.writes().segmented == 2);
    t.check_switched_off({.tcp4 = false}, event);
}

TEST_CASE("only the kind of superpackets that was refused is switched off", "[tun][superpackets]") {
    struct example {
        fields of;
        superpacket_kinds left;
    };
    const example refused =
        GENERATE(example{{}, {.tcp4 = false}}, example{{.v6 = true}, {.tcp6 = false}},
                 example{{.flags = ack | cwr}, {.ecn = false}}, example{{.tcp = false}, {.udp = false}},
                 example{{.v6 = true, .tcp = false}, {.udp = false}});
    device_rig t;
    t.write({super(1, refused.of)});
    t.answer(0, EINVAL);
    t.r.settle();
    CHECK(t.whole() == refused.left);
    const std::vector<given> others{super(2, {.v6 = true}), super(3), super(4, {.tcp = false})};
    t.write(others);
    for (int i = 0; i < 3 && !t.writing().empty(); ++i) {
        t.answer(0);
        t.r.settle();
    }
    t.write({super(5, refused.of)});
    t.collect();
    const std::vector<given>& all = t.known;
    CHECK(t.taken == parts_of(all));
    CHECK(t.writes().offload_refused == 1);
    CHECK(t.writes().superpackets + t.writes().segmented == 5);
    CHECK(t.writes().superpackets == (refused.of.flags == ack ? 2 : 3));
}

TEST_CASE("several that are refused at once go as segments in their order, before what comes later",
          "[tun][superpackets]") {
    device_rig t;
    t.write({super(0)});
    t.answer(0);
    t.r.settle();
    const std::vector<given> all{super(1), plain(2), super(3), super(4), plain(5)};
    t.write(all);
    REQUIRE(t.writing().size() == 5); // the kind is known to be taken: they go together
    const std::vector<std::size_t> order =
        GENERATE(std::vector<std::size_t>{0, 1, 1}, std::vector<std::size_t>{3, 2, 0});
    const std::vector<int> errors = order[0] == 0 ? std::vector{EINVAL, EINVAL, 0} : std::vector{0, EINVAL, EINVAL};
    for (std::size_t i = 0; i < 3; ++i) { // 1 and 3 are refused, 4 is not
        t.answer(order[i], errors[i]);
        t.r.settle();
    }
    t.write({plain(6), super(7)});
    CHECK(t.writing() == std::vector<bytes>{all[1].packet, all[4].packet}); // the others wait until these are over
    t.collect();
    CHECK(t.taken == parts_of({super(0), all[3]}));
    t.answer(1);
    t.r.settle();
    t.answer(0);
    t.r.settle();
    t.answer(0);
    t.r.settle();
    t.collect();
    CHECK(t.taken == parts_of({super(0), all[3], all[4], all[1], all[0], all[2], plain(6), super(7)}));
    CHECK(t.writes().offload_refused == 1);
    CHECK(t.writes().segmented == 3);
    CHECK(t.writes().packets == 8);
}

TEST_CASE("a superpacket that is no sound one is not tried again", "[tun][superpackets]") {
    device_rig t;
    given bad = super(1);
    bad.state.segment_size = 0;
    t.write({bad, plain(2)});
    t.answer(0, EINVAL);
    t.r.settle();
    t.answer(0);
    t.r.settle();
    CHECK(t.taken == plain(2).parts);
    CHECK(t.writes().invalid == 1);
    CHECK(t.writes().offload_refused == 0);
    CHECK(t.whole() == superpacket_kinds());
}

TEST_CASE("where segments fail too, the superpacket fails, and the others go on", "[tun][superpackets]") {
    device_rig t;
    t.r.kernel.writes_at_once[t.descriptor] = {0, -EIO};
    t.write({super(1), plain(2)});
    t.answer(0, EINVAL);
    t.r.settle();
    outcome flushed;
    t.r.io.spawn(flush_all(*t.port, flushed));
    t.answer(0);
    t.r.settle();
    CHECK(flushed.error == EIO);
    CHECK(t.taken == parts_of({{{}, {}, {super(1).parts[0]}}, plain(2)}));
    CHECK(t.writes().link_down == 1);
    CHECK(t.writes().packets == 1);
    CHECK(t.writes().segmented == 0);
}

TEST_CASE("segments wait for room in the device, and nothing overtakes them", "[tun][superpackets]") {
    const bool bounded = GENERATE(true, false); // also where nothing had told of a bound
    device_rig t(bounded);
    t.r.kernel.writes_at_once[t.descriptor] = {0, -EAGAIN, -EAGAIN, 0, -EAGAIN};
    const std::vector<given> all{super(1), plain(2), super(3), plain(4)};
    t.write(all);
    t.answer(0, EINVAL);
    t.r.settle();
    for (const bytes& waiting : {all[0].parts[1], all[0].parts[2], all[1].packet, all[2].parts[0]}) {
        REQUIRE(t.writing() == std::vector<bytes>{waiting});
        t.answer(0);
        t.r.settle();
    }
    REQUIRE(t.writing() == std::vector<bytes>{all[3].packet});
    t.answer(0);
    t.r.settle();
    CHECK(t.taken == parts_of(all));
    CHECK(t.writes().packets == 4);
    CHECK(t.writes().segmented == 2);
    CHECK(t.writes().failed() == 0);
}

TEST_CASE("segments that find no request free wait for one", "[tun][superpackets]") {
    rig_options few;
    few.requests = 32;
    device_rig t(true, few);
    t.write({super(0)});
    t.answer(0, EINVAL); // from now on they are cut
    t.r.settle();
    port other(t.r.io); // takes what requests there are
    outcome other_end;
    t.r.io.spawn(write_many(t.r, other, 0, 64, other_end));
    t.r.settle();
    t.r.kernel.writes_at_once[t.descriptor] = {0, -EAGAIN, -EAGAIN};
    t.write({super(1)});
    REQUIRE(t.writing().empty());
    outcome flushed;
    t.r.io.spawn(flush_all(*t.port, flushed));
    t.r.kernel.writes_complete = true;
    for (const unsigned n : t.r.writing(other)) t.r.written(other, n);
    for (int i = 0; i < 10 && !flushed.ended; ++i) {
        t.r.settle();
        t.collect();
    }
    CHECK((flushed.ended && flushed.error == 0));
    CHECK(t.writes().segmented == 2);
    CHECK(t.writes().packets == 2);
    CHECK(other.writes().packets == 64);
}

// --- the end in the middle of it -----------------------------------------------------------------------------------

TEST_CASE("a device that is closed writes what was refused as segments all the same", "[tun][superpackets]") {
    device_rig t;
    const std::vector<given> all{super(1), plain(2), super(3)};
    t.write(all);
    outcome closed;
    t.r.io.spawn(close_port(*t.port, closed));
    t.r.settle();
    t.answer(0, EINVAL);
    t.r.settle();
    t.answer(0);
    t.r.settle();
    t.collect();
    CHECK(t.taken == parts_of(all));
    CHECK(t.writes().packets == 3);
    CHECK(t.writes().dropped == 0);
    CHECK(t.r.kernel.in_flight.empty()); // and it has not waited for more
}

TEST_CASE("a device that is closed while segments wait gives up, counts and keeps nothing", "[tun][superpackets]") {
    device_rig t;
    std::size_t over = 0, dropped = 0;
    SECTION("for the end of the others") {
        t.write({super(0)});
        t.answer(0);
        t.r.settle();
        over = 1;
        t.write({super(1), plain(2)});
        t.answer(0, EINVAL);
        t.r.settle();
        REQUIRE(t.writing() == std::vector<bytes>{plain(2).packet});
        dropped = 2;
    }
    SECTION("for room") {
        t.r.kernel.writes_at_once[t.descriptor] = {0, -EAGAIN};
        t.write({super(1), plain(2), super(3)});
        t.answer(0, EINVAL);
        t.r.settle();
        REQUIRE(t.writing() == std::vector<bytes>{super(1).parts[1]});
        dropped = 3;
    }
    SECTION("for room, and the segment is written at the last moment") {
        t.r.kernel.writes_at_once[t.descriptor] = {0, -EAGAIN};
        t.r.kernel.cancels_answered = false;
        t.write({super(1), plain(2)});
        t.answer(0, EINVAL);
        t.r.settle();
        t.r.kernel.submitted = [&t](scripted& k) {
            if (k.cancelled.empty()) return;
            while (!k.in_flight.empty()) {
                const scripted::request& q = k.in_flight.front();
                k.complete(q.name, q.what == scripted::kind::write ? static_cast<int>(scripted::total(q)) : -ECANCELED);
            }
        };
        dropped = 2;
    }
    SECTION("and the refusal comes when all was given up") {
        t.r.kernel.cancels_answered = false;
        t.write({super(1), plain(2)});
        t.r.kernel.submitted = [&t](scripted& k) {
            if (k.cancelled.empty()) return;
            while (!k.in_flight.empty()) {
                const scripted::request& q = k.in_flight.front();
                k.complete(q.name, q.what == scripted::kind::write ? -EINVAL : -ECANCELED);
            }
        };
        dropped = 2;
    }
    outcome flushed;
    t.r.io.spawn(flush_all(*t.port, flushed));
    t.r.settle();
    t.port->close_now();
    t.r.settle();
    CHECK(t.writes().packets == over);
    CHECK(t.writes().dropped == dropped);
    CHECK(t.writes().failed() == 0);
    CHECK(t.writes().offload_refused <= 1);
    CHECK(flushed.error == ECANCELED);
    t.r.kernel.submitted = nullptr;
}

TEST_CASE("a device that is gone while segments wait for others gives up at once", "[tun][superpackets]") {
    device_rig t;
    t.write({super(0)});
    t.answer(0);
    t.r.settle();
    t.write({super(1), plain(2), super(3), plain(4)});
    t.answer(0, EINVAL);
    t.r.settle();
    t.write({plain(5)});
    t.answer(0, EBADFD);
    t.r.settle();
    CHECK(t.writes().dropped == 2); // 1 and 5
    t.answer(0, EINVAL);
    t.r.settle();
    t.answer(0, EBADFD);
    t.r.settle();
    CHECK(t.writes().dropped == 3);
    CHECK(t.writes().other == 2);
    CHECK(t.writes().segmented == 0);
    CHECK(t.port->out().idle());
}

// --- all of it at random -------------------------------------------------------------------------------------------

namespace {

given random_packet(dice& roll, unsigned n) {
    if (roll(3) == 0) return plain(n);
    fields f{.v6 = roll(2) == 0, .tcp = roll(3) != 0};
    if (f.tcp && roll(4) == 0) f.flags |= cwr;
    return super(n, f);
}

// A kernel that writes as it is asked to, refuses some kinds from the first on, and is now and then short of room.
void play(std::uint64_t seed) {
    INFO("COTUN_SEED=" << seed);
    dice roll(seed);
    device_rig t(roll(2) == 0);
    std::array<bool, 256> refuses{}; // by the type in the virtio-net header
    for (bool& kind : refuses) kind = roll(2) == 0;
    t.r.kernel.submitted = [&](scripted& k) {
        t.collect();
        std::vector<std::pair<ring::token, int>> over;
        for (const scripted::request& q : k.in_flight) {
            if (!t.is_ours(q)) continue;
            const bytes written = packet_of(q);
            const bool refused = is_super(written) && refuses[std::to_integer<std::uint8_t>(written[1])];
            // Short of room, and what comes later finds none either. While it closes, time would go by.
            if (t.port->out().refusal() == 0 && roll(8) == 0) break;
            if (!refused) t.take(written);
            over.emplace_back(q.name, refused ? -EINVAL : static_cast<int>(written.size()));
        }
        for (const auto& [name, result] : over) k.complete(name, result);
    };
    std::vector<given> all;
    for (unsigned round = 0; round < 200; ++round) {
        std::vector<given> some;
        for (std::size_t i = roll(8); i > 0; --i)
            some.push_back(random_packet(roll, static_cast<unsigned>(all.size() + some.size())));
        all.insert(all.end(), some.begin(), some.end());
        for (std::size_t i = roll(4); i > 0; --i)
            t.r.kernel.writes_at_once[t.descriptor].push_back(roll(3) == 0 ? -EAGAIN : 0);
        t.write(std::move(some));
    }
    t.port->close_now();
    t.collect();
    CHECK((t.taken == parts_of(all)));
    CHECK(t.writes().packets == all.size());
    CHECK(t.writes().dropped == 0);
    CHECK(t.writes().failed() == 0);
    t.r.kernel.submitted = nullptr;
}

} // namespace

TEST_CASE("superpackets of kinds that the kernel refuses are neither lost nor out of order", "[tun][superpackets]") {
    with_seeds(static_cast<unsigned>(scaled(20)), play);
}
