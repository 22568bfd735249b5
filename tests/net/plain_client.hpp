// SPDX-License-Identifier: Apache-2.0
//
// TCP clients without the library, and a bound on descriptors.
#pragma once

#include <cotun/net/endpoint.hpp>

#include <cerrno>
#include <netinet/in.h>
#include <string>
#include <sys/resource.h>
#include <sys/socket.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace cotun::test {

/// A plain socket that is connected to the port of `to` on this machine.
class plain_client {
public:
    explicit plain_client(const endpoint& to) : descriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in a{};
        a.sin_family = AF_INET;
        a.sin_port = htons(to.port());
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (::connect(descriptor, reinterpret_cast<const sockaddr*>(&a), sizeof a) != 0)
            throw std::system_error(errno, std::generic_category(), "plain client");
    }
    plain_client(plain_client&& other) noexcept : descriptor(std::exchange(other.descriptor, -1)) {}
    plain_client& operator=(plain_client&&) = delete;
    ~plain_client() { close(); }
    void close() {
        if (descriptor >= 0) ::close(std::exchange(descriptor, -1));
    }
    /// Closes with a reset.
    void reset() {
        const linger now{1, 0};
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        close();
    }
    void send(const std::string& text) { (void)!::write(descriptor, text.data(), text.size()); }
    int descriptor;
};

/// While it lives, descriptors are below `most`, or may be.
struct file_limit {
    explicit file_limit(rlim_t most) {
        getrlimit(RLIMIT_NOFILE, &before);
        rlimit now = before;
        now.rlim_cur = most;
        if (most > now.rlim_max) now.rlim_max = most;
        good = setrlimit(RLIMIT_NOFILE, &now) == 0;
    }
    ~file_limit() { setrlimit(RLIMIT_NOFILE, &before); }
    rlimit before{};
    bool good = false;
};

} // namespace cotun::test
