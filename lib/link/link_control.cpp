// SPDX-License-Identifier: Apache-2.0
#include <cotun/link/link_control.hpp>

#include "link/control.hpp"
#include "link/order.hpp"
#include "link/parse.hpp"
#include "link/refusal.hpp"

#include "io/fail.hpp"

#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <utility>

namespace cotun {
namespace {

using link::control;
using link::creation;
using link::order;
using reference = control::reference;
using order_for = std::function<order(unsigned index)>;

reference open(const reference& control) {
    if (!control) detail::fail(EBADF, "cotun: link_control: it was moved from");
    return control;
}

// What is asked of one link.
task<> perform(reference self, link_reference which, order_for make) {
    task<unsigned> looked = control::index_of(self, which);
    const unsigned index = co_await std::move(looked);
    order asked = make(index);
    task<> performed = control::perform(std::move(self), std::move(asked));
    co_await std::move(performed);
}

// What names a device by index or name, or none.
task<> perform_on(reference self, unsigned index, link_name device, order_for make) {
    if (index == 0 && !device.empty()) {
        task<unsigned> looked = control::index_of(self, device);
        index = co_await std::move(looked);
    }
    order asked = make(index);
    task<> performed = control::perform(std::move(self), std::move(asked));
    co_await std::move(performed);
}

// The order is made when the task runs, so that it is the await that throws.
task<> perform(reference self, std::function<order()> make) {
    order asked = make();
    task<> performed = control::perform(std::move(self), std::move(asked));
    co_await std::move(performed);
}

task<link_info> find(reference self, link_reference which) {
    std::vector<link_info> found;
    link::rows_of a(found, RTM_NEWLINK, link::read_link);
    order asked = which.index() != 0 ? link::find_link(which.index()) : link::find_link(which.name());
    task<> asking = control::ask(std::move(self), std::move(asked), a);
    co_await std::move(asking);
    if (found.empty()) link::refuse("find a link", EBADMSG, {}, "the kernel's answer had none in it");
    co_return found.front();
}

task<link_info> create(reference self, link_name name, std::function<order()> make) {
    task<> created = perform(self, std::move(make));
    co_await std::move(created);
    task<link_info> found = find(std::move(self), name);
    co_return co_await std::move(found);
}

template <typename T>
task<> list(reference self, std::vector<T>& all, unsigned type, std::optional<T> (*parse)(link::byte_view),
            order asked) {
    link::rows_of a(all, type, parse);
    task<> listed = control::list(std::move(self), std::move(asked), a);
    co_await std::move(listed);
}

task<std::vector<link_info>> list_links(reference self) {
    std::vector<link_info> all;
    order asked = link::list_links();
    task<> listed = list(std::move(self), all, RTM_NEWLINK, link::read_link, std::move(asked));
    co_await std::move(listed);
    co_return all;
}

// The kernel sends the addresses of all links, and one without IPv6 sends IPv4's in place of them.
task<std::vector<link_address>> list_addresses(reference self, std::optional<link_reference> which) {
    unsigned index = 0;
    if (which) {
        task<link_info> looked = find(self, *which); // a dump knows no ENODEV
        const link_info found = co_await std::move(looked);
        index = found.index;
    }
    std::vector<link_address> all;
    for (const int family : {AF_INET, AF_INET6}) {
        std::vector<link_address> some;
        order asked = link::list_addresses(family);
        task<> listed = list(self, some, RTM_NEWADDR, link::read_address, std::move(asked));
        co_await std::move(listed);
        for (const link_address& a : some)
            if ((index == 0 || a.index == index) && a.address.is_v6() == (family == AF_INET6)) all.push_back(a);
    }
    co_return all;
}

// Puts the names of devices to what has their indices.
template <typename T>
task<> name_devices(reference self, std::vector<T>& rows) {
    task<std::vector<link_info>> listed = list_links(std::move(self));
    const std::vector<link_info> links = co_await std::move(listed);
    for (T& row : rows) {
        const auto found =
            std::find_if(links.begin(), links.end(), [&](const link_info& l) { return l.index == row.index; });
        if (found != links.end()) row.device = found->name;
    }
}

task<std::vector<ip_route>> list_routes(reference self, route_query query) {
    std::vector<ip_route> all;
    for (const int family : {AF_INET, AF_INET6}) {
        std::vector<ip_route> some;
        order asked = link::list_routes(family);
        task<> listed = list(self, some, RTM_NEWROUTE, link::read_route, std::move(asked));
        co_await std::move(listed);
        for (const ip_route& r : some)
            if ((!query.table || r.table == *query.table) && r.destination.is_v6() == (family == AF_INET6))
                all.push_back(r);
    }
    task<> named = name_devices(std::move(self), all);
    co_await std::move(named);
    co_return all;
}

task<> put_route(reference self, ip_route route, ip_next_hops hops, creation how) {
    std::vector<ip_next_hop> found(hops.begin(), hops.end());
    for (ip_next_hop& hop : found) {
        if (hop.index != 0 || hop.device.empty()) continue;
        task<unsigned> looked = control::index_of(self, hop.device);
        const unsigned index = co_await std::move(looked);
        hop.index = index;
    }
    order asked = link::add_route(route, found, how);
    task<> performed = control::perform(std::move(self), std::move(asked));
    co_await std::move(performed);
}

task<std::vector<ip_next_hop>> list_hops(reference self, ip_route route) {
    std::vector<link::route_with_hops> all;
    order asked = link::list_routes(route.destination.is_v6() ? AF_INET6 : AF_INET);
    task<> listed = list(self, all, RTM_NEWROUTE, link::read_route_with_hops, std::move(asked));
    co_await std::move(listed);
    const auto found = std::find_if(all.begin(), all.end(), [&](const link::route_with_hops& r) {
        return r.route.destination == route.destination && r.route.table == route.table &&
               (route.metric == 0 || r.route.metric == route.metric);
    });
    if (found == all.end())
        link::refuse(fmt::format("tell the next hops of the route to {}", route.destination.to_string()), ESRCH, {},
                     "there is no such route in this table (`ip route show table all`)");
    task<> named = name_devices(std::move(self), found->hops);
    co_await std::move(named);
    co_return found->hops;
}

task<ip_route> find_route(reference self, wire::ip_address destination) {
    std::vector<ip_route> found;
    {
        link::rows_of a(found, RTM_NEWROUTE, link::read_found_route);
        order asked = link::find_route(destination);
        task<> asking = control::ask(self, std::move(asked), a);
        co_await std::move(asking);
    }
    if (found.empty()) link::refuse("find a route", EBADMSG, {}, "the kernel's answer had none in it");
    task<> named = name_devices(std::move(self), found);
    co_await std::move(named);
    co_return found.front();
}

task<std::vector<ip_rule>> list_rules(reference self) {
    std::vector<ip_rule> all;
    order asked = link::list_rules();
    task<> listed = list(std::move(self), all, RTM_NEWRULE, link::read_rule, std::move(asked));
    co_await std::move(listed);
    std::stable_partition(all.begin(), all.end(), [](const ip_rule& r) { return !r.v6; });
    co_return all;
}

task<std::vector<ip_neighbour>> list_neighbours(reference self) {
    std::vector<ip_neighbour> all;
    order asked = link::list_neighbours();
    task<> listed = list(self, all, RTM_NEWNEIGH, link::read_neighbour, std::move(asked));
    co_await std::move(listed);
    task<> named = name_devices(std::move(self), all);
    co_await std::move(named);
    co_return all;
}

task<> put_under(reference self, link_reference which, link_reference master) {
    task<unsigned> looked = control::index_of(self, master);
    const unsigned above = co_await std::move(looked);
    order_for make = [above](unsigned index) { return link::set_master(index, above); };
    task<> performed = perform(std::move(self), which, std::move(make));
    co_await std::move(performed);
}

} // namespace

link_control::link_control(reactor& io, const link_control_options& options)
    : control_(std::make_shared<control>(io, options)) {}
link_control::link_control(link_control&& other) noexcept = default;
link_control& link_control::operator=(link_control&& other) noexcept {
    if (this != &other) {
        close();
        control_ = std::move(other.control_);
    }
    return *this;
}
link_control::~link_control() { close(); }

void link_control::close() noexcept {
    if (control_) control_->close();
}

// --- links ---------------------------------------------------------------------------------------------------------

task<link_info> link_control::get_link(link_reference which) { return find(open(control_), which); }
task<std::vector<link_info>> link_control::links() { return list_links(open(control_)); }

task<link_info> link_control::create_veth(veth_options o) {
    return create(open(control_), o.name, [o] { return link::create_veth(o); });
}
task<link_info> link_control::create_bridge(bridge_options o) {
    return create(open(control_), o.name, [o] { return link::create_bridge(o); });
}
task<link_info> link_control::create_dummy(dummy_options o) {
    return create(open(control_), o.name, [o] { return link::create_dummy(o); });
}
task<> link_control::delete_link(link_reference which) { return perform(open(control_), which, link::delete_link); }
task<> link_control::set_up(link_reference which) { return perform(open(control_), which, link::set_up); }
task<> link_control::set_down(link_reference which) { return perform(open(control_), which, link::set_down); }

task<> link_control::rename(link_reference which, link_name name) {
    return perform(open(control_), which, [name](unsigned index) { return link::rename_link(index, name); });
}
task<> link_control::set_mtu(link_reference which, unsigned mtu) {
    return perform(open(control_), which, [mtu](unsigned index) { return link::set_mtu(index, mtu); });
}
task<> link_control::set_mac(link_reference which, wire::mac_address mac) {
    return perform(open(control_), which, [mac](unsigned index) { return link::set_mac(index, mac); });
}
task<> link_control::set_transmit_queue_length(link_reference which, unsigned packets) {
    return perform(open(control_), which,
                   [packets](unsigned index) { return link::set_transmit_queue_length(index, packets); });
}
task<> link_control::set_gso_max_size(link_reference which, unsigned bytes) {
    return perform(open(control_), which, [bytes](unsigned index) { return link::set_gso_max_size(index, bytes); });
}
task<> link_control::set_master(link_reference which, link_reference master) {
    return put_under(open(control_), which, master);
}
task<> link_control::clear_master(link_reference which) {
    return perform(open(control_), which, [](unsigned index) { return link::set_master(index, 0); });
}
task<> link_control::move_to(link_reference which, netns_reference there, link_name name) {
    return perform(open(control_), which,
                   [there, name](unsigned index) { return link::move_link(index, name, there); });
}

// --- addresses -----------------------------------------------------------------------------------------------------

task<> link_control::add_address(link_reference which, wire::ip_prefix address) {
    link_address whole;
    whole.address = address;
    return add_address(which, whole);
}
task<> link_control::add_address(link_reference which, link_address a) {
    return perform(open(control_), which, [a](unsigned index) { return link::add_address(index, a, creation::add); });
}
task<> link_control::replace_address(link_reference which, link_address a) {
    return perform(open(control_), which,
                   [a](unsigned index) { return link::add_address(index, a, creation::replace); });
}
task<> link_control::delete_address(link_reference which, wire::ip_prefix address) {
    link_address whole;
    whole.address = address;
    return delete_address(which, whole);
}
task<> link_control::delete_address(link_reference which, link_address a) {
    return perform(open(control_), which, [a](unsigned index) { return link::delete_address(index, a); });
}
task<std::vector<link_address>> link_control::addresses(link_reference which) {
    return list_addresses(open(control_), which);
}
task<std::vector<link_address>> link_control::addresses() { return list_addresses(open(control_), std::nullopt); }

// --- routes, rules, neighbours -------------------------------------------------------------------------------------

task<> link_control::add_route(ip_route r) {
    return perform_on(open(control_), r.index, r.device,
                      [r](unsigned index) { return link::add_route(index, r, creation::add); });
}
task<> link_control::replace_route(ip_route r) {
    return perform_on(open(control_), r.index, r.device,
                      [r](unsigned index) { return link::add_route(index, r, creation::replace); });
}
task<> link_control::add_route(ip_route r, ip_next_hops hops) {
    return put_route(open(control_), r, hops, creation::add);
}
task<> link_control::replace_route(ip_route r, ip_next_hops hops) {
    return put_route(open(control_), r, hops, creation::replace);
}
task<std::vector<ip_next_hop>> link_control::next_hops(ip_route r) { return list_hops(open(control_), r); }
task<> link_control::delete_route(ip_route r) {
    return perform_on(open(control_), r.index, r.device, [r](unsigned index) { return link::delete_route(index, r); });
}
task<std::vector<ip_route>> link_control::routes(route_query query) { return list_routes(open(control_), query); }
task<ip_route> link_control::get_route(wire::ip_address destination) { return find_route(open(control_), destination); }

task<> link_control::add_rule(ip_rule r) {
    return perform(open(control_), [r] { return link::add_rule(r); });
}
task<> link_control::delete_rule(ip_rule r) {
    return perform(open(control_), [r] { return link::delete_rule(r); });
}
task<std::vector<ip_rule>> link_control::rules() { return list_rules(open(control_)); }

task<> link_control::add_neighbour(ip_neighbour n) {
    return perform_on(open(control_), n.index, n.device,
                      [n](unsigned index) { return link::add_neighbour(index, n, creation::add); });
}
task<> link_control::replace_neighbour(ip_neighbour n) {
    return perform_on(open(control_), n.index, n.device,
                      [n](unsigned index) { return link::add_neighbour(index, n, creation::replace); });
}
task<> link_control::delete_neighbour(ip_neighbour n) {
    return perform_on(open(control_), n.index, n.device,
                      [n](unsigned index) { return link::delete_neighbour(index, n); });
}
task<std::vector<ip_neighbour>> link_control::neighbours() { return list_neighbours(open(control_)); }

} // namespace cotun
