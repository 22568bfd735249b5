// SPDX-License-Identifier: Apache-2.0
#include "tun/namespace_thread.hpp"

#include "io/fail.hpp"

#include <cerrno>
#include <exception>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <string>
#include <sys/stat.h>
#include <thread>

namespace cotun::detail {

unique_fd open_namespace(std::string_view netns, std::string_view call) {
    const bool is_path = netns.find('/') != std::string_view::npos;
    const std::string path = is_path ? std::string(netns) : fmt::format("/run/netns/{}", netns);
    unique_fd opened(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!opened)
        fail(errno, fmt::format("{}: network namespace {}: make it with `ip netns add {}`, or give the path of one",
                                call, path, netns));
    return opened;
}

bool is_current_namespace(int netns) noexcept {
    struct stat own {
    }, other{};
    return ::stat("/proc/thread-self/ns/net", &own) == 0 && ::fstat(netns, &other) == 0 && own.st_ino == other.st_ino &&
           own.st_dev == other.st_dev;
}

void run_in_namespace(int netns, std::string_view call, const std::function<void()>& body) {
    std::exception_ptr failure;
    std::thread there([&] {
        try {
            if (setns(netns, CLONE_NEWNET) != 0)
                fail(errno,
                     fmt::format("{}: entering a network namespace (needs CAP_SYS_ADMIN in it and here, and a file "
                                 "of /proc/*/ns/net or of `ip netns`)",
                                 call));
            body();
        } catch (...) {
            failure = std::current_exception();
        }
    });
    there.join();
    if (failure) std::rethrow_exception(failure);
}

} // namespace cotun::detail
