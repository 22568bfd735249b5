// SPDX-License-Identifier: Apache-2.0
#include "net/unix_address.hpp"

#include "io/fail.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace cotun::detail {
namespace {

constexpr std::size_t path_offset = offsetof(sockaddr_un, sun_path);

bool same_file(const struct stat& a, const struct stat& b) noexcept {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

int try_bind(int descriptor, const unix_address& a) noexcept {
    return ::bind(descriptor, a.get(), a.size) == 0 ? 0 : errno;
}

// Whether the file is a socket that nobody is bound to any more: left by a program that was killed. A socket that is
// bound and does not listen yet refuses connections too; but whatever it is, one of another type is told EPROTOTYPE, so
// that one that carries datagrams is refused (ECONNREFUSED) only where there is none at all.
bool is_left_over(const unix_address& a) noexcept {
    struct stat s {};
    if (::lstat(a.bytes.sun_path, &s) != 0 || !S_ISSOCK(s.st_mode)) return false;
    const unique_fd probe(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return probe && ::connect(probe.get(), a.get(), a.size) != 0 && errno == ECONNREFUSED;
}

// The right to remove what was left over at a path: of several programs that start at once, one could otherwise remove
// what another has just put there. It is the lock of a file beside it, which is there for that long; one that was
// killed with it leaves the file, and no lock.
class takeover {
public:
    explicit takeover(std::string_view path) : beside_(std::string(path) + ".takeover") {
        for (int tries = 0; tries < most_tries; ++tries) {
            unique_fd file(::open(beside_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
            if (!file) return;
            if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            } else if (is_still(file.get())) {
                lock_ = std::move(file);
                return;
            }
        }
    }
    takeover(const takeover&) = delete;
    takeover& operator=(const takeover&) = delete;
    ~takeover() {
        if (lock_) ::unlink(beside_.c_str());
    }
    explicit operator bool() const noexcept { return static_cast<bool>(lock_); }

private:
    static constexpr int most_tries = 1000; // a millisecond each; who has it needs microseconds

    // Not one that its owner has removed meanwhile.
    bool is_still(int file) const noexcept {
        struct stat locked {};
        struct stat there {};
        return ::fstat(file, &locked) == 0 && ::lstat(beside_.c_str(), &there) == 0 && same_file(locked, there);
    }

    std::string beside_;
    unique_fd lock_;
};

// The kernel makes a path's file within bind(2), so what bind(2) finds in its way has its socket, or has lost it.
int bind_in_place_of_dead(int descriptor, const unix_address& a, std::string_view path) {
    const takeover right(path);
    if (!right) return EADDRINUSE;
    const int error = try_bind(descriptor, a);
    if (error != EADDRINUSE || !is_left_over(a) || ::unlink(a.bytes.sun_path) != 0) return error;
    return try_bind(descriptor, a);
}

std::string absolute(std::string_view path) {
    std::error_code none; // there is no way to this directory: then as it is
    std::filesystem::path whole = std::filesystem::absolute(path, none);
    return none ? std::string(path) : whole.string();
}

} // namespace

unix_address unix_address_of(std::string_view name) {
    unix_address a;
    a.bytes.sun_family = AF_UNIX;
    const bool abstract = !name.empty() && name.front() == '@';
    if (name.empty() || name == "@" || (!abstract && name.find('\0') != name.npos))
        fail(EINVAL, "Unix socket: the name is empty, or has a zero byte in it: a path, or an abstract name like "
                     "\"@thing\"");
    if (name.size() >= sizeof a.bytes.sun_path)
        fail(ENAMETOOLONG, fmt::format("Unix socket: \"{}\" has {} bytes; {} are the most", name, name.size(),
                                       sizeof a.bytes.sun_path - 1));
    std::copy(name.begin(), name.end(), a.bytes.sun_path);
    if (abstract) a.bytes.sun_path[0] = '\0';
    a.size = static_cast<socklen_t>(path_offset + name.size() + (abstract ? 0 : 1));
    return a;
}

std::string unix_name_of(std::span<const std::byte> address) {
    if (address.size() <= path_offset) return {};
    std::string name(reinterpret_cast<const char*>(address.data()) + path_offset, address.size() - path_offset);
    if (name.front() == '\0') {
        name.front() = '@';
        return name;
    }
    name.resize(::strnlen(name.data(), name.size()));
    return name.front() == '@' ? "./" + name : name;
}

std::string unix_name_of(int descriptor) {
    sockaddr_un address{};
    socklen_t size = sizeof address;
    if (getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) != 0) return {};
    return unix_name_of({reinterpret_cast<const std::byte*>(&address), std::min<std::size_t>(size, sizeof address)});
}

unique_fd make_unix_socket(int type) {
    unique_fd made(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    if (!made) fail(errno, "Unix socket: out of descriptors or memory (see `ulimit -n`)");
    return made;
}

bound_file::bound_file(std::string absolute_path) : path_(std::move(absolute_path)) {
    struct stat s {};
    if (::lstat(path_.c_str(), &s) != 0) path_.clear(); // somebody has removed it already
    device_ = s.st_dev;
    number_ = s.st_ino;
}

bound_file& bound_file::operator=(bound_file&& other) noexcept {
    if (this != &other) {
        remove();
        process_ = other.process_;
        path_ = std::exchange(other.path_, {});
        device_ = other.device_;
        number_ = other.number_;
    }
    return *this;
}

void bound_file::remove() noexcept {
    const std::string path = std::exchange(path_, {});
    struct stat s {};
    if (path.empty() || process_.forked() || ::lstat(path.c_str(), &s) != 0) return;
    if (s.st_dev == device_ && s.st_ino == number_) ::unlink(path.c_str());
}

// The file is made with the socket's own permissions, less the umask: so it never has more than asked for.
bound_file bind_unix(int descriptor, std::string_view name, unsigned mode, const char* who) {
    const unix_address a = unix_address_of(name);
    if (mode != 0 && a.is_file()) (void)::fchmod(descriptor, mode);
    int error = try_bind(descriptor, a);
    if (error == EADDRINUSE && a.is_file() && is_left_over(a)) error = bind_in_place_of_dead(descriptor, a, name);
    if (error != 0) {
        const char* why = error == EADDRINUSE ? "another program is bound to it, or the file is no socket"
                          : error == ENOENT   ? "there is no such directory"
                          : error == EACCES   ? "the directory may not be written to"
                                              : "bind was refused";
        fail(error, fmt::format("{}: \"{}\": {}", who, name, why));
    }
    if (!a.is_file()) return {};
    bound_file file(absolute(name));
    struct stat s {};
    if (mode == 0 || (::stat(a.bytes.sun_path, &s) == 0 && (s.st_mode & 07777) == mode)) return file;
    if (::chmod(a.bytes.sun_path, mode) != 0) fail(errno, fmt::format("{}: the permissions of \"{}\"", who, name));
    return file;
}

} // namespace cotun::detail
