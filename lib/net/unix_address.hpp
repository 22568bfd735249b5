// SPDX-License-Identifier: Apache-2.0
//
// Names of Unix sockets, and sockets bound to them. "@thing" is an abstract name: sun_path begins with a zero byte.
#pragma once

#include <cotun/io/unique_fd.hpp>

#include "ring/process.hpp"

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <sys/types.h>
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

/// A path to which a socket of this program's is bound. Its file is removed with it, if it is the socket's still; the
/// socket is to be open then, so that nobody else's can have the file's number. A child of fork(2) leaves it to its
/// parent.
class bound_file {
public:
    bound_file() noexcept = default;
    /// The file that is there.
    explicit bound_file(std::string absolute_path);
    bound_file(bound_file&& other) noexcept
        : process_(other.process_),
          path_(std::exchange(other.path_, {})),
          device_(other.device_),
          number_(other.number_) {}
    bound_file& operator=(bound_file&& other) noexcept;
    ~bound_file() { remove(); }
    void remove() noexcept;

private:
    ring::process_mark process_;
    std::string path_; // empty: there is none
    dev_t device_ = 0;
    ino_t number_ = 0;
};

/// Binds the socket. A file that a killed program has left is taken over. `mode`: the file's, as chmod(2) has it; 0: as
/// it is. `who`: what errors begin with.
bound_file bind_unix(int descriptor, std::string_view name, unsigned mode, const char* who);

} // namespace cotun::detail
