// SPDX-License-Identifier: Apache-2.0
//
// Several datagrams with one send (UDP_SEGMENT), superpackets among them: what goes out, and what becomes of it where
// the way does not take it.
#include <cotun/coro/scope.hpp>
#include <cotun/net/udp.hpp>
#include <cotun/net/unix_datagram.hpp>
#include <cotun/offload/segments.hpp>

#include "../offload/packets.hpp"
#include "../support/namespace.hpp"
#include "../support/scripted_port.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <numeric>
#include <optional>
#include <vector>

using namespace cotun;
using namespace cotun::test;
using kind = ring::scripted::kind;

namespace {

using sizes = std::vector<std::size_t>;

// Of the control messages that go with a send: the size of its segments; 0: there is none.
unsigned segment_size(std::span<const std::byte> control) {
    msghdr m{};
    m.msg_control = const_cast<std::byte*>(control.data());
    m.msg_controllen = control.size();
    for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
        if (c->cmsg_level != IPPROTO_UDP || c->cmsg_type != UDP_SEGMENT) continue;
        std::uint16_t size = 0;
        std::memcpy(&size, CMSG_DATA(c), sizeof size);
        return size;
    }
    return 0;
}

fields tcp_fields(std::size_t payload) {
    fields f;
    f.payload.resize(payload);
    for (std::size_t i = 0; i < payload; ++i) f.payload[i] = static_cast<std::byte>(i % 251);
    f.flags = ack | psh;
    return f;
}

packet make_superpacket(reactor& io, const fields& f, std::size_t segment, std::size_t front = 0) {
    const bytes whole = make_packet(f, true);
    packet p = io.try_allocate(whole.size());
    REQUIRE(p);
    std::memcpy(p.bytes().data(), whole.data(), whole.size());
    p.set_offload(superpacket_state(f, segment));
    if (front > 0) std::memset(p.prepend(front).data(), 0xab, front);
    return p;
}

std::vector<bytes> with_front(std::vector<bytes> all, std::size_t front) {
    for (bytes& one : all) one.insert(one.begin(), front, std::byte{0xab});
    return all;
}

// A socket whose kernel the test plays.
struct segment_rig : rig {
    /// `proven`: the kernel has taken several at once.
    explicit segment_rig(bool proven = true) : rig(options()), socket(open()) {
        kernel.writes_complete = false;
        settle();
        descriptor = kernel.in_flight.front().descriptor; // of its read
        if (!proven) return;
        send({1500, 1500});
        end();
        before = socket.writes();
        next_ = 0;
    }
    static rig_options options() {
        rig_options o;
        o.pool.small_count = 256;
        o.pool.large_count = 8;
        return o;
    }
    udp_socket open() {
        udp_options o;
        o.peer = endpoint::from_string("127.0.0.1:9");
        o.socket.send_buffer = 1'000'000;
        return open_udp(io, o);
    }

    void send(packet_batch batch) {
        static constexpr auto body = [](udp_socket& s, packet_batch b) -> task<> {
            co_await s.send_packets(std::move(b));
        };
        io.spawn(body(socket, std::move(batch)));
        settle();
    }
    void send(const sizes& all) {
        static constexpr auto body = [](segment_rig& of, sizes each) -> task<> {
            for (const std::size_t size : each) {
                packet p = of.io.try_allocate(size);
                const unsigned n = of.next_++;
                std::memcpy(p.bytes().data(), &n, std::min(size, sizeof n));
                co_await of.socket.send(std::move(p));
            }
        };
        io.spawn(body(*this, all));
        settle();
    }

    std::vector<ring::scripted::request> sending() {
        std::vector<ring::scripted::request> all;
        for (const ring::scripted::request& r : kernel.in_flight)
            if (r.what == kind::send || r.what == kind::send_message) all.push_back(r);
        return all;
    }
    /// The number of datagrams in each send that is with the kernel.
    sizes counts() {
        sizes all;
        for (const auto& r : sending()) all.push_back(std::max<std::size_t>(r.pieces.size(), 1));
        return all;
    }
    /// The numbers of the datagrams.
    std::vector<unsigned> numbers() {
        std::vector<unsigned> all;
        for (const auto& r : sending()) {
            if (r.pieces.empty() && !r.bytes.empty()) all.push_back(number_of(r.bytes));
            for (const iovec& piece : r.pieces)
                all.push_back(number_of({static_cast<const std::byte*>(piece.iov_base), piece.iov_len}));
        }
        return all;
    }
    /// The first of them ends; with success, or an errno.
    void end(int error = 0) {
        REQUIRE(!sending().empty());
        const ring::scripted::request r = sending().front();
        kernel.complete(r.name, error != 0 ? -error : static_cast<std::int32_t>(ring::scripted::total(r)));
        settle();
    }
    /// All do, and those that follow them, with success.
    void end_all() {
        while (!sending().empty()) end();
    }
    bytes content(const ring::scripted::request& r) {
        bytes all;
        for (const iovec& piece : r.pieces) {
            const auto* from = static_cast<const std::byte*>(piece.iov_base);
            all.insert(all.end(), from, from + piece.iov_len);
        }
        return all;
    }
    /// Since it was made.
    write_statistics writes() const {
        write_statistics now = socket.writes();
        now.packets -= before.packets;
        now.bytes -= before.bytes;
        now.superpackets -= before.superpackets;
        return now;
    }

    udp_socket socket;
    int descriptor = -1;
    unsigned next_ = 0;
    write_statistics before;
};

bytes concatenated(const std::vector<bytes>& all) {
    bytes one;
    for (const bytes& b : all) one.insert(one.end(), b.begin(), b.end());
    return one;
}

std::vector<bytes> content_of(const std::vector<ring::scripted::sent_message>& sent) {
    std::vector<bytes> all;
    for (const auto& m : sent) all.push_back(m.bytes);
    return all;
}

} // namespace

// --- which go together ---------------------------------------------------------------------------------------------

TEST_CASE("segments: datagrams of one size are one send, and a shorter one is its last", "[net][segments]") {
    segment_rig r;
    r.send({100, 100, 100, 40, 100, 100, 200, 200, 0, 0, 50});
    CHECK(r.counts() == sizes{4, 2, 2, 1, 1, 1});
    CHECK(r.numbers() == std::vector<unsigned>{0, 1, 2, 3, 4, 5, 6, 7, 10});
    const auto all = r.sending();
    CHECK(segment_size(all[0].control) == 100);
    CHECK(segment_size(all[1].control) == 100);
    CHECK(segment_size(all[2].control) == 200);
    CHECK(segment_size(all[5].control) == 0);
    r.end_all();
    CHECK(r.writes().packets == 11);
    CHECK(r.writes().bytes == 340 + 200 + 400 + 50);
    CHECK(r.writes().superpackets == 3);
    CHECK(r.io.statistics().requests_in_flight == 1); // the read
}

TEST_CASE("segments: no more in one send than all kernels take", "[net][segments]") {
    segment_rig r;
    SECTION("64 of them") {
        r.send(sizes(100, 100));
        CHECK(r.counts() == sizes{64, 36});
    }
    SECTION("65,507 bytes") {
        packet_batch batch;
        for (int i = 0; i < 8; ++i) {
            packet p = r.io.try_allocate(20'000);
            REQUIRE(p);
            batch.push_back(std::move(p));
        }
        r.send(std::move(batch));
        CHECK(r.counts() == sizes{3}); // the first that large
        r.end();
        CHECK(r.counts() == sizes{3, 2});
    }
    r.end_all();
    CHECK(r.writes().failed() == 0);
}

TEST_CASE("segments: only what goes the same way goes together", "[net][segments]") {
    segment_rig r;
    static constexpr auto body = [](udp_socket& s, rig& of) -> task<> {
        const endpoint a = endpoint::from_string("127.0.0.1:10"), b = endpoint::from_string("127.0.0.1:11");
        datagram_options ttl3, ttl4;
        ttl3.ttl = 3;
        ttl4.ttl = 4;
        unsigned n = 0;
        for (const endpoint& to : {a, a, b, b, b, a}) co_await s.send_to(of.make(n++, 100), to);
        for (int i = 0; i < 2; ++i) co_await s.send(of.make(n++, 100));
        for (int i = 0; i < 3; ++i) co_await s.send(of.make(n++, 100), ttl3);
        for (int i = 0; i < 2; ++i) co_await s.send(of.make(n++, 100), ttl4);
    };
    r.io.spawn(body(r.socket, r));
    r.settle();
    CHECK(r.counts() == sizes{2, 3, 1, 2, 3, 2});
    CHECK(r.numbers() == up_to(13));
    CHECK(r.sending()[4].control.size() > r.sending()[3].control.size());
    r.end_all();
    CHECK(r.writes().packets == 13);
}

// --- what the kernel answers ---------------------------------------------------------------------------------------

TEST_CASE("segments: what the way does not take goes one by one, in order, and what follows it too",
          "[net][segments]") {
    segment_rig r(false);
    const int error = GENERATE(EIO, EINVAL, EMSGSIZE);
    CAPTURE(error);
    r.send({300, 300, 300, 100});
    r.end(error);
    for (unsigned n = 0; n < 4; ++n) {
        CHECK(r.numbers() == std::vector<unsigned>{n});
        CHECK(r.counts() == sizes{1});
        r.end();
    }
    CHECK(r.writes().packets == 4);
    CHECK(r.writes().failed() == 0);
    CHECK(r.writes().offload_refused == 1);
    CHECK(r.writes().superpackets == 0);
    r.send({300, 300});
    CHECK(r.counts() == sizes{1, 1});
    r.end_all();
    r.send({299, 299}); // of EINVAL and EMSGSIZE, the size was the reason
    CHECK(r.counts() == (error == EIO ? sizes{1, 1} : sizes{2}));
    r.end_all();
    CHECK(r.writes().packets == 8);
    CHECK(r.writes().failed() == 0);
    for (int i = 0; i < 4096 / 64; ++i) {
        r.send(sizes(64, 300));
        r.end_all();
    }
    r.send({300, 300}); // it is tried again
    CHECK(r.counts() == sizes{2});
    r.end_all();
    CHECK(r.writes().offload_refused == 1);
}

TEST_CASE("segments: an error that waited on the socket is that send's", "[net][segments]") {
    segment_rig r;
    r.send({300, 300, 300, 400});
    r.end(ECONNREFUSED);
    CHECK(r.numbers() == std::vector<unsigned>{3});
    r.end_all();
    CHECK(r.writes().packets == 1);
    CHECK(r.writes().refused == 3);
    CHECK(r.writes().offload_refused == 0);
}

TEST_CASE("segments: the first of its size goes alone, so that nothing overtakes it", "[net][segments]") {
    segment_rig r(false);
    r.send({300, 300, 400, 400, 400});
    CHECK(r.counts() == sizes{2});
    const bool refused = GENERATE(false, true);
    r.end(refused ? EIO : 0);
    if (refused) {
        for (unsigned n = 0; n < 2; ++n) {
            CHECK(r.numbers() == std::vector<unsigned>{n});
            r.end();
        }
        CHECK(r.counts() == sizes{1, 1, 1});
    } else {
        CHECK(r.counts() == sizes{3});
        r.end();
        r.send({350, 350, 10, 20});
        CHECK(r.counts() == sizes{3, 1});
    }
    r.end_all();
    CHECK(r.writes().failed() == 0);
}

TEST_CASE("segments: without room, they wait with the kernel one by one, before any other", "[net][segments]") {
    segment_rig r;
    r.send({300, 300, 300, 400, 400});
    CHECK(r.counts() == sizes{3, 2});
    const auto both = r.sending();
    r.kernel.complete(both[0].name, -EAGAIN);
    r.kernel.complete(both[1].name, -EAGAIN);
    r.settle();
    r.send({500});
    for (unsigned n = 0; n < 5; ++n) {
        CHECK(r.numbers() == std::vector<unsigned>{n});
        r.end();
    }
    CHECK(r.numbers() == std::vector<unsigned>{5});
    r.end();
    CHECK(r.writes().packets == 6);
    CHECK(r.writes().failed() == 0);
}

TEST_CASE("segments: the end of the socket is the end of all", "[net][segments]") {
    segment_rig r;
    const unsigned free = static_cast<unsigned>(r.free());
    r.send({300, 300, 300});
    r.send({400});
    SECTION("by an error") {
        r.end(EBADF);
        CHECK(r.writes().other == 3);
        if (!r.sending().empty()) r.end(EBADF);
    }
    SECTION("by closing") {
        static constexpr auto close = [](udp_socket& s) -> task<> { co_await s.close(); };
        scope closing(r.io);
        closing.spawn(close(r.socket));
        for (int i = 0; i < 50 && closing.size() > 0; ++i) {
            r.kernel.advance(std::chrono::milliseconds(100));
            r.settle();
            ::usleep(1000);
        }
        CHECK(closing.size() == 0);
        CHECK(r.writes().dropped == 4);
    }
    CHECK(r.free() >= free);
}

// --- superpackets --------------------------------------------------------------------------------------------------

TEST_CASE("segments: a superpacket is one send of its segments", "[net][segments]") {
    segment_rig r;
    fields f = tcp_fields(30 * 1000 + 17);
    f.v6 = GENERATE(false, true);
    f.tcp = GENERATE(false, true);
    const std::size_t front = GENERATE(0U, 4U, 14U, 32U);
    CAPTURE(f.v6, f.tcp, front);
    packet_batch batch;
    batch.push_back(r.make(0, 1000));
    batch.push_back(make_superpacket(r.io, f, 1000, front));
    batch.push_back(r.make(1, 1000));
    r.send(std::move(batch));
    REQUIRE(r.sending().size() == 3);
    const ring::scripted::request sent = r.sending()[1];
    const std::vector<bytes> expected = with_front(make_segments(f, 1000), front);
    CHECK(segment_size(sent.control) == expected.front().size());
    CHECK(r.content(sent) == concatenated(expected));
    r.end_all();
    CHECK(r.writes().packets == 3);
    CHECK(r.writes().bytes == 2000 + front + f.header_size() + f.payload.size());
    CHECK(r.writes().superpackets == 1);
    CHECK(r.writes().segmented == 0);
}

TEST_CASE("segments: a superpacket that is more than one send goes in several, in its turn", "[net][segments]") {
    segment_rig r;
    const fields f = tcp_fields(200 * 100 + 1); // 201 segments
    packet_batch batch;
    batch.push_back(r.make(0, 50));
    batch.push_back(make_superpacket(r.io, f, 100));
    batch.push_back(r.make(1, 50));
    SECTION("all at once") {
        r.send(std::move(batch));
        CHECK(r.kernel.sent_at_once[r.descriptor].empty()); // the first is under way
        r.end();
    }
    SECTION("with waits for room between them") {
        r.kernel.sends_at_once[r.descriptor] = {1, -EAGAIN, 1, -EINTR, -EAGAIN};
        r.send(std::move(batch));
        r.end();
        CHECK(r.numbers().size() == 128); // headers and payloads of the second
        const std::vector<bytes> segments = make_segments(f, 100);
        CHECK(r.content(r.sending()[0]) == concatenated({segments.begin() + 64, segments.begin() + 128}));
        r.end();
        CHECK(r.content(r.sending()[0]) == concatenated({segments.begin() + 192, segments.end()}));
        r.end();
        CHECK(r.kernel.sent_at_once[r.descriptor].size() == 2);
    }
    CHECK(r.numbers() == std::vector<unsigned>{1});
    r.end();
    CHECK(r.writes().packets == 3);
    CHECK(r.writes().segmented == 1);
    CHECK(r.writes().failed() == 0);
}

TEST_CASE("segments: a superpacket that is refused goes again, segment by segment", "[net][segments]") {
    segment_rig r;
    const int error = GENERATE(EIO, EINVAL, EAGAIN);
    CAPTURE(error);
    const fields f = tcp_fields(20 * 500 + 3);
    const std::vector<bytes> expected = make_segments(f, 500);
    packet_batch batch;
    batch.push_back(make_superpacket(r.io, f, 500));
    batch.push_back(r.make(0, 50));
    r.send(std::move(batch));
    REQUIRE(r.sending().size() == 2);
    const ring::scripted::request second = r.sending()[1];
    r.end(error);
    CHECK(r.kernel.sent_at_once[r.descriptor].empty()); // not before the other's fate is known
    r.kernel.complete(second.name, 50);
    r.settle();
    const auto& sent = r.kernel.sent_at_once[r.descriptor];
    if (error == EAGAIN) {
        REQUIRE(sent.size() == 1);
        CHECK(sent[0].bytes == concatenated(expected));
    } else {
        CHECK(content_of(sent) == expected);
    }
    CHECK(r.writes().packets == 2);
    CHECK(r.writes().segmented == 1);
    CHECK(r.writes().offload_refused == (error == EAGAIN ? 0 : 1));
    packet_batch another;
    another.push_back(make_superpacket(r.io, f, 500));
    r.kernel.sent_at_once.clear();
    r.send(std::move(another));
    CHECK(r.kernel.sent_at_once[r.descriptor].size() == (error == EAGAIN ? 0 : expected.size()));
    r.end_all();
    CHECK(r.writes().packets == 3);
}

TEST_CASE("segments: one segment that fails is the packet's failure, and the others go out", "[net][segments]") {
    segment_rig r;
    const fields f = tcp_fields(40 * 500);
    const std::vector<bytes> expected = make_segments(f, 500);
    packet_batch batch;
    batch.push_back(make_superpacket(r.io, f, 500));
    r.send(std::move(batch));
    r.kernel.sends_at_once[r.descriptor] = {7, -ECONNREFUSED, 3};
    r.end(EIO);
    const std::vector<bytes> sent = content_of(r.kernel.sent_at_once[r.descriptor]);
    std::vector<bytes> due = expected;
    due.erase(due.begin() + 7);
    CHECK(sent == due);
    CHECK(r.writes().refused == 1);
    CHECK(r.writes().packets == 0);
}

TEST_CASE("segments: what is no superpacket after all fails by name; a checksum is completed", "[net][segments]") {
    segment_rig r;
    fields f = tcp_fields(3000);
    packet_batch batch;
    batch.push_back(make_superpacket(r.io, f, 500));
    batch[0].bytes()[2] = std::byte{0}; // the length in its IP header
    f.payload.resize(300);
    packet one = r.io.try_allocate(make_packet(f, true).size());
    std::memcpy(one.bytes().data(), make_packet(f, true).data(), one.size());
    offload::offload_state state = superpacket_state(f, 500);
    state.type = offload::segment_type::none;
    state.segment_size = state.header_length = 0;
    one.set_offload(state);
    batch.push_back(std::move(one));
    r.send(std::move(batch));
    REQUIRE(r.sending().size() == 1);
    const bytes due = make_packet(f);
    CHECK(bytes(r.sending()[0].bytes.begin(), r.sending()[0].bytes.end()) == due);
    r.end();
    CHECK(r.writes().packets == 1);
    CHECK(r.writes().invalid == 1);
}

// --- the kernel ----------------------------------------------------------------------------------------------------

namespace {

constexpr std::uint16_t port_number = 4713;

struct plain_receiver {
    plain_receiver() : descriptor(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
        sockaddr_in a{};
        a.sin_family = AF_INET;
        a.sin_port = htons(port_number);
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::bind(descriptor, reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0);
        const int size = 8 << 20;
        if (setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) != 0)
            setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    }
    ~plain_receiver() { ::close(descriptor); }
    std::vector<bytes> all() const {
        std::vector<bytes> got;
        bytes room(65536);
        for (ssize_t n = 0; (n = ::recv(descriptor, room.data(), room.size(), 0)) >= 0;)
            got.emplace_back(room.begin(), room.begin() + n);
        return got;
    }
    int descriptor;
};

task<> send_and_flush(udp_socket& s, packet_batch batch) {
    co_await s.send_packets(std::move(batch));
    co_await s.flush();
}

udp_options to_receiver() {
    udp_options o;
    o.peer = endpoint::from_string("127.0.0.1:4713");
    o.socket.send_buffer = 4 << 20;
    return o;
}

} // namespace

TEST_CASE("segments: the kernel makes of one send what was given", "[net][segments]") {
    const ::test::own_namespace here;
    const plain_receiver receiver;
    reactor io;
    udp_socket s = open_udp(io, to_receiver());
    std::vector<bytes> due;
    for (int round = 0; round < 5; ++round) {
        packet_batch batch;
        for (std::size_t i = 0; i < 60; ++i) {
            packet p = io.try_allocate(i < 40 ? 1200 : 100 + i);
            REQUIRE(p);
            std::memset(p.bytes().data(), static_cast<int>(i), p.size());
            due.emplace_back(p.bytes().begin(), p.bytes().end());
            batch.push_back(std::move(p));
        }
        fields f = tcp_fields(40 * 1400 + 99);
        f.v6 = round % 2 != 0;
        for (const bytes& segment : with_front(make_segments(f, 1400), 8)) due.push_back(segment);
        batch.push_back(make_superpacket(io, f, 1400, 8));
        io.run(send_and_flush(s, std::move(batch)));
        CHECK(receiver.all() == due); // now, or the buffer of one without privileges would be full
        due.clear();
    }
    CHECK(s.writes().packets == 305);
    CHECK(s.writes().superpackets >= 10);
    CHECK(s.writes().offload_refused == 0);
}

TEST_CASE("segments: larger than the MTU of the way: in fragments, and nothing is lost", "[net][segments]") {
    const ::test::own_namespace here;
    REQUIRE(::test::run("ip link set lo mtu 600").good());
    const plain_receiver receiver;
    reactor io;
    udp_socket s = open_udp(io, to_receiver());
    std::vector<bytes> due;
    const fields f = tcp_fields(10 * 1400 + 99);
    packet_batch batch;
    for (int i = 0; i < 10; ++i) {
        packet p = io.try_allocate(1200);
        std::memset(p.bytes().data(), i, p.size());
        due.emplace_back(p.bytes().begin(), p.bytes().end());
        batch.push_back(std::move(p));
    }
    batch.push_back(make_superpacket(io, f, 1400));
    for (const bytes& segment : make_segments(f, 1400)) due.push_back(segment);
    for (int i = 0; i < 3; ++i) {
        packet p = io.try_allocate(400);
        std::memset(p.bytes().data(), i, p.size());
        due.emplace_back(p.bytes().begin(), p.bytes().end());
        batch.push_back(std::move(p));
    }
    io.run(send_and_flush(s, std::move(batch)));
    CHECK(receiver.all() == due);
    CHECK(s.writes().packets == 14);
    CHECK(s.writes().failed() == 0);
    CHECK(s.writes().offload_refused >= 1);
}

TEST_CASE("segments: a Unix socket sends each as a message, and waits for a slow receiver", "[net][segments]") {
    reactor io;
    unix_datagram_options a, b;
    const std::string name = "@cotun-segments-" + std::to_string(::getpid());
    a.local = "@";
    b.local = name;
    b.largest_datagram = 2000;
    unix_datagram from = open_unix_datagram(io, a), to = open_unix_datagram(io, b);
    const fields f = tcp_fields(40 * 1000 + 7); // more than the queue of the receiver holds
    std::vector<bytes> got;
    static constexpr auto send = [](reactor& on, unix_datagram& s, const fields& of, std::string to_name) -> task<> {
        packet whole = make_superpacket(on, of, 1000);
        co_await s.send_to(std::move(whole), to_name);
        packet last = co_await on.allocate(5);
        co_await s.send_to(std::move(last), to_name);
        co_await s.flush();
    };
    static constexpr auto receive = [](unix_datagram& s, std::vector<bytes>& into) -> task<> {
        for (;;) {
            const unix_message m = co_await s.receive();
            if (m.payload.size() == 5) co_return;
            into.emplace_back(m.payload.bytes().begin(), m.payload.bytes().end());
        }
    };
    io.spawn(send(io, from, f, name));
    io.run(receive(to, got));
    CHECK(got == make_segments(f, 1000));
    CHECK(from.writes().segmented == 1);
    CHECK(from.writes().failed() == 0);
}

TEST_CASE("segments: a socket without checksums sends one by one, and nothing is lost or overtaken",
          "[net][segments]") {
    const ::test::own_namespace here;
    const plain_receiver receiver;
    reactor io;
    udp_socket s = open_udp(io, to_receiver());
    const int on = 1; // then the kernel refuses UDP_SEGMENT with EINVAL, whatever the size
    REQUIRE(setsockopt(s.native_handle(), SOL_SOCKET, SO_NO_CHECK, &on, sizeof on) == 0);
    std::vector<bytes> due;
    const fields f = tcp_fields(20 * 1400 + 99);
    for (int round = 0; round < 3; ++round) {
        packet_batch batch;
        for (int i = 0; i < 40; ++i) {
            packet p = io.try_allocate(i < 20 ? 1200 : 400 + static_cast<std::size_t>(i));
            REQUIRE(p);
            std::memset(p.bytes().data(), i, p.size());
            due.emplace_back(p.bytes().begin(), p.bytes().end());
            batch.push_back(std::move(p));
        }
        batch.push_back(make_superpacket(io, f, 1400));
        for (const bytes& segment : make_segments(f, 1400)) due.push_back(segment);
        io.run(send_and_flush(s, std::move(batch)));
        CHECK(receiver.all() == due);
        due.clear();
    }
    CHECK(s.writes().packets == 123);
    CHECK(s.writes().failed() == 0);
    CHECK(s.writes().segmented == 3);
    CHECK(s.writes().offload_refused >= 1);
    CHECK(s.writes().superpackets == 0);
}
