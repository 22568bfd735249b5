// SPDX-License-Identifier: Apache-2.0
//
// Descriptors beside the bytes of Unix streams: between two of ours, and with Python's socket.send_fds as the other
// side, also one that hands over a TUN device; whatever becomes of them, none is left open.
#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/net/unix.hpp>

#include "../support/namespace.hpp"
#include "unix_peers.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <memory>
#include <net/if.h>
#include <optional>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

using namespace cotun;
using namespace std::chrono_literals;
using ::test::directory;
using ::test::error_of;
using ::test::words_of;

namespace {

// Files whose content is their number.
std::vector<unique_fd> files(unsigned count, unsigned first = 0) {
    std::vector<unique_fd> all;
    for (unsigned n = first; n < first + count; ++n) {
        unique_fd f(memfd_create("passed", MFD_CLOEXEC));
        if (!f || ::write(f.get(), &n, sizeof n) != sizeof n)
            throw std::system_error(errno, std::generic_category(), "memfd");
        all.push_back(std::move(f));
    }
    return all;
}

bool are_files(const std::vector<unique_fd>& all, unsigned count, unsigned first = 0) {
    if (all.size() != count) return false;
    for (unsigned n = 0; n < count; ++n) {
        unsigned got = ~0U;
        if (::pread(all[n].get(), &got, sizeof got, 0) != sizeof got || got != first + n) return false;
        if ((fcntl(all[n].get(), F_GETFD) & FD_CLOEXEC) == 0) return false;
    }
    return true;
}

// Two ends that are connected; `to` takes descriptors.
struct ends {
    ends(reactor& io, const directory& d, unsigned descriptors) {
        const auto accept = [](unix_listener& l, std::optional<unix_stream>& into) -> task<> {
            into = co_await l.accept();
        };
        const auto connect = [](reactor& r, std::string name, std::optional<unix_stream>& into) -> task<> {
            into = co_await connect_unix(r, name);
        };
        unix_listener l = listen_unix(io, d.file("l"), {.descriptors = descriptors});
        io.run(connect(io, d.file("l"), from));
        io.run(accept(l, to));
        io.run(l.close());
    }
    std::optional<unix_stream> to;
    std::optional<unix_stream> from;
};

task<int> pass(unix_stream& s, std::string text, std::vector<unique_fd> with) {
    try {
        co_await s.write(text, std::move(with));
    } catch (const std::system_error& e) {
        co_return e.code().value();
    }
    co_return 0;
}

task<int> say(unix_stream& s, std::string text) {
    co_await s.write(text);
    co_await s.flush();
    co_return 0;
}

task<std::string> read(unix_stream& s, std::size_t size) {
    std::string text(size, '\0');
    co_await s.read(std::as_writable_bytes(std::span(text)));
    co_return text;
}

task<unix_message> next(unix_stream& s) {
    unix_message m = co_await s.receive_message();
    co_return m;
}

// Runs `test` with two ends, and sees that nothing is left open.
template <class Test>
void with_ends(unsigned descriptors, Test test) {
    const auto io = cotun::test::over_ring();
    const directory d;
    (void)files(1);
    {
        const auto warm = ends(*io, d, descriptors); // what the reactor opens once
    }
    const auto before = ::test::open_files();
    {
        ends e(*io, d, descriptors);
        test(*io, e);
    }
    CHECK(::test::open_files() == before);
}

} // namespace

TEST_CASE("stream descriptors: they come with the bytes that they were sent with", "[unix][descriptors]") {
    with_ends(253, [](reactor& io, ends& e) {
        CHECK(io.run(say(*e.from, "plain ")) == 0);
        CHECK(io.run(pass(*e.from, "two", files(2))) == 0);
        CHECK(io.run(say(*e.from, " after")) == 0);
        CHECK(io.run(pass(*e.from, "all", files(253))) == 0);
        std::string text;
        std::vector<std::size_t> counts;
        while (text.size() < 18) {
            const unix_message m = io.run(next(*e.to));
            REQUIRE(m);
            const std::string before = text;
            text += words_of(m.payload);
            if (m.descriptors.size() == 2) { // nothing from behind its bytes is in the same message
                CHECK(text == "plain two");
                CHECK(are_files(m.descriptors, 2));
            } else if (!m.descriptors.empty()) {
                CHECK(text == "plain two afterall");
                CHECK(are_files(m.descriptors, 253));
            }
            counts.push_back(m.descriptors.size());
        }
        CHECK(text == "plain two afterall");
        CHECK(std::count(counts.begin(), counts.end(), 2U) == 1);
        CHECK(std::count(counts.begin(), counts.end(), 253U) == 1);
        CHECK(e.to->descriptors().received == 255);
        e.from->shutdown_send();
        CHECK_FALSE(io.run(next(*e.to)));
    });
}

TEST_CASE("stream descriptors: plain reads have them taken when their first byte was read", "[unix][descriptors]") {
    with_ends(4, [](reactor& io, ends& e) {
        CHECK(io.run(pass(*e.from, "abcd", files(1, 10))) == 0);
        CHECK(io.run(pass(*e.from, "efgh", files(1, 20))) == 0);
        CHECK(e.to->take_descriptors().empty());
        CHECK(io.run(read(*e.to, 1)) == "a");
        CHECK(are_files(e.to->take_descriptors(), 1, 10));
        CHECK(e.to->take_descriptors().empty());
        CHECK(io.run(read(*e.to, 3)) == "bcd");
        CHECK(e.to->take_descriptors().empty());
        CHECK(io.run(read(*e.to, 2)) == "ef");
        CHECK(are_files(e.to->take_descriptors(), 1, 20));
        CHECK(io.run(pass(*e.from, "x", files(2, 30))) == 0);
        CHECK(io.run(pass(*e.from, "y", files(1, 32))) == 0);
        CHECK(io.run(read(*e.to, 4)) == "ghxy");
        CHECK(are_files(e.to->take_descriptors(), 3, 30)); // all that was read, in order
    });
}

TEST_CASE("stream descriptors: order holds among many plain writes, small and large", "[unix][descriptors]") {
    with_ends(1, [](reactor& io, ends& e) {
        const auto writer = [](unix_stream& s) -> task<> {
            const std::string large(300'000, 'L');
            for (unsigned i = 0; i < 60; ++i) {
                co_await s.write("small");
                std::vector<unique_fd> one = files(1, i);
                co_await s.write("F", std::move(one));
                if (i % 20 == 7) co_await s.write(large);
                if (i % 20 == 9) {
                    std::vector<unique_fd> more = files(1, 1000 + i);
                    co_await s.write(large, std::move(more));
                }
            }
            s.shutdown_send();
        };
        const auto reader = [](unix_stream& s, bool& right) -> task<> {
            unsigned next_small = 0;
            for (;;) {
                const unix_message m = co_await s.receive_message();
                if (!m) break;
                const std::string text = words_of(m.payload);
                if (m.descriptors.empty()) {
                    right = right && text.find('F') == std::string::npos;
                    continue;
                }
                unsigned number = 0;
                right = right && m.descriptors.size() == 1 &&
                        ::pread(m.descriptors[0].get(), &number, sizeof number, 0) == sizeof number;
                if (number < 1000)
                    right = right && number == next_small++ && text.back() == 'F';
                else
                    right = right && text.back() == 'L';
            }
            right = right && next_small == 60;
        };
        bool right = true;
        scope both(io);
        both.spawn(writer(*e.from));
        both.spawn(reader(*e.to, right));
        io.run(both.join());
        CHECK(right);
        CHECK(e.to->descriptors().received == 63);
        CHECK(e.to->descriptors().lost == 0);
    });
}

TEST_CASE("stream descriptors: those that do not fit are lost by name, and no byte is", "[unix][descriptors]") {
    with_ends(2, [](reactor& io, ends& e) {
        CHECK(io.run(pass(*e.from, "many", files(5))) == 0);
        CHECK(error_of([&] { (void)io.run(next(*e.to)); }) == EMSGSIZE);
        const unix_message m = io.run(next(*e.to));
        CHECK(words_of(m.payload) == "many");
        CHECK(m.descriptors.size() <= 2);
        CHECK(e.to->descriptors().lost == 1);
        CHECK(io.run(pass(*e.from, "again", files(3))) == 0);
        CHECK(io.run(read(*e.to, 5)) == "again");
        CHECK(error_of([&] { (void)e.to->take_descriptors(); }) == EMSGSIZE);
        CHECK(e.to->take_descriptors().size() <= 2);
        CHECK(io.run(pass(*e.from, "right", files(2))) == 0);
        CHECK(are_files(io.run(next(*e.to)).descriptors, 2));
    });
    with_ends(8, [](reactor& io, ends& e) { // this program may open no more
        CHECK(io.run(pass(*e.from, "tight", files(4))) == 0);
        rlimit old{};
        getrlimit(RLIMIT_NOFILE, &old);
        rlimit tight = old;
        tight.rlim_cur = static_cast<rlim_t>(unique_fd::duplicate_of(0).get()) + 2;
        setrlimit(RLIMIT_NOFILE, &tight);
        const int error = error_of([&] { (void)io.run(next(*e.to)); });
        setrlimit(RLIMIT_NOFILE, &old);
        CHECK(error == EMSGSIZE);
        CHECK(words_of(io.run(next(*e.to)).payload) == "tight");
    });
}

TEST_CASE("stream descriptors: whatever nobody takes is closed", "[unix][descriptors]") {
    with_ends(8, [](reactor& io, ends& e) {
        for (int i = 0; i < 5; ++i) CHECK(io.run(pass(*e.from, "unread", files(8))) == 0);
        CHECK(io.run(read(*e.to, 8)) == "unreadun"); // and not taken
    });
    with_ends(0, [](reactor& io, ends& e) { // not asked for
        CHECK(io.run(pass(*e.from, "plain", files(8))) == 0);
        const unix_message m = io.run(next(*e.to));
        CHECK(words_of(m.payload) == "plain");
        CHECK(m.descriptors.empty());
        CHECK(e.to->take_descriptors().empty());
    });
    with_ends(253, [](reactor& io, ends& e) { // nobody takes them: there is a bound
        const auto before = ::test::open_files();
        for (int i = 0; i < 8; ++i) {
            CHECK(io.run(pass(*e.from, "x", files(253))) == 0);
            CHECK(io.run(read(*e.to, 1)) == "x");
        }
        CHECK(::test::open_files() <= before + 1012);
        CHECK(e.to->descriptors().lost == 4);
        CHECK(error_of([&] { (void)e.to->take_descriptors(); }) == EMSGSIZE);
        CHECK(e.to->take_descriptors().size() == 1012);
    });
}

TEST_CASE("stream descriptors: a read that is stopped gives both back", "[unix][descriptors]") {
    with_ends(8, [](reactor& io, ends& e) {
        const auto impatient = [](unix_stream& s, std::size_t size) -> task<int> {
            std::string text(size, '\0');
            try {
                co_await with_timeout(s.read(std::as_writable_bytes(std::span(text))), 3ms);
            } catch (const std::system_error& error) {
                co_return error.code().value();
            }
            co_return 0;
        };
        CHECK(io.run(impatient(*e.to, 100)) == ETIMEDOUT);
        CHECK(io.run(pass(*e.from, "kept", files(2))) == 0);
        CHECK(io.run(impatient(*e.to, 100)) == ETIMEDOUT); // it had four of them
        CHECK(e.to->take_descriptors().empty());           // but has given them back
        CHECK(io.run(pass(*e.from, "second", files(3, 7))) == 0);
        CHECK(io.run(impatient(*e.to, 100)) == ETIMEDOUT);
        const unix_message m = io.run(next(*e.to));
        CHECK(words_of(m.payload) == "kept"); // never glued, wherever the bytes have lain
        CHECK(are_files(m.descriptors, 2));
        const unix_message after = io.run(next(*e.to));
        CHECK(words_of(after.payload) == "second");
        CHECK(are_files(after.descriptors, 3, 7));
        // destroyed, perhaps when they had come for it
        const auto wait = [](unix_stream& s) -> task<> { const unix_message one = co_await s.receive_message(); };
        const auto give_up = [&](reactor& r) -> task<> {
            auto waiting = std::make_unique<scope>(r);
            waiting->spawn(wait(*e.to));
            co_await r.yield();
            const int error = co_await pass(*e.from, "third", files(1, 5));
            CHECK(error == 0);
            waiting.reset();
        };
        io.run(give_up(io));
        const unix_message third = io.run(next(*e.to));
        CHECK(words_of(third.payload) == "third");
        CHECK(are_files(third.descriptors, 1, 5));
    });
}

TEST_CASE("stream descriptors: a write that waits is stopped, destroyed, or outlived by its stream",
          "[unix][descriptors]") {
    with_ends(8, [](reactor& io, ends& e) {
        const auto fill = [](unix_stream& s) -> task<> {
            const std::string large(4'000'000, 'x');
            co_await s.write(large);
        };
        const auto more = [](unix_stream& s) -> task<> {
            std::vector<unique_fd> its = files(5);
            co_await s.write("never", std::move(its));
        };
        scope filling(io);
        filling.spawn(fill(*e.from));
        io.run(cotun::test::sleep(io, 5ms));
        const auto before = ::test::open_files();
        {
            scope waiting(io);
            waiting.spawn(more(*e.from));
            io.run(cotun::test::sleep(io, 2ms));
            CHECK(::test::open_files() == before + 5);
        }
        CHECK(::test::open_files() == before);
        scope last(io);
        last.spawn(more(*e.from));
        io.run(cotun::test::sleep(io, 2ms));
        io.run(e.to->close());
        io.run(e.from->close());
    });
}

TEST_CASE("stream descriptors: what cannot be sent is refused by name, and closed", "[unix][descriptors]") {
    with_ends(8, [](reactor& io, ends& e) {
        CHECK(error_of([&] { (void)e.from->write("x", files(254)); }) == EINVAL);
        CHECK(error_of([&] { (void)e.from->write("", files(1)); }) == EINVAL);
        std::vector<unique_fd> empty;
        empty.emplace_back();
        CHECK(error_of([&] { (void)e.from->write("x", std::move(empty)); }) == EINVAL);
        std::vector<unique_fd> gone = files(1);
        ::close(gone.front().get()); // by mistake, before it is sent
        CHECK(io.run(pass(*e.from, "x", std::move(gone))) == EBADF);
        { (void)e.from->write("never awaited", files(3)); }
        CHECK(io.run(pass(*e.from, "still there", files(1))) == 0); // nothing of those has gone
        CHECK(words_of(io.run(next(*e.to)).payload) == "still there");
        e.from->shutdown_send();
        CHECK(io.run(pass(*e.from, "x", files(2))) == EPIPE);
    });
    const auto io = cotun::test::over_ring();
    CHECK(error_of([&] { (void)listen_unix(*io, "@x", {.descriptors = 254}); }) == EINVAL);
    CHECK(error_of([&] { (void)connect_unix(*io, "@x", {.descriptors = 254}); }) == EINVAL);
}

TEST_CASE("stream descriptors: the peer ends, and what it sent is there", "[unix][descriptors]") {
    with_ends(8, [](reactor& io, ends& e) {
        CHECK(io.run(pass(*e.from, "last", files(3))) == 0);
        io.run(e.from->close());
        CHECK(are_files(io.run(next(*e.to)).descriptors, 3));
        CHECK_FALSE(io.run(next(*e.to)));
        CHECK(io.run(pass(*e.to, "x", files(1))) == EPIPE);
    });
}

TEST_CASE("stream descriptors: Python's send_fds and recv_fds as the other side", "[unix][descriptors]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const auto before = ::test::open_files();
    {
        unix_listener listener = listen_unix(*io, d.file("l"), {.descriptors = 3});
        // sends two files and some bytes, and then reads what is in those that come back
        ::test::program other({"python3", "-c", R"(
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
files = []
for text in (b'one', b'two'):
    f = os.memfd_create('theirs')
    os.write(f, text)
    files.append(f)
s.sendall(b'head:')
socket.send_fds(s, [b'two files'], files)
s.sendall(b':tail\n')
data, got, flags, _ = socket.recv_fds(s, 100, 3)
seen = b''.join(os.pread(f, 100, 0) for f in got)
sys.exit(0 if data == b'back' and seen == b'ours' and flags & socket.MSG_CTRUNC == 0 else 1)
)",
                               d.file("l")});
        const auto serve = [](unix_listener& l) -> task<std::string> {
            unix_stream s = co_await l.accept();
            std::string heard = co_await s.read_until("\n", 100);
            std::vector<unique_fd> its = s.take_descriptors();
            for (const unique_fd& f : its) {
                std::array<char, 8> text{};
                const ssize_t size = ::pread(f.get(), text.data(), text.size(), 0);
                heard += " " + std::string(text.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
            }
            std::vector<unique_fd> ours;
            ours.emplace_back(memfd_create("ours", MFD_CLOEXEC));
            (void)!::write(ours.front().get(), "ours", 4);
            co_await s.write("back", std::move(ours));
            co_await s.close();
            co_return heard;
        };
        CHECK(io->run(serve(listener)) == "head:two files:tail\n one two");
        CHECK(io->run(::test::ended(*io, other)) == 0);
    }
    CHECK(::test::open_files() == before);
}

TEST_CASE("stream descriptors: another program hands over a TUN device", "[unix][descriptors][tun]") {
    const ::test::own_namespace own;
    if (::access("/dev/net/tun", R_OK | W_OK) != 0) SKIP("no /dev/net/tun");
    const auto io = cotun::test::over_ring();
    const directory d;
    unix_listener listener = listen_unix(*io, d.file("l"), {.descriptors = 1});
    ::test::program other({"python3", "-c", R"(
import fcntl, os, socket, struct, sys
tun = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', b'handed0', 0x1001))
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
socket.send_fds(s, [b'handed0\n'], [tun])
)",
                           d.file("l")});
    const auto take = [](unix_listener& l) -> task<unique_fd> {
        unix_stream s = co_await l.accept();
        const std::string name = co_await s.read_until("\n", 64);
        std::vector<unique_fd> its = s.take_descriptors();
        CHECK(name == "handed0\n");
        if (its.size() != 1) co_return unique_fd();
        co_return std::move(its.front());
    };
    unique_fd tun = io->run(take(listener));
    REQUIRE(tun);
    CHECK(io->run(::test::ended(*io, other)) == 0);
    ifreq request{};
    REQUIRE(ioctl(tun.get(), TUNGETIFF, &request) == 0);
    CHECK(std::string(request.ifr_name) == "handed0");
    CHECK(if_nametoindex("handed0") != 0); // its maker has ended; it is ours
    ::test::run("ip link set handed0 up");
    const std::array<unsigned char, 20> packet{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2};
    CHECK(::write(tun.get(), packet.data(), packet.size()) == static_cast<ssize_t>(packet.size()));
    tun.reset();
    CHECK(if_nametoindex("handed0") == 0);
}
