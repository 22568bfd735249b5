// SPDX-License-Identifier: Apache-2.0
#include <cotun/link/network_namespace.hpp>

#include "io/fail.hpp"
#include "io/helper_threads.hpp"
#include "link/netns_scope.hpp"

#include <algorithm>
#include <cerrno>
#include <exception>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace cotun {
namespace {

constexpr const char* names_folder = "/run/netns"; // iproute2's
constexpr const char* own_path = "/proc/thread-self/ns/net";

std::string path_of(const netns_reference& which) {
    if (which.process() > 0) return fmt::format("/proc/{}/ns/net", which.process());
    const std::string_view text = which.text();
    if (text.empty()) return own_path;
    return text.find('/') == std::string_view::npos ? fmt::format("{}/{}", names_folder, text) : std::string(text);
}

// Throws unless it is a network namespace; the descriptor of another kind of file would be refused only when it is
// used.
void check_kind(int descriptor, const netns_reference& which, std::string_view call) {
    struct statfs s {};
    if (fstatfs(descriptor, &s) != 0)
        detail::fail(errno, fmt::format("{}: {}: this descriptor is not open", call, which.describe()));
    if (s.f_type != NSFS_MAGIC)
        detail::fail(EINVAL,
                     fmt::format("{}: {} is a file and no namespace (any more): whoever made it has deleted it, "
                                 "or its mount was not kept; make it with `ip netns add`",
                                 call, which.describe()));
    if (ioctl(descriptor, NS_GET_NSTYPE) != CLONE_NEWNET)
        detail::fail(EINVAL, fmt::format("{}: {} is a namespace, but not a network namespace", call, which.describe()));
}

} // namespace

// --- references ----------------------------------------------------------------------------------------------------

netns_reference::netns_reference(const network_namespace& there) noexcept : descriptor_(there.native_handle()) {}

netns_reference netns_reference::of_descriptor(int descriptor) noexcept {
    netns_reference made;
    made.descriptor_ = descriptor;
    return made;
}

netns_reference netns_reference::of_process(pid_t process) noexcept {
    netns_reference made;
    made.process_ = process;
    return made;
}

std::string netns_reference::describe() const {
    if (descriptor_ >= 0) return fmt::format("the network namespace of descriptor {}", descriptor_);
    if (process_ > 0) return fmt::format("the network namespace of process {}", process_);
    if (text_.empty()) return "this thread's network namespace";
    return fmt::format("network namespace {}", path_of(*this));
}

// --- going there ---------------------------------------------------------------------------------------------------

unique_fd link::open_namespace(const netns_reference& which, std::string_view call) {
    if (which.descriptor() >= 0) {
        check_kind(which.descriptor(), which, call);
        return unique_fd::duplicate_of(which.descriptor());
    }
    const std::string path = path_of(which);
    unique_fd opened(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!opened) {
        const int error = errno;
        if (which.process() > 0)
            detail::fail(error, fmt::format("{}: {}: the process has ended, or is another user's (then this needs "
                                            "CAP_SYS_PTRACE)",
                                            call, which.describe()));
        detail::fail(error, fmt::format("{}: {}: make it with `ip netns add {}`, or give the path of one", call,
                                        which.describe(), which.text()));
    }
    check_kind(opened.get(), which, call);
    return opened;
}

bool link::is_current_namespace(int descriptor) noexcept {
    struct stat own {
    }, other{};
    return ::stat("/proc/thread-self/ns/net", &own) == 0 && ::fstat(descriptor, &other) == 0 &&
           own.st_ino == other.st_ino && own.st_dev == other.st_dev;
}

void link::run_in_namespace(int descriptor, std::string_view what, std::string_view call,
                            const std::function<void()>& body) {
    std::exception_ptr failure;
    std::thread there = detail::start_quiet_thread([&] {
        try {
            if (setns(descriptor, CLONE_NEWNET) != 0)
                detail::fail(errno, fmt::format("{}: entering {} (needs CAP_SYS_ADMIN in the user namespace that owns "
                                                "it, and in this program's own)",
                                                call, what));
            body();
        } catch (...) {
            failure = std::current_exception();
        }
    });
    there.join();
    if (failure) std::rethrow_exception(failure);
}

void link::run_in_namespace(const netns_reference& which, std::string_view call, const std::function<void()>& body) {
    if (which.is_here()) {
        body();
        return;
    }
    const unique_fd there = open_namespace(which, call);
    run_in_namespace(there.get(), which.describe(), call, body);
}

void network_namespace::call_in(void (*call)(void*), void* argument) const {
    link::run_in_namespace(native_handle(), netns_reference(*this).describe(), "network_namespace::run_in",
                           [=] { call(argument); });
}

// --- handles -------------------------------------------------------------------------------------------------------

network_namespace network_namespace::current() { return open({}); }

network_namespace network_namespace::open(const netns_reference& which) {
    return network_namespace(link::open_namespace(which, "network_namespace::open"));
}

std::uint64_t network_namespace::inode() const {
    struct stat s {};
    if (fstat(native_handle(), &s) != 0) detail::fail(errno, "network_namespace: this handle was moved from");
    return s.st_ino;
}

namespace {

void unshare_here(const char* call) {
    if (unshare(CLONE_NEWNET) == 0) return;
    const int error = errno;
    detail::fail(error, fmt::format("{}: making a network namespace{}", call,
                                    error == ENOSPC
                                        ? ": there are as many as may be (sysctl user.max_net_namespaces)"
                                        : " needs CAP_SYS_ADMIN: run as root, or in 'unshare --user --map-root-user'"));
}

// On a thread of its own, which is in the namespace and ends in it.
void run_in_new_namespace(const char* call, const std::function<void()>& body) {
    std::exception_ptr failure;
    std::thread there = detail::start_quiet_thread([&] {
        try {
            unshare_here(call);
            body();
        } catch (...) {
            failure = std::current_exception();
        }
    });
    there.join();
    if (failure) std::rethrow_exception(failure);
}

std::string checked_path(std::string_view name, const char* call) {
    if (name.empty() || name.size() > 255 || name == "." || name == ".." || name.find('/') != std::string_view::npos ||
        name.find('\0') != std::string_view::npos)
        detail::fail(EINVAL, fmt::format("{}: the name of a network namespace has 1 to 255 bytes and no '/'", call));
    return fmt::format("{}/{}", names_folder, name);
}

// As ip(8) does: a mount of its own that is shared, so that the names show, and go, in other mount namespaces too. The
// lock is for those who do the same at the same time.
void prepare_folder(const char* call) {
    const auto refuse = [&](const char* step) {
        detail::fail(errno, fmt::format("{}: {} {} (needs CAP_SYS_ADMIN, and a /run that can be written)", call, step,
                                        names_folder));
    };
    if (mkdir(names_folder, 0755) != 0 && errno != EEXIST) refuse("making the folder");
    const unique_fd lock(::open(names_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!lock || flock(lock.get(), LOCK_EX) != 0) refuse("locking");
    if (mount("", names_folder, "none", MS_SHARED | MS_REC, nullptr) == 0) return;
    if (errno != EINVAL) refuse("sharing");
    if (mount(names_folder, names_folder, "none", MS_BIND | MS_REC, nullptr) != 0 ||
        mount("", names_folder, "none", MS_SHARED | MS_REC, nullptr) != 0)
        refuse("mounting");
}

} // namespace

network_namespace network_namespace::create(std::string_view name) {
    constexpr const char* call = "network_namespace::create";
    const std::string path = checked_path(name, call);
    prepare_folder(call);
    const unique_fd file(::open(path.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0));
    if (!file)
        detail::fail(
            errno, fmt::format("{}: {}{}", call, path,
                               errno == EEXIST ? ": the name is taken: choose another, or `ip netns delete` it" : ""));
    unique_fd made;
    try {
        run_in_new_namespace(call, [&] {
            if (mount(own_path, path.c_str(), "none", MS_BIND, nullptr) != 0)
                detail::fail(errno,
                             fmt::format("{}: mounting the new namespace on {} (needs CAP_SYS_ADMIN)", call, path));
            made = link::open_namespace({}, call);
        });
    } catch (...) {
        (void)umount2(path.c_str(), MNT_DETACH);
        (void)unlink(path.c_str());
        throw;
    }
    return network_namespace(std::move(made));
}

network_namespace network_namespace::create_anonymous() {
    constexpr const char* call = "network_namespace::create_anonymous";
    unique_fd made;
    run_in_new_namespace(call, [&] { made = link::open_namespace({}, call); });
    return network_namespace(std::move(made));
}

void network_namespace::remove(std::string_view name) {
    constexpr const char* call = "network_namespace::remove";
    const std::string path = checked_path(name, call);
    const int unmounted = umount2(path.c_str(), MNT_DETACH) == 0 ? 0 : errno; // EINVAL: it is only a file
    if (unlink(path.c_str()) == 0) return;
    const int error = errno == EBUSY && unmounted != 0 ? unmounted : errno;
    const char* help = "";
    if (error == ENOENT) help = ": there is no namespace of that name (`ip netns list`)";
    if (error == EPERM || error == EACCES) help = ": this needs CAP_SYS_ADMIN: run as root";
    detail::fail(error, fmt::format("{}: {}{}", call, path, help));
}

std::vector<std::string> network_namespace::names() {
    std::vector<std::string> all;
    std::error_code none; // no such folder: no names
    for (const auto& entry : std::filesystem::directory_iterator(names_folder, none))
        all.push_back(entry.path().filename());
    std::sort(all.begin(), all.end());
    return all;
}

} // namespace cotun
