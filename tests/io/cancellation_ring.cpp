// SPDX-License-Identifier: Apache-2.0
//
// Operations over io_uring, stopped and destroyed at random times. Those of datagram sockets that send, and of Unix
// sockets that carry packets: net/cancellation_ring.cpp.
#include <cotun/coro/channel.hpp>
#include <cotun/coro/cross_channel.hpp>
#include <cotun/coro/event.hpp>
#include <cotun/coro/generator.hpp>
#include <cotun/coro/mutex.hpp>
#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/semaphore.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_all.hpp>
#include <cotun/coro/when_any.hpp>
#include <cotun/io/interval.hpp>
#include <cotun/io/reactor_group.hpp>
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

// How an operation is awaited.
enum class wrap : std::uint8_t {
    bare,
    in_time,
    in_short_times, // again and again, until one is long enough
    first_of_two,
    first_of_many, // of its own kind
};

// Of any subject that begins an operation with begin(); its value.
template <class Subject>
auto wrapped(reactor& io, wrap how, Subject& s) -> task<decltype(s.begin().await_resume())> {
    using operation = decltype(s.begin());
    using value = decltype(s.begin().await_resume());
    switch (how) {
    case wrap::bare: break;
    case wrap::in_time: co_return co_await with_timeout(s.begin(), 1h);
    case wrap::in_short_times:
        for (;;) {
            result<value> got = co_await as_result(with_timeout(s.begin(), 30us));
            if (got || got.error() != std::errc::timed_out) co_return std::move(got).value();
        }
    case wrap::first_of_two: {
        auto first = co_await when_any(io.sleep_for(1h), s.begin());
        co_return std::get<1>(std::move(first));
    }
    case wrap::first_of_many: {
        std::vector<operation> all;
        for (int i = 0; i < 3; ++i) all.push_back(s.begin());
        auto first = co_await when_any(std::move(all));
        co_return std::move(first.value);
    }
    }
    co_return co_await s.begin();
}

class udp_reading final : public subject {
public:
    udp_reading(reactor& r, bool batch, wrap how)
        : subject(r), socket_(open(r)), peer_(plain_peer(socket_.local(), SOCK_DGRAM)), batch_(batch), how_(how) {}
    task<> operate() override {
        if (batch_) {
            const packet_batch all = co_await socket_.receive_packets();
            CHECK(all.size() == 1);
        } else {
            const datagram d = co_await wrapped(io, how_, *this);
            CHECK(d.payload.size() == seven.size());
        }
    }
    void answer() override { peer_.put(seven); }
    receive_operation begin() { return socket_.receive(); }

private:
    static udp_socket open(reactor& r) {
        udp_options o;
        o.local = endpoint::from_string("127.0.0.1:0");
        return open_udp(r, o);
    }
    udp_socket socket_;
    plain peer_;
    bool batch_;
    wrap how_;
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

// A line, however it is wrapped.
class line_reading final : public tcp_subject {
public:
    line_reading(reactor& r, wrap how) : tcp_subject(r), how_(how) {}
    task<> operate() override {
        const std::string line = co_await wrapped(io, how_, *this);
        CHECK(line == seven);
    }
    void answer() override { peer_->put(seven); }
    stream_read_until_operation begin() { return stream_->read_until("\n", 100); }

private:
    wrap how_;
};

// Two lines of two streams, by two tasks. What the one has when the other is stopped goes to its next read.
class reading_both final : public subject {
public:
    using subject::subject;
    task<> prepare() override {
        co_await one_.prepare();
        co_await other_.prepare();
    }
    task<> operate() override {
        std::vector<task<>> both;
        both.push_back(once(one_, got_one_));
        both.push_back(once(other_, got_other_));
        co_await when_all(std::move(both));
    }
    void answer() override {
        one_.answer();
        other_.answer();
    }

private:
    static task<> once(line_reading& s, bool& got) {
        if (got) co_return;
        co_await s.operate();
        got = true;
    }
    line_reading one_{io, wrap::bare}, other_{io, wrap::bare};
    bool got_one_ = false;
    bool got_other_ = false;
};

class generating final : public tcp_subject {
public:
    using tcp_subject::tcp_subject;
    task<> operate() override {
        if (!all_) all_.emplace(lines(*stream_));
        std::optional<std::string> line = co_await all_->next();
        if (!line) { // a stop has ended the coroutine within: the next is another
            all_.emplace(lines(*stream_));
            line = co_await all_->next();
        }
        CHECK(line == seven);
    }
    void answer() override { peer_->put(seven); }

private:
    static generator<std::string> lines(tcp_stream& from) {
        for (;;) {
            std::string line = co_await from.read_until("\n", 100);
            co_yield std::move(line);
        }
    }
    std::optional<generator<std::string>> all_;
};

// The kernel has no room for what was accepted, until the peer takes something.
class flushing final : public tcp_subject {
public:
    using tcp_subject::tcp_subject;
    task<> prepare() override {
        co_await tcp_subject::prepare();
        const std::string much(65536, 'x');
        for (int full = 0; full < 3;) { // the peer's kernel takes some, later
            full = ::send(stream_->native_handle(), much.data(), much.size(), MSG_DONTWAIT) < 0 ? full + 1 : 0;
            co_await io.sleep_for(20us);
        }
    }
    task<> operate() override {
        co_await stream_->write("text");
        co_await stream_->flush();
    }
    void answer() override { peer_->drain(); }
    void help() override {
        if (++helped_ % 4 == 0) peer_->drain();
    }
    bool keeps() const override { return false; }

private:
    unsigned helped_ = 0;
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
    accepting(reactor& r, wrap how) : subject(r), listener_(listen(r)), how_(how) {}
    task<> operate() override {
        const tcp_stream stream = co_await wrapped(io, how_, *this);
        CHECK(stream.is_open());
    }
    void answer() override { peers_.push_back(plain_peer(listener_.local(), SOCK_STREAM)); }
    tcp_accept_operation begin() { return listener_.accept(); }

private:
    tcp_listener listener_;
    std::vector<plain> peers_;
    wrap how_;
};

// An accept is in flight.
class closing_listener final : public subject {
public:
    explicit closing_listener(reactor& r) : subject(r), listener_(listen(r)) {}
    task<> prepare() override { (void)co_await when_any(listener_.accept(), io.sleep_for(50us)); }
    task<> operate() override { co_await listener_.close(); }
    bool keeps() const override { return false; }

private:
    tcp_listener listener_;
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

class sending final : public subject {
public:
    explicit sending(reactor& r) : subject(r) { CHECK(channel_.try_send(6)); }
    task<> operate() override { co_await channel_.send(7); }
    void answer() override { (void)channel_.try_receive(); }
    bool keeps() const override { return false; } // one that was destroyed may have been sent

private:
    channel<int> channel_{1};
};

class awaiting_event final : public subject {
public:
    using subject::subject;
    task<> operate() override { co_await event_.wait(); }
    void answer() override { event_.set(); }

private:
    event event_;
};

class locking final : public subject {
public:
    explicit locking(reactor& r) : subject(r), held_(mutex_.try_lock()) {}
    task<> operate() override {
        const mutex_guard mine = co_await mutex_.lock();
        CHECK(mine);
    }
    void answer() override { held_.unlock(); }

private:
    mutex mutex_;
    mutex_guard held_;
};

class acquiring final : public subject {
public:
    using subject::subject;
    task<> operate() override {
        co_await semaphore_.acquire(2);
        semaphore_.release(2);
    }
    void answer() override { semaphore_.release(2); }

private:
    semaphore semaphore_{1};
};

// On another thread, which takes a while; so is its end.
class calling final : public subject {
public:
    explicit calling(reactor& r) : subject(r), group_(one()) {}
    task<> operate() override {
        const int twice = co_await group_.call_on(0, slow_twice, 21);
        CHECK(twice == 42);
    }
    bool keeps() const override { return false; }

private:
    static group_options one() {
        group_options o;
        o.reactors = 1;
        return o;
    }
    static task<int> slow_twice(reactor& there, int n) {
        co_await there.sleep_for(50us);
        co_return 2 * n;
    }
    reactor_group group_;
};

task<> yielding(reactor& r) { co_await r.yield(); }
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
        of<udp_reading>("udp: receive", false, wrap::bare),
        of<udp_reading>("udp: receive with_timeout", false, wrap::in_time),
        of<udp_reading>("udp: receive with short timeouts", false, wrap::in_short_times),
        of<udp_reading>("udp: receive in when_any", false, wrap::first_of_two),
        of<udp_reading>("udp: receive in when_any of a range", false, wrap::first_of_many),
        of<udp_reading>("udp: receive_packets", true, wrap::bare),
        of<stream_reading>("read_some", way::some),
        of<stream_reading>("read", way::exactly),
        of<stream_reading>("read_until", way::until),
        of<stream_reading>("receive", way::lease),
        of<line_reading>("read_until with_timeout", wrap::in_time),
        of<line_reading>("read_until with short timeouts", wrap::in_short_times),
        of<line_reading>("read_until in when_any", wrap::first_of_two),
        of<line_reading>("read_until in when_any of a range", wrap::first_of_many),
        of<reading_both>("read_until in when_all of a range"),
        of<generating>("generator"),
        of<stream_writing>("write"),
        of<flushing>("stream: flush"),
        of<tcp_closing>("stream: close"),
        of<accepting>("tcp: accept", wrap::bare),
        of<accepting>("tcp: accept with_timeout", wrap::in_time),
        of<accepting>("tcp: accept with short timeouts", wrap::in_short_times),
        of<accepting>("tcp: accept in when_any", wrap::first_of_two),
        of<accepting>("tcp: accept in when_any of a range", wrap::first_of_many),
        of<closing_listener>("tcp: close of a listener"),
        of<connecting>("tcp: connect"),
        of<unix_meeting>("unix: accept", true),
        of<unix_meeting>("unix: connect", false),
        of<polling>("readable", true),
        of<polling>("writable", false),
        of<signalled>("signal"),
        of<allocating>("allocate"),
        of<channelled<channel<int>>>("channel: receive"),
        of<channelled<cross_channel<int>>>("cross_channel: receive"),
        of<sending>("channel: send"),
        of<awaiting_event>("event"),
        of<locking>("mutex"),
        of<acquiring>("semaphore"),
        of<calling>("call_on"),
        of<simple>("yield", &yielding),
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
