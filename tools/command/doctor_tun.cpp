// SPDX-License-Identifier: Apache-2.0
//
// The TUN driver by trial, and a tunnel's own way: a packet read from a device and one written, by the library.
//
// All of it in a child. A device is made in a fresh network namespace, with this process's privileges or with those
// that a fresh user namespace gives; where neither can be had, in this network namespace, not set up, so that nothing
// is sent to it, and with a name of its own. It goes with the descriptor.
#include "doctor.hpp"
#include "features.hpp"
#include "trial_child.hpp"
#include "trial_device.hpp"
#include "trial_ring.hpp"

#include "link/netlink.hpp"

#include <cotun/io/reactor.hpp>
#include <cotun/tun/device.hpp>

#include <arpa/inet.h>
#include <cerrno>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <sched.h>
#include <string>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

namespace cotun::command {
namespace {

constexpr unsigned plain_tun = IFF_TUN | IFF_NO_PI | IFF_TUN_EXCL;
constexpr const char* own_address = "198.51.100.1/24"; // of TEST-NET-2 (RFC 5737), in a namespace that nobody else sees
constexpr const char* other_address = "198.51.100.2";

const std::vector<const feature*>& all_device_features() {
    static const std::vector<const feature*> all{
        &features::read_multishot, &features::tun_device,  &features::tap_device, &features::exclusive,
        &features::vnet_header,    &features::multi_queue, &features::napi,       &features::no_carrier,
        &features::queue_length,   &features::tunnel,      &features::csum,       &features::tso4,
        &features::tso6,           &features::ecn,         &features::uso,        &features::udp_tunnel,
        &features::udp_tunnel_csum};
    return all;
}

enum class place { none, namespace_of_ours, fresh_user_namespace, here };

// Moves this process to where devices are tried. Without CAP_NET_ADMIN a network namespace alone would be of no use.
place find_place(bool may_create_here) {
    if (may_create_here && ::unshare(CLONE_NEWNET) == 0) return place::namespace_of_ours;
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0) return place::fresh_user_namespace;
    return may_create_here ? place::here : place::none;
}

const char* describe(place p) {
    switch (p) {
    case place::namespace_of_ours: return "in a fresh network namespace";
    case place::fresh_user_namespace: return "in a fresh user and network namespace";
    case place::here: return "in this network namespace, by devices that are not set up";
    case place::none: break;
    }
    return "nowhere";
}

class trials {
public:
    trials(report& into, place where) : into_(into), isolated_(where != place::here) {}

    void try_all(trial_ring* ring, const std::string& no_ring) {
        if (ring != nullptr)
            try_read_multishot(*ring);
        else
            into_.not_tried(features::read_multishot, no_ring);
        try_driver();
        try_offloads();
        if (ring != nullptr)
            try_tunnel();
        else
            into_.not_tried(features::tunnel, no_ring);
    }

private:
    // Sends a datagram that the kernel routes to the device.
    static void send_through() {
        const cotun::unique_fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(9);
        ::inet_pton(AF_INET, other_address, &to.sin_addr);
        const char byte = 'x';
        if (::sendto(socket.get(), &byte, 1, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 1)
            throw std::system_error(errno, std::generic_category(), "sending through the device");
    }

    static void set_up(const trial_device& dev) {
        link::netlink_socket netlink;
        const unsigned index = netlink.get_link(dev.name()).index;
        netlink.add_address(index, *wire::ip_prefix::parse(own_address));
        netlink.set_up(index);
    }

    void try_read_multishot(trial_ring& ring) {
        const feature& f = features::read_multishot;
        try {
            trial_device dev;
            if (const int error = dev.create(unique_name(), plain_tun); error != 0)
                return into_.not_tried(f, "there is no device: " + describe_error(error));
            if (!ring.driver().supports(ring::feature::read_multishot))
                return into_.missing(f, "the kernel does not know it");
            if (isolated_) set_up(dev);
            const std::uint16_t group = ring.group();
            ring.driver().read_multishot(trial_ring::name, {dev.descriptor()}, group);
            std::array<ring::completion, 1> early{};
            if (!isolated_) { // nothing will come; but what the kernel does not take it refuses at once
                const auto done = ring.outcome(trial_ring::name, std::chrono::milliseconds(50));
                if (done) return into_.missing(f, describe_error(-done->result));
                ring.driver().cancel(trial_ring::name);
                ring.outcome();
                return into_.works(f, "it was taken; no packet was passed");
            }
            if (ring.driver().enter(false, std::nullopt, early) == 0)
                send_through();
            else if (early[0].result < 0)
                return into_.missing(f, describe_error(-early[0].result));
            const auto done = early[0].request != 0 ? std::optional(early[0]) : ring.outcome();
            if (!done)
                into_.missing(f, "no packet within a second");
            else if (done->result < 0)
                into_.missing(f, describe_error(-done->result));
            else if (!done->more)
                into_.missing(f, "it answers only once");
            else
                into_.works(f, "a packet was read");
        } catch (const std::exception& e) {
            into_.not_tried(f, e.what());
        }
    }

    // Makes a device with `flag`, and looks whether it has it.
    void try_flag(const feature& f, unsigned flag, unsigned kind = IFF_TUN) {
        trial_device dev;
        if (const int error = dev.create(unique_name(), kind | IFF_NO_PI | IFF_TUN_EXCL | flag); error != 0)
            return into_.missing(f, "TUNSETIFF: " + describe_error(error));
        if ((dev.flags() & flag) == flag)
            into_.works(f);
        else
            into_.missing(f, "the kernel took the flag and forgot it");
    }

    void try_driver() {
        try_flag(features::tun_device, IFF_TUN);
        try_flag(features::tap_device, IFF_TAP, IFF_TAP);
        try_exclusive();
        try_flag(features::vnet_header, IFF_VNET_HDR);
        try_flag(features::multi_queue, IFF_MULTI_QUEUE);
        try_flag(features::napi, IFF_NAPI);
        try_no_carrier();
        trial_device dev;
        const bool made = dev.create(unique_name(), plain_tun) == 0;
        const int length = made ? dev.queue_length() : -1;
        if (length < 0)
            into_.not_tried(features::queue_length, "there is no device to ask");
        else
            into_.note(features::queue_length,
                       fmt::format("{} packets; beyond, the kernel drops what is not read", length));
    }

    // A second queue joins a device, unless it asked to be alone.
    void try_exclusive() {
        trial_device first, second;
        const std::string name = unique_name();
        if (const int error = first.create(name, IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE); error != 0)
            return into_.not_tried(features::exclusive, "there is no device with two queues: " + describe_error(error));
        const int error = second.create(name, IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE | IFF_TUN_EXCL);
        if (error == EBUSY || error == EEXIST)
            into_.works(features::exclusive);
        else
            into_.missing(features::exclusive,
                          error == 0 ? "an interface that is there was joined" : describe_error(error));
    }

    // The flag is not told by TUNGETIFF: TUNGETFEATURES tells of it, and where a device may be set up, the link does.
    void try_no_carrier() {
        const feature& f = features::no_carrier;
        trial_device dev;
        unsigned known = 0;
        if (::ioctl(dev.descriptor(), TUNGETFEATURES, &known) != 0 || (known & tun_flag::no_carrier) == 0)
            return into_.missing(f, "TUNGETFEATURES does not have it");
        if (const int error = dev.create(unique_name(), plain_tun | tun_flag::no_carrier); error != 0)
            return into_.missing(f, "TUNSETIFF: " + describe_error(error));
        if (!isolated_) return into_.works(f, "it was taken");
        try {
            set_up(dev);
            link::netlink_socket netlink;
            const bool carrier = (netlink.get_link(dev.name()).flags & IFF_LOWER_UP) != 0;
            if (carrier)
                into_.missing(f, "the device has a carrier all the same");
            else
                into_.works(f);
        } catch (const std::exception& e) {
            into_.not_tried(f, e.what());
        }
    }

    void try_offload(const trial_device& dev, const feature& f, unsigned offloads) {
        if (const int error = dev.set_offloads(offloads); error != 0)
            into_.missing(f, "TUNSETOFFLOAD: " + describe_error(error));
        else
            into_.works(f);
    }

    void try_offloads() {
        trial_device dev;
        const int error = dev.create(unique_name(), plain_tun | IFF_VNET_HDR);
        constexpr unsigned tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6, uso = tun_flag::uso4 | tun_flag::uso6;
        const std::pair<const feature*, unsigned> all[]{
            {&features::csum, TUN_F_CSUM},
            {&features::tso4, TUN_F_CSUM | TUN_F_TSO4},
            {&features::tso6, TUN_F_CSUM | TUN_F_TSO6},
            {&features::ecn, tso | TUN_F_TSO_ECN},
            {&features::uso, TUN_F_CSUM | uso},
            {&features::udp_tunnel, tso | uso | tun_flag::udp_tunnel_gso},
            {&features::udp_tunnel_csum, tso | uso | tun_flag::udp_tunnel_gso | tun_flag::udp_tunnel_gso_csum}};
        for (const auto& [f, offloads] : all)
            if (error != 0)
                into_.not_tried(*f, "there is no device with IFF_VNET_HDR: " + describe_error(error));
            else
                try_offload(dev, *f, offloads);
    }

    static task<> pass_packets(device& dev) {
        packet read = co_await dev.read_packet();
        co_await dev.write_packet(std::move(read));
        co_await dev.flush();
        co_await dev.close();
    }

    void try_tunnel() {
        try {
            reactor io;
            device_options options;
            const std::string name = unique_name();
            options.name = name;
            options.up = isolated_;
            if (isolated_) options.addresses = {own_address};
            device dev = open_tun(io, options);
            if (!isolated_) return into_.works(features::tunnel, "a device was opened; no packet was passed");
            send_through();
            io.run(pass_packets(dev));
            into_.works(features::tunnel, fmt::format("with {}", dev.uses_multishot() ? "multishot reads" : "polls"));
        } catch (const std::system_error& e) {
            into_.missing(features::tunnel, e.what());
        }
    }

    report& into_;
    const bool isolated_;
};

std::string describe_lack_of_place() {
    return fmt::format("there is no network namespace to try it in (unshare: {}), and none may be made in this one",
                       describe_error(errno));
}

// The ring is made before this process moves, since who may have one is decided by who one is.
void try_devices(report& into, bool may_create_here) {
    std::unique_ptr<trial_ring> ring;
    std::string no_ring = "there is no ring";
    try {
        ring = std::make_unique<trial_ring>();
        std::array<ring::completion, 1> none{};
        ring->driver().enter(false, std::nullopt, none);
    } catch (const std::system_error& e) {
        no_ring += ": " + describe_error(e.code().value());
        ring.reset();
    }
    const place where = find_place(may_create_here);
    std::string because = where == place::none ? describe_lack_of_place() : "";
    if (because.empty() && where != place::here) {
        trial_device probe;
        const int error = probe.is_open() ? probe.create(unique_name(), plain_tun) : errno;
        if (error != 0)
            because = fmt::format("{} it is not allowed, either: {}", describe(where), describe_error(error));
    }
    if (!because.empty()) {
        into.not_tried(features::trial_place, because);
        for (const feature* f : all_device_features()) into.not_tried(*f, "no device could be made for it");
        return;
    }
    into.note(features::trial_place, describe(where));
    trials(into, where).try_all(ring.get(), no_ring);
}

} // namespace

void examine_devices(report& into) {
    if (!into.does(features::tun_open)) {
        into.not_tried(features::trial_place, "/dev/net/tun cannot be opened");
        for (const feature* f : all_device_features()) into.not_tried(*f, "there is no /dev/net/tun to open");
        return;
    }
    report found;
    const bool may_create_here = into.does(features::capability) && into.does(features::may_create);
    const std::string trouble = try_in_child(found, [=](report& r) { try_devices(r, may_create_here); });
    for (const finding& f : found.findings()) into.add(f);
    for (const feature* f : all_device_features())
        if (found.find(*f) == nullptr) into.not_tried(*f, "the trial of devices ended before: " + trouble);
}

} // namespace cotun::command
