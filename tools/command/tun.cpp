// SPDX-License-Identifier: Apache-2.0
#include "tun.hpp"

#include "command.hpp"
#include "elsewhere.hpp"

#include "link/netlink.hpp"
#include "tun/interface.hpp"

#include <cotun/tun/device.hpp>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <fmt/format.h>
#include <getopt.h>
#include <grp.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <optional>
#include <pwd.h>
#include <string>
#include <string_view>
#include <sys/ioctl.h>
#include <system_error>
#include <vector>

namespace cotun::command {
namespace {

constexpr const char* usage =
    "Usage: cotun tun add [NAME] [OPTION...]\n"
    "       cotun tun del NAME... [--netns NETNS]\n"
    "       cotun tun show [NAME] [--json] [--netns NETNS]\n"
    "\n"
    "add makes an interface, sets it up, and prints its name. It goes when the command ends (SIGINT, SIGTERM), unless "
    "it\n"
    "is persistent: then the command ends at once. Without a NAME, the kernel chooses it; %d in it becomes a number.\n"
    "\n"
    "      --tap            TAP, for Ethernet frames; otherwise TUN, for IP packets\n"
    "      --address CIDR   an address, with its prefix length (else one host); again for more, up to 16\n"
    "      --mtu BYTES      68 to 65535\n"
    "      --queues N       from 2 on: one that can have several queues. That N can be had at a time is tried; the\n"
    "                       kernel keeps no number, and programs attach as many as they like, up to 256\n"
    "      --persist        it stays until it is deleted\n"
    "      --owner USER     who may attach to it without CAP_NET_ADMIN: a name or a number\n"
    "      --group GROUP    the same\n"
    "      --down           does not set it up\n"
    "      --netns NETNS    in this network namespace: a name as in `ip netns`, or a path\n"
    "\n"
    "del deletes TUN and TAP interfaces, and no others. show tells of one, or of all.\n"
    "\n"
    "Exit status: 0 well, 1 refused, 2 the words given make no sense.\n";

constexpr unsigned most_queues = 256; // MAX_TAP_QUEUES of the TUN driver

struct add_arguments {
    std::string name;
    bool tap = false, persist = false, down = false;
    std::vector<wire::ip_prefix> addresses;
    unsigned mtu = 0, queues = 1;
    std::optional<uid_t> owner;
    std::optional<gid_t> group;
    std::string netns;
};

// What is wrong with the words; caught by tun().
struct usage_error {
    std::string text;
};

unsigned number(std::string_view option, std::string_view text, unsigned least, unsigned most) {
    unsigned value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most)
        throw usage_error{fmt::format("{} takes a number from {} to {}, not '{}'", option, least, most, text)};
    return value;
}

constexpr unsigned largest_id = 0xfffffffe; // -1 means nobody

uid_t user_of(const char* text) {
    if (const passwd* const found = ::getpwnam(text)) return found->pw_uid;
    if (*text < '0' || *text > '9') throw usage_error{fmt::format("there is no user '{}'", text)};
    return number("--owner", text, 0, largest_id);
}

gid_t group_of(const char* text) {
    if (const ::group* const found = ::getgrnam(text)) return found->gr_gid;
    if (*text < '0' || *text > '9') throw usage_error{fmt::format("there is no group '{}'", text)};
    return number("--group", text, 0, largest_id);
}

wire::ip_prefix prefix_of(std::string_view text) {
    const auto parsed = wire::ip_prefix::parse(text);
    if (!parsed) throw usage_error{fmt::format("'{}' is no address with a prefix length, like 10.9.0.1/24", text)};
    return *parsed;
}

add_arguments parse_add(int argc, char** argv) {
    enum { tap = 256, address, mtu, queues, persist, owner, group, down, netns };
    static const option options[]{
        {"tap", no_argument, nullptr, tap},           {"address", required_argument, nullptr, address},
        {"mtu", required_argument, nullptr, mtu},     {"queues", required_argument, nullptr, queues},
        {"persist", no_argument, nullptr, persist},   {"owner", required_argument, nullptr, owner},
        {"group", required_argument, nullptr, group}, {"down", no_argument, nullptr, down},
        {"netns", required_argument, nullptr, netns}, {}};
    add_arguments given;
    for (int c = 0; (c = ::getopt_long(argc, argv, ":", options, nullptr)) != -1;) {
        switch (c) {
        case tap: given.tap = true; break;
        case address: given.addresses.push_back(prefix_of(::optarg)); break;
        case mtu: given.mtu = number("--mtu", ::optarg, 68, 65535); break;
        case queues: given.queues = number("--queues", ::optarg, 1, most_queues); break;
        case persist: given.persist = true; break;
        case owner: given.owner = user_of(::optarg); break;
        case group: given.group = group_of(::optarg); break;
        case down: given.down = true; break;
        case netns: given.netns = ::optarg; break;
        default: throw usage_error{describe_option(c, argv)};
        }
    }
    if (::optind < argc) given.name = argv[::optind++];
    if (::optind < argc) throw usage_error{fmt::format("unexpected '{}'", argv[::optind])};
    if (given.addresses.size() > 16) throw usage_error{"more than 16 addresses"};
    return given;
}

device_options options_of(const add_arguments& given) {
    device_options options;
    options.offload = no_offload; // who attaches to it says what it takes
    options.name = given.name;
    for (const wire::ip_prefix& address : given.addresses) options.addresses.push_back(address);
    options.mtu = given.mtu;
    options.up = !given.down;
    options.netns = given.netns;
    options.multi_queue = given.queues > 1;
    options.owner = given.owner;
    options.group = given.group;
    return options;
}

std::string name_of(const unique_fd& made) {
    ifreq request{};
    if (::ioctl(made.get(), TUNGETIFF, &request) != 0)
        throw std::system_error(errno, std::generic_category(), "cotun: asking the interface for its name");
    return request.ifr_name;
}

// That there can be so many at a time. They go again: a queue that nobody reads would swallow its share of the flows.
void try_queues(const unique_fd& made, unsigned count, std::string_view clone_device) {
    std::vector<unique_fd> queues;
    for (unsigned n = 2; n <= count; ++n) {
        try {
            queues.push_back(detail::open_another_queue(made.get(), clone_device));
        } catch (const std::system_error& refused) {
            throw std::system_error(refused.code().value(), std::generic_category(),
                                    fmt::format("queue {} of {}: {}", n, count, refused.what()));
        }
    }
}

// For the same reason the command's own queue is out of use while it keeps the interface.
void put_aside(const unique_fd& made) {
    ifreq request{};
    request.ifr_flags = IFF_DETACH_QUEUE;
    if (::ioctl(made.get(), TUNSETQUEUE, &request) != 0)
        throw std::system_error(errno, std::generic_category(), "cotun: detaching the command's own queue");
}

int add(int argc, char** argv) {
    const add_arguments given = parse_add(argc, argv);
    const device_options options = options_of(given);
    // Before the interface is there: what comes from now on is not lost.
    sigset_t ends;
    ::sigemptyset(&ends);
    ::sigaddset(&ends, SIGINT);
    ::sigaddset(&ends, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &ends, nullptr);
    const unique_fd made = given.tap ? make_tap(options) : make_tun(options);
    if (given.queues > 1) try_queues(made, given.queues, options.clone_device);
    if (given.persist && ::ioctl(made.get(), TUNSETPERSIST, 1UL) != 0)
        throw std::system_error(errno, std::generic_category(),
                                "cotun: making the interface persistent (TUNSETPERSIST)");
    const std::string name = name_of(made);
    if (given.queues > 1 && !given.persist) put_aside(made);
    const int shown = print(name + "\n");
    if (given.persist || shown != exit_well) return shown;
    int which = 0;
    ::sigwait(&ends, &which);
    return exit_well;
}

int del(int argc, char** argv) {
    enum { netns = 256 };
    static const option options[]{{"netns", required_argument, nullptr, netns}, {}};
    std::string there;
    for (int c = 0; (c = ::getopt_long(argc, argv, ":", options, nullptr)) != -1;) {
        if (c != netns) throw usage_error{describe_option(c, argv)};
        there = ::optarg;
    }
    if (::optind == argc) throw usage_error{"del needs the name of an interface"};
    enter_namespace(there);
    link::netlink_socket netlink;
    int status = exit_well;
    for (int i = ::optind; i < argc; ++i) {
        try {
            const link_info found = netlink.get_link(argv[i]);
            if (!found.tun && found.kind != "tun")
                throw std::system_error(EOPNOTSUPP, std::generic_category(),
                                        fmt::format("cotun: {} is no TUN or TAP device; `ip link delete` deletes "
                                                    "other links",
                                                    argv[i]));
            netlink.delete_link(found.index);
        } catch (const std::system_error& e) { // the others are deleted all the same
            status = complain("tun", e.what());
        }
    }
    return status;
}

} // namespace

int tun(int argc, char** argv) {
    const std::string_view word = argc > 1 ? argv[1] : "";
    if (word == "--help" || word == "-h") return print(usage);
    for (int i = 2; i < argc; ++i)
        if (std::string_view(argv[i]) == "--help") return print(usage);
    try {
        if (word == "add") return add(argc - 1, argv + 1);
        if (word == "del" || word == "delete") return del(argc - 1, argv + 1);
        if (word == "show" || word == "list") return tun_show(argc - 1, argv + 1);
    } catch (const usage_error& wrong) {
        return refuse_usage("tun", wrong.text);
    } catch (const std::exception& e) {
        return complain("tun", e.what());
    }
    return refuse_usage("tun", word.empty() ? "add, del or show?" : fmt::format("no command '{}'", word));
}

} // namespace cotun::command
