// SPDX-License-Identifier: Apache-2.0
//
// Descriptors that messages bring: they arrive, close-on-exec, and whatever becomes of the message, none is left open.
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/net/unix_datagram.hpp>
#include <cotun/net/unix_seqpacket.hpp>

#include "../support/allocations.hpp"
#include "../support/sanitizers.hpp"
#include "unix_peers.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <array>
#include <fcntl.h>
#include <memory>
#include <optional>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

using namespace cotun;
using namespace std::chrono_literals;
using ::test::directory;
using ::test::hear;
using ::test::words;

namespace {

const std::array modes{read_mode::automatic, read_mode::poll};

// Files whose content is their number.
std::vector<unique_fd> files(unsigned count) {
    std::vector<unique_fd> all;
    for (unsigned n = 0; n < count; ++n) {
        unique_fd f(memfd_create("passed", MFD_CLOEXEC));
        if (!f || ::write(f.get(), &n, sizeof n) != sizeof n)
            throw std::system_error(errno, std::generic_category(), "memfd");
        all.push_back(std::move(f));
    }
    return all;
}

bool are_files(const std::vector<unique_fd>& all, unsigned count) {
    if (all.size() != count) return false;
    for (unsigned n = 0; n < count; ++n) {
        unsigned got = ~0U;
        if (::pread(all[n].get(), &got, sizeof got, 0) != sizeof got || got != n) return false;
        if ((fcntl(all[n].get(), F_GETFD) & FD_CLOEXEC) == 0) return false;
    }
    return true;
}

template <class Socket>
task<int> pass(reactor& io, Socket& s, std::string text, std::vector<unique_fd> with) {
    try {
        packet p = words(io, text);
        co_await s.send(std::move(p), std::move(with));
    } catch (const std::system_error& e) {
        co_return e.code().value();
    }
    co_return co_await ::test::flushed(s);
}

template <class Socket>
task<unix_message> next(Socket& s) {
    unix_message m = co_await s.receive();
    co_return m;
}

template <class Socket>
task<std::size_t> next_packets(Socket& s) {
    const packet_batch b = co_await s.receive_packets();
    co_return b.size();
}

// Two sockets that are connected; the one that receives may be destroyed.
struct datagrams {
    datagrams(reactor& io, const directory& d, unsigned descriptors, read_mode mode)
        : to(open_unix_datagram(io, {.local = d.file("to"), .descriptors = descriptors, .read = mode})),
          from(open_unix_datagram(io, {.peer = d.file("to")})) {}
    std::optional<unix_datagram> to;
    unix_datagram from;
};

struct records {
    records(reactor& io, const directory& d, unsigned descriptors, read_mode mode) {
        const auto accept = [](unix_seqpacket_listener& l, std::optional<unix_seqpacket>& into) -> task<> {
            into = co_await l.accept();
        };
        const auto connect = [](reactor& r, std::string name, std::optional<unix_seqpacket>& into) -> task<> {
            into = co_await connect_unix_seqpacket(r, name);
        };
        unix_seqpacket_listener l = listen_unix_seqpacket(io, d.file("l"), {.descriptors = descriptors, .read = mode});
        std::optional<unix_seqpacket> made;
        io.run(connect(io, d.file("l"), made));
        io.run(accept(l, to));
        from = std::make_unique<unix_seqpacket>(std::move(*made));
    }
    std::optional<unix_seqpacket> to;
    std::unique_ptr<unix_seqpacket> from;
};

template <class Ends>
auto& sender(Ends& e) {
    if constexpr (requires { *e.from; })
        return *e.from;
    else
        return e.from;
}

// On both kinds of sockets.
template <class Test>
void on_both(Test test) {
    const read_mode mode = GENERATE(from_range(modes));
    const bool connected = GENERATE(false, true);
    CAPTURE(connected, mode == read_mode::poll);
    const auto io = cotun::test::over_ring();
    const directory d;
    const auto open = ::test::open_files();
    const auto make = [&](unsigned descriptors, auto body) {
        if (connected) {
            records ends(*io, d, descriptors, mode);
            body(ends);
        } else {
            datagrams ends(*io, d, descriptors, mode);
            body(ends);
        }
    };
    test(*io, make);
    CHECK(::test::open_files() == open);
    CHECK(io->statistics().requests_in_flight == 0);
}

} // namespace

TEST_CASE("descriptors arrive with their message, close-on-exec", "[unix][descriptors]") {
    on_both([](reactor& io, auto make) {
        make(253, [&](auto& ends) {
            for (const unsigned count : {1U, 3U, 253U}) {
                CHECK(io.run(pass(io, sender(ends), "with", files(count))) == 0);
                CHECK(io.run(::test::say(io, sender(ends), "without")) == 0);
                CHECK(io.run(pass(io, sender(ends), "", files(1))) == 0);
                const unix_message with = io.run(next(*ends.to));
                const unix_message without = io.run(next(*ends.to));
                const unix_message empty = io.run(next(*ends.to));
                CHECK(::test::words_of(with.payload) == "with");
                CHECK(are_files(with.descriptors, count));
                CHECK(without.descriptors.empty());
                REQUIRE(empty);
                CHECK(empty.payload.size() == 0);
                CHECK(are_files(empty.descriptors, 1));
            }
        });
    });
}

TEST_CASE("descriptors of messages that are dropped are closed", "[unix][descriptors]") {
    on_both([](reactor& io, auto make) {
        SECTION("unread when the socket is destroyed") {
            make(8, [&](auto& ends) {
                const auto before = ::test::open_files();
                for (int i = 0; i < 5; ++i) CHECK(io.run(pass(io, sender(ends), "unread", files(4))) == 0);
                io.run(cotun::test::sleep(io, 5ms));
                CHECK(::test::open_files() >= before + 4);
                ends.to.reset();
                CHECK(::test::open_files() < before);
            });
        }
        SECTION("unread when it is closed") {
            make(8, [&](auto& ends) {
                CHECK(io.run(pass(io, sender(ends), "unread", files(4))) == 0);
                io.run(cotun::test::sleep(io, 5ms));
                io.run(ends.to->close());
            });
        }
        SECTION("not seen by the reactor yet") {
            make(8, [&](auto& ends) {
                io.run(cotun::test::sleep(io, 1ms)); // the multishot is armed
                CHECK(io.run(pass(io, sender(ends), "unread", files(4))) == 0);
                ends.to.reset();
            });
        }
        SECTION("more than the socket takes") {
            make(3, [&](auto& ends) {
                CHECK(io.run(pass(io, sender(ends), "too many", files(4))) == 0);
                CHECK(io.run(pass(io, sender(ends), "enough", files(3))) == 0);
                const unix_message m = io.run(next(*ends.to));
                CHECK(::test::words_of(m.payload) == "enough");
                CHECK(are_files(m.descriptors, 3));
                CHECK(ends.to->reads().truncated == 1);
            });
        }
        SECTION("too large a message") {
            make(8, [&](auto& ends) {
                CHECK(io.run(pass(io, sender(ends), std::string(4000, 'x'), files(4))) == 0);
                CHECK(io.run(pass(io, sender(ends), "small", files(1))) == 0);
                const unix_message m = io.run(next(*ends.to));
                CHECK(::test::words_of(m.payload) == "small");
                CHECK(are_files(m.descriptors, 1));
                CHECK(ends.to->reads().truncated == 1);
            });
        }
        SECTION("a socket that takes none: the message comes without") {
            make(0, [&](auto& ends) {
                CHECK(io.run(pass(io, sender(ends), "hello", files(4))) == 0);
                const unix_message m = io.run(next(*ends.to));
                CHECK(::test::words_of(m.payload) == "hello");
                CHECK(m.descriptors.empty());
            });
        }
        SECTION("only the payload is taken") {
            make(8, [&](auto& ends) {
                for (int i = 0; i < 3; ++i) CHECK(io.run(pass(io, sender(ends), "x", files(2))) == 0);
                CHECK(io.run(pass(io, sender(ends), "y", files(2))) == 0);
                std::size_t taken = 0;
                while (taken < 4) taken += io.run(next_packets(*ends.to));
                CHECK(io.run(pass(io, sender(ends), "z", files(1))) == 0);
                const unix_message m = io.run(next(*ends.to));
                CHECK(are_files(m.descriptors, 1));
            });
        }
    });
}

TEST_CASE("descriptors: without room for them the message is dropped, and the next comes", "[unix][descriptors]") {
    const read_mode mode = GENERATE(from_range(modes));
    const auto io = cotun::test::over_ring();
    const directory d;
    const auto open = ::test::open_files();
    {
        unix_datagram to = open_unix_datagram(*io, {.local = d.file("to"), .descriptors = 8, .read = mode});
        const ::test::plain_socket from(SOCK_DGRAM, "", d.file("to"));
        io->run(cotun::test::sleep(*io, 1ms));
        alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(4 * sizeof(int))> control{}; // four times descriptor 0
        cmsghdr head{};
        head.cmsg_len = CMSG_LEN(4 * sizeof(int));
        head.cmsg_level = SOL_SOCKET;
        head.cmsg_type = SCM_RIGHTS;
        std::memcpy(control.data(), &head, sizeof head);
        msghdr message{};
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        rlimit old{};
        getrlimit(RLIMIT_NOFILE, &old);
        rlimit tight = old;
        tight.rlim_cur = static_cast<rlim_t>(unique_fd::duplicate_of(0).get()) + 2; // room for two
        setrlimit(RLIMIT_NOFILE, &tight);
        const ssize_t sent = ::sendmsg(from.fd.get(), &message, 0);
        const ssize_t after = ::send(from.fd.get(), "after", 5, 0);
        const std::string heard = io->run(hear(to));
        setrlimit(RLIMIT_NOFILE, &old);
        CHECK(sent == 0);
        CHECK(after == 5);
        CHECK(heard == "after from ");
        CHECK(to.reads().truncated == 1);
    }
    CHECK(::test::open_files() == open);
}

TEST_CASE("descriptors: a cancelled wait keeps them for the next", "[unix][descriptors]") {
    on_both([](reactor& io, auto make) {
        make(8, [&](auto& ends) {
            const auto patient = [](auto& from) -> task<int> {
                try {
                    const unix_message m = co_await with_timeout(from.receive(), 2ms);
                } catch (const std::system_error& e) {
                    co_return e.code().value();
                }
                co_return 0;
            };
            CHECK(io.run(patient(*ends.to)) == ETIMEDOUT);
            const auto wait = [](auto& from) -> task<> { const unix_message m = co_await from.receive(); };
            const auto give_up = [&](reactor& r) -> task<> {
                auto waiting = std::make_unique<scope>(r);
                waiting->spawn(wait(*ends.to));
                co_await r.yield();
                const int error = co_await pass(r, sender(ends), "kept", files(2));
                CHECK(error == 0);
                waiting.reset(); // destroyed, perhaps with a packet that was kept for it
            };
            io.run(give_up(io));
            CHECK(io.run(pass(io, sender(ends), "second", files(3))) == 0);
            const unix_message m = io.run(next(*ends.to));
            CHECK(::test::words_of(m.payload) == "kept");
            CHECK(are_files(m.descriptors, 2));
            const unix_message second = io.run(next(*ends.to));
            CHECK(are_files(second.descriptors, 3));
        });
    });
}

TEST_CASE("descriptors: what cannot be sent is refused by name, and closed", "[unix][descriptors]") {
    on_both([](reactor& io, auto make) {
        make(8, [&](auto& ends) {
            std::string said;
            const auto code = ::test::error_of([&] {
                try {
                    (void)sender(ends).send(words(io, "x"), files(254));
                } catch (const std::system_error& e) {
                    said = e.what();
                    throw;
                }
            });
            CHECK(code == EINVAL);
            CHECK(said.find("253") != std::string::npos);
            std::vector<unique_fd> empty;
            empty.emplace_back();
            CHECK(::test::error_of([&] { (void)sender(ends).send(words(io, "x"), std::move(empty)); }) == EINVAL);
            std::vector<unique_fd> gone = files(1);
            ::close(gone.front().get()); // by mistake, before it is sent
            CHECK(io.run(pass(io, sender(ends), "x", std::move(gone))) == EINVAL);
            { (void)sender(ends).send(words(io, "never awaited"), files(3)); }
            const auto open = ::test::open_files();
            for (int i = 0; i < 3; ++i) {
                CHECK(::test::error_of([&] {
                          try {
                              (void)sender(ends).send(packet(), files(2));
                          } catch (const std::system_error& e) {
                              said = e.what();
                              throw;
                          }
                      }) == EINVAL);
                CHECK(said.find("allocate(0)") != std::string::npos);
            }
            CHECK(::test::open_files() == open);
            CHECK(io.run(pass(io, sender(ends), "", files(1))) == 0); // an empty message brings some
            CHECK(are_files(io.run(next(*ends.to)).descriptors, 1));
            CHECK(io.run(::test::say(io, sender(ends), "still there")) == 0);
            CHECK(io.run(hear(*ends.to)).starts_with("still there"));
        });
    });
}

TEST_CASE("descriptors: messages that wait for room keep theirs, and close them when given up", "[unix][descriptors]") {
    const auto io = cotun::test::over_ring();
    const directory d;
    const auto before = ::test::open_files();
    {
        const ::test::plain_socket full(SOCK_DGRAM, d.file("s"), "");
        unix_datagram c = open_unix_datagram(*io);
        const auto many = [](reactor& r, unix_datagram& s, std::string to) -> task<> {
            for (int i = 0; i < 300; ++i) {
                packet p = words(r, "x");
                co_await s.send_to(std::move(p), to, files(1));
            }
        };
        SECTION("a writer is destroyed as it waits; the socket closes with some accepted") {
            {
                scope writing(*io);
                writing.spawn(many(*io, c, d.file("s")));
                io->run(cotun::test::sleep(*io, 10ms));
                CHECK(::test::open_files() > before + 100);
            }
            io->run(c.close());
            CHECK(c.writes().dropped > 0);
        }
        SECTION("the socket goes before the writer") {
            scope writing(*io);
            writing.spawn(many(*io, c, d.file("s")));
            io->run(cotun::test::sleep(*io, 10ms));
            { const unix_datagram gone = std::move(c); }
        }
    }
    CHECK(::test::open_files() == before);
}

TEST_CASE("descriptors: a message that has none takes nothing from the heap", "[unix][descriptors]") {
    if (cotun::test::sanitized) SKIP("a sanitizer takes what it likes");
    on_both([](reactor& io, auto make) {
        make(8, [&](auto& ends) {
            const auto echo = [](reactor& r, decltype(sender(ends)) from, decltype(*ends.to) to) -> task<bool> {
                bool none = true;
                for (int i = 0; i < 300; ++i) {
                    packet p = words(r, "none");
                    co_await from.send(std::move(p));
                    const unix_message m = co_await to.receive();
                    none = none && m.descriptors.empty();
                }
                co_return none;
            };
            CHECK(io.run(echo(io, sender(ends), *ends.to)));
            const std::size_t before = cotun::test::allocations.load();
            const bool none = io.run(echo(io, sender(ends), *ends.to));
            const std::size_t taken = cotun::test::allocations.load() - before;
            CHECK(none);
            CHECK(taken < 100);
        });
    });
}

TEST_CASE("descriptors: the reactor may end first", "[unix][descriptors]") {
    const auto before = ::test::open_files();
    {
        auto io = cotun::test::over_ring();
        const directory d;
        std::optional<datagrams> ends(std::in_place, *io, d, 8, read_mode::automatic);
        for (int i = 0; i < 3; ++i) CHECK(io->run(pass(*io, ends->from, "unread", files(4))) == 0);
        unix_message held = io->run(next(*ends->to));
        io.reset();
        CHECK(are_files(held.descriptors, 4)); // the program's own
    }
    CHECK(::test::open_files() == before);
}

TEST_CASE("unique_fd closes what it owns", "[unix][descriptors]") {
    const auto before = ::test::open_files();
    {
        unique_fd a = unique_fd::duplicate_of(0);
        CHECK((fcntl(a.get(), F_GETFD) & FD_CLOEXEC) != 0);
        unique_fd b = std::move(a);
        CHECK_FALSE(a); // NOLINT: moved from
        CHECK(b);
        a = unique_fd::duplicate_of(0);
        a = std::move(b);
        CHECK(::test::open_files() == before + 1);
        const unique_fd c(a.release());
        CHECK_FALSE(a);
    }
    CHECK(::test::open_files() == before);
    CHECK(::test::error_of([] { (void)unique_fd::duplicate_of(-1); }) == EBADF);
}
