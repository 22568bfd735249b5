// SPDX-License-Identifier: Apache-2.0
//
// UDP and Unix datagrams and seqpackets over io_uring, stopped and destroyed at random times: what was accepted is sent
// once, whole and in order, what was not is not, and descriptors are left nowhere.
#include <cotun/net/udp.hpp>
#include <cotun/net/unix_datagram.hpp>
#include <cotun/net/unix_seqpacket.hpp>

#include "../io/cancel_at_random.hpp"
#include "unix_peers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <arpa/inet.h>
#include <cstring>
#include <memory>
#include <netinet/in.h>
#include <optional>
#include <string>
#include <sys/un.h>
#include <vector>

using namespace cotun;
using namespace cotun::test;
using namespace cotun::test::at_random;
using namespace std::chrono_literals;

namespace {

constexpr unsigned more_than_a_window = 150;

std::vector<unique_fd> two_files() {
    std::vector<unique_fd> all;
    for (int i = 0; i < 2; ++i) all.push_back(unique_fd::duplicate_of(STDERR_FILENO));
    return all;
}

packet numbered_packet(reactor& io, unsigned n) {
    packet p = io.try_allocate(sizeof n);
    if (!p) throw std::runtime_error("no buffer");
    std::memcpy(p.bytes().data(), &n, sizeof n);
    return p;
}

// --- sockets, each with a plain one as its peer --------------------------------------------------------------------

struct udp_ends {
    explicit udp_ends(reactor& io) : peer(bound()), socket(open(io, name_of(peer.fd))) {
        const int much = 4 << 20; // nothing is to be dropped there
        if (setsockopt(peer.fd, SOL_SOCKET, SO_RCVBUFFORCE, &much, sizeof much) != 0)
            setsockopt(peer.fd, SOL_SOCKET, SO_RCVBUF, &much, sizeof much);
    }
    plain peer;
    udp_socket socket;

private:
    static plain bound() {
        const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        sockaddr_in a{};
        a.sin_family = AF_INET;
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (::bind(fd, reinterpret_cast<const sockaddr*>(&a), sizeof a) != 0) FAIL("the peer cannot bind");
        return plain(fd);
    }
    static std::string name_of(int fd) {
        sockaddr_in a{};
        socklen_t size = sizeof a;
        getsockname(fd, reinterpret_cast<sockaddr*>(&a), &size);
        return "127.0.0.1:" + std::to_string(ntohs(a.sin_port));
    }
    static udp_socket open(reactor& io, const std::string& peer) {
        udp_options o;
        o.peer = endpoint::from_string(peer);
        return open_udp(io, o);
    }
};

struct datagram_ends {
    explicit datagram_ends(reactor& io)
        : name(directory_.file("peer")),
          peer(::test::plain_socket(SOCK_DGRAM, name, "").fd.release()),
          socket(open_unix_datagram(io, {.local = directory_.file("here"), .peer = name, .descriptors = 4})) {
        sockaddr_un here{};
        here.sun_family = AF_UNIX;
        directory_.file("here").copy(here.sun_path, sizeof here.sun_path - 1);
        if (::connect(peer.fd, reinterpret_cast<const sockaddr*>(&here), sizeof here) != 0) FAIL("not connected");
    }

private:
    ::test::directory directory_;

public:
    const std::string name;
    plain peer;
    unix_datagram socket;
};

struct seqpacket_ends {
    explicit seqpacket_ends(reactor& io) : seqpacket_ends(io, "@cotun-ends-" + std::to_string(getpid())) {}
    plain peer;
    unix_seqpacket socket;

private:
    seqpacket_ends(reactor& io, const std::string& name) : seqpacket_ends(io, listen(name), name) {}
    seqpacket_ends(reactor& io, plain&& listener, const std::string& name)
        : seqpacket_ends(connected(io, name), listener) {}
    seqpacket_ends(unix_seqpacket&& made, const plain& listener)
        : peer(::accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC)), socket(std::move(made)) {}

    static sockaddr_un address(const std::string& name, socklen_t& size) {
        sockaddr_un a{};
        a.sun_family = AF_UNIX;
        name.copy(a.sun_path, sizeof a.sun_path);
        a.sun_path[0] = '\0';
        size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
        return a;
    }
    static plain listen(const std::string& name) {
        const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        socklen_t size = 0;
        const sockaddr_un a = address(name, size);
        if (::bind(fd, reinterpret_cast<const sockaddr*>(&a), size) != 0 || ::listen(fd, 4) != 0) FAIL("no listener");
        return plain(fd);
    }
    static task<> connect(reactor& io, std::string name, std::optional<unix_seqpacket>& into) {
        unix_seqpacket s = co_await connect_unix_seqpacket(io, name, {.descriptors = 4, .send_buffer = 8192});
        into.emplace(std::move(s));
    }
    static unix_seqpacket connected(reactor& io, const std::string& name) {
        std::optional<unix_seqpacket> made;
        io.run(connect(io, name, made));
        return std::move(*made);
    }
};

// --- operations ----------------------------------------------------------------------------------------------------

template <class Ends>
class receiving final : public subject {
public:
    receiving(reactor& r, bool batch) : subject(r), ends_(r), batch_(batch) {}
    task<> operate() override {
        if (batch_) {
            const packet_batch all = co_await ends_.socket.receive_packets();
            CHECK(all.size() == 1);
        } else {
            const unix_message m = co_await ends_.socket.receive();
            CHECK(m.payload.size() == seven.size());
            CHECK(m.descriptors.size() == 1);
        }
    }
    void answer() override {
        alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
        cmsghdr head{};
        head.cmsg_len = CMSG_LEN(sizeof(int));
        head.cmsg_level = SOL_SOCKET;
        head.cmsg_type = SCM_RIGHTS;
        const int passed = STDERR_FILENO;
        std::memcpy(control.data(), &head, sizeof head);
        std::memcpy(control.data() + CMSG_LEN(0), &passed, sizeof passed);
        std::string text(seven);
        iovec payload{text.data(), text.size()};
        msghdr message{};
        message.msg_iov = &payload;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        if (::sendmsg(ends_.peer.fd, &message, 0) < 0) FAIL("the peer cannot send");
    }

private:
    Ends ends_;
    bool batch_;
};

enum class way : std::uint8_t { one, batches, descriptors, to, flush };

// More than the window holds. The peer takes what it gets only now and then.
template <class Ends>
class sending final : public subject {
public:
    sending(reactor& r, way how) : subject(r), ends_(r), how_(how) {}
    ~sending() override {
        io.run(finish(*this));
        CHECK(in_order_);
        CHECK(ends_.socket.writes().failed() == 0);
        CHECK(ends_.socket.writes().dropped == 0);
        CHECK(ends_.socket.writes().packets == received_);
        CHECK(received_ >= accepted_);
    }
    task<> operate() override {
        if (how_ == way::batches) {
            for (int i = 0; i < 3; ++i) {
                packet_batch batch;
                while (!batch.full()) batch.push_back(numbered_packet(io, next_++));
                const std::size_t size = batch.size();
                co_await ends_.socket.send_packets(std::move(batch));
                accepted_ += size;
            }
            co_return;
        }
        for (unsigned i = 0; i < more_than_a_window; ++i) {
            packet p = numbered_packet(io, next_++);
            if constexpr (!std::is_same_v<Ends, udp_ends>) {
                if (how_ == way::descriptors) {
                    std::vector<unique_fd> files = two_files();
                    co_await ends_.socket.send(std::move(p), std::move(files));
                    ++accepted_;
                    continue;
                }
            }
            if constexpr (std::is_same_v<Ends, datagram_ends>) {
                if (how_ == way::to) {
                    co_await ends_.socket.send_to(std::move(p), ends_.name);
                    ++accepted_;
                    continue;
                }
            }
            co_await ends_.socket.send(std::move(p));
            ++accepted_;
        }
        if (how_ == way::flush) {
            co_await ends_.socket.flush();
            drain();
            CHECK(received_ == ends_.socket.writes().packets);
        }
    }
    void help() override { drain(); }
    bool keeps() const override { return false; }

private:
    static task<> finish(sending& s) {
        std::optional<scope> helping(std::in_place, s.io);
        helping->spawn(keep_draining(s));
        co_await s.ends_.socket.flush();
        helping->request_stop();
        helping.reset();
        s.drain();
    }
    static task<> keep_draining(sending& s) {
        for (;;) {
            s.drain();
            co_await s.io.sleep_for(50us);
        }
    }
    void drain() {
        unsigned number = 0;
        while (::recv(ends_.peer.fd, &number, sizeof number, MSG_DONTWAIT) == sizeof number) {
            in_order_ = in_order_ && (received_ == 0 || number > last_);
            last_ = number;
            ++received_;
        }
    }
    Ends ends_;
    way how_;
    unsigned next_ = 0;
    std::uint64_t accepted_ = 0;
    std::uint64_t received_ = 0;
    unsigned last_ = 0;
    bool in_order_ = true;
};

// With something to send: it goes, or is given up after a second.
template <class Ends>
class closing final : public subject {
public:
    explicit closing(reactor& r) : subject(r), ends_(r) {}
    task<> operate() override {
        if (!std::exchange(begun_, true)) {
            for (unsigned i = 0; i < 8; ++i) co_await ends_.socket.send(numbered_packet(io, i));
        }
        co_await ends_.socket.close();
        CHECK(ends_.socket.native_handle() == -1);
        CHECK(ends_.socket.writes().packets == 8);
    }
    bool keeps() const override { return false; }

private:
    Ends ends_;
    bool begun_ = false;
};

class meeting final : public subject {
public:
    meeting(reactor& r, bool accept)
        : subject(r),
          name_("@cotun-meet-" + std::to_string(getpid())),
          listener_(listen_unix_seqpacket(r, name_)),
          accept_(accept) {}
    task<> operate() override {
        if (accept_) {
            const unix_seqpacket s = co_await listener_.accept();
            CHECK(s.native_handle() >= 0);
        } else {
            const unix_seqpacket s = co_await connect_unix_seqpacket(io, name_);
            CHECK(s.native_handle() >= 0);
        }
    }
    void answer() override {
        if (accept_) io.spawn(meet(io, name_));
    }
    bool keeps() const override { return accept_; }

private:
    static task<> meet(reactor& r, std::string name) {
        const unix_seqpacket s = co_await connect_unix_seqpacket(r, name);
    }
    std::string name_;
    unix_seqpacket_listener listener_;
    bool accept_;
};

std::vector<operation_kind> kinds() {
    return {
        of<sending<udp_ends>>("udp: send", way::one),
        of<sending<udp_ends>>("udp: send_packets", way::batches),
        of<sending<udp_ends>>("udp: flush", way::flush),
        of<closing<udp_ends>>("udp: close"),
        of<receiving<datagram_ends>>("datagram: receive", false),
        of<receiving<datagram_ends>>("datagram: receive_packets", true),
        of<sending<datagram_ends>>("datagram: send", way::one),
        of<sending<datagram_ends>>("datagram: send_packets", way::batches),
        of<sending<datagram_ends>>("datagram: send with descriptors", way::descriptors),
        of<sending<datagram_ends>>("datagram: send_to", way::to),
        of<sending<datagram_ends>>("datagram: flush", way::flush),
        of<closing<datagram_ends>>("datagram: close"),
        of<receiving<seqpacket_ends>>("seqpacket: receive", false),
        of<receiving<seqpacket_ends>>("seqpacket: receive_packets", true),
        of<sending<seqpacket_ends>>("seqpacket: send", way::one),
        of<sending<seqpacket_ends>>("seqpacket: send_packets", way::batches),
        of<sending<seqpacket_ends>>("seqpacket: send with descriptors", way::descriptors),
        of<sending<seqpacket_ends>>("seqpacket: flush", way::flush),
        of<closing<seqpacket_ends>>("seqpacket: close"),
        of<meeting>("seqpacket: accept", true),
        of<meeting>("seqpacket: connect", false),
    };
}

} // namespace

TEST_CASE("over the ring, datagrams and records lose nothing, whenever their operations end", "[udp][unix][cancel]") {
    check_at_random(kinds());
}

TEST_CASE("closing a socket needs no thread", "[udp][unix][close]") {
    const auto io = over_ring();
    const auto close = [](auto& ends) -> task<> { co_await ends.socket.close(); };
    const auto without_waking = [&](auto&& ends) {
        const auto before = io->statistics().wakes;
        io->run(close(ends));
        CHECK(io->statistics().wakes == before); // a thread would have woken it when it has ended
        CHECK(ends.socket.native_handle() == -1);
    };
    without_waking(udp_ends(*io));
    without_waking(datagram_ends(*io));
    without_waking(seqpacket_ends(*io));
}
