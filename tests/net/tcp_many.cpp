// SPDX-License-Identifier: Apache-2.0
//
// Ten thousand TCP connections on one reactor.
#include <cotun/coro/scope.hpp>
#include <cotun/net/tcp.hpp>

#include "../io/reactors.hpp"
#include "../support/namespace.hpp"
#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"
#include "plain_client.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <fstream>
#include <malloc.h>
#include <string>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

using namespace cotun;
using namespace std::chrono_literals;
using cotun::test::file_limit;
using cotun::test::plain_client;

namespace {

const auto any_port = endpoint::from_string("127.0.0.1:0");

} // namespace

namespace {

// Taken from the heap, in bytes.
std::size_t memory() {
    const struct mallinfo2 heap = mallinfo2();
    return heap.uordblks + heap.hblkhd;
}

// The kernel's slabs, in bytes: of the whole machine, so that a small difference says nothing.
std::ptrdiff_t slab() {
    std::ifstream file("/proc/meminfo");
    std::string name;
    std::ptrdiff_t kilobytes = 0;
    for (std::string rest; file >> name >> kilobytes && name != "Slab:";) std::getline(file, rest);
    return 1024 * kilobytes;
}

task<> count_echoes(tcp_stream s, std::size_t& bytes) {
    for (;;) {
        packet p = co_await s.receive();
        if (!p) break;
        bytes += p.size();
        co_await s.write(std::move(p));
    }
}

task<> take_all(tcp_listener& from, scope& into, std::size_t count, std::size_t& taken, std::size_t& bytes) {
    while (taken < count) {
        tcp_stream s = co_await from.accept();
        into.spawn(count_echoes(std::move(s), bytes));
        ++taken;
    }
}

task<> until_equal(reactor& io, const std::size_t& value, std::size_t wanted) {
    for (int i = 0; i < 20'000 && value != wanted; ++i) co_await io.sleep_for(1ms);
}

} // namespace

namespace {

// Plain clients in a process of their own, which has descriptors of its own. Made before the reactor.
class client_process {
public:
    client_process() {
        int ends[2]{-1, -1};
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) throw std::runtime_error("socketpair");
        const pid_t parent = getpid();
        pid_ = fork();
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent) _exit(1);
            ::close(ends[0]);
            obey(ends[1]);
        }
        ::close(ends[1]);
        control_ = ends[0];
    }
    client_process(const client_process&) = delete;
    client_process& operator=(const client_process&) = delete;
    ~client_process() {
        ::close(control_); // it ends
        waitpid(pid_, nullptr, 0);
    }
    struct order {
        char what; // connect, send, receive, or close all
        std::uint16_t port;
        std::uint32_t count;
    };
    /// On how many it succeeded.
    std::uint32_t have(char what, std::uint32_t count = 0, std::uint16_t port = 0) const {
        const order o{what, port, count};
        std::uint32_t good = 0;
        if (::write(control_, &o, sizeof o) != sizeof o || ::read(control_, &good, sizeof good) != sizeof good)
            throw std::runtime_error("the clients are gone");
        return good;
    }

private:
    [[noreturn]] static void obey(int control) {
        std::vector<plain_client> clients;
        order o{};
        while (::read(control, &o, sizeof o) == sizeof o) {
            std::uint32_t good = 0;
            try {
                for (std::uint32_t i = 0; o.what == 'c' && i < o.count; ++i, ++good)
                    clients.emplace_back(endpoint(wire::ip_address(), o.port));
            } catch (const std::system_error&) {
                good = 0;
            }
            for (plain_client& c : clients) {
                std::string text = "ten bytes!";
                if (o.what == 's') good += ::send(c.descriptor, text.data(), text.size(), 0) == 10;
                if (o.what == 'r') good += ::recv(c.descriptor, text.data(), text.size(), MSG_DONTWAIT) == 10;
            }
            if (o.what == 'x') clients.clear();
            (void)!::write(control, &good, sizeof good);
        }
        _exit(0);
    }

    pid_t pid_ = -1;
    int control_ = -1;
};

} // namespace

TEST_CASE("tcp: ten thousand connections on one reactor", "[tcp][many]") {
    if (const auto why = cotun::test::ring_refused()) SKIP(*why);
    const auto many = static_cast<std::uint32_t>(cotun::test::scaled(cotun::test::sanitized ? 1'000 : 10'000));
    const file_limit limit(many + 500);
    if (!limit.good) SKIP("the limit of open files cannot be raised to " << many + 500);
    const ::test::own_namespace here;
    ::test::output_of("echo 4096 > /proc/sys/net/core/somaxconn");
    const client_process clients;
    reactor io({.requests = 16384});
    tcp_listener listener = listen_tcp(io, {.local = any_port});
    std::size_t taken = 0, echoed = 0;
    scope all(io);
    all.spawn(take_all(listener, all, many, taken, echoed));
    const std::size_t before = memory();
    const std::ptrdiff_t slab_before = slab();
    for (std::uint32_t made = 0; made < many;) {
        const std::uint32_t some = std::min(1000U, many - made);
        REQUIRE(clients.have('c', some, listener.local().port()) == some);
        made += some;
        io.run(until_equal(io, taken, made));
    }
    REQUIRE(taken == many);
    const std::size_t each = (memory() - before) / many;
    WARN(many << " idle connections: " << each << " bytes of memory each, beside the kernel's "
              << (slab() - slab_before) / static_cast<std::ptrdiff_t>(many) << " for both ends, "
              << io.statistics().requests_in_flight << " requests in flight, " << io.statistics().small_buffers_free
              << " of 1024 buffers free");
    CHECK(io.statistics().requests_in_flight <= many + 1);
    CHECK(io.statistics().small_buffers_free == 1024 - 256);
    if (!cotun::test::sanitized) CHECK(each < 4096);
    for (std::size_t round = 1; round <= 2; ++round) {
        CHECK(clients.have('s') == many);
        io.run(until_equal(io, echoed, 10 * many * round));
        CHECK(echoed == 10 * many * round);
        std::uint32_t back = 0;
        for (int i = 0; i < 1000 && back < many; ++i) { // what was accepted goes out in the passes that follow
            io.run(cotun::test::sleep(io, 1ms));
            back += clients.have('r');
        }
        CHECK(back == many);
    }
    clients.have('x');
    const auto ended = [](scope& s) -> task<> { co_await s.join(); };
    io.run(ended(all));
    CHECK(io.statistics().requests_in_flight <= 1);
    CHECK(io.statistics().overflows == 0);
    CHECK(io.statistics().strays == 0);
}
