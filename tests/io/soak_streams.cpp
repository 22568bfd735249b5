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
#include "../support/scripted_stream.hpp"
#include "../support/stream_soak.hpp"

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

// Results that a kernel may give where there is nothing wrong: it is tried again.
constexpr std::array passing{EINTR, EAGAIN};
constexpr std::array broken{ECONNRESET, EPIPE, ETIMEDOUT, EHOSTUNREACH, ENOMEM, ENOBUFS, ECANCELED, EIO, EPERM};

struct side : stream_side {
    explicit side(rig& r) : stream(std::make_unique<test_stream>(r.io)) {}
    int descriptor() const { return stream->descriptor; }
    std::unique_ptr<test_stream> stream;
};

class stream_soak : public stream_soak_base<stream_soak, side> {
public:
    explicit stream_soak(std::uint64_t seed) : stream_soak_base(seed) { open_all(); }

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
        case 15: rig_.turn(); break;
        case 16:
            if (s.deaf || s.mute || pick_(30) == 0) reopen(s);
            break;
        case 17: leases_.clear(); break;
        case 18: rig_.kernel.advance(std::chrono::milliseconds(pick_(30))); [[fallthrough]];
        default: rig_.settle();
        }
    }

private:
    friend stream_soak_base;

    void let_go() { leases_.clear(); }
    void check_end(side& s) { CHECK(s.read == s.came); }

    // --- streams --------------------------------------------------------------------------------------------------

    // A write whose memory is with the kernel is destroyed when the kernel has answered.
    void close(std::unique_ptr<side>& s) {
        rig_.kernel.idle = [](ring::scripted& k) { k.wake(); };
        s->writer.reset();
        s->readers = {};
        if (pick_(2) == 0) s->stream->shutdown_send();
        rig_.kernel.idle = [](ring::scripted& k) {
            k.advance(std::chrono::milliseconds(100));
            k.wake();
        };
        total_ += s->read + s->sent;
        s.reset();
        rig_.kernel.idle = nullptr;
    }

    // --- the kernel's side ----------------------------------------------------------------------------------------

    void come(side& s) { give(s, 1 + pick_(pick_(8) == 0 ? 1500 : 40), pick_(10) == 0); }

    void give(side& s, std::size_t size, bool last = false) {
        if (s.deaf) return;
        const std::string text = text_from(s.came, size);
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
        const request* q = sending(s);
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
    void taken(side& s, const request& q, std::size_t size) {
        for (const char c : stream_rig::text_of(q).substr(0, size)) s.took(c);
        rig_.kernel.complete(q.name, static_cast<std::int32_t>(size));
    }

    // --- who reads ------------------------------------------------------------------------------------------------

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
            from.got(std::string_view(into).substr(0, size));
            if (size == 0) co_await of.rig_.io.sleep_for(time + std::chrono::milliseconds(1));
            break;
        }
        case 1:
            co_await from.stream->read(bytes_of(into));
            from.got(into);
            break;
        case 2: {
            result<> whole = co_await as_result(with_timeout(from.stream->read(bytes_of(into)), time));
            if (whole)
                from.got(into);
            else if (whole.error() != std::errc::timed_out || from.deaf)
                throw std::system_error(whole.error());
            break;
        }
        case 3: {
            const std::string line = co_await from.stream->read_until("\n", 100);
            from.got(line);
            break;
        }
        case 4: {
            packet p = co_await from.stream->receive();
            if (p) from.got({reinterpret_cast<const char*>(std::as_const(p).bytes().data()), p.size()});
            if (!p) co_await of.rig_.io.sleep_for(time + std::chrono::milliseconds(1));
            if (p && of.leases_.size() < 8) of.leases_.push_back(std::move(p));
            break;
        }
        case 5: {
            auto first = co_await when_any(from.stream->read_some(bytes_of(into)), of.rig_.io.sleep_for(time));
            if (first.index() == 0) from.got(std::string_view(into).substr(0, std::get<0>(first)));
            break;
        }
        default: break;
        }
    }

    // --- who writes -----------------------------------------------------------------------------------------------

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
        const std::string text = text_from(to.written, 1 + of.pick_(of.pick_(6) == 0 ? 6000 : 300));
        switch (of.pick_(8)) {
        case 0: co_await to.stream->flush(); co_return;
        case 1: co_await of.rig_.io.sleep_for(std::chrono::milliseconds(of.pick_(10))); co_return;
        default: break;
        }
        stream_writing w(to, text.size());
        co_await to.stream->write(text);
        w.done = true;
    }

    std::vector<packet> leases_;
};

} // namespace

TEST_CASE("soak: no byte of a stream is lost, doubled or out of order, and nothing stalls", "[soak]") {
    run_soak<stream_soak>(1);
}
