// SPDX-License-Identifier: Apache-2.0
#include "link/netlink.hpp"

#include "link/order.hpp"
#include "link/parse.hpp"
#include "link/refusal.hpp"

#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <thread>

namespace cotun::link {

namespace {

// A table that changes while it is read, or one that another reader holds, is read again so many times.
constexpr int dump_tries = 50;
constexpr auto dump_pause = std::chrono::milliseconds{2};

// The one link that is asked for.
class found_link final : public answer {
public:
    explicit found_link(link_info& into) noexcept : into_(into) {}
    void row(unsigned type, byte_view payload) override {
        if (type != RTM_NEWLINK) return;
        if (const auto link = read_link(payload)) into_ = *link;
    }

private:
    link_info& into_;
};

} // namespace

// Sends the request, and returns when its answer has ended.
const outcome& netlink_socket::exchange(request& req, answer& a) {
    if (port_.descriptor() < 0) refuse("send a netlink request", EBADF, {}, general_remedy(EBADF));
    answers awaited;
    req.number(++sequence_, port_.port());
    awaited.expect(a, sequence_);
    if (const int error = port_.send(req.bytes()); error != 0)
        refuse("send a netlink request", error, {}, general_remedy(error));
    while (!a.end()) {
        const netlink_port::received got = port_.receive(buffer_);
        if (got.error != 0) refuse("receive a netlink answer", got.error, {}, general_remedy(got.error));
        awaited.take(got.bytes, port_.port());
    }
    return *a.end();
}

outcome netlink_socket::acknowledge(request& req) {
    acknowledgement none;
    return exchange(req, none);
}

// An exchange that answers with a whole table.
outcome netlink_socket::dump(request& req, answer& a) {
    outcome result;
    for (int tried = 0; tried < dump_tries; ++tried) {
        if (tried != 0) std::this_thread::sleep_for(dump_pause);
        a.restart();
        result = exchange(req, a);
        if (!result.is_to_be_repeated()) return result;
    }
    if (result.error == 0) result = {EINTR, "the table changed each time that it was read", true};
    return result;
}

outcome netlink_socket::find_link(request& req, link_info& found) {
    found_link a(found);
    return exchange(req, a);
}

void netlink_socket::refuse_for(order& asked, const outcome& why) {
    link_info link;
    const bool known = asked.index() != 0 && find_link(link::find_link(asked.index()).message(), link).error == 0;
    asked.refuse(why, describe_link(known ? &link : nullptr, asked.index()),
                 known && asked.wants_range(why.error) ? describe_range(link) : "");
}

void netlink_socket::perform(order asked) {
    if (const outcome result = acknowledge(asked.message()); result.error != 0) refuse_for(asked, result);
}

link_info netlink_socket::get_link(order asked) {
    link_info link;
    if (const outcome result = find_link(asked.message(), link); result.error != 0) asked.refuse(result, {});
    return link;
}

link_info netlink_socket::get_link(std::string_view name) { return get_link(link::find_link(name)); }
link_info netlink_socket::get_link(unsigned index) { return get_link(link::find_link(index)); }

void netlink_socket::set_mtu(unsigned index, unsigned mtu) { perform(link::set_mtu(index, mtu)); }
void netlink_socket::set_up(unsigned index) { perform(link::set_up(index)); }
void netlink_socket::set_down(unsigned index) { perform(link::set_down(index)); }
void netlink_socket::set_txqueuelen(unsigned index, unsigned packets) {
    perform(link::set_transmit_queue_length(index, packets));
}
void netlink_socket::set_gso_max_size(unsigned index, unsigned bytes) { perform(link::set_gso_max_size(index, bytes)); }
void netlink_socket::set_mac(unsigned index, const wire::mac_address& mac) { perform(link::set_mac(index, mac)); }
void netlink_socket::delete_link(unsigned index) { perform(link::delete_link(index)); }

void netlink_socket::add_address(unsigned index, const wire::ip_prefix& prefix) {
    link_address address;
    address.address = prefix;
    perform(link::add_address(index, address, creation::add));
}

bool netlink_socket::is_delivered(const wire::ip_address& address) {
    std::vector<ip_route> found;
    rows_of a(found, RTM_NEWROUTE, read_found_route);
    const outcome result = exchange(link::find_route(address).message(), a);
    return result.error == 0 && !found.empty() && found.front().type == route_type::local; // an error: no route at all
}

std::vector<wire::ip_prefix> netlink_socket::addresses(unsigned index) {
    (void)get_link(index); // a dump knows no ENODEV
    std::vector<wire::ip_prefix> all;
    for (const bool v6 : {false, true}) {
        order asked = list_addresses(v6 ? AF_INET6 : AF_INET);
        rows_of a(all, RTM_NEWADDR, [&](byte_view payload) -> std::optional<wire::ip_prefix> {
            const auto row = read_address(payload);
            if (!row || row->index != index || row->address.is_v6() != v6) return std::nullopt;
            return row->address;
        });
        if (const outcome result = dump(asked.message(), a); result.error != 0) refuse_for(asked, result);
    }
    return all;
}

} // namespace cotun::link
