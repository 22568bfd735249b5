// SPDX-License-Identifier: Apache-2.0
//
// Many steps of a kernel that does whatever it may to datagrams: of UDP, whose send buffer fills and empties, and whose
// sends, once one has found no room, all find none until there is some again; of Unix sockets, which take a few at a
// time; refusals of every kind, of single datagrams and of whole sockets; what comes brings descriptors. Tasks send one
// or many, with descriptors and without, to the peer and to others, flush and receive, are stopped and destroyed
// wherever they stand; sockets close, with and without what they had accepted, and others take their place. The seed is
// printed; COTUN_SEED replays one.
#include "../support/soak.hpp"
#include "datagram_side.hpp"

#include <array>
#include <memory>

using namespace cotun;
using namespace cotun::test;

namespace {

using kind = ring::scripted::kind;

enum class type : std::uint8_t { udp, datagram, record };

class datagram_soak {
public:
    explicit datagram_soak(std::uint64_t seed) : pick_(seed), rig_(options()) {
        rig_.kernel.writes_complete = false;
        rig_.kernel.submitted = [this](ring::scripted&) {
            for (const auto& s : sides_)
                if (s) s->submitted();
        };
        rig_.kernel.answer_send = [this](int descriptor, std::span<const mmsghdr> messages) {
            rig_.kernel.sent_at_once.clear();
            for (const auto& s : sides_) {
                if (!s || s->descriptor() != descriptor) continue;
                if (auto* d = dynamic_cast<datagram_side_of<datagrams>*>(s.get())) return d->answer(messages);
                if (auto* d = dynamic_cast<datagram_side_of<connection>*>(s.get())) return d->answer(messages);
            }
            return -EBADF;
        };
        for (std::size_t i = 0; i < sides_.size(); ++i) open(i);
    }
    ~datagram_soak() {
        rig_.kernel.idle = [](ring::scripted& k) {
            k.advance(std::chrono::milliseconds(100));
            k.wake();
        };
        for (auto& s : sides_) s.reset();
        rig_.kernel.idle = nullptr;
    }

    void step() {
        const std::size_t which = pick_(sides_.size());
        datagram_side& s = *sides_[which];
        switch (pick_(20)) {
        case 0:
        case 1:
        case 2: s.come(pick_(10) == 0); break;
        case 3:
            if (pick_(400) == 0)
                s.end_receiving(EBADF);
            else if (pick_(3) == 0)
                s.end_receiving(read_failures[pick_(read_failures.size())]);
            break;
        case 4:
        case 5:
        case 6: s.give_room(pick_(4) == 0); break;
        case 7: poll_room(); break;
        case 8: start(s, s.writers[pick_(2)], write); break; // replaces one, wherever it stands
        case 9: start(s, s.readers[pick_(2)], read); break;
        case 10:
            if (const auto& r = s.readers[pick_(2)]) r->request_stop();
            break;
        case 11:
            if (const auto& w = s.writers[pick_(2)]) w->request_stop();
            break;
        case 12: rig_.turn(); break;
        case 13:
            if (auto* u = dynamic_cast<datagram_side_of<udp_ends>*>(&s)) {
                if (pick_(4) == 0) u->change_bound();
                if (pick_(4) == 0) u->refuse_later(ECONNREFUSED);
            }
            break;
        case 14:
            if (s.gone || pick_(60) == 0) reopen(which);
            break;
        case 15:
        case 16: rig_.kernel.advance(std::chrono::milliseconds(pick_(10))); [[fallthrough]];
        default: rig_.settle();
        }
        const std::string& complaint = sides_[which]->ledger.complaint(); // of its successor, it may be
        if (!complaint.empty()) FAIL("socket " << which << ": " << complaint);
    }

    // Whatever happened, all that was accepted goes out, all that came is read, and nothing is left.
    void finish() {
        for (auto& s : sides_) {
            for (auto* all : {&s->writers, &s->readers})
                for (auto& one : *all)
                    if (one) one->request_stop();
        }
        for (int i = 0; i < 5; ++i) pass_time();
        for (std::size_t i = 0; i < sides_.size(); ++i) {
            datagram_side& s = *sides_[i];
            CHECK(have_ended(s));
            if (s.gone) reopen(i);
        }
        for (auto& s : sides_) {
            s->well = true;
            for (auto& r : s->readers) start(*s, r, read);
        }
        for (int i = 0; i < 300; ++i) pass_time();
        for (auto& s : sides_) {
            INFO("socket of kind " << static_cast<int>(kinds[&s - sides_.data()]));
            const unsigned before = s->read;
            const std::uint64_t sent_before = s->writes().packets;
            start(*s, s->writers[0], write);
            for (int i = 0; i < 200 && (s->read == before || s->read < s->came); ++i) {
                if (s->read == before) s->come(false);
                pass_time();
            }
            for (int i = 0; i < 200 && s->writes().packets == sent_before; ++i) pass_time();
            CHECK(s->read > before);                  // it does not stall
            CHECK(s->writes().packets > sent_before); // nor this way
            CHECK(s->read == s->came);                // nothing is left behind
            s->writers = {};
            for (int i = 0; i < 50; ++i) pass_time();
            CHECK(s->ledger.on_their_way() == 0);
            CHECK(s->writes().dropped == 0);
            check(*s);
        }
        for (std::size_t i = 0; i < sides_.size(); ++i) close(i);
        check_nothing_left(rig_, buffers);
    }

    std::uint64_t total() const { return total_; }

private:
    static constexpr unsigned buffers = 64;
    static constexpr std::array kinds{type::udp, type::udp, type::udp, type::datagram, type::datagram, type::record};
    static rig_options options() {
        rig_options o = with_buffers(buffers);
        o.requests = 80;
        return o;
    }

    static bool have_ended(const datagram_side& s) {
        const auto has_ended = [](const std::unique_ptr<scope>& one) { return !one || one->size() == 0; };
        return std::all_of(s.writers.begin(), s.writers.end(), has_ended) &&
               std::all_of(s.readers.begin(), s.readers.end(), has_ended);
    }
    void pass_time() {
        for (auto& s : sides_) s->give_room(true);
        poll_room();
        rig_.kernel.advance(std::chrono::milliseconds(100));
        rig_.settle();
        for (auto& s : sides_)
            if (!s->ledger.complaint().empty()) FAIL(s->ledger.complaint());
    }
    // Unix: one of those who wait for room is told of it, also where another program takes it.
    void poll_room() {
        for (const auto& q : rig_.kernel.in_flight) {
            if (q.what != kind::poll || q.events != POLLOUT || is_udp(q.descriptor)) continue;
            return rig_.kernel.complete(q.name, POLLOUT);
        }
    }
    bool is_udp(int descriptor) const {
        return std::any_of(sides_.begin(), sides_.end(), [&](const auto& s) {
            return s && s->descriptor() == descriptor && dynamic_cast<datagram_side_of<udp_ends>*>(s.get()) != nullptr;
        });
    }

    // --- sockets --------------------------------------------------------------------------------------------------

    void open(std::size_t i) {
        const read_mode mode = pick_(3) == 0 ? read_mode::poll : read_mode::multishot;
        switch (kinds[i]) {
        case type::udp: sides_[i] = std::make_unique<datagram_side_of<udp_ends>>(rig_, pick_, mode); break;
        case type::datagram: sides_[i] = std::make_unique<datagram_side_of<datagrams>>(rig_, pick_, mode); break;
        case type::record: sides_[i] = std::make_unique<datagram_side_of<connection>>(rig_, pick_, mode); break;
        }
        sides_[i]->well = false;
        for (auto& r : sides_[i]->readers) start(*sides_[i], r, read);
        for (auto& w : sides_[i]->writers) start(*sides_[i], w, write);
    }

    // By close(), with those who wait still there, or by its destructor, when they are gone.
    void close(std::size_t i) {
        datagram_side& s = *sides_[i];
        total_ += s.read + s.ledger.expected.packets;
        rig_.kernel.idle = [&](ring::scripted& k) {
            k.advance(std::chrono::milliseconds(100));
            if (pick_(2) == 0) s.give_room(true);
            k.wake();
        };
        if (pick_(2) == 0) {
            scope closing(rig_.io);
            closing.spawn(s.close());
            for (int n = 0; n < 50 && closing.size() > 0; ++n) {
                rig_.kernel.advance(std::chrono::milliseconds(100));
                rig_.settle();
            }
            CHECK(closing.size() == 0);
            for (int n = 0; n < 50 && !have_ended(s); ++n) pass_time();
            CHECK(have_ended(s)); // who waited was told
            check(s);
            const write_statistics counted = s.writes();
            CHECK(s.ledger.on_their_way() <= counted.dropped);
            CHECK(counted.dropped <= s.ledger.on_their_way() + s.ledger.unknown());
        }
        rig_.kernel.idle = [](ring::scripted& k) {
            k.advance(std::chrono::milliseconds(100));
            k.wake();
        };
        sides_[i].reset();
        rig_.kernel.idle = nullptr;
    }
    void reopen(std::size_t i) {
        close(i);
        open(i);
    }
    static void check(const datagram_side& s) { s.ledger.check(s.writes()); }

    // --- tasks ----------------------------------------------------------------------------------------------------

    void start(datagram_side& s, std::unique_ptr<scope>& place, task<> (*body)(datagram_soak&, datagram_side&)) {
        place = std::make_unique<scope>(rig_.io);
        place->spawn(body(*this, s));
    }
    static task<> write(datagram_soak& of, datagram_side& to) {
        try {
            for (;;) {
                for (std::size_t i = of.pick_(6); i > 0; --i) co_await to.send_once();
                co_await of.rig_.io.sleep_for(std::chrono::milliseconds(1 + of.pick_(4)));
            }
        } catch (const std::system_error& e) {
            if (e.code() == std::errc::timed_out) co_return;
            if (e.code() != std::errc::operation_canceled && !to.gone && !to.closing) FAIL("sending: " << e.what());
        }
    }
    static task<> read(datagram_soak& of, datagram_side& from) {
        try {
            for (;;) {
                co_await from.receive_once();
                if (of.pick_(8) == 0) co_await of.rig_.io.sleep_for(std::chrono::milliseconds(of.pick_(5)));
            }
        } catch (const std::system_error& e) {
            if (e.code() != std::errc::operation_canceled && !from.gone && !from.closing)
                FAIL("receiving: " << e.what());
        }
    }

    dice pick_;
    rig rig_;
    std::array<std::unique_ptr<datagram_side>, kinds.size()> sides_;
    std::uint64_t total_ = 0;
};

} // namespace

TEST_CASE("soak: datagrams are sent once and in order, or fail by name, and none that came is lost", "[net][soak]") {
    run_soak<datagram_soak>(10);
}
