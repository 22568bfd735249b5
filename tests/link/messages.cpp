// SPDX-License-Identifier: Apache-2.0
//
// A kernel that is made up: messages that are cut, out of order, for others, or no messages at all. Nothing of it may
// fault, and none of it may be taken for what it is not.
#include "link/answer.hpp"
#include "link/event_socket.hpp"
#include "link/parse.hpp"

#include "../support/seed.hpp"

#include <catch2/catch_test_macros.hpp>

#include <cerrno>
#include <cstring>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <random>
#include <sys/socket.h>
#include <vector>

using namespace cotun::link;
using cotun::link_event;
using cotun::link_event_kind;

namespace {

constexpr std::uint32_t own_port = 77;
using bytes = std::vector<std::byte>;

bytes message(std::uint16_t type, std::uint32_t sequence, std::uint32_t port, std::uint16_t flags, byte_view payload) {
    nlmsghdr header{};
    header.nlmsg_len = static_cast<std::uint32_t>(sizeof header + payload.size());
    header.nlmsg_type = type;
    header.nlmsg_flags = flags;
    header.nlmsg_seq = sequence;
    header.nlmsg_pid = port;
    bytes all(aligned(header.nlmsg_len));
    std::memcpy(all.data(), &header, sizeof header);
    if (!payload.empty()) std::memcpy(all.data() + sizeof header, payload.data(), payload.size());
    return all;
}

template <typename T>
byte_view view(const T& value) {
    return std::as_bytes(std::span(&value, 1));
}

bytes acknowledged(std::uint32_t sequence, int error) {
    nlmsgerr payload{};
    payload.error = -error;
    return message(NLMSG_ERROR, sequence, own_port, NLM_F_CAPPED, view(payload));
}

bytes link_message(unsigned index, unsigned mtu, unsigned flags = 0, std::uint32_t sequence = 0, std::uint32_t port = 0,
                   std::uint16_t type = RTM_NEWLINK, std::uint8_t family = AF_UNSPEC) {
    ifinfomsg header{};
    header.ifi_family = family;
    header.ifi_index = static_cast<int>(index);
    header.ifi_flags = flags;
    request made{type, 0, header};
    made.text(IFLA_IFNAME, "a0");
    made.attribute(IFLA_MTU, std::uint32_t{mtu});
    const byte_view whole = made.bytes();
    return message(type, sequence, port, 0, whole.subspan(sizeof(nlmsghdr)));
}

bytes operator+(bytes a, const bytes& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

struct counted_rows final : answer {
    void row(unsigned, byte_view) override { ++rows; }
    int rows = 0;
};

// Random bytes, or messages with something changed in them.
bytes wild(std::mt19937_64& random, const std::vector<bytes>& right) {
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
    bytes all;
    for (std::size_t n = below(4); n > 0; --n) {
        if (below(4) == 0) {
            for (std::size_t i = below(200); i > 0; --i) all.push_back(static_cast<std::byte>(random()));
            continue;
        }
        bytes one = right[below(right.size())];
        for (std::size_t changes = below(6); changes > 0; --changes)
            one[below(one.size())] = static_cast<std::byte>(below(3) == 0 ? random() : random() % 4);
        if (below(3) == 0) one.resize(below(one.size()) + 1);
        if (below(3) == 0 && one.size() >= sizeof(nlmsghdr)) { // a length that lies
            const auto length = static_cast<std::uint32_t>(below(2) == 0 ? random() : below(300));
            std::memcpy(one.data(), &length, sizeof length);
        }
        all = std::move(all) + one;
    }
    return all;
}

std::vector<bytes> right_ones() {
    std::vector<bytes> all{link_message(7, 1500, IFF_UP), link_message(7, 1400), acknowledged(1, 0),
                           acknowledged(2, EPERM)};
    all.push_back(link_message(7, 0, 0, 0, 0, RTM_DELLINK));
    ifaddrmsg address{};
    address.ifa_family = AF_INET6;
    address.ifa_prefixlen = 64;
    address.ifa_index = 7;
    request added{RTM_NEWADDR, 0, address};
    const std::array<std::uint8_t, 16> six{0xfd, 1};
    added.attribute(IFA_ADDRESS, std::span<const std::uint8_t>(six));
    all.push_back(message(RTM_NEWADDR, 0, 0, 0, added.bytes().subspan(sizeof(nlmsghdr))));
    rtmsg route{};
    route.rtm_family = AF_INET;
    route.rtm_dst_len = 24;
    request routed{RTM_NEWROUTE, 0, route};
    const std::array<std::uint8_t, 4> four{10, 9, 0, 0};
    routed.attribute(RTA_DST, std::span<const std::uint8_t>(four));
    const std::size_t hops = routed.nest(RTA_MULTIPATH);
    for (int i = 0; i < 3; ++i) {
        rtnexthop hop{};
        hop.rtnh_len = sizeof hop;
        hop.rtnh_ifindex = 7;
        routed.raw(hop);
    }
    routed.end(hops);
    for (const std::uint16_t type : {RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE, RTM_DELRULE, RTM_NEWNEIGH, RTM_DELNEIGH})
        all.push_back(message(type, 0, 0, 0, routed.bytes().subspan(sizeof(nlmsghdr))));
    return all;
}

} // namespace

TEST_CASE("answers go to their requests, in any order, and foreign ones to nobody", "[link][messages]") {
    answers all;
    counted_rows one, two;
    all.expect(one, 1);
    all.expect(two, 2);
    all.take(link_message(7, 1500, 0, 2, own_port) + link_message(7, 1500, 0, 1, own_port) +
                 link_message(8, 1500, 0, 2, own_port),
             own_port);
    CHECK(one.rows == 1);
    CHECK(two.rows == 2);
    all.take(acknowledged(3, EPERM), own_port);                                     // of a request that was given up
    all.take(message(NLMSG_ERROR, 1, own_port + 1, 0, view(nlmsgerr{})), own_port); // another socket's
    all.take(link_message(7, 1500, 0, 1, own_port + 1), own_port);
    CHECK(one.rows == 1);
    CHECK_FALSE(one.end());
    all.take(acknowledged(2, ENODEV) + acknowledged(1, 0), own_port);
    REQUIRE(one.end());
    REQUIRE(two.end());
    CHECK(one.end()->error == 0);
    CHECK(two.end()->error == ENODEV);
    all.take(link_message(7, 1500, 0, 2, own_port), own_port); // after its end
    CHECK(two.rows == 2);
    {
        counted_rows gone;
        all.expect(gone, 4);
    }
    all.take(acknowledged(4, 0), own_port);

    counted_rows again;
    all.expect(again, 5);
    all.take(message(RTM_NEWLINK, 5, own_port, NLM_F_MULTI | NLM_F_DUMP_INTR, view(ifinfomsg{})), own_port);
    all.take(message(NLMSG_DONE, 5, own_port, NLM_F_MULTI, view(std::int32_t{0})), own_port);
    REQUIRE(again.end());
    CHECK(again.end()->interrupted);
    CHECK(again.end()->is_to_be_repeated());
}

TEST_CASE("answers that are cut end in an error, not in waiting", "[link][messages]") {
    answers all;
    counted_rows a;
    all.expect(a, 1);
    bytes cut = acknowledged(1, 0);
    cut.resize(cut.size() - 4);
    all.take(cut, own_port);
    REQUIRE(a.end());
    CHECK(a.end()->error == EBADMSG);

    all.expect(a, 2);
    all.take(message(NLMSG_ERROR, 2, own_port, 0, {}), own_port); // without the number
    REQUIRE(a.end());
    CHECK(a.end()->error == EBADMSG);
    nlmsgerr strange{};
    strange.error = 17;
    all.expect(a, 3);
    all.take(message(NLMSG_ERROR, 3, own_port, 0, view(strange)), own_port);
    CHECK(a.end()->error == EBADMSG);
    all.expect(a, 4);
    all.end_all(ENOBUFS);
    CHECK(a.end()->error == ENOBUFS);
}

TEST_CASE("the tracker tells what changes, whoever repeats what", "[link][messages]") {
    link_state_tracker tracker(track_links);
    events told;
    tracker.take(link_message(7, 1500), told);
    REQUIRE(told.size() == 1);
    CHECK(told[0].kind == link_event_kind::link_added);
    for (int i = 0; i < 5; ++i) tracker.take(link_message(7, 1500), told);
    tracker.take(link_message(7, 1500, 0, 0, 0, RTM_DELLINK, AF_BRIDGE), told); // a port, not the link
    tracker.take(link_message(7, 1400, 0, 0, 0, RTM_NEWLINK, AF_BRIDGE), told);
    tracker.take(link_message(0, 1400), told);
    tracker.take(link_message(0xffffffff, 1400), told);
    CHECK(told.size() == 1);
    tracker.take(link_message(7, 1400, IFF_UP) + link_message(7, 1400, IFF_UP), told);
    REQUIRE(told.size() == 3);
    CHECK(told[1].kind == link_event_kind::mtu_changed);
    CHECK(told[2].kind == link_event_kind::up);
    tracker.take(link_message(7, 1400, 0, 0, 0, RTM_DELLINK) + link_message(7, 1400, 0, 0, 0, RTM_DELLINK), told);
    CHECK(told.size() == 4);
}

TEST_CASE("a reading that is interrupted, refused or never rests ends nothing wrongly", "[link][messages]") {
    event_reader reader(track_links, 0, true);
    events told;
    const auto request_number = [&] {
        auto req = reader.next_request(own_port);
        REQUIRE(req);
        return load<nlmsghdr>(req->bytes()).nlmsg_seq;
    };
    const auto done = [&](std::uint32_t number, std::uint16_t flags = 0) {
        return message(NLMSG_DONE, number, own_port, static_cast<std::uint16_t>(NLM_F_MULTI | flags),
                       view(std::int32_t{0}));
    };
    std::uint32_t number = request_number();
    CHECK_FALSE(reader.next_request(own_port)); // one at a time
    reader.take(link_message(7, 1500, 0, number, own_port) + link_message(8, 1500, 0, number, own_port), own_port,
                told);
    reader.take(done(number), own_port, told);
    REQUIRE(told.size() == 3);
    CHECK(told[2].kind == link_event_kind::resynchronised);
    CHECK(reader.is_settled());
    CHECK_FALSE(reader.next_request(own_port));

    told.clear();
    reader.lost();
    reader.take(link_message(9, 1500), own_port, told); // older than what is read next
    number = request_number();
    reader.take(done(number - 1), own_port, told); // not this one's
    reader.take(acknowledged(number, EBUSY), own_port, told);
    CHECK(told.size() == 1);
    number = request_number();
    reader.take(link_message(7, 1400, 0, number, own_port) + done(number, NLM_F_DUMP_INTR), own_port, told);
    CHECK(told.size() == 2);
    number = request_number(); // once more
    reader.take(link_message(7, 1400, 0, number, own_port), own_port, told);
    reader.take(link_message(10, 1500), own_port, told); // made while it is read, and behind
    reader.take(done(number), own_port, told);
    REQUIRE(told.size() == 6);
    CHECK(told[2].kind == link_event_kind::link_added);
    CHECK(told[3].kind == link_event_kind::deleted);
    CHECK(told[3].index == 8);
    CHECK(told[4].index == 9);
    CHECK(told[5].kind == link_event_kind::resynchronised);

    told.clear();
    reader.lost();
    for (int i = 0; i < 50; ++i) reader.take(acknowledged(request_number(), EBUSY), own_port, told);
    REQUIRE(told.size() == 1); // it gives up, and nothing was deleted
    CHECK(told[0].kind == link_event_kind::resynchronised);
    CHECK(reader.find(7) != nullptr);
}

TEST_CASE("random bytes are survived, by all that reads messages", "[link][messages]") {
    const std::vector<bytes> right = right_ones();
    cotun::test::with_seeds(4, [&](std::uint64_t seed) {
        std::mt19937_64 random(seed);
        for (int round = 0; round < 5000; ++round) {
            link_state_tracker tracker(~0U);
            event_reader reader(track_links | track_addresses | track_routes | track_rules | track_neighbours, 0,
                                round % 2 == 0);
            answers all;
            counted_rows a;
            events told;
            all.expect(a, 1);
            for (int i = 0; i < 4; ++i) {
                // Exactly as long as it is, so that a read beyond is seen.
                const bytes next = wild(random, right);
                const byte_view datagram{next};
                tracker.take(datagram, told);
                reader.take(datagram, own_port, told);
                if (random() % 8 == 0) reader.lost();
                (void)reader.next_request(own_port);
                all.take(datagram, own_port);
                (void)read_link(datagram);
                (void)read_address(datagram);
                (void)read_found_route(datagram);
                (void)read_rule(datagram);
                (void)read_neighbour(datagram);
            }
            tracker.begin_reading();
            tracker.end_reading(~0U, told);
            for (const link_event& e : told) (void)describe(e);
        }
    });
}
