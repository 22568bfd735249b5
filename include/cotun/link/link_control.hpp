// SPDX-License-Identifier: Apache-2.0
//
// link_control: links, addresses, routes, rules and neighbours, by netlink, in the reactor.
//
//     cotun::link_control links(io);
//     co_await links.create_veth({.name = "lan0", .peer_name = "eth0", .peer_netns = "guest"});
//     co_await links.add_address("lan0", "10.9.0.1/24");
//     co_await links.set_up("lan0");
//     co_await links.add_route({.destination = "10.8.0.0/16", .gateway = gateway, .device = "lan0"});
//
// Each call is a task: one request, or a few, and their answers. Any number of tasks may use one link_control at a
// time; what one awaits after another the kernel does in that order. A list is whole and of one moment: a table that
// changes while it is read is read again.
//
// Where the time goes: the kernel does a request while it is sent, under a lock that all of the machine's networking
// shares (rtnl). Most take some microseconds and are sent by the reactor's own thread, which waits as long as somebody
// else holds the lock. What takes the kernel long by itself, tens of milliseconds (deleting a link, setting it down,
// moving it), is sent by a thread made for it, and the reactor goes on; link_control_options::sending changes that.
//
// Namespaces: it speaks for the namespace that it was made for, for good; the reactor stays where it is.
// Stopping and destroying a wait (coro/stop.hpp): what was sent is done all the same; its answer is dropped.
// Lifetime: tasks that wait when it is closed or destroyed throw std::errc::operation_canceled; the reactor must
// outlive it. Thread: the reactor's.
// Errors: std::system_error with the kernel's errno; the text names what was tried and on what, the kernel's own
// explanation, and the remedy. Needs CAP_NET_ADMIN in the user namespace that owns the network namespace, but for
// what only looks. Kernel: rtnetlink(7).
#pragma once

#include <cotun/coro/task.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/link/link_info.hpp>
#include <cotun/link/link_name.hpp>
#include <cotun/link/link_options.hpp>
#include <cotun/link/network_namespace.hpp>
#include <cotun/link/route.hpp>
#include <cotun/wire/address.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

namespace cotun {

namespace link {
class control;
}

/// Which thread sends requests, and so waits for the kernel. Of threads made for it there are 16 at a time, shared with
/// devices that close; a request has the next that is free, before what closes.
enum class link_sending : std::uint8_t {
    automatic, // what takes long, a thread made for it; the rest, the reactor's
    directly,  // always the reactor's: the least time altogether
    aside,     // always a thread made for it: the reactor never waits for the kernel's lock
};

struct link_control_options {
    /// The namespace to speak for. Empty: the calling thread's.
    netns_reference netns{};
    link_sending sending = link_sending::automatic;
};
static_assert(std::is_trivially_destructible_v<link_control_options>);

/// Which routes are listed: all, or those of one table.
struct route_query {
    std::optional<std::uint32_t> table{};
};

class link_control {
public:
    explicit link_control(reactor& io, const link_control_options& options = {});
    link_control(link_control&& other) noexcept;
    link_control& operator=(link_control&& other) noexcept;
    ~link_control();

    // --- links ----------------------------------------------------------------------------------------------------

    /// ENODEV where there is none.
    task<link_info> get_link(link_reference link);
    task<std::vector<link_info>> links();

    /// These yield the new link; of a pair, the first. EEXIST where a name is taken.
    task<link_info> create_veth(veth_options options);
    task<link_info> create_bridge(bridge_options options);
    task<link_info> create_dummy(dummy_options options);
    /// EOPNOTSUPP for one that cannot be deleted (lo, hardware).
    task<> delete_link(link_reference link);

    task<> set_up(link_reference link);
    task<> set_down(link_reference link);
    /// EEXIST where another link has the name; EBUSY where this kernel renames only links that are down.
    task<> rename(link_reference link, link_name name);
    /// Bytes without the link header. EINVAL, with the range in the text, where the link cannot have it.
    task<> set_mtu(link_reference link, unsigned mtu);
    /// EOPNOTSUPP for links without Ethernet addresses (TUN); EADDRNOTAVAIL for a multicast or zero address.
    task<> set_mac(link_reference link, wire::mac_address mac);
    /// Packets that wait for the device.
    task<> set_transmit_queue_length(link_reference link, unsigned packets);
    /// Bytes of the largest superpacket (GSO) that the link is given.
    task<> set_gso_max_size(link_reference link, unsigned bytes);
    /// Makes it a port of a bridge, or part of a bond or VRF; and takes it out.
    task<> set_master(link_reference link, link_reference master);
    task<> clear_master(link_reference link);
    /// Moves it to another namespace, where it is down and has no addresses. `name`: what it is called there; empty: as
    /// here. A descriptor in `there` must be open until the task has begun.
    task<> move_to(link_reference link, netns_reference there, link_name name = {});

    // --- addresses ------------------------------------------------------------------------------------------------

    /// Gives the link the address and, by the prefix, the route to its network. EEXIST where it has it already.
    task<> add_address(link_reference link, wire::ip_prefix address);
    task<> add_address(link_reference link, link_address address);
    /// Adds it, or changes the lifetimes and flags of the one that is there.
    task<> replace_address(link_reference link, link_address address);
    /// EADDRNOTAVAIL where the link has no such address. One with a peer is deleted by address and peer.
    task<> delete_address(link_reference link, wire::ip_prefix address);
    task<> delete_address(link_reference link, link_address address);
    /// The link's, or all links': IPv4 first.
    task<std::vector<link_address>> addresses(link_reference link);
    task<std::vector<link_address>> addresses();

    // --- routes, rules, neighbours --------------------------------------------------------------------------------

    /// EEXIST where there is one with the same destination and metric; ENETUNREACH where the gateway is in no link's
    /// network.
    task<> add_route(ip_route route);
    /// The same with several next hops, by their weights, in place of its own gateway and device.
    task<> add_route(ip_route route, ip_next_hops hops);
    /// Adds it, or puts it in the place of the one with the same destination and metric.
    task<> replace_route(ip_route route);
    task<> replace_route(ip_route route, ip_next_hops hops);
    /// Deletes the first route that is as this one says; gateway, device, metric and scope that are left out do not
    /// matter. ESRCH where there is none.
    task<> delete_route(ip_route route);
    /// IPv4 first.
    task<std::vector<ip_route>> routes(route_query query = {});
    /// The ways of the first route with that destination, table and metric: mostly one. ESRCH where there is none.
    task<std::vector<ip_next_hop>> next_hops(ip_route route);
    /// How a packet of this machine's to that address would go: by which gateway, device and source address.
    /// ENETUNREACH where there is no route.
    task<ip_route> get_route(wire::ip_address destination);

    task<> add_rule(ip_rule rule);
    /// ENOENT where there is none.
    task<> delete_rule(ip_rule rule);
    /// IPv4 first, in the order in which they are asked.
    task<std::vector<ip_rule>> rules();

    task<> add_neighbour(ip_neighbour neighbour);
    task<> replace_neighbour(ip_neighbour neighbour);
    task<> delete_neighbour(ip_neighbour neighbour);
    task<std::vector<ip_neighbour>> neighbours();

    // --------------------------------------------------------------------------------------------------------------

    /// Ends what waits, and closes; again, or after that, does no harm. What is being sent is done all the same.
    void close() noexcept;

private:
    std::shared_ptr<link::control> control_;
};

} // namespace cotun
