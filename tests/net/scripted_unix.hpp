// SPDX-License-Identifier: Apache-2.0
//
// Unix datagrams and seqpackets over the scripted driver. The sockets are real, and nothing is sent by them: what they
// would send the driver keeps.
#pragma once

#include <cotun/net/unix.hpp>
#include <cotun/net/unix_datagram.hpp>
#include <cotun/net/unix_seqpacket.hpp>

#include "../support/scripted_port.hpp"
#include "unix_peers.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>
#include <vector>

namespace cotun::test {

// The answer's descriptor is one of this program's: whoever takes the message has it.
inline std::vector<std::byte> passing(int descriptor) {
    std::vector<std::byte> control(CMSG_LEN(sizeof descriptor));
    cmsghdr head{};
    head.cmsg_len = control.size();
    head.cmsg_level = SOL_SOCKET;
    head.cmsg_type = SCM_RIGHTS;
    std::memcpy(control.data(), &head, sizeof head);
    std::memcpy(control.data() + CMSG_LEN(0), &descriptor, sizeof descriptor);
    return control;
}

inline std::vector<unique_fd> one_file() {
    std::vector<unique_fd> all;
    all.push_back(unique_fd::duplicate_of(STDERR_FILENO));
    return all;
}

inline int new_descriptor() { return unique_fd::duplicate_of(STDERR_FILENO).release(); }

// A datagram socket, and another that is bound to a name.
class datagrams {
public:
    explicit datagrams(rig& r, read_mode mode)
        : peer_(SOCK_DGRAM, directory_.file("peer"), ""),
          socket(open_unix_datagram(r.io, {.peer = directory_.file("peer"), .descriptors = 4, .read = mode})),
          name(directory_.file("peer")) {}

private:
    ::test::directory directory_;
    ::test::plain_socket peer_;

public:
    unix_datagram socket;
    const std::string name;
};

template <class Socket, class Connecting>
task<> keep(Connecting connecting, std::optional<Socket>& into) {
    Socket made = co_await std::move(connecting);
    into.emplace(std::move(made));
}

// Has the kernel of the test answer a connect; gives the connection.
template <class Socket, class Connecting>
Socket let_connect(rig& r, Connecting connecting) {
    std::optional<Socket> made;
    r.io.spawn(keep(std::move(connecting), made));
    r.settle();
    const auto of_connect = [](const auto& q) { return q.what == ring::scripted::kind::connect; };
    const auto request = std::find_if(r.kernel.in_flight.begin(), r.kernel.in_flight.end(), of_connect);
    REQUIRE(request != r.kernel.in_flight.end());
    r.kernel.complete(request->name, 0);
    r.settle();
    REQUIRE(made);
    return std::move(*made);
}

// One end of a connection that the kernel of the test has made.
struct connection {
    connection(rig& r, read_mode mode)
        : socket(let_connect<unix_seqpacket>(
              r, connect_unix_seqpacket(r.io, "@nobody", {.descriptors = 4, .read = mode}))) {}
    unix_seqpacket socket;
};

// The same of a stream.
struct stream_connection {
    explicit stream_connection(rig& r, unsigned descriptors = 4)
        : socket(let_connect<unix_stream>(r, connect_unix(r.io, "@nobody", {.descriptors = descriptors}))) {}
    unix_stream socket;
};

} // namespace cotun::test
