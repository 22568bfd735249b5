// SPDX-License-Identifier: Apache-2.0
//
// Accepting and connecting over the scripted driver: every step of a wait's life, and trouble.
#include "../support/scripted_stream.hpp"

#include <cotun/coro/scope.hpp>
#include <cotun/net/tcp.hpp>

#include "../support/process.hpp"
#include "io/acceptor.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

using namespace cotun;
using namespace cotun::test;
using Catch::Matchers::ContainsSubstring;

namespace {

enum moment { queued, in_flight, completed, delivered };

endpoint any_port() { return endpoint::from_string("127.0.0.1:0"); }

// The descriptors of one test: none may be left.
struct counted_files {
    std::ptrdiff_t before = ::test::open_files();
    ~counted_files() { CHECK(::test::open_files() == before); }
};

struct accept_rig : stream_rig {
    explicit accept_rig(const rig_options& o = {}) : stream_rig(o), listener(listen_tcp(io, {.local = any_port()})) {}
    ring::scripted::request* accepting() {
        for (auto& q : kernel.in_flight)
            if (q.what == kind::accept) return &q;
        return nullptr;
    }
    void connection(bool more = true) { kernel.complete(accepting()->name, ::dup(STDERR_FILENO), more); }
    tcp_listener listener;
};

int code_of(detail::connect_waiter&& w, std::string* text = nullptr) {
    auto& op = static_cast<tcp_connect_operation&>(w);
    try {
        tcp_stream s = op.await_resume();
        return 0;
    } catch (const std::system_error& e) {
        if (text != nullptr) *text = e.what();
        return e.code().value();
    }
}

} // namespace

TEST_CASE("accept: stopped or destroyed at any moment, a connection goes to the next") {
    const int when = GENERATE(queued, in_flight, completed, delivered);
    const bool stop = GENERATE(true, false);
    const bool multishot = GENERATE(true, false);
    const counted_files files;
    accept_rig r;
    r.kernel.supported[static_cast<std::size_t>(ring::feature::accept_multishot)] = true;
    auto op = std::make_unique<by_hand<tcp_accept_operation>>(r, r.listener.accept());
    CHECK_FALSE(op->ready());
    if (when >= in_flight) r.turn();
    if (when >= completed) r.connection(multishot);
    if (when >= delivered) r.turn();
    CHECK(op->ready() == (when == delivered));
    if (stop) {
        op->stop.request();
        CHECK(op->ready());
        if (when == delivered)
            CHECK_NOTHROW(tcp_stream(op->operation->await_resume())); // taken: it had come
        else
            CHECK_THROWS_AS(op->operation->await_resume(), std::system_error);
    }
    op.reset();
    r.turn();
    const bool was_taken = stop && when == delivered;
    by_hand next(r, r.listener.accept());
    CHECK(next.ready() == (when >= completed && !was_taken));
    if (!next.ready()) {
        r.turn();
        REQUIRE(r.accepting() != nullptr);
        r.connection();
        r.turn();
    }
    REQUIRE(next.ready());
    tcp_stream s = next.operation->await_resume();
    CHECK(s.is_open());
    CHECK(r.listener.statistics().accepted == (was_taken ? 2 : 1));
}

TEST_CASE("accept: connections that nobody takes are bounded, and taken in order") {
    const counted_files files;
    accept_rig r;
    std::optional<by_hand<tcp_accept_operation>> op;
    op.emplace(r, r.listener.accept());
    r.turn();
    op.reset();
    unsigned came = 0;
    while (r.accepting() != nullptr && came < 200) {
        r.connection();
        r.turn();
        ++came;
    }
    CHECK(came >= detail::acceptor::bound);
    CHECK(came <= detail::acceptor::bound + 2);
    for (unsigned i = 0; i < came; ++i) {
        by_hand take(r, r.listener.accept());
        REQUIRE(take.ready());
        CHECK_NOTHROW(tcp_stream(take.operation->await_resume()));
    }
    by_hand take(r, r.listener.accept());
    CHECK_FALSE(take.ready());
    r.turn();
    CHECK(r.accepting() != nullptr);
}

TEST_CASE("accept: out of descriptors it pauses, longer each time, and goes on") {
    const int error = GENERATE(EMFILE, ENFILE, ENOMEM, ENOBUFS, ECONNABORTED, EPERM);
    const counted_files files;
    accept_rig r;
    by_hand op(r, r.listener.accept());
    r.turn();
    const auto start = r.kernel.now();
    auto last = start;
    std::chrono::nanoseconds pause{0};
    for (int i = 0; i < 12; ++i) {
        REQUIRE(r.accepting() != nullptr);
        r.kernel.complete(r.accepting()->name, -error);
        r.turn();
        CHECK(r.accepting() == nullptr); // at once would be to spin
        for (int passes = 0; r.accepting() == nullptr && passes < 2000; ++passes) r.pass();
        const auto took = r.kernel.now() - last;
        CHECK(took + std::chrono::milliseconds(2) >=
              std::min<std::chrono::nanoseconds>(pause, detail::acceptor::longest_pause));
        CHECK(took <= detail::acceptor::longest_pause + std::chrono::milliseconds(2));
        pause = took;
        last = r.kernel.now();
    }
    CHECK(pause >= detail::acceptor::longest_pause);
    CHECK_FALSE(op.ready());
    r.connection();
    r.turn();
    REQUIRE(op.ready());
    CHECK_NOTHROW(tcp_stream(op.operation->await_resume()));
    const accept_statistics s = r.listener.statistics();
    const bool short_of = error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
    CHECK(s.exhausted == (short_of ? 12 : 0));
    CHECK(s.failed == (short_of ? 0 : 12));
}

TEST_CASE("accept: a kernel without multishot accepts one at a time; a socket that does not listen ends it") {
    const counted_files files;
    accept_rig r;
    by_hand op(r, r.listener.accept());
    r.turn();
    REQUIRE(r.accepting() != nullptr);
    CHECK(r.accepting()->multishot);
    r.kernel.complete(r.accepting()->name, -EINVAL);
    r.turn();
    r.turn();
    REQUIRE(r.accepting() != nullptr);
    CHECK_FALSE(r.accepting()->multishot);
    CHECK_FALSE(r.listener.uses_multishot());
    r.connection(false);
    r.turn();
    REQUIRE(op.ready());
    CHECK_NOTHROW(tcp_stream(op.operation->await_resume()));
    by_hand next(r, r.listener.accept());
    r.turn();
    r.kernel.complete(r.accepting()->name, -EINVAL);
    r.turn();
    REQUIRE(next.ready());
    CHECK_THROWS_AS(next.operation->await_resume(), std::system_error);
}

TEST_CASE("accept: no more streams than requests allow; the others wait until one is closed") {
    const counted_files files;
    rig_options o;
    o.requests = 32; // 20 streams
    accept_rig r(o);
    std::vector<tcp_stream> streams;
    for (int i = 0; i < 20; ++i) {
        by_hand op(r, r.listener.accept());
        r.turn();
        r.connection();
        r.turn();
        REQUIRE(op.ready());
        streams.push_back(op.operation->await_resume());
    }
    by_hand op(r, r.listener.accept());
    r.turn();
    r.connection();
    r.turn();
    CHECK_FALSE(op.ready());
    CHECK(r.listener.statistics().admissions_awaited > 0);
    by_hand connect(r, connect_tcp(r.io, endpoint::from_string("127.0.0.1:1")));
    REQUIRE(connect.ready());
    std::string text;
    CHECK(code_of(std::move(*connect.operation), &text) == ENOBUFS);
    CHECK_THAT(text, ContainsSubstring("reactor_options::requests"));
    // All of them can receive.
    std::string byte(1, '\0');
    std::vector<std::unique_ptr<by_hand<stream_read_some_operation>>> reads;
    for (tcp_stream& s : streams)
        reads.push_back(std::make_unique<by_hand<stream_read_some_operation>>(r, s.read_some(bytes_of(byte))));
    r.turn();
    CHECK(std::count_if(r.kernel.in_flight.begin(), r.kernel.in_flight.end(),
                        [](const auto& q) { return q.what == kind::receive; }) == 20);
    reads.clear();
    streams.pop_back();
    REQUIRE(op.ready());
    CHECK_NOTHROW(tcp_stream(op.operation->await_resume()));
}

TEST_CASE("accept: closing ends who waits and leaves no descriptor; so does the reactor's end") {
    const int how = GENERATE(0, 1, 2);
    const bool waiting = GENERATE(true, false);
    const counted_files files;
    auto r = std::make_unique<accept_rig>();
    auto op = std::make_unique<by_hand<tcp_accept_operation>>(*r, r->listener.accept());
    r->turn();
    for (int i = 0; i < 3; ++i) r->connection(); // the first is promised
    if (!waiting) op.reset();
    r->turn();
    if (how == 0) {
        r->io.run(r->listener.close());
        CHECK(r->kernel.in_flight.empty());
    } else if (how == 1) {
        tcp_listener gone = std::move(r->listener);
    }
    if (how == 2) {
        // reactor and listener with a connection that was given and not taken
        tcp_listener kept = std::move(r->listener);
        r.reset();
        op.reset();
    }
    if (op && r) {
        REQUIRE(op->ready());
        CHECK_NOTHROW(tcp_stream(op->operation->await_resume())); // it had come
        op.reset();
    }
}

TEST_CASE("connect: stopped or destroyed at any moment, nothing is left; a connection that was made wins over a stop") {
    const int when = GENERATE(queued, in_flight, completed, delivered);
    const bool stop = GENERATE(true, false);
    const int result = GENERATE(0, ECONNREFUSED);
    const bool in_spite = GENERATE(true, false); // it is made although it was asked to end
    const counted_files files;
    stream_rig r;
    const auto connecting = [&]() -> ring::scripted::request* {
        for (auto& q : r.kernel.in_flight)
            if (q.what == kind::connect) return &q;
        return nullptr;
    };
    auto op =
        std::make_unique<by_hand<tcp_connect_operation>>(r, connect_tcp(r.io, endpoint::from_string("192.0.2.1:80")));
    CHECK_FALSE(op->ready());
    if (when >= in_flight) r.turn();
    if (when >= completed) r.kernel.complete(connecting()->name, -result);
    if (when >= delivered) r.turn();
    CHECK(op->ready() == (when == delivered));
    r.kernel.cancels_answered = !in_spite;
    if (stop)
        op->stop.request();
    else
        op.reset();
    r.turn();
    if (in_spite && connecting() != nullptr) r.kernel.complete(connecting()->name, 0);
    r.turn();
    if (stop) {
        REQUIRE(op->ready());
        std::string text;
        const int error = code_of(std::move(*op->operation), &text);
        if (when >= delivered || (when == completed && result == 0))
            CHECK(error == result);
        else if (when == completed)
            CHECK((error == ECONNREFUSED || error == ECANCELED));
        else
            CHECK(error == (in_spite ? 0 : ECANCELED));
        op.reset();
    }
    r.turn();
    CHECK(r.kernel.in_flight.empty());
    CHECK(r.free() == 1024);
}

TEST_CASE("connect: addresses are tried in turn, each for its time, and the error tells of all") {
    const counted_files files;
    stream_rig r;
    const auto connecting = [&]() -> ring::scripted::request* {
        for (auto& q : r.kernel.in_flight)
            if (q.what == kind::connect) return &q;
        return nullptr;
    };
    connect_options options;
    options.attempt = std::chrono::seconds(5);
    by_hand op(r, connect_tcp(r.io,
                              {endpoint::from_string("192.0.2.1:80"), endpoint::from_string("192.0.2.2:80"),
                               endpoint::from_string("192.0.2.3:80")},
                              options));
    r.turn();
    const auto begin = r.kernel.now();
    r.kernel.complete(connecting()->name, -ECONNREFUSED);
    r.turn();
    r.turn();
    REQUIRE(connecting() != nullptr);
    SECTION("none answers") {
        for (int i = 0; i < 20'000 && !op.ready(); ++i) r.pass();
        CHECK(op.ready());
        CHECK(r.kernel.now() - begin >= std::chrono::seconds(10));
        CHECK(r.kernel.now() - begin <= std::chrono::milliseconds(10'010));
        std::string text;
        CHECK(code_of(std::move(*op.operation), &text) == ETIMEDOUT);
        CHECK_THAT(text, ContainsSubstring("192.0.2.1:80: nobody listens") &&
                             ContainsSubstring("192.0.2.2:80: it does not answer") &&
                             ContainsSubstring("192.0.2.3:80"));
    }
    SECTION("the second answers") {
        r.kernel.complete(connecting()->name, 0);
        r.turn();
        REQUIRE(op.ready());
        CHECK(code_of(std::move(*op.operation)) == 0);
    }
    by_hand none(r, connect_tcp(r.io, endpoint_list()));
    REQUIRE(none.ready());
    CHECK(code_of(std::move(*none.operation)) == EDESTADDRREQ);
}

TEST_CASE("connect: the reactor may go while it waits") {
    const counted_files files;
    const bool started = GENERATE(true, false);
    auto r = std::make_unique<stream_rig>();
    auto op =
        std::make_unique<by_hand<tcp_connect_operation>>(*r, connect_tcp(r->io, endpoint::from_string("192.0.2.1:80")));
    if (started) r->turn();
    r.reset();
    op.reset();
}

// --- bounds --------------------------------------------------------------------------------------------------------

namespace {

struct idle_timer final : detail::timer {
    void on_time() override {}
};

struct noted_owner final : ring::request_owner {
    void on_completion(std::uint32_t, const ring::completion&) override {
        ++ended;
        if (throws) throw std::runtime_error("as the test wanted");
    }
    int ended = 0;
    bool throws = false;
};

// A poll of `o`'s, as any operation of the program's would be.
ring::token poll(stream_rig& r, noted_owner& o) {
    const ring::token name = r.io.core().begin(o, 0);
    if (name != 0) r.kernel.poll(name, {STDERR_FILENO, -1}, 1, false);
    return name;
}

std::ptrdiff_t count(const stream_rig& r, kind what) {
    return std::count_if(r.kernel.in_flight.begin(), r.kernel.in_flight.end(),
                         [what](const auto& q) { return q.what == what; });
}

} // namespace

TEST_CASE("bounds: at reactor_options::timers, listeners, connects and closing streams have theirs all the same") {
    const counted_files files;
    rig_options o;
    o.timers = 1;
    accept_rig r(o);
    idle_timer t;
    idle_timer beyond;
    r.io.core().arm(t, reactor::clock::time_point::max());
    REQUIRE_THROWS_AS(r.io.core().arm(beyond, reactor::clock::time_point::max()), std::system_error);
    SECTION("a connect's time") {
        connect_options options;
        options.attempt = std::chrono::milliseconds(20);
        by_hand op(r, connect_tcp(r.io, endpoint::from_string("192.0.2.1:80"), options));
        CHECK_FALSE(op.ready());
        for (int i = 0; i < 30; ++i) r.pass();
        REQUIRE(op.ready());
        CHECK(code_of(std::move(*op.operation)) == ETIMEDOUT);
    }
    SECTION("a connect that finds no room: its timer does not stay") {
        std::vector<noted_owner> owners(64);
        for (noted_owner& owner : owners) (void)poll(r, owner);
        connect_options options;
        options.attempt = std::chrono::milliseconds(20);
        by_hand op(r, connect_tcp(r.io, endpoint::from_string("192.0.2.1:80"), options));
        REQUIRE(op.ready());
        CHECK(r.io.statistics().timers == 1);
        CHECK(code_of(std::move(*op.operation)) == EAGAIN);
        r.turn();
        while (!r.kernel.in_flight.empty()) r.kernel.complete(r.kernel.in_flight.front().name, 0);
        r.turn();
    }
    SECTION("a listener's pause") {
        by_hand op(r, r.listener.accept());
        r.turn();
        r.kernel.complete(r.accepting()->name, -EMFILE);
        CHECK_NOTHROW(r.turn());
        CHECK(r.listener.statistics().exhausted == 1);
        for (int i = 0; i < 30; ++i) r.pass();
        CHECK(r.accepting() != nullptr);
    }
    SECTION("a stream's end") {
        r.kernel.writes_complete = false;
        auto s = std::make_unique<test_stream>(r.io);
        by_hand write(r, s->write("text"));
        r.turn();
        const auto begin = r.kernel.now();
        s.reset();
        CHECK(r.kernel.now() - begin >= std::chrono::seconds(1));
    }
    CHECK(r.io.statistics().timers == 1);
    r.io.core().disarm(t);
}

TEST_CASE("bounds: listeners beyond what the requests allow are refused by name, and there is room again") {
    const counted_files files;
    rig_options o;
    o.requests = 32;
    accept_rig r(o);
    std::vector<tcp_listener> more;
    std::string text;
    const auto refused = [&]() -> int {
        try {
            more.push_back(listen_tcp(r.io, {.local = any_port()}));
            return 0;
        } catch (const std::system_error& e) {
            text = e.what();
            return e.code().value();
        }
    };
    for (int i = 0; i < 7; ++i) CHECK(refused() == 0);
    CHECK(refused() == ENOBUFS);
    CHECK_THAT(text, ContainsSubstring("8 listeners") && ContainsSubstring("reactor_options::requests"));
    CHECK_THROWS_AS(port(r.io), std::system_error);
    // All of them accept, and all streams that there may be receive, beside what the program began before.
    std::vector<noted_owner> owners(32);
    const auto begun = std::count_if(owners.begin(), owners.end(), [&](noted_owner& owner) { return poll(r, owner); });
    CHECK(begun == 23);
    std::vector<std::unique_ptr<by_hand<tcp_accept_operation>>> waits;
    waits.push_back(std::make_unique<by_hand<tcp_accept_operation>>(r, r.listener.accept()));
    for (tcp_listener& l : more) waits.push_back(std::make_unique<by_hand<tcp_accept_operation>>(r, l.accept()));
    std::vector<std::unique_ptr<test_stream>> streams;
    std::vector<std::unique_ptr<by_hand<stream_read_some_operation>>> reads;
    std::string byte(1, '\0');
    for (int i = 0; i < 20; ++i) {
        streams.push_back(std::make_unique<test_stream>(r.io));
        reads.push_back(
            std::make_unique<by_hand<stream_read_some_operation>>(r, streams.back()->read_some(bytes_of(byte))));
    }
    r.turn();
    CHECK(count(r, kind::accept) == 8);
    CHECK(r.io.statistics().requests_in_flight == 31); // one is for signals
    noted_owner late;
    CHECK(poll(r, late) == 0);
    for (ring::scripted::request* q = nullptr; (q = r.kernel.find(kind::poll, STDERR_FILENO)) != nullptr;)
        r.kernel.complete(q->name, 1);
    for (int i = 0; i < 3; ++i) r.turn(); // it is told, tries again, and submits
    CHECK(count(r, kind::receive) == 20);
    CHECK(r.io.statistics().requests_in_flight == 28);
    reads.clear();
    streams.clear();
    waits.clear();
    SECTION("destroyed") { more.pop_back(); }
    SECTION("closed") {
        r.io.run(more.back().close());
        more.push_back(listen_tcp(r.io, {.local = any_port()}));
        more.erase(more.end() - 2);
        more.pop_back();
    }
    CHECK(refused() == 0);
    CHECK(refused() == ENOBUFS);
    more.clear();
    port p(r.io);
}

TEST_CASE("accept: the place of a stream goes to a listener that somebody waits at") {
    const int how = GENERATE(0, 1, 2);
    const counted_files files;
    rig_options o;
    o.requests = 32; // 20 streams
    accept_rig r(o);
    tcp_listener other = listen_tcp(r.io, {.local = any_port()});
    std::vector<std::unique_ptr<test_stream>> streams;
    for (int i = 0; i < 20; ++i) streams.push_back(std::make_unique<test_stream>(r.io));
    auto gone = std::make_unique<by_hand<tcp_accept_operation>>(r, r.listener.accept());
    r.turn();
    r.connection();
    r.turn();
    by_hand waits(r, other.accept());
    r.turn();
    for (const auto& q : r.kernel.in_flight)
        if (q.what == kind::accept && q.name != r.accepting()->name) {
            r.kernel.complete(q.name, ::dup(STDERR_FILENO), true);
            break;
        }
    r.turn();
    CHECK(r.listener.statistics().admissions_awaited == 1);
    CHECK(other.statistics().admissions_awaited == 1);
    if (how == 0) gone.reset();
    if (how == 1) gone->stop.request();
    if (how == 2) r.io.run(r.listener.close());
    CHECK_FALSE(waits.ready());
    streams.pop_back();
    REQUIRE(waits.ready());
    CHECK_NOTHROW(tcp_stream(waits.operation->await_resume()));
}

TEST_CASE("an owner that throws takes no other's completion") {
    stream_rig r;
    std::vector<noted_owner> owners(5);
    owners[1].throws = owners[3].throws = true;
    std::vector<ring::token> names;
    for (noted_owner& owner : owners) names.push_back(poll(r, owner));
    r.turn();
    for (const ring::token name : names) r.kernel.complete(name, 1);
    CHECK_THROWS_AS(r.turn(), std::runtime_error);
    CHECK_THROWS_AS(r.turn(), std::runtime_error);
    r.turn();
    for (const noted_owner& owner : owners) CHECK(owner.ended == 1);
    CHECK(r.io.statistics().strays == 0);
    CHECK(r.io.statistics().requests_in_flight == 0);
}

TEST_CASE("connect: an attempt that was interrupted when its time was over has timed out; a time without end is one") {
    const int error = GENERATE(EINTR, ECANCELED);
    const counted_files files;
    stream_rig r;
    r.kernel.cancels_answered = false;
    const auto connecting = [&]() -> ring::scripted::request* {
        for (auto& q : r.kernel.in_flight)
            if (q.what == kind::connect) return &q;
        return nullptr;
    };
    connect_options options;
    options.attempt = std::chrono::milliseconds(5);
    by_hand op(r, connect_tcp(r.io, endpoint::from_string("192.0.2.1:80"), options));
    for (int i = 0; i < 10; ++i) r.pass();
    CHECK(r.kernel.cancelled.size() == 1);
    r.kernel.complete(connecting()->name, -error);
    r.turn();
    REQUIRE(op.ready());
    CHECK(code_of(std::move(*op.operation)) == ETIMEDOUT);
    r.kernel.cancelled.clear();
    options.attempt = std::chrono::milliseconds::max();
    by_hand patient(r, connect_tcp(r.io, endpoint::from_string("192.0.2.1:80"), options));
    for (int i = 0; i < 10; ++i) r.pass();
    CHECK(r.kernel.cancelled.empty());
    r.kernel.complete(connecting()->name, 0);
    r.turn();
    REQUIRE(patient.ready());
    CHECK(code_of(std::move(*patient.operation)) == 0);
}

// --- trouble that lasts --------------------------------------------------------------------------------------------

TEST_CASE("accept: a listener that pauses for want of descriptors closes at once, however it is closed") {
    const int how = GENERATE(0, 1, 2, 3);
    const bool waiting = GENERATE(true, false);
    CAPTURE(how, waiting);
    const counted_files files;
    auto r = std::make_unique<accept_rig>();
    auto op = std::make_unique<by_hand<tcp_accept_operation>>(*r, r->listener.accept());
    r->turn();
    const int pauses = GENERATE(1, 8); // the last of them is a long one
    for (int i = 0; i < pauses; ++i) {
        for (int passes = 0; r->accepting() == nullptr && passes < 2000; ++passes) r->pass();
        REQUIRE(r->accepting() != nullptr);
        r->kernel.complete(r->accepting()->name, -EMFILE);
        r->turn();
    }
    CHECK(r->accepting() == nullptr);
    CHECK(r->io.statistics().timers == 1);
    if (!waiting) op.reset();
    const auto begin = r->kernel.now();
    if (how == 0) r->io.run(r->listener.close());
    if (how == 1) tcp_listener gone = std::move(r->listener);
    if (how == 2) { // another takes its name, and its place
        r->listener = listen_tcp(r->io, {.local = any_port()});
        r->turn();
    }
    if (how == 3) {
        const tcp_listener kept = std::move(r->listener);
        r.reset();
    } else {
        CHECK(r->kernel.now() - begin < std::chrono::milliseconds(1));
        CHECK(r->kernel.in_flight.empty());
        CHECK(r->io.statistics().timers == (how == 0 ? 1 : 0)); // the rig's own, once it has run
        for (int i = 0; i < 2000; ++i) r->pass();               // it does not come back
        CHECK(r->kernel.in_flight.empty());
        if (op) {
            REQUIRE(op->ready());
            CHECK_THROWS_AS(op->operation->await_resume(), std::system_error);
        }
    }
    op.reset();
}

TEST_CASE("stream: peers that take nothing hold back the end for a second, all of them together") {
    const int how = GENERATE(0, 1, 2);
    CAPTURE(how);
    const counted_files files;
    rig_options many;
    many.requests = 512;
    auto r = std::make_unique<stream_rig>(many);
    r->kernel.writes_complete = false;
    std::vector<std::unique_ptr<test_stream>> streams;
    std::vector<std::unique_ptr<by_hand<stream_write_operation>>> writes;
    std::vector<std::unique_ptr<by_hand<stream_flush_operation>>> flushes;
    const std::string large(50'000, 'x');
    for (int i = 0; i < 100; ++i) { // half of them with a write that waits, too
        test_stream& s = *streams.emplace_back(std::make_unique<test_stream>(r->io));
        const by_hand accepted(*r, s.write("accepted"));
        CHECK(accepted.ready());
        if (i % 2 == 0) writes.push_back(std::make_unique<by_hand<stream_write_operation>>(*r, s.write(large)));
        flushes.push_back(std::make_unique<by_hand<stream_flush_operation>>(*r, s.flush()));
    }
    r->turn();
    const auto begin = r->kernel.now();
    if (how == 0) {
        const auto close_all = [](reactor& io, std::vector<std::unique_ptr<test_stream>>& all) -> task<> {
            scope closing(io);
            for (auto& s : all) closing.spawn(s->close());
            co_await closing.join();
        };
        r->io.run(close_all(r->io, streams));
    } else if (how == 1) { // one after another: each has its second
        streams.resize(3);
        CHECK(r->kernel.now() - begin >= std::chrono::seconds(97));
        CHECK(r->kernel.now() - begin <= std::chrono::milliseconds(97'100));
    } else { // the reactor does it
        ring::scripted& kernel = r->kernel;
        std::chrono::nanoseconds took{0};
        auto note = [&, begin] { took = kernel.now() - begin; };
        kernel.idle = [note](ring::scripted&) { note(); };
        r.reset();
        CHECK(took < std::chrono::seconds(1)); // seen last before time went on to it
    }
    if (how == 0) {
        const auto took = r->kernel.now() - begin;
        CHECK(took >= std::chrono::seconds(1));
        CHECK(took < std::chrono::milliseconds(1'010));
        CHECK(r->kernel.in_flight.empty());
        CHECK(r->free() == 1024);
        for (auto& w : writes) {
            REQUIRE(w->ready());
            CHECK(outcome_of(*w->operation) == ECANCELED);
        }
        for (auto& f : flushes) {
            REQUIRE(f->ready());
            CHECK(outcome_of(*f->operation) == ECANCELED);
        }
    }
    writes.clear();
    flushes.clear();
    streams.clear();
}
