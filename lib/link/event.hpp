// SPDX-License-Identifier: Apache-2.0
//
// link_state_tracker: from the kernel's messages to events.
//
// It keeps the last known state of each link and of what belongs to it, and tells what a message changes of that: most
// change nothing that there is an event for, since the kernel sends one for every request.
//
// After a loss of messages the state is read anew, while messages go on coming: begin_reading() marks all that is known
// as unseen, each row and message marks what it is about as seen, and end_reading() tells the end of what was not seen.
// Rows and messages go by the same take(): either holds what was true when the kernel wrote it, and both come in the
// order in which they were written if they come by one socket. So a reading begins when all was taken that came before
// it was asked for. The first reading is such a reading, with nothing known.
#pragma once

#include <cotun/link/event.hpp>
#include <cotun/link/link_info.hpp>

#include "link/message.hpp"

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

namespace cotun::link {

using events = std::vector<link_event>;

// What is tracked: a set of bits.
using tracked = unsigned;
inline constexpr tracked track_links = 1;
inline constexpr tracked track_addresses = 2;
inline constexpr tracked track_v4_routes = 4;
inline constexpr tracked track_v6_routes = 8;
inline constexpr tracked track_routes = track_v4_routes | track_v6_routes;
inline constexpr tracked track_rules = 16;
inline constexpr tracked track_neighbours = 32;

class link_state_tracker {
public:
    // Messages about what is not among `kinds`, or about other links than `only` (if it is not 0), are passed over.
    explicit link_state_tracker(tracked kinds, unsigned only = 0) noexcept : kinds_(kinds), only_(only) {}

    // Takes the messages of a datagram, or of a part of one that ends with a whole message, and puts the events behind
    // those of `out`. What is not understood is passed over.
    void take(byte_view datagram, events& out);
    void take(const nlmsghdr& header, byte_view payload, events& out);

    void begin_reading() noexcept { ++reading_; }
    void end_reading(tracked kinds, events& out);

    // What is known of the links, the only one for example; nullptr: there is no such link.
    [[nodiscard]] const link_info* find(unsigned index) const noexcept;

    // Whether, since it was last asked, something happened after which the kernel drops routes without a word: IPv4's
    // always (fib_flush() in net/ipv4/fib_frontend.c), IPv6's where the sysctl net.ipv6.route.skip_notify_on_dev_down
    // says so. Then they have to be read again.
    [[nodiscard]] bool take_doubt_of_routes() noexcept;

private:
    struct known_link {
        link_info link;
        std::uint32_t seen;
    };
    using address_key = std::tuple<unsigned, wire::ip_prefix, std::optional<wire::ip_address>>;
    struct known_address {
        std::uint32_t flags;
        std::uint32_t seen;
    };
    using neighbour_key = std::tuple<unsigned, wire::ip_address, bool>;
    struct known_neighbour {
        ip_neighbour row;
        std::uint32_t seen;
    };

    [[nodiscard]] bool wants(tracked kind, unsigned index) const noexcept;
    link_event event_of(link_event_kind kind, unsigned index) const;
    void link_is(const link_info& now, events& out);
    void link_is_gone(unsigned index, byte_view payload, events& out);
    void address_is(const link_address& row, events& out);
    void address_is_gone(const link_address& row, events& out);
    void route_is(ip_route row, bool replaces, events& out);
    void route_is_gone(ip_route row, events& out);
    void rule_is(const ip_rule& row, bool gone, events& out);
    void neighbour_is(ip_neighbour row, bool gone, events& out);
    link_event address_event(link_event_kind kind, const address_key& key, std::uint32_t flags) const;
    link_event route_event(link_event_kind kind, const ip_route& route) const;
    link_event neighbour_event(link_event_kind kind, const ip_neighbour& row) const;

    tracked kinds_;
    unsigned only_;
    std::uint32_t reading_ = 0; // counts the readings
    bool doubt_of_routes_ = false;
    std::map<unsigned, known_link> links_;
    std::map<address_key, known_address> addresses_;
    std::map<ip_route, std::uint32_t> routes_; // and when they were seen
    std::map<ip_rule, std::uint32_t> rules_;
    std::map<neighbour_key, known_neighbour> neighbours_;
};

} // namespace cotun::link
