// SPDX-License-Identifier: Apache-2.0
#include "link/event_socket.hpp"

#include "link/refusal.hpp"

#include <arpa/inet.h>
#include <array>
#include <bit>
#include <cerrno>
#include <linux/fib_rules.h>
#include <linux/filter.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <utility>

namespace cotun::link {
namespace {

template <typename Header>
request dump_of(std::uint16_t type, int family, std::uint8_t Header::*family_of) {
    Header header{};
    header.*family_of = static_cast<std::uint8_t>(family);
    return {type, NLM_F_DUMP, header};
}

// Reads what is of one kind; of the only link, not all links.
request reading_of(tracked kind, unsigned only) {
    switch (kind) {
    case track_links: {
        ifinfomsg header{};
        header.ifi_index = static_cast<int>(only);
        request req(RTM_GETLINK, only != 0 ? NLM_F_ACK : NLM_F_DUMP, header);
        return req;
    }
    case track_addresses: return dump_of(RTM_GETADDR, AF_UNSPEC, &ifaddrmsg::ifa_family);
    case track_v4_routes: return dump_of(RTM_GETROUTE, AF_INET, &rtmsg::rtm_family);
    case track_v6_routes: return dump_of(RTM_GETROUTE, AF_INET6, &rtmsg::rtm_family);
    case track_rules: return dump_of(RTM_GETRULE, AF_UNSPEC, &fib_rule_hdr::family);
    default: return dump_of(RTM_GETNEIGH, AF_UNSPEC, &ndmsg::ndm_family);
    }
}

} // namespace

// --- the reader ----------------------------------------------------------------------------------------------------

event_reader::event_reader(tracked kinds, unsigned only, bool initial)
    : tracker_(kinds, only), kinds_(kinds), only_(only), silent_(!initial), announces_(initial) {
    begin(kinds);
}

// One reading at a time: what was left of the one before is among what is read now.
void event_reader::begin(tracked kinds) noexcept {
    reading_ = to_read_ |= kinds;
    incomplete_ = false;
    fresh_ = true;
    tries_ = 0;
}

void event_reader::lost() noexcept {
    awaited_ = false; // its end may be among what was lost
    announces_ = announces_ || !silent_;
    begin(kinds_);
}

std::optional<request> event_reader::next_request(std::uint32_t port) {
    if (awaited_) return std::nullopt;
    if (to_read_ == 0) {
        if (!doubt_) return std::nullopt;
        doubt_ = false;
        begin(kinds_ & track_routes);
    }
    // Not before there is nothing left to receive: what was sent before the loss is older than what is read.
    if (std::exchange(fresh_, false)) tracker_.begin_reading();
    request req = reading_of(tracked{1} << std::countr_zero(to_read_), only_);
    req.number(++sequence_, port);
    awaited_ = true;
    interrupted_ = false;
    ++tries_;
    return req;
}

void event_reader::take(byte_view datagram, std::uint32_t port, events& out) {
    (void)for_each_message(datagram, [&](const nlmsghdr& header, byte_view payload) {
        const bool answers = header.nlmsg_pid == port && port != 0;
        const bool current = answers && awaited_ && header.nlmsg_seq == sequence_;
        if (header.nlmsg_type == NLMSG_ERROR || header.nlmsg_type == NLMSG_DONE) {
            if (!current) return;
            outcome how = outcome::read(header, payload);
            how.interrupted = interrupted_ || (header.nlmsg_flags & NLM_F_DUMP_INTR) != 0;
            ended(how, out);
            return;
        }
        interrupted_ = interrupted_ || (current && (header.nlmsg_flags & NLM_F_DUMP_INTR) != 0);
        const std::size_t told = out.size();
        tracker_.take(header, payload, out);
        if (silent_) out.resize(told);
    });
    if (tracker_.take_doubt_of_routes()) doubt_ = (kinds_ & track_routes) != 0;
}

// A link that is not there any more (ENODEV) was not seen, and its end is told. What the kernel cannot tell of at all,
// as IPv6 where it is switched off, there is nothing of.
void event_reader::ended(const outcome& how, events& out) {
    awaited_ = false;
    if (how.is_to_be_repeated() && tries_ < most_tries) return;
    const bool nothing = how.error == ENODEV || how.error == EOPNOTSUPP || how.error == EAFNOSUPPORT;
    incomplete_ = incomplete_ || how.interrupted || (how.error != 0 && !nothing);
    tries_ = 0;
    to_read_ &= to_read_ - 1;
    if (to_read_ == 0) read_is_over(out);
}

// A table that never rests while it is read may have been seen with rows missing: nothing ends because of that.
void event_reader::read_is_over(events& out) {
    if (!incomplete_) tracker_.end_reading(reading_, out);
    reading_ = 0;
    silent_ = false;
    if (!std::exchange(announces_, false)) return;
    link_event event;
    event.kind = link_event_kind::resynchronised;
    event.index = only_;
    out.push_back(event);
}

// --- the socket ----------------------------------------------------------------------------------------------------

event_socket::event_socket(const event_socket_options& options)
    : port_(true), reader_(options.kinds, options.only, options.initial) {
    if (options.receive_buffer != 0)
        (void)::setsockopt(descriptor(), SOL_SOCKET, SO_RCVBUF, &options.receive_buffer, sizeof(int));
    if (options.only != 0) attach_filter(options.only);
    struct group {
        tracked kind;
        unsigned number;
    };
    for (const auto& [kind, number] :
         {group{track_links, RTNLGRP_LINK}, group{track_addresses, RTNLGRP_IPV4_IFADDR},
          group{track_addresses, RTNLGRP_IPV6_IFADDR}, group{track_v4_routes, RTNLGRP_IPV4_ROUTE},
          group{track_v6_routes, RTNLGRP_IPV6_ROUTE}, group{track_rules, RTNLGRP_IPV4_RULE},
          group{track_rules, RTNLGRP_IPV6_RULE}, group{track_neighbours, RTNLGRP_NEIGH}})
        if ((options.kinds & kind) != 0) port_.join(number);
    if (options.initial) return;
    for (events none; !reader_.is_settled() && read(none);) {}
}

// Lets answers to our own requests pass, and messages about links and addresses that are of this link: both have its
// index at the same place. Loads of a filter are big-endian, and netlink is the host's: so what they are compared with
// is turned around.
void event_socket::attach_filter(unsigned index) {
    constexpr auto type_at = offsetof(nlmsghdr, nlmsg_type);
    constexpr auto port_at = offsetof(nlmsghdr, nlmsg_pid);
    constexpr auto index_at = NLMSG_HDRLEN + offsetof(ifinfomsg, ifi_index);
    static_assert(offsetof(ifinfomsg, ifi_index) == offsetof(ifaddrmsg, ifa_index));
    std::array<sock_filter, 11> code{{
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, port_at),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl(port_.port()), 7, 0),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, type_at),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(RTM_NEWLINK), 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(RTM_DELLINK), 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(RTM_NEWADDR), 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htons(RTM_DELADDR), 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, index_at),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, htonl(index), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, ~0U),
        BPF_STMT(BPF_RET | BPF_K, 0),
    }};
    const sock_fprog filter{static_cast<unsigned short>(code.size()), code.data()};
    if (::setsockopt(descriptor(), SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) != 0)
        refuse("attach a filter to a netlink socket", errno, {}, general_remedy(errno));
}

bool event_socket::read(events& out) {
    static thread_local std::vector<std::byte> buffer; // used until the datagram is taken, and by nobody meanwhile
    for (;;) {
        const netlink_port::received got = port_.receive(buffer);
        if (got.error == 0) {
            reader_.take(got.bytes, port_.port(), out);
            return true;
        }
        if (got.error == ENOBUFS) {
            reader_.lost();
            continue; // the kernel drops all until what it has was received
        }
        if (got.error != EAGAIN) refuse("receive from a netlink socket", got.error, {}, general_remedy(got.error));
        auto req = reader_.next_request(port_.port());
        if (!req) return false;
        if (const int error = port_.send(req->bytes()); error != 0)
            refuse("read the state of the links", error, {}, general_remedy(error));
    }
}

} // namespace cotun::link
