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
#include <cerrno>
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
    const auto bytes = [](unsigned value) { return static_cast<int>(std::min(value, 1U << 30)); };
    if (options.receive_buffer != 0 && !set(SOL_SOCKET, SO_RCVBUFFORCE, bytes(options.receive_buffer)))
        set(SOL_SOCKET, SO_RCVBUF, bytes(options.receive_buffer));
    if (options.send_buffer != 0 && !set(SOL_SOCKET, SO_SNDBUFFORCE, bytes(options.send_buffer)))
        set(SOL_SOCKET, SO_SNDBUF, bytes(options.send_buffer));
    return descriptor;
}

void bind_socket(int descriptor, const endpoint& local) {
    const socket_address address = to_sockaddr(local);
    if (::bind(descriptor, address.get(), address.size) == 0) return;
    const int error = errno;
    const char* why = error == EADDRINUSE      ? "another socket has the port: choose another, or 0 for any"
                      : error == EADDRNOTAVAIL ? "no interface of this network namespace has the address"
                      : error == EACCES        ? "ports below 1024 need CAP_NET_BIND_SERVICE"
                                               : "bind was refused";
    fail(error, fmt::format("open_udp: binding to {}: {}", local.to_string(), why));
}

void connect_socket(int descriptor, const endpoint& peer, bool as_v6) {
    const socket_address address = to_sockaddr(peer, as_v6);
    if (::connect(descriptor, address.get(), address.size) == 0) return;
    const int error = errno;
    const char* why = error == ENETUNREACH || error == EHOSTUNREACH ? "there is no route to it"
                      : error == EAFNOSUPPORT ? "the socket is of the other family: bind it to an address of the peer's"
                                              : "connect was refused";
    fail(error, fmt::format("UDP socket: connecting to {}: {}", peer.to_string(), why));
}

int family_of(const udp_options& options) {
    if (options.local) return options.local->address().is_v6() ? AF_INET6 : AF_INET;
    return options.peer && options.peer->address().is_v6() ? AF_INET6 : AF_INET;
}

} // namespace

class udp_inbox final : public inbox {
public:
    udp_inbox(packet_port& port, reactor_core& core, size_class c, read_mode mode)
        : inbox(port, core, c, mode, ring::feature::receive_multishot) {
        shape_.msg_namelen = name_size;
    }

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
// have to. What is in use is estimated from above, and asked for (SIOCOUTQ) when the estimate says that the buffer is
// full.
class udp_outbox final : public outbox {
public:
    udp_outbox(packet_port& port, reactor_core& core, int descriptor, bool v6)
        : outbox(port, core), v6_(v6), messages_(usual_window), poll_(*this) {
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
        void on_completion(std::uint32_t, const ring::completion&) override { of.room_again(); }
        udp_outbox& of;
        ring::token request = 0;
    };

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
        if (poll_.request != 0) return false;
        if (in_use_ >= limit()) ask();
        if (in_use_ < limit()) {
            in_use_ += charge(size);
            return true;
        }
        if (in_flight_ == 0) await_send_buffer(); // else a completion brings us back
        return false;
    }

    void left(std::size_t size) noexcept override { submitted_charge_ -= std::min(submitted_charge_, charge(size)); }

    std::size_t limit() const noexcept { return static_cast<std::size_t>(send_buffer_); }

    void ask() {
        const ssize_t unsent = core().driver().unsent_bytes(port().file());
        in_use_ = (unsent < 0 ? 0 : static_cast<std::size_t>(unsent)) + submitted_charge_;
    }

    // POLLOUT comes when less than half of the buffer is in use.
    void await_send_buffer() {
        poll_.request = core().begin(poll_, 0, true);
        ++in_flight_;
        core().driver().poll(poll_.request, port().file(), POLLOUT, false);
    }

    void room_again() {
        poll_.request = 0;
        --in_flight_;
        in_use_ = limit(); // ask
        retry();
        port().progress();
    }

    void cancel_own() noexcept override {
        if (poll_.request != 0) core().driver().cancel(poll_.request);
    }

    bool v6_;
    int send_buffer_ = 0;
    std::size_t in_use_ = 0;           // estimate, not below the truth
    std::size_t submitted_charge_ = 0; // of what is with the kernel and not completed
    std::vector<message> messages_;
    room_poll poll_;
};

class udp_port final : public packet_port {
public:
    udp_port(reactor_core& core, int descriptor, const udp_options& options)
        : packet_port(core, descriptor),
          peer_(options.peer),
          inbox_(*this, core, core.pool().class_for(options.largest_datagram + payload_offset), options.read),
          outbox_(*this, core, descriptor, family_of(options) == AF_INET6) {
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
        case ECONNREFUSED: return "nobody listens at the peer";
        case EINVAL: return "an address of the other family, or multishot receiving was asked for and is not there";
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

endpoint udp_socket::local() const { return port_->local(); }
std::optional<endpoint> udp_socket::peer() const noexcept { return port_->peer(); }
void udp_socket::connect(const endpoint& peer) { port_->connect(peer); }
bool udp_socket::uses_multishot() const noexcept { return port_->in().uses_multishot(); }
receive_operation udp_socket::receive() noexcept { return receive_operation(port_->in()); }
read_packets_operation udp_socket::receive_packets() noexcept { return read_packets_operation(port_->in()); }

write_packet_operation udp_socket::send(packet payload) noexcept {
    detail::address_to_peer(payload);
    return {port_->out(), std::move(payload)};
}

write_packets_operation udp_socket::send_packets(packet_batch payloads) noexcept {
    for (const packet& p : payloads) detail::address_to_peer(p);
    return {port_->out(), std::move(payloads)};
}

write_packet_operation udp_socket::send_to(packet payload, const endpoint& to) noexcept {
    detail::address_to(payload, detail::to_sockaddr(to, port_->v6()));
    return {port_->out(), std::move(payload)};
}

write_packets_operation udp_socket::send_packets_to(packet_batch payloads, const endpoint& to) noexcept {
    const detail::socket_address address = detail::to_sockaddr(to, port_->v6());
    for (const packet& p : payloads) detail::address_to(p, address);
    return {port_->out(), std::move(payloads)};
}

flush_operation udp_socket::flush() noexcept { return flush_operation(port_->out()); }
task<> udp_socket::close() { return detail::packet_port::close(detail::port_reference(port_)); }
read_statistics udp_socket::reads() const noexcept { return port_->in().statistics(); }
write_statistics udp_socket::writes() const noexcept { return port_->out().statistics(); }

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
    if (options.local) detail::bind_socket(made.descriptor, *options.local);
    if (options.peer) detail::connect_socket(made.descriptor, *options.peer, detail::family_of(options) == AF_INET6);
    udp_socket socket(new detail::udp_port(io.core(), made.descriptor, options));
    made.descriptor = -1;
    return socket;
}

} // namespace cotun
