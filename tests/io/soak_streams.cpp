// SPDX-License-Identifier: Apache-2.0
//
// Many steps of a kernel that does whatever it may to streams: bytes in pieces of every size, short sends, negative
// results of every kind on receiving, sending, accepting and connecting, pauses; readers and writers that come and go,
// are stopped and destroyed wherever they stand, and wait in every way that there is; streams that break and are
// replaced. The seed is printed; COTUN_SEED replays one.
#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_any.hpp>
#include <cotun/net/tcp.hpp>

#include "../support/process.hpp"
#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"
#include "../support/scripted_stream.hpp"
#include "../support/seed.hpp"

#include <catch2/catch_message.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>

using namespace cotun;
using namespace cotun::test;

namespace {

// The byte at a place of every stream: a line's end now and then.
char byte_at(std::uint64_t place) noexcept {
    return place % 61 == 60 ? '\n' : static_cast<char>('a' + (place * 7 + place / 26) % 26);
}

// Results that a kernel may give where there is nothing wrong: it is tried again.
constexpr std::array passing{EINTR, EAGAIN};
constexpr std::array broken{ECONNRESET, EPIPE, ETIMEDOUT, EHOSTUNREACH, ENOMEM, ENOBUFS, ECANCELED, EIO, EPERM};

// A stream, what the kernel has of both directions, and who works on it.
struct side {
    explicit side(reactor& io) : stream(std::make_unique<test_stream>(io)) {}
    std::unique_ptr<test_stream> stream;
    std::uint64_t came = 0;    // bytes that the kernel gave
    std::uint64_t read = 0;    // of them, those that were read
    std::uint64_t written = 0; // bytes whose write has ended well, or may have been sent in part
    std::uint64_t sent = 0;    // bytes that the kernel took
    bool deaf = false;         // receiving has ended, by an error or the peer's end
    bool mute = false;         // sending has failed
    std::unique_ptr<scope> writer;
    std::array<std::unique_ptr<scope>, 2> readers;
};

class stream_soak {
public:
    explicit stream_soak(std::uint64_t seed) : pick_(seed), rig_(options()) {
        rig_.kernel.writes_complete = false;
        for (auto& s : sides_) open(s);
    }

    void step() {
        side& s = *sides_[pick_(sides_.size())];
        switch (pick_(20)) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4: come(s); break;
        case 5: end_receiving(s); break;
        case 6:
        case 7:
        case 8:
        case 9:
        case 10: take(s); break;
        case 11: start_reader(s, pick_(2)); break; // replaces one, wherever it stands
        case 12: start_writer(s); break;
        case 13:
            if (const auto& r = s.readers[pick_(2)]) r->request_stop();
            break;
        case 14:
            if (pick_(4) == 0 && s.writer) s.writer->request_stop();
            break;
        case 15: half_a_pass(); break;
        case 16:
            if (s.deaf || s.mute || pick_(30) == 0) reopen(s);
            break;
        case 17: leases_.clear(); break;
        case 18: rig_.kernel.advance(std::chrono::milliseconds(pick_(30))); [[fallthrough]];
        default: rig_.settle();
        }
    }

    // Whatever happened, bytes go through again, and in the end nothing is missing.
    void finish() {
        for (int i = 0; i < 20; ++i) { // those that are broken find out
            rig_.kernel.advance(std::chrono::milliseconds(100));
            rig_.settle();
            for (auto& s : sides_) {
                take_well(*s);
                if (s->writer->size() == 0) start_writer(*s);
            }
        }
        for (auto& s : sides_) {
            if (s->deaf || s->mute) reopen(*s);
            for (std::size_t i = 0; i < s->readers.size(); ++i) start_reader(*s, i);
        }
        leases_.clear();
        for (auto& s : sides_) {
            const std::uint64_t before = s->read;
            const std::uint64_t sent_before = s->sent;
            for (int i = 0; i < 200 && (s->read == before || s->read < s->came || s->sent == sent_before); ++i) {
                leases_.clear();
                rig_.kernel.advance(std::chrono::milliseconds(100));
                rig_.settle();
                if (s->read == before) give(*s, 10);
                for (auto& all : sides_) take_well(*all);
                // One that wants more than there is, or has ended, is replaced.
                for (std::size_t n = 0; n < s->readers.size() && i % 3 == 2; ++n) start_reader(*s, n);
                if (s->writer->size() == 0) start_writer(*s);
            }
            CHECK(s->read > before);      // it does not stall
            CHECK(s->sent > sent_before); // nor this way
            CHECK(s->read == s->came);    // nothing is left behind
        }
        for (auto& s : sides_) close(*s);
        leases_.clear();
        rig_.settle();
        CHECK(rig_.free() == buffers);
        CHECK(rig_.kernel.in_flight.empty());
        CHECK(rig_.io.statistics().requests_in_flight == 0);
        CHECK(rig_.io.statistics().strays == 0);
        CHECK(rig_.io.statistics().timers == 1);
    }

    std::uint64_t total() const { return total_; }

private:
    static constexpr unsigned buffers = 24;
    static rig_options options() {
        rig_options o = with_buffers(buffers);
        o.requests = 32;
        return o;
    }

    // Completions are told to their owners, and nobody is resumed.
    void half_a_pass() {
        rig_.kernel.idle = [](ring::scripted& k) { k.wake(); };
        rig_.io.core().turn();
        rig_.kernel.idle = nullptr;
    }

    // --- streams --------------------------------------------------------------------------------------------------

    void open(std::unique_ptr<side>& s) {
        s = std::make_unique<side>(rig_.io);
        for (std::size_t i = 0; i < s->readers.size(); ++i) start_reader(*s, i);
        start_writer(*s);
    }
    // A write whose memory is with the kernel is destroyed when the kernel has answered.
    void close(side& s) {
        rig_.kernel.idle = [](ring::scripted& k) { k.wake(); };
        s.writer.reset();
        for (auto& r : s.readers) r.reset();
        if (pick_(2) == 0) s.stream->shutdown_send();
        rig_.kernel.idle = [this](ring::scripted& k) {
            k.advance(std::chrono::milliseconds(100));
            k.wake();
        };
        s.stream.reset();
        rig_.kernel.idle = nullptr;
        total_ += s.read + s.sent;
    }
    void reopen(side& s) {
        auto& place = *std::find_if(sides_.begin(), sides_.end(), [&](const auto& p) { return p.get() == &s; });
        close(s);
        open(place);
    }

    // --- the kernel's side ----------------------------------------------------------------------------------------

    void come(side& s) { give(s, 1 + pick_(pick_(8) == 0 ? 1500 : 40), pick_(10) == 0); }

    void give(side& s, std::size_t size, bool last = false) {
        if (s.deaf) return;
        std::string text(size, '\0');
        for (std::size_t i = 0; i < size; ++i) text[i] = byte_at(s.came + i);
        if (rig_.kernel.deliver(s.stream->descriptor, std::as_bytes(std::span(text)), last)) s.came += size;
    }

    void end_receiving(side& s) {
        if (s.deaf || rig_.kernel.find(kind::receive, s.stream->descriptor) == nullptr) return;
        if (pick_(4) != 0) {
            rig_.kernel.end(s.stream->descriptor, passing[pick_(passing.size())]);
        } else if (pick_(4) != 0) {
            rig_.kernel.end(s.stream->descriptor, ENOBUFS); // the group is short: that passes, too
        } else if (pick_(8) == 0) {
            const std::size_t what = pick_(broken.size() + 1);
            if (what < broken.size() && broken[what] == ENOBUFS) return;
            rig_.kernel.end(s.stream->descriptor, what < broken.size() ? broken[what] : 0);
            s.deaf = true;
        }
    }

    // Completes what is being sent, short or not at all now and then.
    void take(side& s) {
        const ring::scripted::request* q = sending(s);
        if (q == nullptr) return;
        const std::size_t luck = pick_(200);
        if (luck == 0) {
            rig_.kernel.complete(q->name, -broken[pick_(broken.size())]);
            s.mute = true;
        } else if (luck < 20) {
            rig_.kernel.complete(q->name, -passing[pick_(passing.size())]);
        } else {
            const std::size_t all = ring::scripted::total(*q);
            taken(s, *q, luck < 100 ? pick_(all + 1) : all);
        }
    }
    void take_well(side& s) {
        if (const ring::scripted::request* q = sending(s)) taken(s, *q, ring::scripted::total(*q));
    }
    void taken(side& s, const ring::scripted::request& q, std::size_t size) {
        const std::string text = stream_rig::text_of(q).substr(0, size);
        for (const char c : text)
            if (c != byte_at(s.sent++)) FAIL("byte " << s.sent - 1 << " was sent out of order");
        rig_.kernel.complete(q.name, static_cast<std::int32_t>(size));
    }
    const ring::scripted::request* sending(side& s) {
        for (const kind what : {kind::send, kind::send_message})
            if (const ring::scripted::request* q = rig_.kernel.find(what, s.stream->descriptor)) return q;
        return nullptr;
    }

    // --- who reads ------------------------------------------------------------------------------------------------

    void start_reader(side& s, std::size_t index) {
        s.readers[index] = std::make_unique<scope>(rig_.io);
        s.readers[index]->spawn(read(*this, s));
    }

    static void got(side& from, std::string_view text) {
        for (const char c : text)
            if (c != byte_at(from.read++)) FAIL("byte " << from.read - 1 << " was read out of order");
    }

    // Two of these read one stream: between them, bytes come in order, each once.
    static task<> read(stream_soak& of, side& from) {
        try {
            for (;;) co_await read_once(of, from);
        } catch (const std::system_error& e) {
            const bool ours = e.code() == std::errc::operation_canceled || e.code().value() == ENODATA || from.deaf;
            if (!ours) FAIL("reading: " << e.what());
        }
    }
    static task<> read_once(stream_soak& of, side& from) {
        std::string into(1 + of.pick_(90), '.');
        const std::chrono::milliseconds time(of.pick_(20));
        switch (of.pick_(6)) {
        case 0: {
            const std::size_t size = co_await from.stream->read_some(bytes_of(into));
            got(from, std::string_view(into).substr(0, size));
            if (size == 0) co_await of.rig_.io.sleep_for(time + std::chrono::milliseconds(1));
            break;
        }
        case 1:
            co_await from.stream->read(bytes_of(into));
            got(from, into);
            break;
        case 2: {
            result<> whole = co_await as_result(with_timeout(from.stream->read(bytes_of(into)), time));
            if (whole)
                got(from, into);
            else if (whole.error() != std::errc::timed_out || from.deaf)
                throw std::system_error(whole.error());
            break;
        }
        case 3: {
            const std::string line = co_await from.stream->read_until("\n", 100);
            got(from, line);
            break;
        }
        case 4: {
            packet p = co_await from.stream->receive();
            if (p) got(from, {reinterpret_cast<const char*>(std::as_const(p).bytes().data()), p.size()});
            if (!p) co_await of.rig_.io.sleep_for(time + std::chrono::milliseconds(1));
            if (p && of.leases_.size() < 8) of.leases_.push_back(std::move(p));
            break;
        }
        case 5: {
            auto first = co_await when_any(from.stream->read_some(bytes_of(into)), of.rig_.io.sleep_for(time));
            if (first.index() == 0) got(from, std::string_view(into).substr(0, std::get<0>(first)));
            break;
        }
        default: break;
        }
    }

    // --- who writes -----------------------------------------------------------------------------------------------

    void start_writer(side& s) {
        if (s.mute) return;
        s.writer.reset();
        s.writer = std::make_unique<scope>(rig_.io);
        s.writer->spawn(write(*this, s));
    }

    // What is written begins where the last write that was accepted, or sent, ended.
    static task<> write(stream_soak& of, side& to) {
        try {
            for (;;) co_await write_once(of, to);
        } catch (const std::system_error& e) {
            if (e.code() != std::errc::operation_canceled && e.code() != std::errc::connection_aborted && !to.mute)
                FAIL("writing: " << e.what());
            if (e.code() != std::errc::operation_canceled) to.mute = true;
        }
    }
    static task<> write_once(stream_soak& of, side& to) {
        std::string text(1 + of.pick_(of.pick_(6) == 0 ? 6000 : 300), '\0');
        const std::uint64_t begin = to.written;
        for (std::size_t i = 0; i < text.size(); ++i) text[i] = byte_at(begin + i);
        switch (of.pick_(8)) {
        case 0: co_await to.stream->flush(); co_return;
        case 1: co_await of.rig_.io.sleep_for(std::chrono::milliseconds(of.pick_(10))); co_return;
        default: break;
        }
        // One that ends without having been sent in part leaves the stream as it was; else nothing may follow.
        struct writing {
            writing(side& s, std::size_t all) noexcept : to(s), size(all) {}
            writing(const writing&) = delete;
            writing& operator=(const writing&) = delete;
            ~writing() {
                if (done || to.sent >= to.written + size) to.written += size;
            }
            side& to;
            std::size_t size;
            bool done = false;
        } w(to, text.size());
        co_await to.stream->write(text);
        w.done = true;
    }

    dice pick_;
    rig rig_;
    std::array<std::unique_ptr<side>, 4> sides_;
    std::vector<packet> leases_;
    std::uint64_t total_ = 0;
};

} // namespace

TEST_CASE("soak: no byte of a stream is lost, doubled or out of order, and nothing stalls", "[soak]") {
    const unsigned steps = sanitized ? 5'000 : 50'000;
    std::uint64_t total = 0;
    const unsigned rounds = with_seeds(static_cast<unsigned>(scaled(20)), [&](std::uint64_t seed) {
        INFO("COTUN_SEED=" << seed);
        stream_soak s(seed);
        for (unsigned n = 0; n < steps; ++n) s.step();
        s.finish();
        total += s.total();
    });
    CHECK(total > std::uint64_t{rounds} * steps);
}
