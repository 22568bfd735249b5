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

#include "../support/stream_soak.hpp"
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

constexpr std::array passing_failures{EINTR, EAGAIN};
constexpr std::array refusals{ETOOMANYREFS, EBADF, EINVAL, EPERM, EACCES};
constexpr std::array broken{ECONNRESET, EPIPE, ENOMEM, ENOBUFS, ENOTCONN};

struct side : stream_side {
    explicit side(rig& r) : ends(r, 4), descriptor_(ends.socket.native_handle()) {}
    int descriptor() const noexcept { return descriptor_; }
    void write_ended() noexcept { beside = false; }
    stream_connection ends;
    std::deque<std::uint64_t> brought; // where the descriptors stand that came and were not taken
    bool beside = false; // the write that is under way, or next, takes a descriptor along, which has not gone yet

private:
    const int descriptor_;
};

class unix_stream_soak : public stream_soak_base<unix_stream_soak, side> {
public:
    explicit unix_stream_soak(std::uint64_t seed) : stream_soak_base(seed) {
        rig_.kernel.submitted = [this](ring::scripted&) {
            for (const auto& s : sides_)
                if (s) tell(*s);
        };
        open_all();
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
        case 13: rig_.turn(); break;
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

private:
    friend stream_soak_base;

    void let_go() { hoard_.clear(); }
    void check_end(side& s) {
        CHECK(s.read == s.came);
        s.readers = {};
        take_descriptors(s, s.ends.socket.take_descriptors().size());
        CHECK(s.brought.empty());
        CHECK(s.ends.socket.descriptors().lost == 0);
    }

    // --- streams --------------------------------------------------------------------------------------------------

    void close(std::unique_ptr<side>& s) {
        total_ += s->read + s->sent;
        rig_.kernel.idle = [](ring::scripted& k) {
            k.advance(std::chrono::milliseconds(100));
            k.wake();
        };
        s->writer.reset();
        s->readers = {};
        const int descriptor = s->descriptor();
        s.reset();
        rig_.kernel.idle = nullptr;
        for (const auto& left : rig_.kernel.immediates[descriptor]) detail::close_descriptors(left.control);
        rig_.kernel.immediates.erase(descriptor);
    }

    // --- the kernel's side ----------------------------------------------------------------------------------------

    // A poll tells of what is there, when it begins too.
    void tell(side& s) {
        if (rig_.kernel.immediates[s.descriptor()].empty()) return;
        if (const request* q = rig_.kernel.find(kind::poll, s.descriptor())) rig_.kernel.complete(q->name, POLLIN);
    }

    void come(side& s) {
        auto& queue = rig_.kernel.immediates[s.descriptor()];
        if (s.deaf || queue.size() > 20) return;
        const std::size_t size = 1 + pick_(pick_(8) == 0 ? 1500 : 40);
        const std::string text = text_from(s.came, size);
        const auto bytes = std::as_bytes(std::span(text));
        std::vector<std::byte> control;
        // As many may be kept as nobody has taken: then they would be lost by name.
        if (pick_(3) == 0 && s.brought.size() < 200) {
            control = passing(new_descriptor());
            s.brought.push_back(s.came);
        }
        queue.push_back({0, {bytes.begin(), bytes.end()}, {}, std::move(control)});
        s.came += size;
        tell(s);
    }

    void fail_receiving(side& s) {
        if (s.deaf) return;
        auto& queue = rig_.kernel.immediates[s.descriptor()];
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

    void take(side& s) {
        const request* q = sending(s);
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
    void taken(side& s, const request& q, std::size_t size) {
        if (!q.control.empty() && (!s.beside || s.sent != s.written)) FAIL("descriptors went with other bytes");
        std::size_t left = size;
        for (const iovec& piece : pieces_of(q)) {
            const auto* bytes = static_cast<const char*>(piece.iov_base);
            for (std::size_t i = 0; i < piece.iov_len && left > 0; ++i, --left) {
                if (s.beside && s.sent == s.written && q.control.empty()) FAIL("the descriptors were left behind");
                s.took(bytes[i]);
                if (!q.control.empty()) s.beside = false;
            }
        }
        rig_.kernel.complete(q.name, static_cast<std::int32_t>(size));
    }
    static std::vector<iovec> pieces_of(const request& q) {
        if (!q.pieces.empty()) return q.pieces;
        return {iovec{const_cast<std::byte*>(q.bytes.data()), q.bytes.size()}};
    }

    // --- who reads ------------------------------------------------------------------------------------------------

    // All of them came with bytes that have been read.
    static void take_descriptors(side& from, std::size_t count) {
        for (; count > 0; --count) {
            if (from.brought.empty() || from.brought.front() >= from.read) FAIL("a descriptor before its bytes");
            from.brought.pop_front();
        }
    }
    static void got(side& from, const unix_message& m) {
        const std::uint64_t begin = from.read;
        from.got(::test::words_of(m.payload));
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
            from.got(std::string_view(into).substr(0, size));
            if (size == 0) co_await of.rig_.io.sleep_for(time + std::chrono::milliseconds(1));
            break;
        }
        case 1: {
            std::string into(1 + of.pick_(90), '.');
            result<> whole = co_await as_result(with_timeout(s.read(std::as_writable_bytes(std::span(into))), time));
            if (whole)
                from.got(into);
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
        const std::string text = text_from(to.written, 1 + of.pick_(of.pick_(6) == 0 ? 6000 : 300));
        stream_writing w(to, text.size());
        if (of.pick_(2) == 0) {
            co_await to.ends.socket.write(text);
        } else {
            std::vector<unique_fd> files = one_file();
            to.beside = true;
            co_await to.ends.socket.write(text, std::move(files));
        }
        w.done = true;
    }

    std::vector<packet> hoard_;
};

} // namespace

TEST_CASE("soak: descriptors come with their bytes, and neither is lost, doubled or out of order", "[net][soak]") {
    run_soak<unix_stream_soak>(1);
}
