// SPDX-License-Identifier: Apache-2.0
#include "net/unix_packet_port.hpp"

#include <cotun/net/unix_message.hpp>

#include "io/fail.hpp"
#include "io/packet_pool.hpp"
#include "io/reactor_core.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <fmt/format.h>
#include <sys/socket.h>
#include <utility>

namespace cotun::detail {

void unix_packet_port::check(const shape& s, const char* who) {
    if (s.largest < 1) fail(EINVAL, fmt::format("{}: the largest message to receive has 0 bytes; give 1 or more", who));
    if (s.descriptors > most_descriptors)
        fail(EINVAL, fmt::format("{}: descriptors is {}; a message carries at most {} (SCM_MAX_FD)", who, s.descriptors,
                                 most_descriptors));
}

size_class unix_packet_port::class_of(reactor_core& core, const shape& s) {
    return core.pool().class_for(s.largest + unix_inbox::payload_offset({s.connected, s.descriptors}));
}

unix_packet_port* unix_packet_port::open(reactor_core& core, unique_fd& descriptor, const shape& s, std::string name) {
    if (s.send_buffer > 0) {
        const int bytes = static_cast<int>(std::min<unsigned>(s.send_buffer, INT_MAX / 2));
        if (setsockopt(descriptor.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) != 0)
            fail(errno, name + ": the size of the send buffer was refused");
    }
    const int on = 1; // the time beside each record: what comes without it is the end
    if (s.connected && setsockopt(descriptor.get(), SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on) != 0)
        fail(errno, name + ": the kernel refuses SO_TIMESTAMP, without which the end cannot be told");
    auto* const made = new unix_packet_port(core, descriptor.get(), s, std::move(name));
    (void)descriptor.release(); // the port's
    return made;
}

unix_packet_port::unix_packet_port(reactor_core& core, int descriptor, const shape& s, std::string name)
    : packet_port(core, descriptor),
      name_(std::move(name)),
      connected_(s.connected),
      inbox_(*this, core, class_of(core, s), s.read, {s.connected, s.descriptors}),
      outbox_(*this, core, s.connected) {
    packet_port::open();
}

std::string unix_packet_port::explain(int error) const {
    switch (error) {
    case ECANCELED: return "the socket was closed by this program";
    case ENODATA: return "the peer has ended the connection";
    case ENOTCONN:
    case EDESTADDRREQ: return "no peer, or it is gone: connect(), or use send_to()";
    case ECONNREFUSED: return "nobody is bound to that name any more";
    case ENOENT: return "there is no such file";
    case EPROTOTYPE: return "the name is that of a socket of another kind (stream, datagram, seqpacket)";
    case EMSGSIZE: return "the message is larger than the send buffer allows: raise send_buffer";
    case EPERM: return "the receiver is connected to another socket";
    case EACCES: return "the permissions of the file do not allow it";
    case ETOOMANYREFS:
        return "more descriptors are on their way, sent and not received, than this program may have open (see `ulimit "
               "-n`)";
    case EPIPE: return "nothing more can be sent: the peer has closed the connection, or shutdown_send() was called";
    case ECONNRESET: return "the peer has closed the connection, with records unread";
    case EINVAL:
        return connected_ ? "a descriptor was not open any more, or multishot receiving was asked for and is not there"
                          : "the name, or a descriptor that is not open any more, or multishot receiving was asked for "
                            "and is not there";
    case ENOBUFS:
    case ENOMEM: return "memory is short";
    default: return "the kernel refused";
    }
}

} // namespace cotun::detail
