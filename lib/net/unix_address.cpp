// SPDX-License-Identifier: Apache-2.0
#include "net/unix_address.hpp"

#include "io/fail.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace cotun::detail {
namespace {

constexpr std::size_t path_offset = offsetof(sockaddr_un, sun_path);

// Whether the file is a socket that nobody is bound to any more: left by a program that was killed.
bool is_left_over(const unix_address& a, int type) noexcept {
    struct stat s {};
    if (!a.is_file() || ::lstat(a.bytes.sun_path, &s) != 0 || !S_ISSOCK(s.st_mode)) return false;
    const unique_fd probe(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return probe && ::connect(probe.get(), a.get(), a.size) != 0 && errno == ECONNREFUSED;
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

void bound_file::remove() noexcept {
    if (!path_.empty()) ::unlink(path_.c_str());
    path_.clear();
}

bound_file bind_unix(int descriptor, int type, std::string_view name, unsigned mode, const char* who) {
    const unix_address a = unix_address_of(name);
    std::string path = a.is_file() ? std::string(name) : std::string();
    int error = ::bind(descriptor, a.get(), a.size) == 0 ? 0 : errno;
    if (error == EADDRINUSE && is_left_over(a, type) && ::unlink(a.bytes.sun_path) == 0)
        error = ::bind(descriptor, a.get(), a.size) == 0 ? 0 : errno;
    if (error != 0) {
        const char* why = error == EADDRINUSE ? "another program is bound to it, or the file is no socket"
                          : error == ENOENT   ? "there is no such directory"
                          : error == EACCES   ? "the directory may not be written to"
                                              : "bind was refused";
        fail(error, fmt::format("{}: \"{}\": {}", who, name, why));
    }
    bound_file file(std::move(path));
    if (mode != 0 && a.is_file() && ::chmod(a.bytes.sun_path, mode) != 0)
        fail(errno, fmt::format("{}: the permissions of \"{}\"", who, name));
    return file;
}

} // namespace cotun::detail
