// SPDX-License-Identifier: Apache-2.0
//
// Unix datagrams, seqpackets, and streams that pass descriptors, over the scripted driver: every operation, stopped and
// destroyed at every step of its life. The sockets are real, and nothing is sent by them: what they would send the
// driver keeps.
#include <cotun/net/unix_datagram.hpp>
#include <cotun/net/unix_seqpacket.hpp>

#include "../io/cancel_moments.hpp"
#include "io/passed_descriptors.hpp"
#include "scripted_unix.hpp"

#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <poll.h>
#include <sys/un.h>

using namespace cotun;
using namespace cotun::test;
using namespace std::chrono_literals;

namespace {

using kind = ring::scripted::kind;

constexpr unsigned window = 128;

template <class Ends>
class unix_subject : public subject {
public:
    unix_subject(rig& r, read_mode mode)
        : subject(r), ends_(r, mode), descriptor_(ends_.socket.native_handle()), kept_(kept()) {
        r.settle();
    }
    ~unix_subject() override { give_room(); }

protected:
    using record = ring::scripted::sent_message;

    void take_room() { rig_->kernel.no_room.insert(descriptor_); }
    // And the kernel tells of it, by whatever is polled for it.
    void give_room() {
        rig_->kernel.no_room.erase(descriptor_);
        const auto waits = [](const auto& q) { return q.what == kind::poll && q.events == POLLOUT; };
        const auto poll = std::find_if(rig_->kernel.in_flight.begin(), rig_->kernel.in_flight.end(), waits);
        if (poll != rig_->kernel.in_flight.end()) rig_->kernel.complete(poll->name, POLLOUT);
        rig_->kernel.advance(1ms); // or by a pause
    }
    std::vector<record>& kept() { return rig_->kernel.sent_at_once[descriptor_]; }

    Ends ends_;
    int descriptor_;
    std::vector<record>& kept_;
};

template <class Ends>
class receiving final : public unix_subject<Ends> {
public:
    receiving(rig& r, read_mode mode, bool batch) : unix_subject<Ends>(r, mode), mode_(mode), batch_(batch) {}
    task<> operate() override {
        if (batch_) {
            const packet_batch all = co_await this->ends_.socket.receive_packets();
            CHECK(all.size() == 1);
            CHECK(number_of(*all.begin()) == 7);
        } else {
            const unix_message m = co_await this->ends_.socket.receive();
            CHECK(number_of(m.payload) == 7);
            CHECK(m.descriptors.size() == 1);
        }
    }
    void answer() override {
        ring::scripted& kernel = this->rig_->kernel;
        const std::vector<std::byte> control = passing(new_descriptor());
        if (mode_ == read_mode::poll) {
            kernel.immediates[this->descriptor_].push_back({0, numbered(7), {}, control});
            kernel.complete(kernel.find(kind::poll, this->descriptor_)->name, POLLIN, true);
        } else {
            REQUIRE(kernel.deliver(this->descriptor_, numbered(7), false, {}, control));
        }
    }

private:
    read_mode mode_;
    bool batch_;
};

enum class way : std::uint8_t { one, batch, descriptors, to, to_with_descriptors };

// The window is full, and there is no room; what is accepted goes out whole and in order.
template <class Ends>
class sending final : public unix_subject<Ends> {
public:
    sending(rig& r, way how) : unix_subject<Ends>(r, read_mode::poll), how_(how) {
        this->take_room();
        r.io.spawn(fill(*this));
        r.settle();
        REQUIRE(given_ == window);
    }
    ~sending() override {
        for (int i = 0; i < 3; ++i) { // what did not go at once; what was accepted meanwhile
            this->give_room();
            this->rig_->settle();
        }
        unsigned last = 0;
        bool in_order = true;
        for (const auto& sent : this->kept_) {
            const unsigned number = number_of(sent.bytes);
            in_order = in_order && (number == last + 1 || number >= 1000);
            if (number < 1000) last = number;
        }
        CHECK(in_order);
        CHECK(last == window);
        CHECK(this->kept_.size() <= window + 3 * begun_);
        CHECK(this->ends_.socket.writes().packets == this->kept_.size());
        CHECK(this->ends_.socket.writes().failed() == 0);
    }
    task<> operate() override {
        ++begun_;
        if (how_ == way::batch) {
            packet_batch batch;
            for (unsigned i = 0; i < 3; ++i) batch.push_back(this->rig_->make(1000 + i));
            co_await this->ends_.socket.send_packets(std::move(batch));
        } else if (how_ == way::one) {
            co_await this->ends_.socket.send(this->rig_->make(1000));
        } else if (how_ == way::descriptors) {
            packet p = this->rig_->make(1000);
            std::vector<unique_fd> files = one_file();
            co_await this->ends_.socket.send(std::move(p), std::move(files));
        } else if constexpr (std::is_same_v<Ends, datagrams>) {
            packet p = this->rig_->make(1000);
            std::vector<unique_fd> files;
            if (how_ == way::to_with_descriptors) files = one_file();
            co_await this->ends_.socket.send_to(std::move(p), this->ends_.name, std::move(files));
        }
    }
    void answer() override { this->give_room(); }
    moment done_from() const override { return moment::ready; } // they are accepted

private:
    static task<> fill(sending& s) {
        for (; s.given_ < window; ++s.given_) {
            packet p = s.rig_->make(s.given_ + 1);
            if constexpr (std::is_same_v<Ends, datagrams>) {
                if (s.how_ == way::to || s.how_ == way::to_with_descriptors) {
                    co_await s.ends_.socket.send_to(std::move(p), s.ends_.name);
                    continue;
                }
            }
            co_await s.ends_.socket.send(std::move(p));
        }
    }
    way how_;
    unsigned given_ = 0;
    unsigned begun_ = 0;
};

// Some go at once, the others when there is room, and one fails.
template <class Ends>
class flushing final : public unix_subject<Ends> {
public:
    explicit flushing(rig& r) : unix_subject<Ends>(r, read_mode::poll) {
        this->rig_->kernel.sends_at_once[this->descriptor_] = {2, -EINTR, 1, -EAGAIN};
        this->take_room();
        r.io.spawn(give(*this));
        r.settle();
        REQUIRE(this->kept_.size() == 3);
    }
    ~flushing() override {
        this->give_room();
        this->rig_->settle();
        CHECK(this->kept_.size() == 5);
        for (std::size_t i = 0; i < this->kept_.size(); ++i) CHECK(number_of(this->kept_[i].bytes) == i);
    }
    task<> operate() override { co_await this->ends_.socket.flush(); }
    void answer() override { this->give_room(); }

private:
    static task<> give(flushing& f) {
        for (unsigned i = 0; i < 5; ++i) co_await f.ends_.socket.send(f.rig_->make(i));
    }
};

// Closing is not stopped, and goes on when nobody waits for it any more. What is unsent has a descriptor with it.
template <class Ends>
class closing final : public unix_subject<Ends> {
public:
    explicit closing(rig& r) : unix_subject<Ends>(r, read_mode::automatic) {
        this->take_room();
        r.io.spawn(give(*this));
        r.settle();
    }
    ~closing() override {
        for (int i = 0; i < 3; ++i) {
            this->give_room();
            this->rig_->settle();
        }
        CHECK(this->kept_.size() == 1);
    }
    task<> operate() override { co_await this->ends_.socket.close(); }
    void answer() override { this->give_room(); }
    bool can_be_stopped() const override { return false; }

private:
    static task<> give(closing& c) {
        packet p = c.rig_->make(1);
        std::vector<unique_fd> files = one_file();
        co_await c.ends_.socket.send(std::move(p), std::move(files));
    }
};

// The kernel gives real sockets: their options are set when they are taken.
class accepting final : public subject {
public:
    accepting(rig& r, bool multishot) : subject(r), listener_(make(r, multishot)) {}
    task<> operate() override {
        const unix_seqpacket s = co_await listener_.accept();
        CHECK(s.native_handle() >= 0);
    }
    void answer() override {
        REQUIRE(listens());
        const int made = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        rig_->kernel.complete(request()->name, made, request()->multishot);
    }
    bool listens() override { return request() != nullptr; }

private:
    ring::scripted::request* request() {
        for (ring::scripted::request& q : rig_->kernel.in_flight)
            if (q.what == kind::accept) return &q;
        return nullptr;
    }
    static unix_seqpacket_listener make(rig& r, bool multishot) {
        r.kernel.supported[static_cast<std::size_t>(ring::feature::accept_multishot)] = multishot;
        return listen_unix_seqpacket(r.io, "@cotun-cancel-" + std::to_string(getpid()));
    }
    unix_seqpacket_listener listener_;
};

class connecting final : public subject {
public:
    using subject::subject;
    task<> operate() override {
        const unix_seqpacket s = co_await connect_unix_seqpacket(rig_->io, "@nobody");
        CHECK(s.native_handle() >= 0);
    }
    void answer() override {
        for (ring::scripted::request& q : rig_->kernel.in_flight)
            if (q.what == kind::connect) return rig_->kernel.complete(q.name, 0);
    }
    moment wins_from() const override { return moment::answered; }
    bool keeps() const override { return false; }
};

// --- streams that pass descriptors ---------------------------------------------------------------------------------

class stream_subject : public subject {
public:
    explicit stream_subject(rig& r) : subject(r), ends_(r), descriptor_(ends_.socket.native_handle()) {
        r.settle();
        // A poll that begins tells of what is there.
        r.kernel.submitted = [this](ring::scripted& k) {
            if (!k.immediates[descriptor_].empty()) tell();
        };
    }
    ~stream_subject() override { rig_->kernel.submitted = nullptr; }

protected:
    // By recvmsg(2), once the poll has told.
    void come(std::string_view text, bool with_descriptor) {
        std::vector<std::byte> control;
        if (with_descriptor) control = passing(new_descriptor());
        const auto bytes = std::as_bytes(std::span(text));
        rig_->kernel.immediates[descriptor_].push_back({0, {bytes.begin(), bytes.end()}, {}, control});
    }
    void tell() {
        if (const ring::scripted::request* q = rig_->kernel.find(kind::poll, descriptor_))
            rig_->kernel.complete(q->name, POLLIN);
    }
    const ring::scripted::request* sending() {
        const ring::scripted::request* one = rig_->kernel.find(kind::send, descriptor_);
        return one != nullptr ? one : rig_->kernel.find(kind::send_message, descriptor_);
    }
    stream_connection ends_;
    int descriptor_;
};

enum class stream_way : std::uint8_t { message, some, exactly };

// Of what nobody has read when the stream goes, the kernel's queue has the descriptor still: it closes it.
class receiving_stream final : public stream_subject {
public:
    receiving_stream(rig& r, stream_way how) : stream_subject(r), how_(how) {}
    ~receiving_stream() override {
        for (const auto& left : rig_->kernel.immediates[descriptor_]) detail::close_descriptors(left.control);
        rig_->kernel.immediates.erase(descriptor_);
    }
    task<> operate() override {
        std::string got(5, '.');
        std::vector<unique_fd> its;
        if (how_ == stream_way::message) {
            unix_message m = co_await ends_.socket.receive_message();
            got = ::test::words_of(m.payload);
            its = std::move(m.descriptors);
        } else if (how_ == stream_way::some) {
            const std::size_t size = co_await ends_.socket.read_some(std::as_writable_bytes(std::span(got)));
            got.resize(size);
            its = ends_.socket.take_descriptors();
        } else {
            co_await ends_.socket.read(std::as_writable_bytes(std::span(got)));
            its = ends_.socket.take_descriptors();
        }
        CHECK(got == "seven");
        CHECK(its.size() == 1);
    }
    void answer() override {
        if (how_ == stream_way::exactly) {
            come("se", true); // in pieces, of which the first brings it
            come("ven", false);
        } else {
            come("seven", true);
        }
        tell();
    }
    // A poll tells also the next one of what nobody has received.
    bool listens() override { return rig_->kernel.find(kind::poll, descriptor_) != nullptr; }

private:
    stream_way how_;
};

// Behind another, that is with the kernel; its own send is not begun then, or is.
class writing_with_descriptors final : public stream_subject {
public:
    writing_with_descriptors(rig& r, bool behind) : stream_subject(r), behind_(behind) {}
    ~writing_with_descriptors() override {
        for (int i = 0; i < 3; ++i) {
            rig_->settle();
            take();
        }
        rig_->settle();
    }
    task<> operate() override {
        if (behind_) co_await ends_.socket.write("before it");
        std::vector<unique_fd> files = one_file();
        co_await ends_.socket.write("seven", std::move(files));
    }
    // Another one is taken first.
    void answer() override {
        if (behind_ && rig_->kernel.find(kind::send, descriptor_) != nullptr) {
            take();
            rig_->settle();
        }
        take();
    }
    moment wins_from() const override { return moment::answered; }
    moment done_from() const override { return moment::answered; }
    bool keeps() const override { return false; }

private:
    void take() {
        const ring::scripted::request* q = sending();
        if (q == nullptr) return;
        if (q->what == kind::send_message && q->control.empty()) FAIL("sent without the descriptors");
        rig_->kernel.complete(q->name, static_cast<std::int32_t>(ring::scripted::total(*q)));
    }
    bool behind_;
};

std::vector<operation_kind> kinds() {
    return {
        of<receiving<datagrams>>("datagram: receive", read_mode::multishot, false),
        of<receiving<datagrams>>("datagram: receive_packets", read_mode::multishot, true),
        of<receiving<datagrams>>("datagram: receive by poll", read_mode::poll, false),
        of<sending<datagrams>>("datagram: send", way::one),
        of<sending<datagrams>>("datagram: send_packets", way::batch),
        of<sending<datagrams>>("datagram: send with descriptors", way::descriptors),
        of<sending<datagrams>>("datagram: send_to", way::to),
        of<sending<datagrams>>("datagram: send_to with descriptors", way::to_with_descriptors),
        of<flushing<datagrams>>("datagram: flush"),
        of<closing<datagrams>>("datagram: close"),
        of<receiving<connection>>("seqpacket: receive", read_mode::multishot, false),
        of<receiving<connection>>("seqpacket: receive_packets", read_mode::multishot, true),
        of<receiving<connection>>("seqpacket: receive by poll", read_mode::poll, false),
        of<sending<connection>>("seqpacket: send", way::one),
        of<sending<connection>>("seqpacket: send_packets", way::batch),
        of<sending<connection>>("seqpacket: send with descriptors", way::descriptors),
        of<flushing<connection>>("seqpacket: flush"),
        of<closing<connection>>("seqpacket: close"),
        of<accepting>("seqpacket: accept", true),
        of<accepting>("seqpacket: accept one by one", false),
        of<connecting>("seqpacket: connect"),
        of<receiving_stream>("stream: receive_message", stream_way::message),
        of<receiving_stream>("stream: read_some, with descriptors", stream_way::some),
        of<receiving_stream>("stream: read, with descriptors", stream_way::exactly),
        of<writing_with_descriptors>("stream: write with descriptors", false),
        of<writing_with_descriptors>("stream: write with descriptors, behind another", true),
    };
}

} // namespace

TEST_CASE("unix: every operation, stopped or destroyed at every step of its life", "[unix][cancel]") {
    const operation_kind what = GENERATE(from_range(kinds()));
    check_every_moment(what);
}
