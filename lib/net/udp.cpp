// SPDX-License-Identifier: Apache-2.0
#include <cotun/net/udp.hpp>

#include "io/fail.hpp"
#include "io/inbox.hpp"
#include "io/outbox.hpp"
#include "io/packet_port.hpp"
#include "io/reactor_core.hpp"
#include "net/sockaddr.hpp"
#include "ring/kernel.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

namespace cotun {
namespace detail {
namespace {

using ring::kernel::recvmsg_out;

// A filled buffer holds the kernel's header, the sender's address, and the payload, each at a fixed place; reading
// without a multishot lays it out alike.
constexpr std::size_t name_offset = sizeof(recvmsg_out);
constexpr std::size_t name_size = sizeof(sockaddr_in6);
constexpr std::size_t payload_offset = name_offset + name_size;

int make_socket(const udp_options& options, int family) {
    const int descriptor = ::socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0)
        fail(errno,
             family == AF_INET6 ? "open_udp: an IPv6 socket (is IPv6 switched off?)" : "open_udp: an IPv4 socket");
    const auto set = [descriptor](int level, int name, int value) {
        return setsockopt(descriptor, level, name, &value, sizeof value) == 0;
    };
    if (family == AF_INET6) set(IPPROTO_IPV6, IPV6_V6ONLY, options.v6_only ? 1 : 0);
    if (options.reuse_address) set(SOL_SOCKET, SO_REUSEADDR, 1);
    if (options.broadcast) set(SOL_SOCKET, SO_BROADCAST, 1);
    const auto bytes = [](unsigned value) { return static_cast<int>(std::min(value, 1U << 30)); };
    if (options.receive_buffer != 0 && !set(SOL_SOCKET, SO_RCVBUFFORCE, bytes(options.receive_buffer)))
        set(SOL_SOCKET, SO_RCVBUF, bytes(options.receive_buffer));
    if (options.send_buffer != 0 && !set(SOL_SOCKET, SO_SNDBUFFORCE, bytes(options.send_buffer)))
        set(SOL_SOCKET, SO_SNDBUF, bytes(options.send_buffer));
    return descriptor;
}

constexpr const char* scope_is_missing = "a link-local address needs its interface, as in [fe80::1%eth0]:5000";

void bind_socket(int descriptor, const endpoint& local, bool as_v6) {
    const socket_address address = to_sockaddr(local, as_v6);
    if (::bind(descriptor, address.get(), address.size) == 0) return;
    const int error = errno;
    const char* why = error == EADDRINUSE      ? "another socket has the port: choose another, or 0 for any"
                      : error == EADDRNOTAVAIL ? "no interface of this network namespace has the address"
                      : error == EACCES        ? "ports below 1024 need CAP_NET_BIND_SERVICE"
                      : error == EINVAL        ? scope_is_missing
                                               : "bind was refused";
    fail(error, fmt::format("open_udp: binding to {}: {}", local.to_string(), why));
}

void connect_socket(int descriptor, const endpoint& peer, bool as_v6) {
    const socket_address address = to_sockaddr(peer, as_v6);
    if (::connect(descriptor, address.get(), address.size) == 0) return;
    const int error = errno;
    const char* why = error == ENETUNREACH || error == EHOSTUNREACH ? "there is no route to it"
                      : error == EAFNOSUPPORT ? "the socket is of the other family: bind it to an address of the peer's"
                      : error == EACCES       ? "a broadcast address needs udp_options::broadcast"
                      : error == EINVAL       ? scope_is_missing
                                              : "connect was refused";
    fail(error, fmt::format("UDP socket: connecting to {}: {}", peer.to_string(), why));
}

int family_of(const udp_options& options) {
    const std::optional<endpoint>& decides = options.local ? options.local : options.peer;
    return decides && decides->address().unmapped().is_v6() ? AF_INET6 : AF_INET;
}

} // namespace

class udp_inbox final : public inbox {
public:
    udp_inbox(packet_port& port, reactor_core& core, size_class c, read_mode mode)
        : inbox(port, core, c, mode, ring::feature::receive_multishot) {
        shape_.msg_namelen = name_size;
    }

    /// A refusal that was found otherwise than by a read.
    void count_refusal() noexcept { ++statistics_.refused; }

private:
    void arm(ring::token request, std::uint16_t group) override {
        core().driver().receive_multishot(request, port().file(), shape_, group);
    }

    bool place(packet_slot& slot, std::int32_t result) override {
        const std::span<const std::byte> space = core().pool().space(slot);
        const auto filled = static_cast<std::size_t>(result);
        recvmsg_out head{};
        if (filled < payload_offset || filled > space.size()) return false;
        std::memcpy(&head, space.data(), sizeof head);
        if ((head.flags & MSG_TRUNC) != 0) {
            ++statistics_.truncated;
            return false;
        }
        slot.origin_size = static_cast<std::uint8_t>(std::min<std::size_t>(head.name_size, name_size));
        std::memcpy(slot.origin.data(), space.data() + name_offset, slot.origin_size);
        slot.offset = core().pool().headroom() + static_cast<std::uint32_t>(payload_offset);
        slot.size = static_cast<std::uint32_t>(filled - payload_offset);
        return true;
    }

    ssize_t read_now(packet_slot& slot) override {
        const std::span<std::byte> space = core().pool().space(slot);
        iovec payload{space.data() + payload_offset, space.size() - payload_offset};
        msghdr message{};
        message.msg_name = space.data() + name_offset;
        message.msg_namelen = name_size;
        message.msg_iov = &payload;
        message.msg_iovlen = 1;
        const ssize_t result = core().driver().receive_now(port().file(), message);
        if (result < 0) return result;
        recvmsg_out head{};
        head.name_size = message.msg_namelen;
        head.payload_size = static_cast<std::uint32_t>(result);
        head.flags = static_cast<std::uint32_t>(message.msg_flags);
        std::memcpy(space.data(), &head, sizeof head);
        return result + static_cast<ssize_t>(payload_offset);
    }

    msghdr shape_{};
};

// Sends go out unlinked and in order. The kernel takes a datagram at once as long as less than the send buffer is in
// use (sock_alloc_send_pskb), and would let a later one overtake one that has to wait; so none is submitted that would
// have to. Fragments after the first do not wait: if with them more than twice the buffer is in use, the whole datagram
// fails (__ip_append_data); so one that might is submitted only when nothing is in use, and fails then if it never
// fits. What is in use is estimated from above, and asked for (SIOCOUTQ) when the estimate says that there is no room.
class udp_outbox final : public outbox {
public:
    udp_outbox(packet_port& port, reactor_core& core, udp_inbox& reader, int descriptor, bool v6)
        : outbox(port, core), reader_(reader), v6_(v6), messages_(usual_window), poll_(*this), pause_(*this) {
        socklen_t size = sizeof send_buffer_;
        getsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &send_buffer_, &size);
    }

    bool v6() const noexcept { return v6_; }

private:
    struct message {
        msghdr header{};
        iovec payload{};
    };

    // The wait for room in the send buffer.
    struct room_poll final : ring::request_owner {
        explicit room_poll(udp_outbox& o) noexcept : of(o) {}
        void on_completion(std::uint32_t, const ring::completion& done) override { of.polled(done.result); }
        udp_outbox& of;
        ring::token request = 0;
    };

    // The same where a poll would not wait.
    struct room_pause final : timer {
        explicit room_pause(udp_outbox& o) noexcept : of(o) {}
        void on_time() override { of.room_again(); }
        udp_outbox& of;
    };
    static constexpr std::chrono::milliseconds pause_time{1};

    // What the kernel may charge for a datagram (skb->truesize): headers and shared info, and up to twice the size. A
    // datagram larger than the path's MTU is charged so for each fragment; 1 KiB is less than any MTU's payload.
    static std::size_t charge(std::size_t size) noexcept { return 2 * size + 1280 * (1 + size / 1024); }

    void transmit(ring::token request, std::size_t place, packet_slot& slot) override {
        submitted_charge_ += charge(slot.size);
        std::byte* const begin = slot.base + slot.offset;
        if (slot.origin_size == 0) return core().driver().send(request, port().file(), {begin, slot.size});
        message& m = messages_[place];
        m.payload = {begin, slot.size};
        m.header = msghdr{};
        m.header.msg_name = slot.origin.data();
        m.header.msg_namelen = slot.origin_size;
        m.header.msg_iov = &m.payload;
        m.header.msg_iovlen = 1;
        core().driver().send_message(request, port().file(), m.header);
    }

    bool admits(std::size_t size) override {
        if (poll_.request != 0 || pause_.armed()) return false;
        const std::size_t needed = charge(size);
        if (!has_room_for(needed)) ask();
        if (has_room_for(needed)) {
            in_use_ += needed;
            return true;
        }
        if (in_flight_ == 0) await_send_buffer(); // else a completion brings us back
        return false;
    }

    bool has_room_for(std::size_t needed) const noexcept {
        return in_use_ == 0 || (in_use_ < limit() && in_use_ + needed <= 2 * limit());
    }

    void left(std::size_t size) noexcept override { submitted_charge_ -= std::min(submitted_charge_, charge(size)); }

    std::size_t limit() const noexcept { return static_cast<std::size_t>(send_buffer_); }

    void ask() {
        const ssize_t unsent = core().driver().unsent_bytes(port().file());
        in_use_ = (unsent < 0 ? 0 : static_cast<std::size_t>(unsent)) + submitted_charge_;
    }

    // POLLOUT comes when less than half of the buffer is in use; nothing tells of less.
    void await_send_buffer() {
        if (in_use_ < limit() / 2) return pause();
        poll_.request = core().begin(poll_, 0, true);
        ++in_flight_;
        core().driver().poll(poll_.request, port().file(), POLLOUT, false);
    }

    void pause() { core().arm_reserved(pause_, core().driver().now() + pause_time); }

    // An error that waits on the socket ends every poll at once, and the reader that would take it may have ended or
    // have no buffer.
    void polled(std::int32_t events) {
        poll_.request = 0;
        --in_flight_;
        if (events > 0 && (events & POLLERR) != 0 && core().driver().take_error(port().file()) != 0)
            reader_.count_refusal();
        if (events > 0 && (events & POLLOUT) != 0)
            room_again();
        else if (failure() == 0)
            pause();
        port().progress();
    }

    void room_again() {
        in_use_ = limit(); // ask
        retry();
    }

    void cancel_own() noexcept override {
        core().disarm(pause_);
        if (poll_.request != 0) core().driver().cancel(poll_.request);
    }

    udp_inbox& reader_;
    bool v6_;
    int send_buffer_ = 0;
    std::size_t in_use_ = 0;           // estimate, not below the truth
    std::size_t submitted_charge_ = 0; // of what is with the kernel and not completed
    std::vector<message> messages_;
    room_poll poll_;
    room_pause pause_;
};

class udp_port final : public packet_port {
public:
    udp_port(reactor_core& core, int descriptor, const udp_options& options)
        : packet_port(core, descriptor),
          peer_(options.peer),
          inbox_(*this, core, core.pool().class_for(options.largest_datagram + payload_offset), options.read),
          outbox_(*this, core, inbox_, descriptor, family_of(options) == AF_INET6) {
        open();
    }

    endpoint local() const {
        socket_address address;
        address.size = sizeof(sockaddr_in6);
        if (getsockname(descriptor(), reinterpret_cast<sockaddr*>(address.bytes.data()), &address.size) < 0) return {};
        return from_sockaddr({address.bytes.data(), address.size});
    }

    void connect(const endpoint& peer) {
        connect_socket(descriptor(), peer, outbox_.v6());
        peer_ = peer;
    }
    const std::optional<endpoint>& peer() const noexcept { return peer_; }
    bool v6() const noexcept { return outbox_.v6(); }

    std::string describe() const override {
        return peer_ ? fmt::format("UDP socket {} to {}", local().to_string(), peer_->to_string())
                     : fmt::format("UDP socket {}", local().to_string());
    }
    std::string explain(int error) const override {
        switch (error) {
        case ECANCELED: return "the socket was closed by this program";
        case EDESTADDRREQ: return "no peer: connect(), or use send_to()";
        case EMSGSIZE: return "the datagram is larger than the path allows (65,507 bytes over IPv4)";
        case ECONNREFUSED: return "nobody listens at the peer, as it said to an earlier datagram";
        case ENOBUFS:
            return "the send buffer cannot hold all fragments of the datagram: raise udp_options::send_buffer (or the "
                   "kernel is out of memory)";
        case EACCES: return "a broadcast address needs udp_options::broadcast";
        case EPERM: return "a firewall of this machine forbids it";
        case ENETUNREACH:
        case EHOSTUNREACH: return "there is no route to the address, or its link does not answer";
        case EAFNOSUPPORT: return "an IPv4 socket cannot send to IPv6 addresses: bind it to [::], which reaches both";
        case EINVAL: return "port 0, or multishot receiving was asked for and is not there";
        default: return "the kernel refused";
        }
    }
    inbox& in() noexcept override { return inbox_; }
    outbox& out() noexcept override { return outbox_; }

private:
    std::optional<endpoint> peer_;
    udp_inbox inbox_;
    udp_outbox outbox_;
};

namespace {

void address_to(const packet& p, const socket_address& to) noexcept {
    packet_slot* slot = packet_pool::look(p);
    if (slot == nullptr) return;
    slot->origin = to.bytes;
    slot->origin_size = static_cast<std::uint8_t>(to.size);
}

// A packet that came from one peer is not sent back to it because of that.
void address_to_peer(const packet& p) noexcept {
    if (packet_slot* slot = packet_pool::look(p)) slot->origin_size = 0;
}

} // namespace
} // namespace detail

endpoint sender(const packet& received) noexcept { return detail::from_sockaddr(received.origin()); }

udp_socket::udp_socket(detail::udp_port* port) noexcept : port_(port) { port_->hold(); }
udp_socket::udp_socket(udp_socket&& other) noexcept : port_(std::exchange(other.port_, nullptr)) {}
udp_socket& udp_socket::operator=(udp_socket&& other) noexcept {
    if (this != &other) {
        reset();
        port_ = std::exchange(other.port_, nullptr);
    }
    return *this;
}
udp_socket::~udp_socket() { reset(); }

void udp_socket::reset() noexcept {
    if (port_ == nullptr) return;
    port_->close_now();
    std::exchange(port_, nullptr)->drop();
}

detail::udp_port& udp_socket::port() const noexcept {
    assert(port_ != nullptr && "the socket was moved from");
    return *port_;
}

endpoint udp_socket::local() const { return port().local(); }
std::optional<endpoint> udp_socket::peer() const noexcept { return port().peer(); }
void udp_socket::connect(const endpoint& peer) { port().connect(peer); }
bool udp_socket::uses_multishot() const noexcept { return port().in().uses_multishot(); }
receive_operation udp_socket::receive() noexcept { return receive_operation(port().in()); }
read_packets_operation udp_socket::receive_packets() noexcept { return read_packets_operation(port().in()); }

write_packet_operation udp_socket::send(packet payload) noexcept {
    detail::address_to_peer(payload);
    return {port().out(), std::move(payload)};
}

write_packets_operation udp_socket::send_packets(packet_batch payloads) noexcept {
    for (const packet& p : payloads) detail::address_to_peer(p);
    return {port().out(), std::move(payloads)};
}

write_packet_operation udp_socket::send_to(packet payload, const endpoint& to) noexcept {
    detail::address_to(payload, detail::to_sockaddr(to, port().v6()));
    return {port().out(), std::move(payload)};
}

write_packets_operation udp_socket::send_packets_to(packet_batch payloads, const endpoint& to) noexcept {
    const detail::socket_address address = detail::to_sockaddr(to, port().v6());
    for (const packet& p : payloads) detail::address_to(p, address);
    return {port().out(), std::move(payloads)};
}

flush_operation udp_socket::flush() noexcept { return flush_operation(port().out()); }
task<> udp_socket::close() { return detail::packet_port::close(detail::port_reference(&port())); }
read_statistics udp_socket::reads() const noexcept { return port().in().statistics(); }
write_statistics udp_socket::writes() const noexcept { return port().out().statistics(); }

udp_socket open_udp(reactor& io, const udp_options& options) {
    if (options.largest_datagram < 1 || options.largest_datagram > 65535)
        detail::fail(EINVAL,
                     fmt::format("open_udp: largest_datagram is {}; it must be 1 to 65535", options.largest_datagram));
    struct descriptor_guard {
        ~descriptor_guard() {
            if (descriptor >= 0) ::close(descriptor);
        }
        int descriptor;
    } made{detail::make_socket(options, detail::family_of(options))};
    const bool v6 = detail::family_of(options) == AF_INET6;
    if (options.local || !options.peer) detail::bind_socket(made.descriptor, options.local.value_or(endpoint()), v6);
    if (options.peer) detail::connect_socket(made.descriptor, *options.peer, v6);
    udp_socket socket(new detail::udp_port(io.core(), made.descriptor, options));
    made.descriptor = -1;
    return socket;
}

} // namespace cotun
