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

// One end of a connection that the kernel of the test has made.
class connection {
public:
    explicit connection(rig& r, read_mode mode) : socket(make(r, mode)) {}
    unix_seqpacket socket;

private:
    static task<> connect(reactor& io, read_mode mode, std::optional<unix_seqpacket>& into) {
        unix_seqpacket made = co_await connect_unix_seqpacket(io, "@nobody", {.descriptors = 4, .read = mode});
        into.emplace(std::move(made));
    }
    static unix_seqpacket make(rig& r, read_mode mode) {
        std::optional<unix_seqpacket> made;
        r.io.spawn(connect(r.io, mode, made));
        r.settle();
        const auto of_connect = [](const auto& q) { return q.what == ring::scripted::kind::connect; };
        const auto request = std::find_if(r.kernel.in_flight.begin(), r.kernel.in_flight.end(), of_connect);
        REQUIRE(request != r.kernel.in_flight.end());
        r.kernel.complete(request->name, 0);
        r.settle();
        REQUIRE(made);
        return std::move(*made);
    }
};

// The same of a stream.
class stream_connection {
public:
    explicit stream_connection(rig& r, unsigned descriptors = 4) : socket(make(r, descriptors)) {}
    unix_stream socket;

private:
    static task<> connect(reactor& io, unsigned descriptors, std::optional<unix_stream>& into) {
        unix_stream made = co_await connect_unix(io, "@nobody", {.descriptors = descriptors});
        into.emplace(std::move(made));
    }
    static unix_stream make(rig& r, unsigned descriptors) {
        std::optional<unix_stream> made;
        r.io.spawn(connect(r.io, descriptors, made));
        r.settle();
        const auto of_connect = [](const auto& q) { return q.what == ring::scripted::kind::connect; };
        const auto request = std::find_if(r.kernel.in_flight.begin(), r.kernel.in_flight.end(), of_connect);
        REQUIRE(request != r.kernel.in_flight.end());
        r.kernel.complete(request->name, 0);
        r.settle();
        REQUIRE(made);
        return std::move(*made);
    }
};

} // namespace cotun::test
