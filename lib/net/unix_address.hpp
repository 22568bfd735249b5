// SPDX-License-Identifier: Apache-2.0
//
// Names of Unix sockets, and sockets bound to them. "@thing" is an abstract name: sun_path begins with a zero byte.
#pragma once

#include <cotun/io/unique_fd.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <sys/un.h>
#include <utility>

namespace cotun::detail {

struct unix_address {
    sockaddr_un bytes{};
    socklen_t size = 0;
    const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&bytes); }
    bool is_file() const noexcept { return bytes.sun_path[0] != '\0'; }
};

/// Throws std::errc::invalid_argument and std::errc::filename_too_long.
unix_address unix_address_of(std::string_view name);
/// Of a struct sockaddr_un; "": it has none. A path that begins with '@' is shown as "./@...".
std::string unix_name_of(std::span<const std::byte> address);
/// What the socket is bound to.
std::string unix_name_of(int descriptor);

/// `type`: SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET.
unique_fd make_unix_socket(int type);

/// A path to which a socket of this program's is bound: its file is removed with it.
class bound_file {
public:
    bound_file() noexcept = default;
    bound_file(bound_file&& other) noexcept : path_(std::exchange(other.path_, {})) {}
    bound_file& operator=(bound_file&& other) noexcept {
        if (this != &other) {
            remove();
            path_ = std::exchange(other.path_, {});
        }
        return *this;
    }
    explicit bound_file(std::string path) noexcept : path_(std::move(path)) {}
    ~bound_file() { remove(); }
    void remove() noexcept;
    /// The caller removes it.
    std::string release() noexcept { return std::exchange(path_, {}); }

private:
    std::string path_; // empty: there is none
};

/// Binds the socket. A file that a killed program has left is taken over. `mode`: the file's, as chmod(2) has it; 0: as
/// it is. `who`: what errors begin with.
bound_file bind_unix(int descriptor, int type, std::string_view name, unsigned mode, const char* who);

} // namespace cotun::detail
