// SPDX-License-Identifier: Apache-2.0
//
// Runs the program `cotun` as a user would, in surroundings that a test prepares.
#pragma once

#include "../support/namespace.hpp"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <catch2/catch_test_macros.hpp>

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <vector>

namespace test {

inline std::string quoted(const std::string& word) {
    std::string out = "'";
    for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return out + "'";
}

/// A directory that goes with the object.
class temporary_directory {
public:
    temporary_directory() {
        std::string pattern = std::filesystem::temp_directory_path() / "cotun-test-XXXXXX";
        if (mkdtemp(pattern.data()) == nullptr) throw std::system_error(errno, std::generic_category(), "mkdtemp");
        path_ = pattern;
        std::filesystem::permissions(path_, std::filesystem::perms(0755)); // others, too, run what is in it
    }
    temporary_directory(const temporary_directory&) = delete;
    temporary_directory& operator=(const temporary_directory&) = delete;
    ~temporary_directory() {
        std::error_code none;
        std::filesystem::remove_all(path_, none);
    }
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

/// The program, where everybody can run it: a copy, if a directory on the way is closed to others, as /root is.
inline const std::string& cotun_path() {
    namespace fs = std::filesystem;
    static const temporary_directory copies;
    static const std::string path = [] {
        const char* const told = std::getenv("COTUN_PROGRAM");
        const fs::path program = fs::absolute(told != nullptr ? told : "tools/command/cotun"); // by hand, in the build
        for (fs::path way = program.parent_path(); way != way.root_path(); way = way.parent_path())
            if ((fs::status(way).permissions() & fs::perms::others_exec) == fs::perms::none) {
                fs::copy_file(program, copies / "cotun");
                return copies / "cotun";
            }
        return program.string();
    }();
    return path;
}

/// How a command ended, and what it wrote to each of its streams.
struct told {
    int status = -1;
    std::string output, errors;
};

/// Runs a command line in a child that `prepare`, which returns false where it cannot, has made ready. For what cannot
/// be undone in the test's own process.
template <typename Prepare>
told run_prepared(const std::string& command, Prepare prepare) {
    const temporary_directory here;
    const std::string status = in_child([&]() -> std::string {
        program unread({"true"}); // its descriptors come before the limits that `prepare` may set
        unread.wait();
        std::ofstream(here / "output").close();
        std::ofstream(here / "errors").close();
        std::filesystem::permissions(here / "output", std::filesystem::perms(0666));
        std::filesystem::permissions(here / "errors", std::filesystem::perms(0666));
        if (!prepare()) return std::string("not prepared: ") + std::strerror(errno);
        return std::to_string(
            run("(" + command + ") >" + quoted(here / "output") + " 2>" + quoted(here / "errors")).status);
    });
    const auto contents = [&](const char* name) {
        std::ifstream file(here / name);
        return std::string(std::istreambuf_iterator<char>(file), {});
    };
    if (status.empty() || status.find_first_not_of("0123456789") != std::string::npos)
        throw std::runtime_error("running `" + command + "`: " + status);
    return {std::atoi(status.c_str()), contents("output"), contents("errors")};
}

inline told run_cotun(const std::string& words) {
    return run_prepared(cotun_path() + " " + words, [] { return true; });
}

// --- what surroundings are made of; each returns false, and errno, where it cannot -------------------------------

/// A mount namespace: what is mounted from now on is seen by this process alone, and goes with it.
inline bool private_mounts() {
    return unshare(CLONE_NEWNS) == 0 && mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
}

/// An open device node that everybody may use, in the place of the system's.
inline bool open_device_node() {
    return private_mounts() && mount("tmpfs", "/dev/net", "tmpfs", 0, "mode=755") == 0 &&
           mknod("/dev/net/tun", S_IFCHR | 0666, makedev(10, 200)) == 0 && chmod("/dev/net/tun", 0666) == 0;
}

/// What programs read there, from now on; whatever the system's own value is, it stays.
inline bool pretend_file(const std::string& path, const std::string& contents, const std::string& stand_in) {
    std::ofstream(stand_in) << contents;
    return mount(stand_in.c_str(), path.c_str(), nullptr, MS_BIND, nullptr) == 0;
}

/// Neither this process nor what it starts can have the capability again, root or not.
inline bool without_capability(int number) { return prctl(PR_CAPBSET_DROP, number) == 0; }

/// These system calls answer `error` from now on, as under a container engine's profile.
inline bool refuse_calls(std::initializer_list<long> calls, int error) {
    std::vector<sock_filter> code;
    code.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    for (const long call : calls) {
        code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1));
        code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)));
    }
    code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    const sock_fprog filter{static_cast<unsigned short>(code.size()), code.data()};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

} // namespace test
