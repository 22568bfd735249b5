// SPDX-License-Identifier: Apache-2.0
//
// Network namespaces for tests: nothing that a test makes is seen outside, and all of it goes with the namespace.
// Where there is no root or no TUN driver the test is skipped, with the reason.
#pragma once

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "process.hpp"

namespace test {

/// While it lives, this thread and the commands that it starts are in a fresh network namespace, its loopback up.
class own_namespace {
public:
    own_namespace() {
        if (geteuid() != 0) SKIP("needs root, for a network namespace of its own");
        home_ = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
        if (home_ < 0 || unshare(CLONE_NEWNET) != 0) {
            const int error = errno;
            if (home_ >= 0) close(home_);
            SKIP("no network namespace can be made here: " << std::strerror(error));
        }
        run("ip link set lo up");
    }
    own_namespace(const own_namespace&) = delete;
    own_namespace& operator=(const own_namespace&) = delete;
    ~own_namespace() {
        if (setns(home_, CLONE_NEWNET) != 0) std::terminate(); // the tests that follow would work on the wrong one
        close(home_);
    }

private:
    int home_ = -1;
};

inline const std::string namespace_prefix = "cotun-test-"; // the process's number and a tag follow

/// Deletes the namespaces of test programs that are gone, which is to say that they were killed. Those of programs that
/// run, such as this one, stay.
inline void sweep_namespaces() {
    std::vector<std::string> left;
    std::error_code none; // no such directory: no namespaces
    for (const auto& entry : std::filesystem::directory_iterator("/run/netns", none)) {
        const std::string name = entry.path().filename();
        if (name.rfind(namespace_prefix, 0) != 0) continue;
        const int owner = std::atoi(name.c_str() + namespace_prefix.size());
        if (owner > 0 && kill(owner, 0) != 0 && errno == ESRCH) left.push_back(name);
    }
    for (const std::string& name : left) run("ip netns delete " + name);
}

/// A namespace as `ip netns` makes it, with a name of its own.
class named_namespace {
public:
    explicit named_namespace(const std::string& tag) : name_(namespace_prefix + std::to_string(getpid()) + "-" + tag) {
        if (geteuid() != 0) SKIP("needs root, for a network namespace of its own");
        static std::once_flag first;
        std::call_once(first, sweep_namespaces);
        // A program that was killed may have had our number.
        if (access(path().c_str(), F_OK) == 0) run("ip netns delete " + name_);
        const outcome made = run("ip netns add " + name_ + " && ip -n " + name_ + " link set lo up");
        if (!made.good()) {
            run("ip netns delete " + name_);
            SKIP("no network namespace can be made here: " << made.output);
        }
    }
    named_namespace(const named_namespace&) = delete;
    named_namespace& operator=(const named_namespace&) = delete;
    ~named_namespace() { run("ip netns delete " + name_); }

    const std::string& name() const noexcept { return name_; }
    std::string path() const { return "/run/netns/" + name_; }

    /// Runs `body` in a thread of its own that is in the namespace.
    template <typename Body>
    void inside(Body body) const {
        std::exception_ptr failure;
        std::thread there([&] {
            try {
                enter();
                body();
            } catch (...) {
                failure = std::current_exception();
            }
        });
        there.join();
        if (failure) std::rethrow_exception(failure);
    }

    /// Moves the calling thread there: for threads of a test's own.
    void enter() const {
        const int there = open(path().c_str(), O_RDONLY | O_CLOEXEC);
        const bool moved = there >= 0 && setns(there, CLONE_NEWNET) == 0;
        const int error = errno;
        if (there >= 0) close(there);
        if (!moved) throw std::system_error(error, std::generic_category(), "entering " + path());
    }

private:
    std::string name_;
};

/// Whether there are other users than this one: in a user namespace as of `unshare -Ur` there are none.
inline bool has_other_users() {
    std::ifstream map("/proc/self/uid_map");
    std::uint64_t first = 0, outside = 0, count = 0;
    return map >> first >> outside >> count && count > 65534;
}

inline void need_tun() {
    if (geteuid() != 0) SKIP("needs root");
    const int there = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (there < 0) SKIP("no /dev/net/tun here: " << std::strerror(errno));
    close(there);
}

/// A fresh network namespace, on a machine that has the TUN driver.
class tun_namespace : public own_namespace {
public:
    tun_namespace() { need_tun(); }
};

/// What identifies the network namespace that the calling thread is in.
inline std::pair<dev_t, ino_t> current_namespace() {
    struct stat s {};
    if (stat("/proc/thread-self/ns/net", &s) != 0) throw std::system_error(errno, std::generic_category(), "stat");
    return {s.st_dev, s.st_ino};
}

inline bool has_interface(const std::string& name) { return if_nametoindex(name.c_str()) != 0; }

/// The kernel's counters of an interface in the calling thread's namespace. What a TUN device sends, the program reads.
struct interface_counters {
    unsigned long long received = 0, receive_errors = 0, receive_drops = 0;
    unsigned long long sent = 0, send_errors = 0, send_drops = 0;
};

inline interface_counters counters_of(const std::string& name) {
    std::ifstream file("/proc/thread-self/net/dev");
    for (std::string line; std::getline(file, line);) {
        const std::size_t colon = line.find(':');
        const std::size_t begin = line.find_first_not_of(' ');
        if (colon == std::string::npos || line.substr(begin, colon - begin) != name) continue;
        std::istringstream fields(line.substr(colon + 1));
        unsigned long long skipped = 0;
        interface_counters c;
        fields >> skipped >> c.received >> c.receive_errors >> c.receive_drops;
        for (int i = 0; i < 4; ++i) fields >> skipped;
        fields >> skipped >> c.sent >> c.send_errors >> c.send_drops;
        return c;
    }
    throw std::runtime_error("no interface " + name + " in /proc/net/dev");
}

} // namespace test
