// SPDX-License-Identifier: Apache-2.0
//
// Whether this process, or a program that is to be started from it, may make interfaces. Source: capabilities(7).
#include "doctor.hpp"
#include "features.hpp"
#include "system_files.hpp"

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

namespace cotun::command {
namespace {

constexpr std::uint64_t net_admin = std::uint64_t{1} << CAP_NET_ADMIN;

std::uint64_t capabilities(const char* set) {
    const auto text = status_of(set);
    return text ? std::strtoull(text->c_str(), nullptr, 16) : 0;
}

// TUNSETIFF checks the caller's capability before it looks at which kind of interface is asked for: asked for none, it
// answers EINVAL to whoever may make one, and makes nothing. Returns 0: may; or an errno; -1: not told.
int try_to_create() {
    const int tun = ::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (tun < 0) return -1;
    ifreq request{};
    const auto name = fmt::format("cotun-{}", ::getpid()); // at most 13 bytes
    std::memcpy(request.ifr_name, name.c_str(), name.size());
    request.ifr_flags = static_cast<short>(IFF_NO_PI | IFF_TUN_EXCL);
    const int error = ::ioctl(tun, TUNSETIFF, &request) == 0 ? 0 : errno;
    ::close(tun);
    return error == EINVAL ? 0 : error;
}

struct file_capabilities {
    int error = 0; // ENODATA: it has none
    bool effective = false;
    std::uint64_t permitted = 0, inheritable = 0;
    std::uint32_t root = 0; // the user that is root where they count; version 3 alone
};

std::uint32_t number_at(const std::array<unsigned char, 32>& bytes, std::size_t at) {
    std::uint32_t value = 0;
    for (std::size_t i = 4; i-- > 0;) value = value << 8 | bytes[at + i]; // little-endian on every machine
    return value;
}

file_capabilities capabilities_of_file(const std::string& path) {
    std::array<unsigned char, 32> bytes{};
    const ssize_t size = ::getxattr(path.c_str(), "security.capability", bytes.data(), bytes.size());
    file_capabilities found;
    if (size < 0) {
        found.error = errno;
        return found;
    }
    const std::uint32_t magic = number_at(bytes, 0);
    const std::uint32_t revision = magic & VFS_CAP_REVISION_MASK;
    found.effective = (magic & VFS_CAP_FLAGS_EFFECTIVE) != 0;
    found.permitted = number_at(bytes, 4);
    found.inheritable = number_at(bytes, 8);
    if (revision != VFS_CAP_REVISION_1) {
        found.permitted |= std::uint64_t{number_at(bytes, 12)} << 32;
        found.inheritable |= std::uint64_t{number_at(bytes, 16)} << 32;
    }
    if (revision == VFS_CAP_REVISION_3) found.root = number_at(bytes, 20);
    return found;
}

// What stands in the way of a program gaining what its file has; empty: nothing.
std::string hindrance(const std::string& path) {
    struct statvfs mount {};
    if (::statvfs(path.c_str(), &mount) == 0 && (mount.f_flag & ST_NOSUID) != 0)
        return "but it is on a file system mounted nosuid, where they do not count";
    if (status_of("NoNewPrivs").value_or("0") != "0") return "but no_new_privs is set here, so that they do not count";
    if ((capabilities("CapBnd") & net_admin) == 0)
        return "but the bounding set here lacks it, so that the program cannot even be started";
    return {};
}

// Whether the program will have CAP_NET_ADMIN when it is started from here.
bool examine_binary(report& into, const std::string& path) {
    struct stat s {};
    if (::stat(path.c_str(), &s) != 0) {
        into.missing(features::binary, fmt::format("{}: {}", path, describe_error(errno)),
                     "give the path of a program");
        return false;
    }
    const std::string remedy = fmt::format("`setcap cap_net_admin+ep {}`", path);
    if (!S_ISREG(s.st_mode) || (s.st_mode & 0111) == 0) {
        into.missing(features::binary, fmt::format("{}: it is no program", path), "give the path of a program");
        return false;
    }
    const std::string in_the_way = hindrance(path);
    if (s.st_uid == 0 && (s.st_mode & S_ISUID) != 0 && in_the_way.empty()) {
        into.works(features::binary, path + ": set-user-ID root");
        return true;
    }
    const file_capabilities has = capabilities_of_file(path);
    if (has.error != 0) {
        const bool none = has.error == ENODATA || has.error == ENOTSUP;
        into.missing(features::binary, fmt::format("{}: {}", path, none ? "it has none" : describe_error(has.error)),
                     remedy);
        return false;
    }
    const bool permitted = (has.permitted & net_admin) != 0;
    const auto seen = fmt::format("{}: permitted {:#x}, inheritable {:#x}, {}effective{}", path, has.permitted,
                                  has.inheritable, has.effective ? "" : "not ",
                                  has.root != 0 ? fmt::format(", for the namespaces of user {}", has.root) : "");
    if (!permitted || !has.effective) {
        into.missing(features::binary, seen, remedy);
        return false;
    }
    if (!in_the_way.empty()) {
        into.missing(features::binary, seen + "; " + in_the_way,
                     "put it on another file system, or start it where privileges can be gained");
        return false;
    }
    into.works(features::binary, seen);
    return true;
}

} // namespace

void examine_privileges(report& into, const std::optional<std::string>& binary) {
    into.note(features::user, fmt::format("{} (effective {})", ::getuid(), ::geteuid()));
    const std::uint64_t effective = capabilities("CapEff"), bounding = capabilities("CapBnd");
    if ((effective & net_admin) != 0)
        into.works(features::capability, fmt::format("CapEff {:016x}", effective));
    else
        into.missing(features::capability, fmt::format("CapEff {:016x}", effective),
                     (bounding & net_admin) != 0
                         ? std::string(features::may_create.remedy)
                         : "the bounding set lacks it, so that no program started from here can have it: give it to "
                           "what starts this (container engines: --cap-add NET_ADMIN)");
    if ((bounding & net_admin) != 0)
        into.works(features::bounding, fmt::format("CapBnd {:016x}", bounding));
    else
        into.note(features::bounding, fmt::format("it is not there: CapBnd {:016x}", bounding));
    const std::string gains = status_of("NoNewPrivs").value_or("0");
    if (gains == "0")
        into.works(features::no_new_privileges);
    else
        into.note(features::no_new_privileges, "no_new_privs is set: neither set-user-ID nor file capabilities count");

    const bool program_may = binary && examine_binary(into, *binary);
    const int refused = try_to_create();
    if (refused == 0)
        into.works(features::may_create, "tried by TUNSETIFF");
    else if (program_may)
        into.works(features::may_create, "not by this process, but by the program");
    else if (refused < 0)
        into.not_tried(features::may_create, "/dev/net/tun could not be opened");
    else if (refused == EPERM && (effective & net_admin) != 0)
        into.missing(features::may_create,
                     "TUNSETIFF: EPERM, in spite of CAP_NET_ADMIN: the network namespace is not this user namespace's",
                     "make a network namespace in this user namespace (`unshare --net`), or run outside of it");
    else
        into.missing(features::may_create, "TUNSETIFF: " + describe_error(refused));
}

} // namespace cotun::command
