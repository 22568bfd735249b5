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
#include <string>

namespace test {

/// Gives up root, for good: in a child.
inline bool become_nobody() { return setgroups(0, nullptr) == 0 && setgid(65534) == 0 && setuid(65534) == 0; }

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

} // namespace test
