// SPDX-License-Identifier: Apache-2.0
//
// Running other programs from a test: to their end, or beside it. Whatever was started ends with the test, also when a
// check fails.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace test {

using namespace std::chrono_literals;

/// How long a test waits for what must happen: generous, because the machine may be loaded or emulated.
inline constexpr std::chrono::seconds patience{20};

/// Waits until `condition()` is true; false if it did not become so in time.
template <typename Condition>
bool wait_until(Condition condition, std::chrono::nanoseconds time = patience) {
    const auto until = std::chrono::steady_clock::now() + time;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > until) return false;
        std::this_thread::sleep_for(2ms);
    }
    return true;
}

/// Files that this process has open.
inline std::ptrdiff_t open_files() { return std::distance(std::filesystem::directory_iterator{"/proc/self/fd"}, {}); }

/// A program that runs beside the test, in the network namespace of the thread that starts it. Killed with the object.
class program {
public:
    explicit program(const std::vector<std::string>& words) {
        output_ = memfd_create("output", MFD_CLOEXEC);
        if (output_ < 0) throw std::system_error(errno, std::generic_category(), "memfd_create");
        // The program's own children write to it at the same time: the kernel does not lock the position of a memfd,
        // so that without this they overwrite each other.
        if (fcntl(output_, F_SETFL, O_APPEND) != 0) throw std::system_error(errno, std::generic_category(), "fcntl");
        std::vector<char*> arguments;
        for (const std::string& w : words) arguments.push_back(const_cast<char*>(w.c_str()));
        arguments.push_back(nullptr);
        const pid_t parent = getpid();
        pid_ = fork();
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL); // also when the test program is killed
            if (getppid() != parent) _exit(127);
            const int nothing = open("/dev/null", O_RDONLY);
            if (nothing >= 0) dup2(nothing, 0);
            dup2(output_, 1);
            dup2(output_, 2);
            execvp(arguments[0], arguments.data());
            _exit(127);
        }
        if (pid_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
    }
    program(const program&) = delete;
    program& operator=(const program&) = delete;
    ~program() {
        if (running()) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
        }
        close(output_);
    }

    pid_t pid() const noexcept { return pid_; }
    bool running() {
        if (!status_) {
            int status = 0;
            if (waitpid(pid_, &status, WNOHANG) == pid_)
                status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        return !status_;
    }
    void signal(int number) {
        if (running()) kill(pid_, number);
    }
    /// Its exit status, or 128 and the signal that ended it; -1 if it has not ended in time.
    int wait(std::chrono::nanoseconds time = patience) {
        return wait_until([this] { return !running(); }, time) ? *status_ : -1;
    }
    /// What it has written so far, to either stream.
    std::string output() const {
        std::string all;
        std::array<char, 4096> piece{};
        for (ssize_t size = 0; (size = pread(output_, piece.data(), piece.size(), static_cast<off_t>(all.size()))) > 0;)
            all.append(piece.data(), static_cast<std::size_t>(size));
        return all;
    }

private:
    int output_ = -1;
    pid_t pid_ = -1;
    std::optional<int> status_;
};

struct outcome {
    int status = -1;
    std::string output;
    bool good() const noexcept { return status == 0; }
};

/// Runs a command line of sh(1) to its end.
inline outcome run(const std::string& command, std::chrono::nanoseconds time = 3 * patience) {
    program p({"sh", "-c", command});
    outcome o;
    o.status = p.wait(time);
    o.output = p.output();
    return o;
}

/// The output of a command that must succeed.
inline std::string output_of(const std::string& command) {
    outcome o = run(command);
    if (!o.good()) throw std::runtime_error("`" + command + "` failed: " + o.output);
    return std::move(o.output);
}

inline bool is_installed(const std::string& name) { return run("command -v " + name).good(); }

/// What a forked child that runs `body` writes to its standard error, and whether it aborted.
struct death {
    std::string said;
    bool aborted = false;
};

template <typename Body>
death run_to_death(Body body) {
    const int file = memfd_create("stderr", MFD_CLOEXEC);
    if (file < 0) throw std::system_error(errno, std::generic_category(), "memfd_create");
    const pid_t child = fork();
    if (child == 0) {
        const rlimit none{0, 0};
        setrlimit(RLIMIT_CORE, &none);
        std::signal(SIGABRT, SIG_DFL); // not the test program's own
        dup2(file, STDERR_FILENO);
        body();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    death d;
    d.aborted = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
    std::array<char, 4096> text{};
    const ssize_t size = pread(file, text.data(), text.size(), 0);
    if (size > 0) d.said.assign(text.data(), static_cast<std::size_t>(size));
    close(file);
    return d;
}

/// Runs `body`, which gives back a text, in a forked child, and gives back the text; what it throws as "threw: ...".
/// For what cannot be undone in the test's own process, such as giving up privileges.
template <typename Body>
std::string in_child(Body body) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe2");
    const pid_t child = fork();
    if (child == 0) {
        std::string said;
        try {
            said = body();
        } catch (const std::exception& e) {
            said = std::string("threw: ") + e.what();
        }
        const bool whole = write(ends[1], said.data(), said.size()) == static_cast<ssize_t>(said.size());
        _exit(whole ? 0 : 1);
    }
    close(ends[1]);
    std::string said;
    std::array<char, 4096> piece{};
    for (ssize_t size = 0; (size = read(ends[0], piece.data(), piece.size())) > 0;)
        said.append(piece.data(), static_cast<std::size_t>(size));
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    if (status != 0) said += " (the child ended badly)";
    return said;
}

} // namespace test
