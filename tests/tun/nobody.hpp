// SPDX-License-Identifier: Apache-2.0
//
// Being nobody, and a node of the TUN driver's that nobody may open.
#pragma once

#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>

#include "../support/namespace.hpp"
#include "../support/privileges.hpp"

namespace test {

/// Gives up root, for good: in a child. Where there is no other user, who has no capability is nobody enough.
inline bool become_user(uid_t user) {
    if (!has_other_users()) return give_up_capabilities();
    return setgroups(0, nullptr) == 0 && setgid(user) == 0 && setuid(user) == 0;
}
inline bool become_nobody() { return become_user(65534); }

/// A directory with a node of the TUN driver's in it.
class own_node {
public:
    explicit own_node(mode_t mode) {
        if (mkdtemp(directory_.data()) == nullptr || chmod(directory_.c_str(), 0755) != 0)
            SKIP("no temporary directory");
        path_ = directory_ + "/tun";
        if (mknod(path_.c_str(), S_IFCHR | mode, makedev(10, 200)) != 0 || chmod(path_.c_str(), mode) != 0) {
            const int error = errno;
            remove();
            SKIP("no device node can be made here: " << std::strerror(error));
        }
        const int opened = open(path_.c_str(), O_RDWR | O_CLOEXEC);
        if (opened < 0) {
            remove();
            SKIP("device nodes do not work in the temporary directory");
        }
        close(opened);
    }
    own_node(const own_node&) = delete;
    own_node& operator=(const own_node&) = delete;
    ~own_node() { remove(); }
    const std::string& path() const noexcept { return path_; }

private:
    void remove() const {
        unlink(path_.c_str());
        rmdir(directory_.c_str());
    }
    std::string directory_ = "/tmp/cotun-test-XXXXXX";
    std::string path_;
};

/// The path of a node that everybody may open: one of our own, or, where none can be made, the system's, if it is so.
class node_for_all {
public:
    node_for_all() {
        if (geteuid() == 0 && has_other_users()) {
            own_.emplace(0666);
            path_ = own_->path();
            return;
        }
        struct stat s {};
        if (stat(path_.c_str(), &s) != 0 || (s.st_mode & 0006) != 0006)
            SKIP("/dev/net/tun is not for everybody, and no other node can be made in this user namespace");
    }
    const std::string& path() const noexcept { return path_; }

private:
    std::optional<own_node> own_;
    std::string path_ = "/dev/net/tun";
};

} // namespace test
