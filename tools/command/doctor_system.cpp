// SPDX-License-Identifier: Apache-2.0
//
// What can be read without trying: the device node, the namespaces, the sysctls, the limits.
#include "doctor.hpp"
#include "features.hpp"
#include "system_files.hpp"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/nsfs.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace cotun::command {
namespace {

constexpr const char* clone_device = "/dev/net/tun";

// Numbers that the kernel gives the namespaces it starts with (enum init_ns_ino of linux/nsfs.h; PROC_USER_INIT_INO).
constexpr ino_t first_user_namespace = 0xEFFFFFFDU;
constexpr ino_t first_pid_namespace = 0xEFFFFFFCU;

ino_t number_of(const char* path) {
    struct stat s {};
    return ::stat(path, &s) == 0 ? s.st_ino : 0;
}

std::string limit_text(rlim_t limit) { return limit == RLIM_INFINITY ? "unlimited" : std::to_string(limit); }

// Why something looks like a container; empty: nothing does.
std::string container_signs() {
    if (::access("/.dockerenv", F_OK) == 0) return "Docker (/.dockerenv)";
    if (::access("/run/.containerenv", F_OK) == 0) return "Podman (/run/.containerenv)";
    const std::string environment = contents_of("/proc/1/environ");
    for (std::size_t at = 0; at < environment.size(); at = environment.find('\0', at) + 1) {
        if (environment.compare(at, 10, "container=") == 0)
            return fmt::format("the first process says {}", environment.c_str() + at);
        if (environment.find('\0', at) == std::string::npos) break;
    }
    const ino_t processes = number_of("/proc/self/ns/pid");
    if (processes != 0 && processes != first_pid_namespace) return "a process namespace of its own";
    return {};
}

// Which user namespace owns this network namespace, as seen from this process's.
std::string owner_of_network() {
    const int network = ::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (network < 0) return "";
    const int owner = ::ioctl(network, NS_GET_USERNS);
    const int error = errno;
    ::close(network);
    if (owner < 0)
        return error == EPERM ? ", owned by a user namespace above this one: capabilities here say nothing about it"
                              : "";
    struct stat s {};
    const bool known = ::fstat(owner, &s) == 0;
    ::close(owner);
    if (!known) return "";
    return s.st_ino == number_of("/proc/self/ns/user")
               ? ", owned by this user namespace"
               : fmt::format(", owned by the user namespace {}, below this one", s.st_ino);
}

void note_sysctl(report& into, const feature& f, const std::string& name) {
    const auto value = first_line_of("/proc/sys/net/core/" + name);
    // Those of a network namespace below the first are not all there.
    into.note(f, value ? *value : "not to be seen in this network namespace");
}

void note_buffer_bound(report& into, const feature& f, const std::string& name) {
    constexpr unsigned long fast = 4UL << 20; // a burst of 64 KiB superpackets, and time to be scheduled
    const auto value = first_line_of("/proc/sys/net/core/" + name);
    if (!value) return into.note(f, "not to be seen in this network namespace");
    const bool small = std::strtoul(value->c_str(), nullptr, 10) < fast;
    into.note(f, *value + (small ? "; socket buffers beyond are cut to it (but not with CAP_NET_ADMIN)" : ""),
              small ? fmt::format("for fast links: `sysctl -w net.core.{}={}`", name, fast) : "");
}

} // namespace

void examine_node(report& into) {
    struct stat s {};
    if (::stat(clone_device, &s) != 0) {
        into.missing(features::tun_node, "there is none: " + describe_error(errno));
        return into.not_tried(features::tun_open, "there is no device node");
    }
    const auto owner = fmt::format("mode {:04o}, user {}, group {}", s.st_mode & 07777U, s.st_uid, s.st_gid);
    if (!S_ISCHR(s.st_mode) || s.st_rdev != makedev(10, 200)) {
        into.missing(features::tun_node,
                     S_ISCHR(s.st_mode) ? fmt::format("character device {}:{}", major(s.st_rdev), minor(s.st_rdev))
                                        : "it is no character device",
                     "remove it, then `mknod /dev/net/tun c 10 200`; in a container, hand it in (--device "
                     "/dev/net/tun)");
        return into.not_tried(features::tun_open, "it is not the TUN driver's");
    }
    into.works(features::tun_node, owner);
    const int opened = ::open(clone_device, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (opened >= 0) {
        ::close(opened);
        return into.works(features::tun_open);
    }
    const int error = errno;
    std::string remedy;
    if (error == ENXIO || error == ENODEV || error == ENOENT) remedy = "`modprobe tun`: the kernel has no TUN driver";
    if (error == EPERM)
        remedy = "the container's device rules forbid it: hand it in (--device /dev/net/tun), not just its node";
    into.missing(features::tun_open, describe_error(error), remedy);
}

void examine_surroundings(report& into) {
    const std::string signs = container_signs();
    into.note(features::container, signs.empty() ? "no sign of one" : signs);
    const ino_t user = number_of("/proc/self/ns/user");
    into.note(features::user_namespace,
              user == 0 ? "the kernel has none"
                        : fmt::format("{}{}", user, user == first_user_namespace ? ", the first" : ", not the first"));
    into.note(features::net_namespace, fmt::format("{}{}", number_of("/proc/self/ns/net"), owner_of_network()));
}

void examine_ring_policy(report& into) {
    const auto disabled = first_line_of("/proc/sys/kernel/io_uring_disabled");
    const auto group = first_line_of("/proc/sys/kernel/io_uring_group");
    if (!disabled)
        into.works(features::ring_sysctl, "there is no such switch");
    else if (*disabled == "0")
        into.works(features::ring_sysctl, "0: for everybody");
    else if (*disabled == "1")
        into.note(features::ring_sysctl,
                  "1: for CAP_SYS_ADMIN" + (group && *group != "-1" ? " and the group " + *group : ", no group set"),
                  "join the group in kernel.io_uring_group, or `sysctl -w kernel.io_uring_disabled=0`");
    else
        into.missing(features::ring_sysctl, *disabled + ": for nobody");

    const auto mode = status_of("Seccomp");
    const auto filters = status_of("Seccomp_filters");
    if (!mode) return into.note(features::seccomp, "/proc/self/status does not tell");
    if (*mode == "0") return into.works(features::seccomp, "no filter");
    into.note(features::seccomp, fmt::format("mode {}, filters: {}; what they let through is tried below", *mode,
                                             filters.value_or("not told")));
}

void examine_bounds(report& into) {
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    const bool few = files.rlim_cur < 1024;
    into.note(features::open_files,
              fmt::format("{} (hard: {})", limit_text(files.rlim_cur), limit_text(files.rlim_max)),
              few ? "raise `ulimit -n`" : "");
    note_buffer_bound(into, features::rmem_max, "rmem_max");
    note_buffer_bound(into, features::wmem_max, "wmem_max");
    note_sysctl(into, features::rmem_default, "rmem_default");
    note_sysctl(into, features::wmem_default, "wmem_default");
    note_sysctl(into, features::backlog, "netdev_max_backlog");
}

} // namespace cotun::command
