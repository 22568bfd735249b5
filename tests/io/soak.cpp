// SPDX-License-Identifier: Apache-2.0
//
// Many steps of a kernel that does whatever it may: packets in bursts, ends with and without a packet,
// errors, completions of writes in any order, readers that come and go, ports that close and open. The seed is printed;
// COTUN_SEED replays one.
#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"
#include "../support/scripted_port.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>

#include <array>
#include <chrono>
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
        case 12: half_a_pass(); break;
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
            if (s.gone) reopen(s); // its readers, and those that wrote to it, had ended: packets wait for them
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
        for (held_task& r : readers_) r.destroy();
        for (side& s : sides_) s.at->reset();
        rig_.settle();
        CHECK(rig_.free() == buffers);
        CHECK(rig_.kernel.in_flight.empty());
        CHECK(rig_.io.statistics().requests_in_flight == 0);
        CHECK(rig_.io.statistics().strays == 0);
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

    // Completions are told to their owners, and nobody is resumed.
    void half_a_pass() {
        rig_.kernel.idle = [](ring::scripted& k) { k.wake(); };
        rig_.io.core().turn();
        rig_.kernel.idle = nullptr;
    }

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
        static constexpr std::array<int, 4> passing{ECONNREFUSED, ENOMEM, ENOBUFS, EINTR};
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
        const auto* w = writes[pick(writes.size())];
        rig_.kernel.complete(w->name, pick(20) == 0 ? -EIO : static_cast<std::int32_t>(w->bytes.size()));
        return true;
    }

    void start_reader(std::size_t index) {
        readers_[index].destroy();
        readers_[index] = hold(forward(sides_[index % 2], sides_[(index + 1) % 2]));
    }

    void reopen(side& s) {
        for (std::size_t i = 0; i < readers_.size(); ++i) readers_[i].destroy();
        s.at->reset();
        earlier_ += s.reads;
        s = side(rig_.io);
        for (std::size_t i = 0; i < readers_.size(); ++i) start_reader(i);
    }

    // Several of these read one port: between them, packets come in order, each once.
    static task<> forward(side& from, side& to) {
        try {
            for (;;) {
                packet p = co_await from.at->read_packet();
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
    std::array<held_task, 6> readers_{none(), none(), none(), none(), none(), none()};
    unsigned earlier_ = 0;

    static held_task none() { return hold(nothing()); }
    static task<> nothing() { co_return; }
};

} // namespace

TEST_CASE("soak: no packet is lost, doubled or out of order, and nothing stalls") {
    const char* given = std::getenv("COTUN_SEED");
    const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device()();
    const auto rounds = static_cast<unsigned>(given != nullptr ? 1 : scaled(20));
    const unsigned steps = sanitized ? 5'000 : 50'000;
    unsigned total = 0;
    for (unsigned i = 0; i < rounds; ++i) {
        INFO("COTUN_SEED=" << seed + i);
        soak s(seed + i);
        for (unsigned n = 0; n < steps; ++n) s.step();
        s.finish();
        total += s.total();
    }
    CHECK(total > rounds * steps / 10);
}
