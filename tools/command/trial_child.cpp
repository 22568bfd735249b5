// SPDX-License-Identifier: Apache-2.0
#include "trial_child.hpp"

#include <cotun/io/unique_fd.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <string_view>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace cotun::command {
namespace {

// A finding on its way: its parts in turn, each behind its length.
void put(std::string& out, std::string_view part) { out += fmt::format("{} {}", part.size(), part); }

std::string packed(const report& all) {
    std::string out;
    for (const finding& f : all.findings()) {
        out += static_cast<char>('0' + static_cast<int>(f.what));
        for (const std::string& part : {f.group, f.name, f.title, f.seen, f.instead, f.remedy}) put(out, part);
    }
    return out;
}

class unpacker {
public:
    explicit unpacker(std::string_view all) : rest_(all) {}
    bool next(finding& f) {
        if (rest_.empty()) return false;
        f.what = static_cast<verdict>(rest_.front() - '0');
        rest_.remove_prefix(1);
        for (std::string* part : {&f.group, &f.name, &f.title, &f.seen, &f.instead, &f.remedy})
            if (!take(*part)) return false;
        return true;
    }

private:
    bool take(std::string& part) {
        std::size_t size = 0;
        while (!rest_.empty() && rest_.front() != ' ') {
            size = 10 * size + static_cast<std::size_t>(rest_.front() - '0');
            rest_.remove_prefix(1);
        }
        if (rest_.size() < size + 1) return false;
        part = rest_.substr(1, size);
        rest_.remove_prefix(size + 1);
        return true;
    }
    std::string_view rest_;
};

[[noreturn]] void be_child(int to, const std::function<void(report&)>& trials) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    report found;
    int status = 0;
    try {
        trials(found);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "cotun doctor: the trial of devices ended early: %s\n", e.what());
        status = 1;
    }
    std::string_view rest;
    const std::string all = packed(found);
    rest = all;
    while (!rest.empty()) {
        const ssize_t written = ::write(to, rest.data(), rest.size());
        if (written < 0 && errno != EINTR) ::_exit(1);
        if (written > 0) rest.remove_prefix(static_cast<std::size_t>(written));
    }
    ::_exit(status);
}

// All that is written until the other end is closed; `late` where it is not in time.
std::string read_all(int from, std::chrono::milliseconds patience, bool& late) {
    const auto until = std::chrono::steady_clock::now() + patience;
    std::string all;
    std::array<char, 4096> piece{};
    for (;;) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
        pollfd waiting{from, POLLIN, 0};
        const int ready = ::poll(&waiting, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
        if (ready < 0 && errno == EINTR) continue;
        late = ready <= 0;
        if (late) return all;
        const ssize_t size = ::read(from, piece.data(), piece.size());
        if (size < 0 && errno == EINTR) continue;
        if (size <= 0) return all;
        all.append(piece.data(), static_cast<std::size_t>(size));
    }
}

} // namespace

std::string try_in_child(report& into, const std::function<void(report&)>& trials, std::chrono::milliseconds patience) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return fmt::format("no pipe: {}", std::strerror(errno));
    const cotun::unique_fd reading(ends[0]);
    cotun::unique_fd writing(ends[1]);
    std::fflush(nullptr); // or the child would write it again
    const pid_t child = ::fork();
    if (child < 0) return fmt::format("no process for it: {}", std::strerror(errno));
    if (child == 0) be_child(writing.get(), trials);
    writing.reset();
    bool late = false;
    const std::string all = read_all(reading.get(), patience, late);
    if (late) ::kill(child, SIGKILL);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    unpacker each(all);
    for (finding f; each.next(f);) into.add(f);
    if (late) return fmt::format("it was not over after {} s", patience.count() / 1000);
    if (WIFSIGNALED(status)) return fmt::format("it was ended by signal {}", WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "" : "it ended early";
}

} // namespace cotun::command
