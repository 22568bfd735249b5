// SPDX-License-Identifier: Apache-2.0
#include "ring/uring.hpp"

#include "ring/entry.hpp"
#include "ring/gathering.hpp"
#include "ring/removal.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <liburing.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <memory>
#include <optional>
#include <poll.h>
#include <string>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <vector>

#include "../support/namespace.hpp"

using namespace cotun::ring;
using namespace std::chrono_literals;

namespace {

std::unique_ptr<driver> make(const uring_options& options = {}) {
    try {
        (void)make_uring({});
    } catch (const std::system_error& e) {
        SKIP(e.what());
    }
    return make_uring(options);
}

// Waits for one completion, ten seconds at most.
std::optional<completion> next(driver& d) {
    std::array<completion, 1> out{};
    const auto deadline = d.now() + 10s;
    while (d.now() < deadline)
        if (d.enter(true, deadline, out) == 1) return out[0];
    return std::nullopt;
}

struct ends {
    explicit ends(int type) { REQUIRE(socketpair(AF_UNIX, type, 0, both.data()) == 0); }
    ends(const ends&) = delete;
    ends& operator=(const ends&) = delete;
    ~ends() {
        ::close(both[0]);
        ::close(both[1]);
    }
    std::array<int, 2> both{};
};

std::span<const std::byte> bytes_of(const std::string& s) { return std::as_bytes(std::span(s)); }

// Runs `body` in a child process; its text comes back. None: the child died.
std::optional<std::string> in_child(const std::function<std::string()>& body) {
    std::array<int, 2> channel{};
    REQUIRE(pipe(channel.data()) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        std::string text;
        try {
            text = body();
        } catch (const std::exception& e) {
            text = std::string("error: ") + e.what();
        }
        const ssize_t n = ::write(channel[1], text.data(), text.size());
        _exit(n == static_cast<ssize_t>(text.size()) ? 0 : 1);
    }
    ::close(channel[1]);
    std::string text;
    std::array<char, 512> part{};
    for (ssize_t n = 0; (n = ::read(channel[0], part.data(), part.size())) > 0;)
        text.append(part.data(), static_cast<std::size_t>(n));
    ::close(channel[0]);
    int status = 0;
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return std::nullopt;
    return text;
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

} // namespace

TEST_CASE("uring: writes, polls and cancels, whatever way completions come") {
    uring_options options;
    options.mode = GENERATE(task_mode::automatic, task_mode::deferred, task_mode::cooperative, task_mode::plain);
    options.registered_files = GENERATE(true, false);
    std::unique_ptr<driver> d;
    try {
        d = make(options);
    } catch (const std::system_error& e) {
        if (e.code().value() == EINVAL) SKIP("this kernel lacks the mode");
        throw;
    }
    const ends s(SOCK_SEQPACKET);
    file f = d->attach(s.both[0]);
    CHECK((f.registered >= 0) == (options.registered_files && removal_is_immediate()));

    const std::string text = "hello";
    d->write(1, f, bytes_of(text));
    auto c = next(*d);
    REQUIRE(c);
    CHECK(c->request == 1);
    CHECK(c->result == 5);
    CHECK_FALSE(c->more);
    d->send(2, f, bytes_of(text));
    c = next(*d);
    REQUIRE(c);
    CHECK((c->request == 2 && c->result == 5));

    d->poll(3, f, POLLIN, true);
    for (int i = 0; i < 3; ++i) {
        REQUIRE(::write(s.both[1], "x", 1) == 1);
        c = next(*d);
        REQUIRE(c);
        CHECK((c->request == 3 && (c->result & POLLIN) != 0 && c->more));
        std::array<std::byte, 8> into{};
        CHECK(d->read_now(f, into) == 1);
    }
    d->cancel(3);
    c = next(*d);
    REQUIRE(c);
    CHECK((c->request == 3 && c->result == -ECANCELED && !c->more));
    d->cancel(3); // nothing there: no completion comes of it
    d->detach(f);
    CHECK(f.descriptor == -1);
    std::array<completion, 4> out{};
    CHECK(d->enter(true, d->now() + 20ms, out) == 0);
    CHECK(d->statistics().overflows == 0);
}

TEST_CASE("uring: a multishot read fills buffers in order, ends without any, and is armed again") {
    const auto d = make();
    if (!d->supports(feature::read_multishot)) SKIP("no multishot read before Linux 6.7");
    const ends s(SOCK_SEQPACKET);
    file f = d->attach(s.both[0]);
    const std::uint16_t group = d->add_group(4);
    std::array<std::array<std::byte, 64>, 4> memory{};
    const auto give = [&](std::uint16_t id) {
        const group_buffer b{memory[id].data(), 64, id};
        d->provide(group, {&b, 1});
    };
    for (std::uint16_t i = 0; i < 4; ++i) give(i);
    d->read_multishot(7, f, group);
    (void)d->enter(false, std::nullopt, {});
    for (char i = 0; i < 6; ++i) REQUIRE(::write(s.both[1], &i, 1) == 1);
    for (std::uint16_t i = 0; i < 4; ++i) {
        const auto c = next(*d);
        REQUIRE(c);
        CHECK((c->request == 7 && c->result == 1 && c->has_buffer && c->buffer == i));
        CHECK(memory[i][0] == static_cast<std::byte>(i));
        if (!c->more) break;
    }
    auto c = next(*d);
    REQUIRE(c);
    CHECK((c->result == -ENOBUFS && !c->more));
    for (std::uint16_t i = 0; i < 4; ++i) give(i);
    d->read_multishot(8, f, group);
    for (std::uint16_t i = 0; i < 2; ++i) {
        c = next(*d);
        REQUIRE(c);
        CHECK((c->request == 8 && c->has_buffer && memory[c->buffer][0] == static_cast<std::byte>(4 + i)));
    }
    d->cancel(8);
    c = next(*d);
    REQUIRE(c);
    CHECK((c->request == 8 && !c->more));
    d->remove_group(group);
    const std::uint16_t again = d->add_group(8);
    CHECK(again == group); // the place is used again
    d->remove_group(again);
    d->detach(f);
}

bool kernel_coalesces() {
    io_uring ring{};
    REQUIRE(io_uring_queue_init(2, &ring, 0) == 0);
    const bool found = coalesces(ring);
    io_uring_queue_exit(&ring);
    return found;
}

// As liburing sets rings up from 2.6 on, with any version of it.
TEST_CASE("uring: a ring whose submission queue has no array is entered as well") {
    constexpr unsigned no_sqarray = 1U << 16; // IORING_SETUP_NO_SQARRAY, Linux 6.6
    (void)make();                             // skips where there are no rings
    io_uring ring{};
    io_uring_params params{};
    params.flags = no_sqarray;
    const auto descriptor = static_cast<int>(syscall(__NR_io_uring_setup, 8, &params));
    if (descriptor < 0 && errno == EINVAL) SKIP("this kernel's rings always have one");
    REQUIRE(descriptor >= 0);
    REQUIRE(io_uring_queue_mmap(descriptor, &params, &ring) == 0); // before 2.6, its init would write to the array
    ring.sq.array = nullptr;
    ring.ring_fd = ring.enter_ring_fd = descriptor; // some versions leave this to their init
    prepare_entries(ring);
    for (unsigned i = 0; i < 20; ++i) { // more than go around the queue
        io_uring_sqe* const entry = io_uring_get_sqe(&ring);
        REQUIRE(entry != nullptr);
        io_uring_prep_nop(entry);
        entry->user_data = i;
        CHECK(enter_ring(ring, {.completions = 1, .at_most = 10s}) == 1);
        io_uring_cqe* done = nullptr;
        REQUIRE(io_uring_peek_cqe(&ring, &done) == 0);
        CHECK(done->user_data == i);
        io_uring_cqe_seen(&ring, done);
    }
    io_uring_queue_exit(&ring);
}

TEST_CASE("uring: a wait that gathers keeps its deadline, and delays a packet that comes alone, but no longer") {
    uring_options options;
    options.coalesce = GENERATE(0us, 50us, 1000us);
    const auto d = make_uring(options);
    if (!d->supports(feature::read_multishot)) SKIP("no multishot read before Linux 6.7");
    const ends s(SOCK_SEQPACKET);
    file f = d->attach(s.both[0]);
    const std::uint16_t group = d->add_group(32);
    std::array<std::array<std::byte, 64>, 32> memory{};
    for (std::uint16_t i = 0; i < 32; ++i) {
        const group_buffer b{memory[i].data(), 64, i};
        d->provide(group, {&b, 1});
    }
    d->read_multishot(1, f, group);
    std::array<completion, 64> out{};
    const auto read = [&](std::size_t expected) { // and gives the buffers back
        std::size_t count = 0;
        while (count < expected) {
            const std::size_t more = d->enter(true, d->now() + 10s, out);
            for (std::size_t i = 0; i < more; ++i) {
                REQUIRE(out[i].has_buffer);
                const group_buffer b{memory[out[i].buffer].data(), 64, out[i].buffer};
                d->provide(group, {&b, 1});
            }
            count += more;
        }
        CHECK(count == expected);
    };
    const auto busy = [&] { // long enough for waits to gather
        for (const auto end = d->now() + 3 * gathering::span; d->now() < end;) {
            for (int i = 0; i < 12; ++i) REQUIRE(::write(s.both[1], "x", 1) == 1);
            read(12);
        }
    };
    busy();
    const auto start = d->now();
    CHECK(d->enter(true, start + 20ms, out) == 0); // nothing came: the deadline holds
    CHECK(d->now() >= start + 20ms);
    clock::duration longest{};
    for (int tries = 0; tries < 1000 && longest < options.coalesce; ++tries) {
        busy();
        REQUIRE(::write(s.both[1], "x", 1) == 1);
        const auto before = d->now();
        read(1);
        longest = std::max(longest, d->now() - before);
    }
    CHECK(longest < 5s); // not the deadline's
    if (kernel_coalesces()) CHECK(longest >= options.coalesce);
    CHECK(d->statistics().overflows == 0);
    d->cancel(1);
    while (d->enter(true, d->now() + 10s, out) == 0) {}
    d->remove_group(group);
}

TEST_CASE("uring: a wait ends at its deadline, not before, and a past one at once") {
    const auto d = make();
    std::array<completion, 4> out{};
    const auto begun = d->now();
    CHECK(d->enter(true, begun + 20ms, out) == 0);
    CHECK(d->now() - begun >= 20ms);
    CHECK(d->enter(true, begun, out) == 0);
    CHECK(d->enter(false, std::nullopt, out) == 0);
}

TEST_CASE("uring: ten thousand wake-ups from another thread, none lost") {
    const auto d = make();
    std::atomic<int> asked{0};
    std::atomic<int> seen{0};
    constexpr int count = 10'000;
    std::thread other([&] {
        for (int i = 1; i <= count; ++i) {
            asked.store(i);
            d->wake();
            while (i % 3 == 0 && seen.load() < i) std::this_thread::yield();
        }
    });
    std::array<completion, 4> out{};
    const auto deadline = d->now() + 60s;
    while (seen.load() < count && d->now() < deadline) {
        CHECK(d->enter(true, deadline, out) == 0);
        seen.store(asked.load());
    }
    seen.store(count);
    other.join();
    CHECK(d->now() < deadline);
    CHECK(d->statistics().wakes > 0);
}

TEST_CASE("uring: as many requests and cancels as it says, and nothing overflows") {
    uring_options options;
    options.requests = 64;
    options.buffers = 64;
    const auto d = make(options);
    const ends s(SOCK_SEQPACKET);
    file f = d->attach(s.both[0]);
    std::array<completion, 16> out{};
    for (int round = 0; round < 20; ++round) {
        for (unsigned i = 0; i < d->capacity(); ++i) d->poll(1 + i, f, POLLIN, false);
        for (unsigned i = 0; i < d->capacity(); ++i) d->cancel(1 + i);
        unsigned ended = 0;
        const auto deadline = d->now() + 10s;
        while (ended < d->capacity() && d->now() < deadline)
            ended += static_cast<unsigned>(d->enter(true, deadline, out));
        REQUIRE(ended == d->capacity());
    }
    CHECK(d->statistics().overflows == 0);
    d->detach(f);
}

TEST_CASE("uring: another thread than the first is refused in words, or served") {
    const auto d = make();
    std::array<completion, 4> out{};
    CHECK(d->enter(false, std::nullopt, out) == 0);
    (void)d->enter(true, d->now() + 1ms, out);
    std::string text;
    std::thread other([&] {
        std::array<completion, 4> mine{};
        try {
            (void)d->enter(true, d->now() + 1ms, mine);
        } catch (const std::system_error& e) {
            text = e.what();
        }
    });
    other.join();
    CHECK((text.empty() || has(text, "another thread")));
}

TEST_CASE("uring: a ring that another thread has tried to use goes with its driver all the same") {
    std::array<int, 2> ends{};
    REQUIRE(pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) == 0);
    {
        const auto d = make();
        std::array<completion, 4> out{};
        d->poll(1, {ends[1], -1}, 0, false); // keeps the pipe's end open as long as the ring is there
        CHECK(d->enter(false, std::nullopt, out) == 0);
        std::thread([&] {
            try {
                std::array<completion, 4> mine{};
                (void)d->enter(false, std::nullopt, mine);
            } catch (const std::system_error&) {}
        }).join();
    }
    close(ends[1]);
    char none = 0;
    CHECK(test::wait_until([&] { return read(ends[0], &none, 1) == 0; })); // this thread lives on
    close(ends[0]);
}

TEST_CASE("uring: under a tight memlock the ring is made smaller; without any it is refused by name") {
    (void)make();
    if (geteuid() != 0) SKIP("needs root, to become a user without memory of its own");
    const auto with_limit = [](rlim_t bytes) {
        return in_child([bytes]() -> std::string {
            const rlimit limit{bytes, bytes};
            // Who is root of a user namespace only, where there may be no other user, has no memory of its own anyway.
            const bool dropped = setuid(64999) == 0 || !test::has_other_users();
            if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || !dropped) return "cannot drop";
            uring_options options;
            options.requests = 4096;
            options.buffers = 4096;
            const auto d = make_uring(options);
            return d->capacity() < 4000 ? "smaller" : "whole";
        });
    };
    const auto none = with_limit(0);
    REQUIRE(none);
    if (*none == "whole") SKIP("this kernel does not charge rings to RLIMIT_MEMLOCK");
    CHECK(has(*none, "ulimit -l"));
    // What the user's other rings hold counts too, and the kernel gives it back a moment after they have gone.
    std::optional<std::string> some;
    (void)test::wait_until([&] { return (some = with_limit(128 * 1024)) == "smaller"; });
    REQUIRE(some);
    CHECK(*some == "smaller");
}

TEST_CASE("uring: a seccomp filter is named") {
    (void)make();
    const int answer = GENERATE(EPERM, ENOSYS);
    const auto text = in_child([answer]() -> std::string {
        std::array<sock_filter, 4> code{{
            {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
            {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, __NR_io_uring_setup},
            {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | static_cast<unsigned>(answer)},
            {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
        }};
        const sock_fprog filter{static_cast<unsigned short>(code.size()), code.data()};
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
            return "no seccomp";
        (void)make_uring({});
        return "made";
    });
    REQUIRE(text);
    if (*text == "no seccomp") SKIP("no seccomp filters here");
    INFO(*text);
    CHECK(has(*text, "seccomp"));
    CHECK(has(*text, "io_uring_setup"));
}

TEST_CASE("uring: the sysctl that switches it off is named") {
    namespace fs = std::filesystem;
    const fs::path proc = fs::temp_directory_path() / ("cotun-proc-" + std::to_string(getpid()));
    fs::create_directories(proc / "sys/kernel");
    fs::create_directories(proc / "self");
    const auto say = [&](const char* disabled, const char* seccomp) {
        std::ofstream(proc / "sys/kernel/io_uring_disabled") << disabled << "\n";
        std::ofstream(proc / "self/status") << "Name:\tx\nSeccomp:\t" << seccomp << "\n";
    };
    const std::string where = proc.string();
    say("2", "0");
    CHECK(has(explain_refused_ring(EPERM, where.c_str()), "kernel.io_uring_disabled = 2"));
    say("1", "0");
    CHECK(has(explain_refused_ring(EPERM, where.c_str()), "kernel.io_uring_group"));
    say("0", "2");
    CHECK(has(explain_refused_ring(EPERM, where.c_str()), "seccomp"));
    CHECK(has(explain_refused_ring(ENOSYS, where.c_str()), "seccomp"));
    say("0", "0");
    CHECK(has(explain_refused_ring(EPERM, where.c_str()), "security module"));
    CHECK(has(explain_refused_ring(ENOSYS, where.c_str()), "CONFIG_IO_URING"));
    CHECK(has(explain_refused_ring(ENOMEM, where.c_str()), "ulimit -l"));
    CHECK(has(explain_refused_ring(EMFILE, where.c_str()), "ulimit -n"));
    fs::remove_all(proc);
    CHECK(has(explain_refused_ring(EPERM, where.c_str()), "io_uring")); // no procfs at all
}
