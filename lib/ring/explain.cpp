// SPDX-License-Identifier: Apache-2.0
//
// Why io_uring_setup(2) was refused, in words that name the remedy.
#include "ring/uring.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <fstream>
#include <string>
#include <sys/resource.h>

namespace cotun::ring {
namespace {

std::string first_word_of(const std::string& path) {
    std::ifstream file(path);
    std::string word;
    file >> word;
    return word;
}

bool filtered(const char* proc) {
    std::ifstream status(fmt::format("{}/self/status", proc));
    for (std::string line; std::getline(status, line);)
        if (line.starts_with("Seccomp:")) return line.find_first_of("12") != std::string::npos;
    return false;
}

ring_refusal not_permitted(const char* proc) {
    const std::string disabled = first_word_of(fmt::format("{}/sys/kernel/io_uring_disabled", proc));
    if (disabled == "2")
        return {"io_uring is switched off on this machine (kernel.io_uring_disabled = 2)",
                "`sysctl -w kernel.io_uring_disabled=0`"};
    if (disabled == "1")
        return {"io_uring is kept for privileged processes (kernel.io_uring_disabled = 1)",
                "run with CAP_SYS_ADMIN, join the group in kernel.io_uring_group, or "
                "`sysctl -w kernel.io_uring_disabled=0`"};
    if (filtered(proc))
        return {"a seccomp filter forbids io_uring (container engines do so by default)",
                "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"};
    return {"the kernel or a security module forbids io_uring to this process", ""};
}

ring_refusal no_memory() {
    rlimit limit{};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    return {fmt::format("not enough lockable memory even for the smallest ring (RLIMIT_MEMLOCK is {} KiB)",
                        limit.rlim_cur / 1024),
            "raise `ulimit -l` (container engines: --ulimit memlock), or run with CAP_IPC_LOCK"};
}

} // namespace

ring_refusal refused_ring(int error, const char* proc) {
    switch (error) {
    case EPERM:
    case EACCES: return not_permitted(proc);
    case ENOSYS:
        if (filtered(proc))
            return {"a seccomp filter hides io_uring",
                    "allow io_uring_setup, io_uring_enter and io_uring_register in its profile"};
        return {"this kernel was built without io_uring (CONFIG_IO_URING)", ""};
    case ENOMEM: return no_memory();
    case EMFILE:
    case ENFILE: return {"out of file descriptors", "raise `ulimit -n`"};
    case EINVAL: return {"this kernel lacks a flag that was asked for by name, or is older than Linux 5.19", ""};
    default: return {"refused", ""};
    }
}

std::string explain_refused_ring(int error, const char* proc) {
    const ring_refusal why = refused_ring(error, proc);
    return "reactor: io_uring_setup: " + why.cause + (why.remedy.empty() ? "" : ": " + why.remedy);
}

} // namespace cotun::ring
