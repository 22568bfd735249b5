// SPDX-License-Identifier: Apache-2.0
//
// Operations over io_uring, stopped and destroyed at random times. Those of datagram sockets that send, and of Unix
// sockets that carry packets: net/cancellation_ring.cpp.
#include <cotun/coro/channel.hpp>
#include <cotun/coro/cross_channel.hpp>
#include <cotun/coro/event.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_any.hpp>
#include <cotun/io/interval.hpp>
#include <cotun/net/resolve.hpp>
#include <cotun/net/tcp.hpp>
#include <cotun/net/udp.hpp>
#include <cotun/net/unix.hpp>

#include "cancel_at_random.hpp"

#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <functional>
#include <netinet/in.h>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>
#include <vector>

using namespace cotun;
using namespace cotun::test;
using namespace cotun::test::at_random;
using namespace std::chrono_literals;

namespace {

sockaddr_in loopback(const endpoint& of) {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(of.port());
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

plain plain_peer(const endpoint& of, int type) {
    const int fd = ::socket(AF_INET, type | SOCK_CLOEXEC, 0);
    const sockaddr_in a = loopback(of);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&a), sizeof a) != 0) FAIL("the peer cannot connect");
    return plain(fd);
}

tcp_listener listen(reactor& io) {
    listen_options o;
    o.local = endpoint::from_string("127.0.0.1:0");
    return listen_tcp(io, o);
}

class udp_reading final : public subject {
public:
    udp_reading(reactor& r, bool batch)
        : subject(r), socket_(open(r)), peer_(plain_peer(socket_.local(), SOCK_DGRAM)), batch_(batch) {}
    task<> operate() override {
        if (batch_) {
            const packet_batch all = co_await socket_.receive_packets();
            CHECK(all.size() == 1);
        } else {
            const datagram d = co_await socket_.receive();
            CHECK(d.payload.size() == seven.size());
        }
    }
    void answer() override { peer_.put(seven); }

private:
    static udp_socket open(reactor& r) {
        udp_options o;
        o.local = endpoint::from_string("127.0.0.1:0");
        return open_udp(r, o);
    }
    udp_socket socket_;
    plain peer_;
    bool batch_;
};

class tcp_subject : public subject {
public:
    explicit tcp_subject(reactor& r) : subject(r) {}
    task<> prepare() override {
        tcp_listener listener = listen(io);
        peer_.emplace(plain_peer(listener.local(), SOCK_STREAM));
        stream_.emplace(co_await listener.accept());
    }

protected:
    std::optional<tcp_stream> stream_;
    std::optional<plain> peer_;
};

class stream_reading final : public tcp_subject {
public:
    enum class way : std::uint8_t { some, exactly, until, lease };
    stream_reading(reactor& r, way how) : tcp_subject(r), how_(how) {}
    task<> operate() override {
        std::string got(seven.size(), '.');
        const auto bytes = std::as_writable_bytes(std::span(got));
        if (how_ == way::some) {
            const std::size_t size = co_await stream_->read_some(bytes);
            CHECK(size == seven.size());
        } else if (how_ == way::exactly) {
            co_await stream_->read(bytes);
        } else if (how_ == way::until) {
            std::string line = co_await stream_->read_until("\n", 100);
            got = line;
        } else {
            const packet p = co_await stream_->receive();
            got.assign(reinterpret_cast<const char*>(p.bytes().data()), p.size());
        }
        CHECK(got == seven);
    }
    void answer() override { peer_->put(seven); }

private:
    way how_;
};

// The peer takes what it gets only when it is asked. One that was cut off leaves a broken stream: then another.
class stream_writing final : public tcp_subject {
public:
    using tcp_subject::tcp_subject;
    task<> operate() override {
        if (begun_) co_await prepare();
        begun_ = true;
        co_await stream_->write(large_);
        co_await stream_->flush();
    }
    void help() override {
        if (peer_) peer_->drain();
    }
    bool keeps() const override { return false; }

private:
    bool begun_ = false;
    std::string large_ = std::string(8'000'000, 'x');
};

class tcp_closing final : public tcp_subject {
public:
    using tcp_subject::tcp_subject;
    task<> operate() override {
        if (stream_->is_open()) co_await stream_->write("bye");
        co_await stream_->close();
    }
};

class accepting final : public subject {
public:
    explicit accepting(reactor& r) : subject(r), listener_(listen(r)) {}
    task<> operate() override {
        const tcp_stream stream = co_await listener_.accept();
        CHECK(stream.is_open());
    }
    void answer() override { peers_.push_back(plain_peer(listener_.local(), SOCK_STREAM)); }

private:
    tcp_listener listener_;
    std::vector<plain> peers_;
};

class connecting final : public subject {
public:
    explicit connecting(reactor& r) : subject(r), listener_(listen(r)), at_(listener_.local()) {}
    task<> operate() override {
        const tcp_stream stream = co_await connect_tcp(io, at_);
        CHECK(stream.is_open());
    }
    bool keeps() const override { return false; }

private:
    tcp_listener listener_;
    endpoint at_;
};

class unix_meeting final : public subject {
public:
    unix_meeting(reactor& r, bool accept)
        : subject(r),
          name_("@cotun-ring-" + std::to_string(getpid())),
          listener_(listen_unix(r, name_)),
          accept_(accept) {}
    task<> operate() override {
        if (accept_) {
            const unix_stream stream = co_await listener_.accept();
            CHECK(stream.is_open());
        } else {
            const unix_stream stream = co_await connect_unix(io, name_);
            CHECK(stream.is_open());
        }
    }
    void answer() override {
        if (accept_) io.spawn(meet(io, name_));
    }
    bool keeps() const override { return accept_; }

private:
    static task<> meet(reactor& r, std::string name) { const unix_stream s = co_await connect_unix(r, name); }
    std::string name_;
    unix_listener listener_;
    bool accept_;
};

class polling final : public subject {
public:
    polling(reactor& r, bool read) : subject(r), read_(read) {
        std::array<int, 2> ends{};
        REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
        out_.emplace(ends[0]);
        in_.emplace(ends[1]);
        const std::string much(4096, 'x');
        while (!read_ && ::write(in_->fd, much.data(), much.size()) > 0) {}
    }
    task<> operate() override {
        if (read_)
            co_await io.readable(out_->fd);
        else
            co_await io.writable(in_->fd);
    }
    void answer() override {
        if (read_)
            in_->put("x");
        else
            out_->drain();
    }

private:
    std::optional<plain> out_, in_;
    bool read_;
};

class signalled final : public subject {
public:
    explicit signalled(reactor& r) : subject(r) { (void)r.signal(SIGUSR1); }
    task<> operate() override {
        const int number = co_await io.signal(SIGUSR1);
        CHECK(number == SIGUSR1);
    }
    void answer() override { raise(SIGUSR1); }
};

class allocating final : public subject {
public:
    explicit allocating(reactor& r) : subject(r) {
        while (packet p = r.try_allocate(1)) held_.push_back(std::move(p));
    }
    task<> operate() override {
        const packet p = co_await io.allocate(1);
        CHECK(p.size() == 1);
    }
    void answer() override { held_.pop_back(); }

private:
    std::vector<packet> held_;
};

// What ends by itself.
class simple final : public subject {
public:
    using body = task<> (*)(reactor&);
    simple(reactor& r, body b) : subject(r), body_(b) {}
    task<> operate() override { co_await body_(io); }
    bool keeps() const override { return false; }

private:
    body body_;
};

template <class Channel>
class channelled final : public subject {
public:
    explicit channelled(reactor& r) : subject(r), channel_(4U) {}
    task<> operate() override {
        const std::optional<int> value = co_await channel_.receive();
        CHECK(value == 7);
    }
    void answer() override { CHECK(channel_.try_send(7)); }

private:
    Channel channel_;
};

task<> briefly(reactor& r) { co_await r.sleep_for(100us); }
task<> a_beat(reactor& r) {
    interval tick(r, 100us);
    (void)co_await tick.next();
}
task<> resolving(reactor& r) {
    const std::vector<endpoint> all = co_await resolve(r, "127.1", 7); // by a helper thread, and without /etc/hosts
    CHECK_FALSE(all.empty());
}
task<> first_of_two(reactor& r) { (void)co_await when_any(r.sleep_for(150us), with_timeout(r.sleep_for(100us), 1h)); }

std::vector<operation_kind> kinds() {
    using way = stream_reading::way;
    std::vector<operation_kind> all{
        of<udp_reading>("udp: receive", false),
        of<udp_reading>("udp: receive_packets", true),
        of<stream_reading>("read_some", way::some),
        of<stream_reading>("read", way::exactly),
        of<stream_reading>("read_until", way::until),
        of<stream_reading>("receive", way::lease),
        of<stream_writing>("write"),
        of<tcp_closing>("stream: close"),
        of<accepting>("tcp: accept"),
        of<connecting>("tcp: connect"),
        of<unix_meeting>("unix: accept", true),
        of<unix_meeting>("unix: connect", false),
        of<polling>("readable", true),
        of<polling>("writable", false),
        of<signalled>("signal"),
        of<allocating>("allocate"),
        of<channelled<channel<int>>>("channel: receive"),
        of<channelled<cross_channel<int>>>("cross_channel: receive"),
        of<simple>("sleep", &briefly),
        of<simple>("interval", &a_beat),
        of<simple>("resolve", &resolving),
        of<simple>("when_any", &first_of_two),
    };
    for (operation_kind& k : all)
        if (k.name == "signal") k.requests_kept = 1; // the poll of the signalfd
    return all;
}

} // namespace

TEST_CASE("over the ring, operations that are stopped or destroyed at any time lose nothing", "[cancel]") {
    check_at_random(kinds());
}
