// SPDX-License-Identifier: Apache-2.0
//
// Many steps of a kernel that does whatever it may to Unix streams that pass descriptors: messages in pieces of every
// size, with a descriptor and without, failures of every kind of recvmsg(2), sends that are short, that fail alone or
// end the stream, a pool that is empty. Readers and writers come and go, are stopped and destroyed wherever they stand.
// No byte is lost, doubled or out of order; every descriptor comes with the bytes that it was sent with, once, and none
// is left open. The seed is printed; COTUN_SEED replays one.
#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_any.hpp>

#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"
#include "../support/seed.hpp"
#include "io/passed_descriptors.hpp"
#include "scripted_unix.hpp"

#include <catch2/catch_message.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <deque>
#include <memory>
#include <poll.h>

using namespace cotun;
using namespace cotun::test;

namespace {

using kind = ring::scripted::kind;

char byte_at(std::uint64_t place) noexcept { return static_cast<char>('a' + (place * 7 + place / 26) % 26); }

constexpr std::array passing_failures{EINTR, EAGAIN};
constexpr std::array refusals{ETOOMANYREFS, EBADF, EINVAL, EPERM, EACCES};
constexpr std::array broken{ECONNRESET, EPIPE, ENOMEM, ENOBUFS, ENOTCONN};

struct side {
    explicit side(rig& r) : ends(r, 4), descriptor(ends.socket.native_handle()) {}
    stream_connection ends;
    const int descriptor;
    std::uint64_t came = 0; // bytes that the kernel has for it or gave
    std::uint64_t read = 0;
    std::deque<std::uint64_t> brought; // where the descriptors stand that came and were not taken
    std::uint64_t written = 0;         // bytes whose write has ended well, or may have been sent in part
    std::uint64_t sent = 0;
    bool beside = false; // the write that is under way, or next, takes a descriptor along, which has not gone yet
    bool deaf = false;
    bool mute = false;
    std::unique_ptr<scope> writer;
    std::array<std::unique_ptr<scope>, 2> readers;
};

class unix_stream_soak {
public:
    explicit unix_stream_soak(std::uint64_t seed) : pick_(seed), rig_(options()) {
        rig_.kernel.writes_complete = false;
        rig_.kernel.submitted = [this](ring::scripted&) {
            for (const auto& s : sides_)
                if (s) tell(*s);
        };
        for (auto& s : sides_) open(s);
    }
    ~unix_stream_soak() { rig_.kernel.submitted = nullptr; }

    void step() {
        side& s = *sides_[pick_(sides_.size())];
        switch (pick_(18)) {
        case 0:
        case 1:
        case 2:
        case 3: come(s); break;
        case 4: fail_receiving(s); break;
        case 5:
        case 6:
        case 7:
        case 8: take(s); break;
        case 9: start_reader(s, pick_(2)); break; // replaces one, wherever it stands
        case 10: start_writer(s); break;
        case 11:
            if (const auto& r = s.readers[pick_(2)]) r->request_stop();
            break;
        case 12:
            if (pick_(4) == 0 && s.writer) s.writer->request_stop();
            break;
        case 13: half_a_pass(); break;
        case 14:
            if (s.deaf || s.mute || pick_(60) == 0) reopen(s);
            break;
        case 15:
            if (pick_(3) == 0)
                hoard_.clear();
            else if (packet p = rig_.io.try_allocate(1); p && hoard_.size() < buffers)
                hoard_.push_back(std::move(p));
            break;
        case 16: rig_.kernel.advance(std::chrono::milliseconds(pick_(30))); [[fallthrough]];
        default: rig_.settle();
        }
    }

    void finish() {
        hoard_.clear();
        for (int i = 0; i < 20; ++i) { // those that are broken find out
            rig_.kernel.advance(std::chrono::milliseconds(100));
            rig_.settle();
            for (auto& s : sides_) {
                take_all(*s);
                if (s->writer->size() == 0) start_writer(*s);
            }
        }
        for (auto& s : sides_) {
            if (s->deaf || s->mute) reopen(*s);
            for (std::size_t i = 0; i < s->readers.size(); ++i) start_reader(*s, i);
        }
        for (auto& s : sides_) {
            const std::uint64_t before = s->read;
            const std::uint64_t sent_before = s->sent;
            for (int i = 0; i < 200 && (s->read == before || s->read < s->came || s->sent == sent_before); ++i) {
                if (s->read == before) come(*s);
                rig_.kernel.advance(std::chrono::milliseconds(100));
                rig_.settle();
                for (auto& all : sides_) take_all(*all);
                for (std::size_t n = 0; n < s->readers.size() && i % 3 == 2; ++n) start_reader(*s, n);
                if (s->writer->size() == 0) start_writer(*s);
            }
            CHECK(s->read > before);      // it does not stall
            CHECK(s->sent > sent_before); // nor this way
            CHECK(s->read == s->came);    // nothing is left behind
            s->readers = {};
            take_descriptors(*s, s->ends.socket.take_descriptors().size());
            CHECK(s->brought.empty()); // nor of these
            CHECK(s->ends.socket.descriptors().lost == 0);
        }
        for (auto& s : sides_) close(s);
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

    void half_a_pass() {
        rig_.kernel.idle = [](ring::scripted& k) { k.wake(); };
        rig_.io.core().turn();
        rig_.kernel.idle = nullptr;
    }

    // --- streams --------------------------------------------------------------------------------------------------

    void open(std::unique_ptr<side>& s) {
        s = std::make_unique<side>(rig_);
        for (std::size_t i = 0; i < s->readers.size(); ++i) start_reader(*s, i);
        start_writer(*s);
    }
    void close(std::unique_ptr<side>& s) {
        total_ += s->read + s->sent;
        rig_.kernel.idle = [](ring::scripted& k) {
            k.advance(std::chrono::milliseconds(100));
            k.wake();
        };
        s->writer.reset();
        s->readers = {};
        const int descriptor = s->descriptor;
        s.reset();
        rig_.kernel.idle = nullptr;
        for (const auto& left : rig_.kernel.immediates[descriptor]) detail::close_descriptors(left.control);
        rig_.kernel.immediates.erase(descriptor);
    }
    void reopen(side& s) {
        auto& place = *std::find_if(sides_.begin(), sides_.end(), [&](const auto& p) { return p.get() == &s; });
        close(place);
        open(place);
    }

    // --- the kernel's side ----------------------------------------------------------------------------------------

    // A poll tells of what is there, when it begins too.
    void tell(side& s) {
        if (rig_.kernel.immediates[s.descriptor].empty()) return;
        if (const ring::scripted::request* q = rig_.kernel.find(kind::poll, s.descriptor))
            rig_.kernel.complete(q->name, POLLIN);
    }

    void come(side& s) {
        auto& queue = rig_.kernel.immediates[s.descriptor];
        if (s.deaf || queue.size() > 20) return;
        const std::size_t size = 1 + pick_(pick_(8) == 0 ? 1500 : 40);
        std::vector<std::byte> bytes(size);
        for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(byte_at(s.came + i));
        std::vector<std::byte> control;
        // As many may be kept as nobody has taken: then they would be lost by name.
        if (pick_(3) == 0 && s.brought.size() < 200) {
            control = passing(new_descriptor());
            s.brought.push_back(s.came);
        }
        queue.push_back({0, std::move(bytes), {}, std::move(control)});
        s.came += size;
        tell(s);
    }

    void fail_receiving(side& s) {
        if (s.deaf) return;
        auto& queue = rig_.kernel.immediates[s.descriptor];
        if (pick_(40) != 0) {
            queue.push_front({.error = passing_failures[pick_(passing_failures.size())]});
            tell(s);
        } else {
            s.deaf = true; // behind what came; 0: the end
            const std::size_t what = pick_(broken.size() + 1);
            queue.push_back({.error = what < broken.size() ? broken[what] : 0});
            tell(s);
        }
    }

    const ring::scripted::request* sending(side& s) {
        const ring::scripted::request* one = rig_.kernel.find(kind::send, s.descriptor);
        return one != nullptr ? one : rig_.kernel.find(kind::send_message, s.descriptor);
    }

    void take(side& s) {
        const ring::scripted::request* q = sending(s);
        if (q == nullptr) return;
        const std::size_t luck = pick_(200);
        if (luck == 0) {
            s.mute = true;
            rig_.kernel.complete(q->name, -broken[pick_(broken.size())]);
        } else if (luck < 20 && !q->control.empty()) {
            rig_.kernel.complete(q->name, -refusals[pick_(refusals.size())]);
        } else if (luck < 40) {
            rig_.kernel.complete(q->name, -passing_failures[pick_(passing_failures.size())]);
        } else {
            const std::size_t all = ring::scripted::total(*q);
            taken(s, *q, luck < 100 ? pick_(all + 1) : all);
        }
    }
    void take_all(side& s) {
        if (const ring::scripted::request* q = sending(s)) taken(s, *q, ring::scripted::total(*q));
    }
    void taken(side& s, const ring::scripted::request& q, std::size_t size) {
        if (!q.control.empty() && (!s.beside || s.sent != s.written)) FAIL("descriptors went with other bytes");
        std::size_t left = size;
        for (const iovec& piece : pieces_of(q)) {
            const auto* bytes = static_cast<const char*>(piece.iov_base);
            for (std::size_t i = 0; i < piece.iov_len && left > 0; ++i, --left) {
                if (s.beside && s.sent == s.written && q.control.empty()) FAIL("the descriptors were left behind");
                if (bytes[i] != byte_at(s.sent++)) FAIL("byte " << s.sent - 1 << " was sent out of order");
                if (!q.control.empty()) s.beside = false;
            }
        }
        rig_.kernel.complete(q.name, static_cast<std::int32_t>(size));
    }
    static std::vector<iovec> pieces_of(const ring::scripted::request& q) {
        if (!q.pieces.empty()) return q.pieces;
        return {iovec{const_cast<std::byte*>(q.bytes.data()), q.bytes.size()}};
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
    // All of them came with bytes that have been read.
    static void take_descriptors(side& from, std::size_t count) {
        for (; count > 0; --count) {
            if (from.brought.empty() || from.brought.front() >= from.read) FAIL("a descriptor before its bytes");
            from.brought.pop_front();
        }
    }
    static void got(side& from, const unix_message& m) {
        const std::uint64_t begin = from.read;
        got(from, ::test::words_of(m.payload));
        take_descriptors(from, m.descriptors.size());
        // What begins behind its first byte is not in the same message, nor are its bytes.
        if (!from.brought.empty() && from.brought.front() < from.read && from.brought.front() > begin)
            FAIL("bytes with a descriptor are in the message before it");
    }

    static task<> read(unix_stream_soak& of, side& from) {
        try {
            for (;;) co_await read_once(of, from);
        } catch (const std::system_error& e) {
            const bool ours = e.code() == std::errc::operation_canceled || from.deaf;
            if (!ours) FAIL("reading: " << e.what());
        }
    }
    static task<> read_once(unix_stream_soak& of, side& from) {
        const std::chrono::milliseconds time(of.pick_(20));
        unix_stream& s = from.ends.socket;
        switch (of.pick_(6)) {
        case 0: {
            std::string into(1 + of.pick_(90), '.');
            const std::size_t size = co_await s.read_some(std::as_writable_bytes(std::span(into)));
            got(from, std::string_view(into).substr(0, size));
            if (size == 0) co_await of.rig_.io.sleep_for(time + std::chrono::milliseconds(1));
            break;
        }
        case 1: {
            std::string into(1 + of.pick_(90), '.');
            result<> whole = co_await as_result(with_timeout(s.read(std::as_writable_bytes(std::span(into))), time));
            if (whole)
                got(from, into);
            else if (whole.error() != std::errc::timed_out || from.deaf)
                throw std::system_error(whole.error());
            break;
        }
        case 2: {
            auto message = co_await as_result(with_timeout(s.receive_message(), time));
            if (message && *message)
                got(from, *message);
            else if (message)
                co_await of.rig_.io.sleep_for(time + std::chrono::milliseconds(1));
            else if (message.error() != std::errc::timed_out || from.deaf)
                throw std::system_error(message.error());
            break;
        }
        case 3: {
            auto first = co_await when_any(s.receive_message(), of.rig_.io.sleep_for(time));
            if (first.index() == 0 && std::get<0>(first)) got(from, std::get<0>(first));
            if (first.index() == 0) co_await of.rig_.io.sleep_for(std::chrono::milliseconds(1));
            break;
        }
        case 4: {
            const std::vector<unique_fd> its = s.take_descriptors();
            take_descriptors(from, its.size());
            co_await of.rig_.io.sleep_for(std::chrono::milliseconds(1));
            break;
        }
        default: {
            const unix_message m = co_await s.receive_message();
            if (m) got(from, m);
            if (!m) co_await of.rig_.io.sleep_for(time + std::chrono::milliseconds(1));
            break;
        }
        }
    }

    // --- who writes -----------------------------------------------------------------------------------------------

    void start_writer(side& s) {
        if (s.mute) return;
        s.writer.reset();
        s.writer = std::make_unique<scope>(rig_.io);
        s.writer->spawn(write(*this, s));
    }
    static task<> write(unix_stream_soak& of, side& to) {
        for (;;) {
            std::exception_ptr failure;
            try {
                co_await write_once(of, to);
            } catch (...) {
                failure = std::current_exception();
            }
            if (failure && over(to, failure)) break;
        }
    }
    // One whose descriptors were refused is no end.
    static bool over(side& to, const std::exception_ptr& failure) {
        try {
            std::rethrow_exception(failure);
        } catch (const std::system_error& e) {
            const int error = e.code().value();
            if (!to.mute && std::find(refusals.begin(), refusals.end(), error) != refusals.end()) return false;
            if (error != ECANCELED && error != ECONNABORTED && !to.mute) FAIL("writing: " << e.what());
            if (error != ECANCELED) to.mute = true;
        }
        return true;
    }
    static task<> write_once(unix_stream_soak& of, side& to) {
        if (of.pick_(6) == 0) {
            co_await of.rig_.io.sleep_for(std::chrono::milliseconds(of.pick_(10)));
            co_return;
        }
        if (of.pick_(8) == 0) {
            co_await to.ends.socket.flush();
            co_return;
        }
        std::string text(1 + of.pick_(of.pick_(6) == 0 ? 6000 : 300), '\0');
        for (std::size_t i = 0; i < text.size(); ++i) text[i] = byte_at(to.written + i);
        // One that ends without having been sent in part leaves the stream as it was; else nothing may follow.
        struct writing {
            writing(side& s, std::size_t all) noexcept : to(s), size(all) {}
            writing(const writing&) = delete;
            writing& operator=(const writing&) = delete;
            ~writing() {
                if (done || to.sent >= to.written + size) to.written += size;
                to.beside = false;
            }
            side& to;
            std::size_t size;
            bool done = false;
        } w(to, text.size());
        if (of.pick_(2) == 0) {
            co_await to.ends.socket.write(text);
        } else {
            std::vector<unique_fd> files = one_file();
            to.beside = true;
            co_await to.ends.socket.write(text, std::move(files));
        }
        w.done = true;
    }

    dice pick_;
    rig rig_;
    std::array<std::unique_ptr<side>, 4> sides_;
    std::vector<packet> hoard_;
    std::uint64_t total_ = 0;
};

} // namespace

TEST_CASE("soak: descriptors come with their bytes, and neither is lost, doubled or out of order", "[net][soak]") {
    const unsigned steps = sanitized ? 5'000 : 50'000;
    const auto files = ::test::open_files();
    std::uint64_t total = 0;
    const unsigned rounds = with_seeds(static_cast<unsigned>(scaled(20)), [&](std::uint64_t seed) {
        INFO("COTUN_SEED=" << seed);
        unix_stream_soak s(seed);
        for (unsigned n = 0; n < steps; ++n) s.step();
        s.finish();
        total += s.total();
    });
    CHECK(::test::open_files() == files);
    CHECK(total > std::uint64_t{rounds} * steps);
}
