// SPDX-License-Identifier: Apache-2.0
//
// The wait for room in a socket's send buffer, with a kernel that the test plays.
#include <cotun/net/udp.hpp>

#include "../support/scripted_port.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <poll.h>

#include <chrono>

using namespace cotun;
using namespace cotun::test;
using kind = ring::scripted::kind;

namespace {

// The least that Linux allows is 4.5 KiB or so.
struct socket_rig : rig {
    explicit socket_rig(const rig_options& o = {}) : rig(o), socket(open()) {
        kernel.writes_complete = false;
        settle();
        descriptor = kernel.in_flight.front().descriptor; // of its read
        int bytes = 0;
        socklen_t size = sizeof bytes;
        REQUIRE(getsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &bytes, &size) == 0);
        buffer = bytes;
        send_singly();
        send(5000); // so that from now on the kernel is asked what is in use
        sent();
        settle();
        before = socket.writes().packets;
    }

    /// The way does not take several at once, so that each is a send of its own.
    void send_singly() {
        static constexpr auto two = [](udp_socket& s, packet a, packet b) -> task<> {
            co_await s.send(std::move(a));
            co_await s.send(std::move(b));
        };
        io.spawn(two(socket, io.try_allocate(10), io.try_allocate(10)));
        settle();
        const ring::scripted::request* r = kernel.find(kind::send_message, descriptor);
        REQUIRE(r != nullptr);
        kernel.complete(r->name, -EIO);
        settle();
        for (int i = 0; i < 2; ++i) {
            sent();
            settle();
        }
    }
    std::uint64_t packets() const { return socket.writes().packets - before + 1; }

    udp_socket open() {
        udp_options o;
        o.peer = endpoint::from_string("127.0.0.1:9");
        o.socket.send_buffer = 1;
        return open_udp(io, o);
    }

    void send(std::size_t size) {
        static constexpr auto body = [](udp_socket& s, packet p) -> task<> { co_await s.send(std::move(p)); };
        io.spawn(body(socket, io.try_allocate(size)));
        settle();
    }

    ring::scripted::request* polling() { return kernel.find(kind::poll, descriptor); }

    /// The sizes of the datagrams that are with the kernel.
    std::vector<std::size_t> sending() {
        std::vector<std::size_t> all;
        for (const ring::scripted::request& r : kernel.in_flight)
            if (r.what == kind::send) all.push_back(r.bytes.size());
        return all;
    }

    void sent() {
        const ring::scripted::request* r = kernel.find(kind::send, descriptor);
        REQUIRE(r != nullptr);
        kernel.complete(r->name, static_cast<std::int32_t>(r->bytes.size()));
    }

    void polled(int events) {
        REQUIRE(polling() != nullptr);
        CHECK(polling()->events == POLLOUT);
        kernel.complete(polling()->name, events);
        settle();
    }

    void later() {
        kernel.advance(std::chrono::milliseconds(1));
        settle();
    }

    udp_socket socket;
    int descriptor = -1;
    ssize_t buffer = 0;
    std::uint64_t before = 0;
};

using sizes = std::vector<std::size_t>;

} // namespace

TEST_CASE("send room: an error that waits on the socket does not end the wait", "[net][udp]") {
    socket_rig r;
    r.kernel.unsent[r.descriptor] = r.buffer;
    r.send(100);
    r.kernel.pending_error[r.descriptor] = ECONNREFUSED;
    r.polled(POLLERR);
    CHECK(r.kernel.pending_error[r.descriptor] == 0);
    CHECK(r.socket.reads().refused == 1);
    CHECK(r.sending().empty());
    CHECK(r.polling() == nullptr); // a pause first: what answers at once would answer for ever
    r.later();
    r.polled(POLLERR); // of something else
    CHECK(r.socket.reads().refused == 1);
    r.later();
    r.kernel.pending_error[r.descriptor] = ECONNREFUSED;
    r.kernel.unsent[r.descriptor] = 0;
    r.polled(POLLERR | POLLOUT); // not left for the datagram that would fail by it
    CHECK(r.kernel.pending_error[r.descriptor] == 0);
    CHECK(r.sending() == sizes{100});
    r.sent();
    r.settle();
    CHECK(r.socket.reads().refused == 2);
    CHECK(r.packets() == 2);
    CHECK(r.socket.writes().failed() == 0);
}

TEST_CASE("send room: what may not fit goes alone, in its turn", "[net][udp]") {
    socket_rig r;
    r.kernel.unsent[r.descriptor] = 100; // POLLOUT would come at once
    for (const std::size_t size : {5000U, 100U, 100U, 5000U, 100U}) r.send(size);
    CHECK(r.sending().empty());
    CHECK(r.polling() == nullptr);
    r.later();
    CHECK(r.sending().empty());
    r.kernel.unsent[r.descriptor] = 0;
    r.later();
    CHECK(r.sending() == sizes{5000});
    r.kernel.unsent[r.descriptor] = r.buffer + 1000;
    r.sent();
    r.settle();
    CHECK(r.sending().empty());
    r.kernel.unsent[r.descriptor] = 500;
    r.polled(POLLOUT);
    CHECK(r.sending() == sizes{100, 100});
    r.sent();
    r.settle();
    CHECK(r.sending() == sizes{100}); // one after the other is in the way of the third
    r.kernel.unsent[r.descriptor] = 0;
    r.sent();
    r.settle();
    CHECK(r.sending() == sizes{5000});
    r.kernel.complete(r.kernel.find(kind::send, r.descriptor)->name, -ENOBUFS);
    r.settle();
    CHECK(r.sending() == sizes{100});
    r.sent();
    r.settle();
    CHECK(r.packets() == 5);
    CHECK(r.socket.writes().no_memory == 1);
}

TEST_CASE("send room: closing while it is waited for", "[net][udp]") {
    socket_rig r;
    const bool by_destructor = GENERATE(false, true);
    const bool poll = GENERATE(false, true);
    const bool error = GENERATE(false, true);
    CAPTURE(by_destructor, poll, error);
    r.kernel.unsent[r.descriptor] = poll ? r.buffer : 100;
    r.send(5000);
    r.send(100);
    CHECK((r.polling() != nullptr) == poll);
    std::uint64_t polls = 0;
    r.kernel.idle = [&](ring::scripted& kernel) {
        if (error && r.polling() != nullptr && ++polls < 100'000) kernel.complete(r.polling()->name, POLLERR);
    };
    // Virtual time passes meanwhile, and a little real time: close(2) is called on a thread of its own.
    static constexpr auto end = [](udp_socket& s, bool& ended) -> task<> {
        co_await s.close();
        ended = true;
    };
    static constexpr auto wait = [](reactor& io, const bool& ended) -> task<> {
        for (int i = 0; i < 10'000 && !ended; ++i) {
            co_await io.sleep_for(std::chrono::milliseconds(1));
            ::usleep(100);
        }
    };
    const std::size_t before = r.kernel.enters();
    if (by_destructor) {
        const udp_socket closed = std::move(r.socket);
    } else {
        bool ended = false;
        r.io.spawn(end(r.socket, ended));
        r.io.run(wait(r.io, ended));
        CHECK(ended);
        CHECK(r.socket.writes().dropped == 2);
    }
    CHECK(r.kernel.enters() - before < 20'000); // a second, a millisecond at a time at worst
    CHECK(r.io.statistics().requests_in_flight == 0);
    if (by_destructor) r.socket = r.open();
}

TEST_CASE("send room: a datagram that finds none after all waits with the kernel, and is not lost", "[net][udp]") {
    socket_rig r;
    r.send(100);
    const auto refuse = [&r](std::int32_t error) {
        const ring::scripted::request* first = r.kernel.find(kind::send, r.descriptor);
        REQUIRE(first != nullptr);
        r.kernel.complete(first->name, error);
        r.settle();
    };
    refuse(-EAGAIN);
    CHECK(r.sending() == sizes{100}); // again
    CHECK(r.packets() == 1);
    SECTION("it is sent") {
        r.sent();
        r.settle();
        CHECK(r.packets() == 2);
        CHECK(r.socket.writes().failed() == 0);
    }
    SECTION("a second refusal is the end of it") {
        refuse(-EAGAIN);
        CHECK(r.sending().empty());
        CHECK(r.socket.writes().failed() == 1);
    }
}

TEST_CASE("send room: those that find none after all go out one after the other, before any other", "[net][udp]") {
    socket_rig r;
    static constexpr auto body = [](udp_socket& s, packet_batch batch) -> task<> {
        co_await s.send_packets(std::move(batch));
    };
    r.kernel.unsent[r.descriptor] = 0;
    packet_batch three;
    for (const std::size_t size : {100U, 200U, 300U}) three.push_back(r.io.try_allocate(size));
    r.io.spawn(body(r.socket, std::move(three)));
    r.settle();
    REQUIRE(r.sending() == sizes{100, 200, 300});
    std::vector<ring::token> tries;
    for (const ring::scripted::request& q : r.kernel.in_flight)
        if (q.what == kind::send) tries.push_back(q.name);
    const bool first_goes = GENERATE(false, true);
    r.kernel.complete(tries[0], first_goes ? 100 : -EAGAIN);
    r.settle();
    r.send(400); // not before it is known what became of the others
    CHECK(r.sending() == sizes{200, 300});
    r.kernel.complete(tries[1], -EAGAIN);
    r.kernel.complete(tries[2], -EAGAIN);
    r.settle();
    SECTION("each in its turn") {
        for (const std::size_t size : {100U, 200U, 300U, 400U}) {
            if (first_goes && size == 100) continue;
            CHECK(r.sending() == sizes{size});
            r.sent();
            r.settle();
        }
        CHECK(r.packets() == 5);
        CHECK(r.socket.writes().failed() == 0);
    }
    SECTION("a final error gives up those that wait") {
        r.kernel.complete(r.kernel.find(kind::send, r.descriptor)->name, -EBADF);
        r.settle();
        CHECK(r.sending().empty());
        CHECK(r.socket.writes().other == 1);
        CHECK(r.socket.writes().dropped == (first_goes ? 2 : 3));
    }
    SECTION("closing gives them up when its time is over") {
        static constexpr auto end = [](udp_socket& s, bool& ended) -> task<> {
            co_await s.close();
            ended = true;
        };
        bool ended = false;
        r.io.spawn(end(r.socket, ended));
        r.settle();
        r.kernel.advance(std::chrono::seconds(2));
        r.settle();
        CHECK(ended);
        CHECK(r.socket.writes().dropped == (first_goes ? 3 : 4));
        CHECK(r.io.statistics().requests_in_flight == 0);
        CHECK(r.socket.local() != endpoint()); // it is known still
    }
}

TEST_CASE("send room: the pause is there also at reactor_options::timers", "[net][udp]") {
    rig_options o;
    o.timers = 1; // the rig's own task has it
    socket_rig r(o);
    CHECK(r.io.statistics().timers == 1);
    r.kernel.unsent[r.descriptor] = 100;
    r.send(5000);
    CHECK(r.sending().empty());
    r.kernel.unsent[r.descriptor] = 0;
    r.later();
    CHECK(r.sending() == sizes{5000});
    r.sent();
    r.settle();
}
