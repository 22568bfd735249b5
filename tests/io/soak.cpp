// SPDX-License-Identifier: Apache-2.0
//
// Many steps of a kernel that does whatever it may: packets in bursts, ends with and without a packet, errors of every
// kind, completions of writes in any order and short ones, readers that come and go, are stopped, and wait in every way
// that there is, ports that close and open. The seed is printed; COTUN_SEED replays one.
#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_any.hpp>

#include "../support/scripted_port.hpp"
#include "../support/seed.hpp"
#include "../support/soak.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>

using namespace cotun;
using namespace cotun::test;

namespace {

// One port that is read and forwarded to the other's port, with what is known of it.
struct side {
    explicit side(reactor& io) : at(std::make_unique<port>(io)) {}
    std::unique_ptr<port> at;
    unsigned next_in = 0;   // number of the next packet to arrive
    unsigned next_read = 0; // the least that the next packet read may have
    bool gone = false;      // was given a final error
    unsigned reads = 0;
};

class soak {
public:
    explicit soak(std::uint64_t seed) : random_(seed), rig_(options()), sides_{side(rig_.io), side(rig_.io)} {
        rig_.kernel.writes_complete = false;
        for (std::size_t i = 0; i < readers_.size(); ++i) start_reader(i);
    }

    void step() {
        side& s = sides_[pick(2)];
        switch (pick(16)) {
        case 0:
        case 1:
        case 2:
        case 3: arrive(s, 1 + pick(6)); break;
        case 4: arrive_last(s); break;
        case 5: end(s); break;
        case 6:
        case 7:
        case 8:
        case 9:
        case 10: write_some(); break;
        case 11: start_reader(pick(readers_.size())); break; // replaces one, wherever it stands
        case 12:
            if (pick(2) == 0)
                rig_.turn();
            else
                stop_reader(pick(readers_.size()));
            break;
        case 13:
            if (pick(40) == 0) reopen(s);
            break;
        case 14: rig_.kernel.advance(std::chrono::milliseconds(pick(30))); [[fallthrough]];
        default: rig_.settle();
        }
    }

    // Whatever happened, packets go through again, and in the end nothing is missing.
    void finish() {
        for (side& s : sides_)
            if (s.gone) reopen(s);
        for (std::size_t i = 0; i < readers_.size(); ++i)
            start_reader(i); // those that had ended: packets wait for them
        do {
            rig_.kernel.advance(std::chrono::seconds(1));
            rig_.settle();
        } while (write_some());
        for (side& s : sides_) {
            const unsigned before = s.reads;
            REQUIRE(rig_.reading(*s.at) != nullptr);
            REQUIRE(rig_.arrive(*s.at, s.next_in++));
            rig_.settle();
            while (write_some()) rig_.settle();
            CHECK(s.reads > before);         // it does not stall
            CHECK(s.next_read == s.next_in); // nothing was left behind
        }
        destroy_readers();
        for (side& s : sides_) s.at->reset();
        check_nothing_left(rig_, buffers);
    }

    unsigned total() const { return sides_[0].reads + sides_[1].reads + earlier_; }

private:
    static constexpr unsigned buffers = 16;
    static rig_options options() {
        rig_options o = with_buffers(buffers);
        o.requests = 32;
        return o;
    }

    std::size_t pick(std::size_t of) { return random_() % of; }

    void arrive(side& s, std::size_t count) {
        while (count-- > 0 && !s.gone && rig_.reading(*s.at) != nullptr)
            if (rig_.arrive(*s.at, s.next_in)) ++s.next_in;
    }

    void arrive_last(side& s) {
        if (s.gone || rig_.reading(*s.at) == nullptr) return;
        if (rig_.kernel.deliver(s.at->descriptor, numbered(s.next_in), true)) ++s.next_in;
    }

    void end(side& s) {
        if (s.gone || rig_.reading(*s.at) == nullptr) return;
        static constexpr std::array passing{ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EMSGSIZE, EPROTO, ENOMEM,
                                            ENOBUFS,      EINTR,        EAGAIN,      EIO,      EPERM,  ETIMEDOUT};
        if (pick(300) == 0) {
            rig_.kernel.end(s.at->descriptor, EBADFD);
            s.gone = true;
        } else if (pick(4) == 0) {
            rig_.kernel.end(s.at->descriptor, passing[pick(passing.size())]);
        }
    }

    // Completes one write, any of those in flight.
    bool write_some() {
        std::vector<const ring::scripted::request*> writes;
        for (const auto& r : rig_.kernel.in_flight)
            if (r.what == ring::scripted::kind::write) writes.push_back(&r);
        if (writes.empty()) return false;
        static constexpr std::array failures{EIO,   EINVAL, ENOBUFS,  ENOMEM,       EAGAIN,       EINTR,
                                             EPERM, EACCES, ENETDOWN, EHOSTUNREACH, ECONNREFUSED, EMSGSIZE};
        const auto* w = writes[pick(writes.size())];
        const auto size = static_cast<std::int32_t>(w->bytes.size());
        const std::size_t luck = pick(40);
        rig_.kernel.complete(w->name, luck == 0   ? -failures[pick(failures.size())]
                                      : luck == 1 ? static_cast<std::int32_t>(pick(w->bytes.size()))
                                                  : size);
        return true;
    }

    // It replaces one, wherever that stands.
    void start_reader(std::size_t index) {
        readers_[index] = std::make_unique<scope>(rig_.io);
        const auto way = static_cast<way_to_wait>(pick(4));
        readers_[index]->spawn(forward(*this, sides_[index % 2], sides_[(index + 1) % 2], way));
    }

    void stop_reader(std::size_t index) {
        if (readers_[index]) readers_[index]->request_stop();
    }

    void destroy_readers() {
        for (auto& r : readers_) r.reset();
    }

    void reopen(side& s) {
        destroy_readers();
        s.at->reset();
        earlier_ += s.reads;
        s = side(rig_.io);
        for (std::size_t i = 0; i < readers_.size(); ++i) start_reader(i);
    }

    enum class way_to_wait : std::uint8_t { plainly, in_time, beside_a_timer, beside_a_task };

    // The next packet, or an empty one.
    static task<packet> next(soak& of, side& from, way_to_wait way) {
        const std::chrono::milliseconds time(of.pick(20));
        switch (way) {
        case way_to_wait::plainly: break;
        case way_to_wait::in_time: {
            result<packet> got = co_await as_result(with_timeout(from.at->read_packet(), time));
            if (got) co_return std::move(*got);
            if (got.error() == std::errc::timed_out) co_return packet();
            throw std::system_error(got.error());
        }
        case way_to_wait::beside_a_timer: {
            auto first = co_await when_any(from.at->read_packet(), of.rig_.io.sleep_for(time));
            if (first.index() == 0) co_return std::get<0>(std::move(first));
            co_return packet();
        }
        case way_to_wait::beside_a_task: {
            auto first = co_await when_any(nothing_for(of.rig_.io, time), from.at->read_packet());
            if (first.index() == 1) co_return std::get<1>(std::move(first));
            co_return packet();
        }
        }
        co_return co_await from.at->read_packet();
    }
    static task<> nothing_for(reactor& io, std::chrono::milliseconds time) { co_await io.sleep_for(time); }

    // Several of these read one port: between them, packets come in order, each once.
    static task<> forward(soak& of, side& from, side& to, way_to_wait way) {
        try {
            for (;;) {
                packet p = co_await next(of, from, way);
                if (!p) continue;
                if (number_of(p) != from.next_read)
                    FAIL("packet " << number_of(p) << " where " << from.next_read << " is due");
                ++from.next_read;
                ++from.reads;
                co_await to.at->write_packet(std::move(p));
            }
        } catch (const std::system_error&) {}
    }

    std::mt19937_64 random_;
    rig rig_;
    std::array<side, 2> sides_;
    std::array<std::unique_ptr<scope>, 6> readers_;
    unsigned earlier_ = 0;
};

} // namespace

TEST_CASE("soak: no packet is lost, doubled or out of order, and nothing stalls") { run_soak<soak>(10); }
