// SPDX-License-Identifier: Apache-2.0
//
// What the soaks of streams share: what is known of a stream's two directions, who works on it, and the end, in which
// bytes go through again whatever has happened, and nothing is missing.
#pragma once

#include <cotun/coro/scope.hpp>

#include <catch2/catch_message.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "scripted_port.hpp"
#include "seed.hpp"
#include "soak.hpp"

namespace cotun::test {

/// The byte at a place of every stream: a line's end now and then.
inline char byte_at(std::uint64_t place) noexcept {
    return place % 61 == 60 ? '\n' : static_cast<char>('a' + (place * 7 + place / 26) % 26);
}
/// `size` bytes of it.
inline std::string text_from(std::uint64_t place, std::size_t size) {
    std::string text(size, '\0');
    for (std::size_t i = 0; i < size; ++i) text[i] = byte_at(place + i);
    return text;
}

/// What the kernel has of both directions of a stream.
struct stream_side {
    std::uint64_t came = 0;    // bytes that the kernel has for it or gave
    std::uint64_t read = 0;    // of them, those that were read
    std::uint64_t written = 0; // bytes whose write has ended well, or may have been sent in part
    std::uint64_t sent = 0;    // bytes that the kernel took
    bool deaf = false;         // receiving has ended, by an error or the peer's end
    bool mute = false;         // sending has failed
    std::unique_ptr<scope> writer;
    std::array<std::unique_ptr<scope>, 2> readers;

    void got(std::string_view text) {
        for (const char c : text)
            if (c != byte_at(read++)) FAIL("byte " << read - 1 << " was read out of order");
    }
    void took(char c) {
        if (c != byte_at(sent++)) FAIL("byte " << sent - 1 << " was sent out of order");
    }
    void write_ended() noexcept {}
};

/// A write that is under way. One that ends without having been sent in part leaves the stream as it was; else nothing
/// may follow.
template <class Side>
class stream_writing {
public:
    stream_writing(Side& s, std::size_t all) noexcept : to_(s), size_(all) {}
    stream_writing(const stream_writing&) = delete;
    stream_writing& operator=(const stream_writing&) = delete;
    ~stream_writing() {
        if (done || to_.sent >= to_.written + size_) to_.written += size_;
        to_.write_ended();
    }
    bool done = false;

private:
    Side& to_;
    std::size_t size_;
};

/// Soak derives from it, and has, for a Side, which is a stream_side and has descriptor():
///   come(side)                  the kernel has more for it, if it can
///   taken(side, request, size)  the kernel takes so much of a send
///   read(soak, side), write(soak, side)   tasks that go on until they are stopped or the stream is broken
///   close(place)                ends the stream at a place of sides_, and empties it
///   let_go()                    gives back what the soak itself holds of the pool
///   check_end(side)             all that came has been read
template <class Soak, class Side>
class stream_soak_base {
public:
    explicit stream_soak_base(std::uint64_t seed) : pick_(seed), rig_(options()) {
        rig_.kernel.writes_complete = false;
    }

    void finish() {
        self().let_go();
        for (int i = 0; i < 20; ++i) { // those that are broken find out
            turn_for_a_while();
            for (auto& s : sides_)
                if (s->writer->size() == 0) start_writer(*s);
        }
        for (auto& s : sides_) {
            if (s->deaf || s->mute) reopen(*s);
            for (std::size_t i = 0; i < s->readers.size(); ++i) start_reader(*s, i);
        }
        for (auto& s : sides_) go_on_to_the_end(*s);
        for (auto& s : sides_) self().close(s);
        self().let_go();
        check_nothing_left(rig_, buffers);
    }

    std::uint64_t total() const { return total_; }

protected:
    using request = ring::scripted::request;
    static constexpr unsigned buffers = 24;

    void open_all() {
        for (auto& s : sides_) open(s);
    }
    void reopen(Side& s) {
        auto& place = *std::find_if(sides_.begin(), sides_.end(), [&](const auto& p) { return p.get() == &s; });
        self().close(place);
        open(place);
    }
    void start_reader(Side& s, std::size_t index) {
        s.readers[index] = std::make_unique<scope>(rig_.io);
        s.readers[index]->spawn(Soak::read(self(), s));
    }
    void start_writer(Side& s) {
        if (s.mute) return;
        s.writer.reset();
        s.writer = std::make_unique<scope>(rig_.io);
        s.writer->spawn(Soak::write(self(), s));
    }
    const request* sending(Side& s) {
        const request* one = rig_.kernel.find(ring::scripted::kind::send, s.descriptor());
        return one != nullptr ? one : rig_.kernel.find(ring::scripted::kind::send_message, s.descriptor());
    }

    dice pick_;
    rig rig_;
    std::array<std::unique_ptr<Side>, 4> sides_;
    std::uint64_t total_ = 0;

private:
    static rig_options options() {
        rig_options o = with_buffers(buffers);
        o.requests = 32;
        return o;
    }
    Soak& self() noexcept { return static_cast<Soak&>(*this); }

    void open(std::unique_ptr<Side>& s) {
        s = std::make_unique<Side>(rig_);
        for (std::size_t i = 0; i < s->readers.size(); ++i) start_reader(*s, i);
        start_writer(*s);
    }
    void turn_for_a_while() {
        rig_.kernel.advance(std::chrono::milliseconds(100));
        rig_.settle();
        for (auto& s : sides_)
            if (const request* q = sending(*s)) self().taken(*s, *q, ring::scripted::total(*q));
    }
    void go_on_to_the_end(Side& s) {
        const std::uint64_t before = s.read;
        const std::uint64_t sent_before = s.sent;
        for (int i = 0; i < 200 && (s.read == before || s.read < s.came || s.sent == sent_before); ++i) {
            self().let_go();
            if (s.read == before) self().come(s);
            turn_for_a_while();
            // One that wants more than there is, or has ended, is replaced.
            for (std::size_t n = 0; n < s.readers.size() && i % 3 == 2; ++n) start_reader(s, n);
            if (s.writer->size() == 0) start_writer(s);
        }
        CHECK(s.read > before);      // it does not stall
        CHECK(s.sent > sent_before); // nor this way
        self().check_end(s);
    }
};

} // namespace cotun::test
