// SPDX-License-Identifier: Apache-2.0
//
// The files of Unix sockets: whose they are, when they may be taken over, who may connect from the first moment on, and
// who removes them.
#include <cotun/coro/scope.hpp>
#include <cotun/net/unix.hpp>
#include <cotun/net/unix_datagram.hpp>
#include <cotun/net/unix_seqpacket.hpp>

#include "unix_peers.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <array>
#include <atomic>
#include <barrier>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace cotun;
using namespace std::chrono_literals;
using Catch::Matchers::ContainsSubstring;
using ::test::directory;

namespace {

enum class kind : std::uint8_t { stream, seqpacket, datagram };
constexpr std::array kinds{kind::stream, kind::seqpacket, kind::datagram};

int type_of(kind k) { return k == kind::stream ? SOCK_STREAM : k == kind::seqpacket ? SOCK_SEQPACKET : SOCK_DGRAM; }

// A socket of one of the three kinds, bound to a path.
struct bound {
    bound(reactor& io, kind k, const std::string& path, unsigned mode = 0) {
        if (k == kind::stream)
            stream.emplace(listen_unix(io, path, {.mode = mode}));
        else if (k == kind::seqpacket)
            seqpacket.emplace(listen_unix_seqpacket(io, path, {.mode = mode}));
        else
            datagram.emplace(open_unix_datagram(io, {.local = path, .mode = mode}));
    }
    void close(reactor& io) {
        if (stream) io.run(stream->close());
        if (seqpacket) io.run(seqpacket->close());
        if (datagram) io.run(datagram->close());
    }
    std::optional<unix_listener> stream;
    std::optional<unix_seqpacket_listener> seqpacket;
    std::optional<unix_datagram> datagram;
};

int bind_error(reactor& io, kind k, const std::string& path) {
    return ::test::error_of([&] { const bound b(io, k, path); });
}

// What a killed program leaves.
void leave_behind(kind k, const std::string& path) { const ::test::plain_socket left(type_of(k), path, ""); }

unsigned mode_of(const std::string& path) {
    struct stat s {};
    REQUIRE(::stat(path.c_str(), &s) == 0);
    return s.st_mode & 07777;
}

struct with_umask {
    explicit with_umask(mode_t m) : old(::umask(m)) {}
    with_umask(const with_umask&) = delete;
    with_umask& operator=(const with_umask&) = delete;
    ~with_umask() { ::umask(old); }
    mode_t old;
};

struct in_directory {
    explicit in_directory(const std::string& path) : old(std::filesystem::current_path()) {
        std::filesystem::current_path(path);
    }
    in_directory(const in_directory&) = delete;
    in_directory& operator=(const in_directory&) = delete;
    ~in_directory() { std::filesystem::current_path(old); }
    std::filesystem::path old;
};

std::size_t files_in(const directory& d) {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator{d.path}, {}));
}

} // namespace

TEST_CASE("unix files: a socket that is bound and does not listen yet keeps its file", "[unix][files]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    for (const kind other : kinds)
        for (const kind k : kinds) {
            const std::string path = d.file("s");
            CAPTURE(static_cast<int>(other), static_cast<int>(k));
            {
                const ::test::plain_socket starting(type_of(other), path, "");
                CHECK(bind_error(*io, k, path) == EADDRINUSE);
                CHECK(std::filesystem::exists(path));
            }
            CHECK(bind_error(*io, k, path) == 0); // now it is left over
            CHECK(files_in(d) == 0);
        }
}

TEST_CASE("unix files: of many that start at once over a dead one's file exactly one has it", "[unix][files]") {
    if (const auto why = cotun::test::ring_refused()) SKIP(*why);
    const directory d;
    constexpr unsigned starters = 6;
    const kind k = GENERATE(kind::stream, kind::datagram);
    std::barrier together(starters);
    std::atomic<unsigned> won{0};
    std::atomic<unsigned> refused{0};
    std::atomic<unsigned> reached{0};
    const unsigned rounds = 60;
    const auto start = [&] {
        reactor io;
        for (unsigned round = 0; round < rounds; ++round) {
            const std::string path = d.file(("s" + std::to_string(round)).c_str());
            together.arrive_and_wait();
            std::optional<bound> mine;
            const int error = ::test::error_of([&] { mine.emplace(io, k, path); });
            if (error == 0) ++won;
            if (error == EADDRINUSE) ++refused;
            together.arrive_and_wait();
            if (mine) { // it is at its path still
                const unique_fd client(::socket(AF_UNIX, type_of(k) | SOCK_CLOEXEC, 0));
                sockaddr_un a{};
                a.sun_family = AF_UNIX;
                path.copy(a.sun_path, sizeof a.sun_path - 1);
                if (::connect(client.get(), reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0) ++reached;
            }
            together.arrive_and_wait();
        }
    };
    for (unsigned round = 0; round < rounds; ++round) leave_behind(k, d.file(("s" + std::to_string(round)).c_str()));
    {
        std::vector<std::jthread> all;
        for (unsigned i = 0; i < starters; ++i) all.emplace_back(start);
    }
    CHECK(won == rounds);
    CHECK(reached == rounds);
    CHECK(refused == rounds * (starters - 1));
    CHECK(files_in(d) == 0);
}

TEST_CASE("unix files: removed is only what is the socket's own", "[unix][files]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const kind k = GENERATE(kind::stream, kind::seqpacket, kind::datagram);
    const bool closed = GENERATE(true, false);
    const auto end = [&](std::optional<bound>& b) {
        if (closed) b->close(*io);
        b.reset();
    };
    SECTION("another's file at its path stays") {
        std::optional<bound> b(std::in_place, *io, k, d.file("s"));
        std::filesystem::remove(d.file("s"));
        const ::test::plain_socket other(SOCK_DGRAM, d.file("s"), "");
        end(b);
        CHECK(std::filesystem::exists(d.file("s")));
    }
    SECTION("a relative path is meant as it was then") {
        const directory elsewhere;
        std::optional<bound> b;
        {
            const in_directory here(d.path);
            b.emplace(*io, k, "s");
        }
        const in_directory there(elsewhere.path);
        const ::test::plain_socket other(SOCK_DGRAM, "s", "");
        end(b);
        CHECK(std::filesystem::exists(elsewhere.file("s")));
        CHECK_FALSE(std::filesystem::exists(d.file("s")));
    }
}

TEST_CASE("unix files: nobody has more permissions for a moment than in the end", "[unix][files]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const kind k = GENERATE(kind::stream, kind::seqpacket, kind::datagram);
    {
        const with_umask none(0);
        const unique_fd changes(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
        REQUIRE(::inotify_add_watch(changes.get(), d.path.c_str(), IN_ATTRIB) >= 0);
        const bound b(*io, k, d.file("s"), 0600);
        CHECK(mode_of(d.file("s")) == 0600);
        std::array<char, 4096> events{};
        CHECK(::read(changes.get(), events.data(), events.size()) == -1); // it was so when it came
        CHECK(errno == EAGAIN);
    }
    const with_umask strict(077);
    const bound b(*io, k, d.file("s"), 0666); // more than the umask leaves
    CHECK(mode_of(d.file("s")) == 0666);
    const bound as_it_is(*io, k, d.file("t"));
    CHECK(mode_of(d.file("t")) == 0700);
}

TEST_CASE("unix files: a child's end leaves them, whatever it destroys first", "[unix][files]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const bool reactor_first = GENERATE(true, false);
    const kind k = GENERATE(kind::stream, kind::seqpacket, kind::datagram);
    auto own = std::make_unique<reactor>();
    std::optional<bound> b(std::in_place, *own, k, d.file("s"));
    own->run(cotun::test::sleep(*own, 1ms));
    const std::string said = ::test::in_child([&]() -> std::string {
        alarm(20); // rather than hang
        if (reactor_first) own.reset();
        b.reset();
        own.reset();
        return std::filesystem::exists(d.file("s")) ? "there" : "gone";
    });
    CHECK(said == "there");
    if (reactor_first) own.reset(); // the parent's own end removes it, in either order
    b.reset();
    CHECK_FALSE(std::filesystem::exists(d.file("s")));
}
