// SPDX-License-Identifier: Apache-2.0
//
// Many steps of a kernel that does whatever it may to datagrams: of UDP, whose send buffer fills and empties, and whose
// sends, once one has found no room, all find none until there is some again; of Unix sockets, which take a few at a
// time; refusals of every kind, of single datagrams and of whole sockets; what comes brings descriptors. Tasks send one
// or many, with descriptors and without, to the peer and to others, flush and receive, are stopped and destroyed
// wherever they stand; sockets close, with and without what they had accepted, and others take their place. The seed is
// printed; COTUN_SEED replays one.
#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_any.hpp>
#include <cotun/net/udp.hpp>

#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"
#include "datagram_soak.hpp"
#include "io/fail.hpp"
#include "io/passed_descriptors.hpp"
#include "scripted_unix.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <netinet/in.h>
#include <poll.h>

using namespace cotun;
using namespace cotun::test;

namespace {

using kind = ring::scripted::kind;

struct udp_ends {
    explicit udp_ends(rig& r, read_mode mode) : socket(open(r, mode)) {}
    static udp_socket open(rig& r, read_mode mode) {
        udp_options o;
        o.peer = endpoint::from_string("127.0.0.1:9");
        o.packet_info = true;
        o.read = mode;
        o.socket.send_buffer = 1; // the kernel's least
        return open_udp(r.io, o);
    }
    udp_socket socket;
};

constexpr std::array refusals{EMSGSIZE, ECONNREFUSED, ENETUNREACH, EHOSTUNREACH, ENOBUFS,  ENOMEM,
                              EPERM,    EACCES,       EINVAL,      ENETDOWN,     ETIMEDOUT};
constexpr std::array read_failures{ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EMSGSIZE, EPROTO, ENOMEM,
                                   ENOBUFS,      EINTR,        EAGAIN,      EPERM,    EIO};

// What is in common of the sockets: both directions, and who works on them.
class side {
public:
    explicit side(rig& r, dice& pick) : rig_(&r), pick_(&pick) {}
    side(const side&) = delete;
    side& operator=(const side&) = delete;
    virtual ~side() = default;

    virtual int descriptor() const = 0;
    virtual task<> send_once() = 0;
    virtual task<> receive_once() = 0;
    virtual task<> close() = 0;
    virtual write_statistics writes() const = 0;
    virtual read_statistics reads() const = 0;

    /// The kernel has what was submitted.
    virtual void submitted() = 0;
    /// There is room for some more.
    virtual void give_room(bool all) = 0;
    virtual void come(bool last) = 0;
    virtual void end_receiving(int error) = 0;

    sent_ledger ledger;
    unsigned came = 0; // datagrams that the kernel gave
    unsigned read = 0; // of them, those that were read
    bool well = true;  // the kernel refuses nothing any more
    bool gone = false; // it was given a final error
    bool closing = false;
    std::array<std::unique_ptr<scope>, 2> writers;
    std::array<std::unique_ptr<scope>, 2> readers;

protected:
    ring::scripted& kernel() { return rig_->kernel; }
    bool lucky(std::size_t one_in) { return (*pick_)(one_in) == 0; }
    rig* rig_;
    dice* pick_;
};

// Numbered, and every fifth with a descriptor on Unix sockets.
std::vector<std::byte> incoming(unsigned n) { return numbered(n, sizeof n + n % 900); }

template <class Ends>
class side_of : public side {
    static constexpr bool udp = std::is_same_v<Ends, udp_ends>;
    static constexpr bool records = std::is_same_v<Ends, connection>;

public:
    side_of(rig& r, dice& pick, read_mode mode) : side(r, pick), ends_(r, mode), mode_(mode) {
        descriptor_ = ends_.socket.native_handle();
        socklen_t size = sizeof believed_;
        getsockopt(descriptor_, SOL_SOCKET, SO_SNDBUF, &believed_, &size);
        capacity_ = static_cast<std::size_t>(believed_);
    }
    // What the kernel has for it still is closed with it.
    ~side_of() override {
        readers = {};
        writers = {};
        { const auto closed = std::move(ends_.socket); }
        for (const ring::scripted::immediate& i : kernel().immediates[descriptor_])
            detail::close_descriptors(i.control);
        kernel().immediates.erase(descriptor_);
        kernel().sent_at_once.erase(descriptor_);
        kernel().unsent.erase(descriptor_);
        kernel().pending_error.erase(descriptor_);
    }

    // -1 once it is closed: another has the number then.
    int descriptor() const override { return ends_.socket.native_handle(); }
    write_statistics writes() const override { return ends_.socket.writes(); }
    read_statistics reads() const override { return ends_.socket.reads(); }
    task<> close() override {
        closing = true;
        return ends_.socket.close();
    }

    // --- those who send -------------------------------------------------------------------------------------------

    task<> send_once() override {
        switch ((*pick_)(10)) {
        case 0: co_await flush(); break;
        case 1:
        case 2: co_await send_batch(); break;
        default: co_await send_one(); break;
        }
    }

    task<> send_one() {
        packet p = co_await rig_->io.allocate(sent_ledger::largest);
        const unsigned n = ledger.next();
        sent_ledger::fill(p, n);
        const std::size_t way = (*pick_)(4);
        const std::chrono::milliseconds time((*pick_)(10));
        std::exception_ptr failure;
        try {
            if constexpr (udp) {
                if (way == 0) {
                    co_await ends_.socket.send_to(std::move(p), other_);
                } else if (way == 1) {
                    co_await ends_.socket.send(std::move(p), how_);
                } else if (way == 2) {
                    co_await with_timeout(ends_.socket.send(std::move(p)), time);
                } else {
                    co_await ends_.socket.send(std::move(p));
                }
            } else {
                std::vector<unique_fd> files;
                for (std::size_t i = (*pick_)(3); i > 0; --i) files.push_back(unique_fd::duplicate_of(STDERR_FILENO));
                if (way == 0) {
                    co_await ends_.socket.send(std::move(p), std::move(files));
                } else if (way == 1) {
                    co_await with_timeout(ends_.socket.send(std::move(p), std::move(files)), time);
                } else if (way == 2 && !records) {
                    if constexpr (!records) {
                        const std::string to = lucky(2) ? ends_.name : "@cotun-nobody";
                        co_await ends_.socket.send_to(std::move(p), to, std::move(files));
                    }
                } else {
                    co_await ends_.socket.send(std::move(p));
                }
            }
        } catch (...) {
            failure = std::current_exception();
        }
        if (!failure) {
            ledger.accepted(n);
        } else {
            ledger.not_accepted(n);
            std::rethrow_exception(failure);
        }
    }

    // One that is stopped may have been accepted in part: those in front.
    task<> send_batch() {
        packet_batch batch;
        std::vector<unsigned> numbers;
        for (std::size_t i = 1 + (*pick_)(6); i > 0; --i) {
            packet p = rig_->io.try_allocate(sent_ledger::largest);
            if (!p) break;
            numbers.push_back(ledger.next());
            sent_ledger::fill(p, numbers.back());
            batch.push_back(std::move(p));
        }
        co_await ends_.socket.send_packets(std::move(batch));
        for (const unsigned n : numbers) ledger.accepted(n);
    }

    // It waits for all that was accepted, and throws if and only if something has failed since the last one.
    task<> flush() {
        const unsigned until = ledger.known();
        int error = 0;
        try {
            co_await ends_.socket.flush();
        } catch (const std::system_error& e) {
            if (e.code() == std::errc::operation_canceled || gone || closing) throw;
            error = e.code().value();
        }
        if (closing || gone) co_return;
        if (!ledger.is_over_up_to(until)) FAIL("flush() has ended before what was accepted");
        const std::uint64_t failed = writes().failed();
        if ((error != 0) != (failed > flushed_))
            FAIL("flush() tells " << error << ", and " << failed << " have failed");
        flushed_ = failed;
    }

    // --- those who receive ----------------------------------------------------------------------------------------

    task<> receive_once() override {
        const std::chrono::milliseconds time((*pick_)(20));
        switch ((*pick_)(4)) {
        case 0: {
            auto got = co_await as_result(with_timeout(ends_.socket.receive(), time));
            if (got)
                arrived(*got);
            else if (got.error() != std::errc::timed_out)
                throw std::system_error(got.error());
            break;
        }
        case 1: {
            auto first = co_await when_any(ends_.socket.receive(), rig_->io.sleep_for(time));
            if (first.index() == 0) arrived(std::get<0>(first));
            break;
        }
        case 2: {
            const packet_batch all = co_await ends_.socket.receive_packets();
            for (const packet& p : all) arrived(p);
            break;
        }
        default: {
            const auto one = co_await ends_.socket.receive();
            arrived(one);
            break;
        }
        }
    }
    void arrived(const packet& p) {
        const unsigned n = number_of(p);
        if (n != read || p.size() != sizeof n + n % 900) FAIL("datagram " << n << " where " << read << " is due");
        ++read;
    }
    template <class Message>
    void arrived(const Message& m) {
        arrived(m.payload);
        if constexpr (!udp) {
            const std::size_t due = (read - 1) % 5 == 0 ? 1 : 0;
            if (m.descriptors.size() != due) FAIL("datagram " << read - 1 << " brought " << m.descriptors.size());
        }
    }

    // --- the kernel's side ----------------------------------------------------------------------------------------

    void come(bool last) override {
        if (gone || closing) return;
        std::vector<std::byte> control;
        if (!udp && came % 5 == 0) control = passing(new_descriptor());
        std::vector<std::byte> from;
        if (udp) {
            const sockaddr_in a{.sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {}, .sin_zero = {}};
            const auto bytes = std::as_bytes(std::span(&a, 1));
            from.assign(bytes.begin(), bytes.end());
        }
        if (mode_ == read_mode::poll) {
            kernel().immediates[descriptor_].push_back({0, incoming(came++), from, control});
            if (ring::scripted::request* q = poll_for(POLLIN)) kernel().complete(q->name, POLLIN, !last);
            return;
        }
        if (kernel().find(kind::receive_multishot, descriptor_) != nullptr &&
            kernel().deliver(descriptor_, incoming(came), last, from, control))
            ++came;
        else
            detail::close_descriptors(control);
    }

    void end_receiving(int error) override {
        if (gone || closing) return;
        ring::scripted::request* q =
            mode_ == read_mode::poll ? poll_for(POLLIN) : kernel().find(kind::receive_multishot, descriptor_);
        if (mode_ == read_mode::poll && lucky(2) && !detail::is_final(error)) {
            kernel().immediates[descriptor_].push_back({.error = error});
            if (q != nullptr) kernel().complete(q->name, POLLIN, true);
        } else if (q != nullptr) {
            kernel().complete(q->name, -error);
            gone = detail::is_final(error);
        }
    }

    void submitted() override {
        if (descriptor() < 0) return;
        if (ring::scripted::request* q = poll_for(POLLIN); q != nullptr && q->name != told_) {
            told_ = q->name; // one that begins tells of what is there
            if (!kernel().immediates[descriptor_].empty()) kernel().complete(q->name, POLLIN, true);
        }
        if constexpr (udp) {
            for (const ring::token name : sends(true)) try_to_send(name);
            tell_of_room();
        }
    }

    void give_room(bool all) override {
        if (descriptor() < 0) return;
        if constexpr (udp) {
            if (well) capacity_ = static_cast<std::size_t>(believed_);
            for (std::size_t i = all ? queue_.size() : 1 + (*pick_)(3); i > 0 && !queue_.empty(); --i) {
                in_use_ -= queue_.front();
                queue_.pop_front();
            }
            kernel().unsent[descriptor_] = static_cast<ssize_t>(in_use_);
            if (is_writable()) blocked_ = false;
            tell_of_room();
        } else {
            blocked_ = false;
        }
    }

    // UDP: the kernel's bound may have become another than the socket was opened with.
    void change_bound() { capacity_ = static_cast<std::size_t>(believed_) >> (*pick_)(3); }
    void refuse_later(int error) { kernel().pending_error[descriptor_] = error; }

    // Unix: how many are taken at once, or a negative errno.
    int answer(std::span<const mmsghdr> messages) {
        if (blocked_) return -EAGAIN;
        const auto bytes_of = [](const mmsghdr& m) {
            return std::span(static_cast<const std::byte*>(m.msg_hdr.msg_iov->iov_base), m.msg_hdr.msg_iov->iov_len);
        };
        const std::size_t luck = well ? 100 : (*pick_)(30);
        if (luck == 0) return -EINTR;
        if (luck < 4) {
            blocked_ = true;
            return -EAGAIN;
        }
        if (luck == 4) {
            static constexpr std::array unix_refusals{ECONNREFUSED, ENOENT,       EMSGSIZE, EPERM,    EACCES,
                                                      ENOBUFS,      ENOMEM,       EINVAL,   ENOTCONN, ECONNRESET,
                                                      EPROTOTYPE,   ETOOMANYREFS, EBADF};
            const int error = unix_refusals[(*pick_)(unix_refusals.size())];
            ledger.failed(bytes_of(messages.front()), error == EBADF ? EINVAL : error); // one of the message's own
            return -error;
        }
        if (luck == 5 && lucky(20)) { // the receiver has ended its side
            ledger.failed(bytes_of(messages.front()), records ? EPIPE : ECONNREFUSED);
            gone = gone || records;
            return -EPIPE;
        }
        const std::size_t most = std::min(messages.size(), well ? messages.size() : 1 + (*pick_)(6));
        for (const mmsghdr& m : messages.first(most)) ledger.taken(bytes_of(m));
        return static_cast<int>(most);
    }

private:
    ring::scripted::request* poll_for(short events) {
        for (ring::scripted::request& q : kernel().in_flight)
            if (q.what == kind::poll && q.descriptor == descriptor_ && q.events == events) return &q;
        return nullptr;
    }
    std::vector<ring::token> sends(bool tries) {
        std::vector<ring::token> all;
        for (const ring::scripted::request& q : kernel().in_flight)
            if ((q.what == kind::send || q.what == kind::send_message) && q.descriptor == descriptor_ &&
                q.tries == tries)
                all.push_back(q.name);
        return all;
    }
    bool is_full() const { return in_use_ >= capacity_; }
    bool is_writable() const { return 2 * in_use_ < capacity_; }

    void try_to_send(ring::token name) {
        blocked_ = blocked_ || is_full();
        if (blocked_) return kernel().complete(name, -EAGAIN);
        finish(name);
    }
    void finish(ring::token name) {
        const ring::scripted::request& q = *kernel().find(name);
        const int pending = std::exchange(kernel().pending_error[descriptor_], 0);
        int error = pending;
        if (error == 0 && !well && lucky(25)) error = refusals[(*pick_)(refusals.size())];
        if (error == 0 && !well && lucky(400)) error = ENODEV; // no such interface: that datagram's alone
        if (error == 0 && !well && lucky(3000)) error = EBADF; // the end
        if (error != 0) {
            gone = gone || (error != ENODEV && detail::is_final(error));
            ledger.failed(q.bytes, error == ENODEV ? ENETUNREACH : error);
            return kernel().complete(name, -error);
        }
        ledger.taken(q.bytes);
        queue_.push_back(q.bytes.size() + 512);
        in_use_ += queue_.back();
        kernel().unsent[descriptor_] = static_cast<ssize_t>(in_use_);
        kernel().complete(name, static_cast<std::int32_t>(q.bytes.size()));
    }
    // Those that wait are woken in any order, and each tries again.
    void tell_of_room() {
        if (ring::scripted::request* q = poll_for(POLLOUT)) {
            const int error = kernel().pending_error[descriptor_];
            const int events = (is_writable() ? POLLOUT : 0) | (error != 0 ? POLLERR : 0);
            if (events != 0) kernel().complete(q->name, events);
        }
        if (!is_writable()) return;
        std::vector<ring::token> waiting = sends(false);
        for (std::size_t left = waiting.size(); left > 0 && !is_full(); --left) {
            std::swap(waiting[(*pick_)(left)], waiting[left - 1]);
            finish(waiting[left - 1]);
        }
    }

    Ends ends_;
    read_mode mode_;
    int descriptor_ = -1;
    const endpoint other_ = endpoint::from_string("127.0.0.2:9");
    datagram_options how_{.from = wire::ip_address::from_string("127.0.0.1"), .interface = 0, .ttl = 3, .tos = {}};
    std::uint64_t flushed_ = 0; // failures that a flush has told of
    ring::token told_ = 0;
    bool blocked_ = false; // sends find no room until there is much
    int believed_ = 0;     // the bound that the socket was opened with
    std::size_t capacity_ = 0;
    std::deque<std::size_t> queue_; // UDP: what is charged for datagrams that the link has not taken yet
    std::size_t in_use_ = 0;
};

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
                if (auto* d = dynamic_cast<side_of<datagrams>*>(s.get())) return d->answer(messages);
                if (auto* d = dynamic_cast<side_of<connection>*>(s.get())) return d->answer(messages);
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
        side& s = *sides_[which];
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
        case 12: half_a_pass(); break;
        case 13:
            if (auto* u = dynamic_cast<side_of<udp_ends>*>(&s)) {
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
            side& s = *sides_[i];
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
        rig_.settle();
        CHECK(rig_.free() == buffers);
        CHECK(rig_.kernel.in_flight.empty());
        CHECK(rig_.io.statistics().requests_in_flight == 0);
        CHECK(rig_.io.statistics().strays == 0);
        CHECK(rig_.io.statistics().timers == 1);
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

    static bool have_ended(const side& s) {
        const auto has_ended = [](const std::unique_ptr<scope>& one) { return !one || one->size() == 0; };
        return std::all_of(s.writers.begin(), s.writers.end(), has_ended) &&
               std::all_of(s.readers.begin(), s.readers.end(), has_ended);
    }
    void half_a_pass() {
        rig_.kernel.idle = [](ring::scripted& k) { k.wake(); };
        rig_.io.core().turn();
        rig_.kernel.idle = nullptr;
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
            return s && s->descriptor() == descriptor && dynamic_cast<side_of<udp_ends>*>(s.get()) != nullptr;
        });
    }

    // --- sockets --------------------------------------------------------------------------------------------------

    void open(std::size_t i) {
        const read_mode mode = pick_(3) == 0 ? read_mode::poll : read_mode::multishot;
        switch (kinds[i]) {
        case type::udp: sides_[i] = std::make_unique<side_of<udp_ends>>(rig_, pick_, mode); break;
        case type::datagram: sides_[i] = std::make_unique<side_of<datagrams>>(rig_, pick_, mode); break;
        case type::record: sides_[i] = std::make_unique<side_of<connection>>(rig_, pick_, mode); break;
        }
        sides_[i]->well = false;
        for (auto& r : sides_[i]->readers) start(*sides_[i], r, read);
        for (auto& w : sides_[i]->writers) start(*sides_[i], w, write);
    }

    // By close(), with those who wait still there, or by its destructor, when they are gone.
    void close(std::size_t i) {
        side& s = *sides_[i];
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
    static void check(const side& s) { s.ledger.check(s.writes()); }

    // --- tasks ----------------------------------------------------------------------------------------------------

    void start(side& s, std::unique_ptr<scope>& place, task<> (*body)(datagram_soak&, side&)) {
        place = std::make_unique<scope>(rig_.io);
        place->spawn(body(*this, s));
    }
    static task<> write(datagram_soak& of, side& to) {
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
    static task<> read(datagram_soak& of, side& from) {
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
    std::array<std::unique_ptr<side>, kinds.size()> sides_;
    std::uint64_t total_ = 0;
};

} // namespace

TEST_CASE("soak: datagrams are sent once and in order, or fail by name, and none that came is lost", "[net][soak]") {
    const unsigned steps = sanitized ? 5'000 : 50'000;
    const auto files = ::test::open_files();
    std::uint64_t total = 0;
    const unsigned rounds = with_seeds(static_cast<unsigned>(scaled(20)), [&](std::uint64_t seed) {
        INFO("COTUN_SEED=" << seed);
        datagram_soak s(seed);
        for (unsigned n = 0; n < steps; ++n) s.step();
        s.finish();
        total += s.total();
    });
    CHECK(::test::open_files() == files);
    CHECK(total > std::uint64_t{rounds} * steps / 10);
}
