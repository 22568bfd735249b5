// SPDX-License-Identifier: Apache-2.0
//
// Unix datagrams and seqpackets over the scripted driver: every operation, stopped and destroyed at every step of its
// life. The sockets are real, and nothing is sent by them: what they would send the driver keeps.
#include <cotun/net/unix_datagram.hpp>
#include <cotun/net/unix_seqpacket.hpp>

#include "../io/cancel_moments.hpp"
#include "unix_peers.hpp"

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

// The answer's descriptor is one of this program's: whoever takes the message has it.
std::vector<std::byte> passing(int descriptor) {
    std::vector<std::byte> control(CMSG_LEN(sizeof descriptor));
    cmsghdr head{};
    head.cmsg_len = control.size();
    head.cmsg_level = SOL_SOCKET;
    head.cmsg_type = SCM_RIGHTS;
    std::memcpy(control.data(), &head, sizeof head);
    std::memcpy(control.data() + CMSG_LEN(0), &descriptor, sizeof descriptor);
    return control;
}

std::vector<unique_fd> one_file() {
    std::vector<unique_fd> all;
    all.push_back(unique_fd::duplicate_of(STDERR_FILENO));
    return all;
}

int new_descriptor() { return unique_fd::duplicate_of(STDERR_FILENO).release(); }

// A datagram socket, and another that is bound to a name.
class datagrams {
public:
    explicit datagrams(rig& r, read_mode mode)
        : peer_(SOCK_DGRAM, directory_.file("peer"), ""),
          socket(open_unix_datagram(r.io, {.peer = directory_.file("peer"), .descriptors = 4, .read = mode})),
          name(directory_.file("peer")) {}

private:
    ::test::directory directory_;
    ::test::plain_socket peer_;

public:
    unix_datagram socket;
    const std::string name;
};

// One end of a connection that the kernel of the test has made.
class connection {
public:
    explicit connection(rig& r, read_mode mode) : socket(make(r, mode)) {}
    unix_seqpacket socket;

private:
    static task<> connect(reactor& io, read_mode mode, std::optional<unix_seqpacket>& into) {
        unix_seqpacket made = co_await connect_unix_seqpacket(io, "@nobody", {.descriptors = 4, .read = mode});
        into.emplace(std::move(made));
    }
    static unix_seqpacket make(rig& r, read_mode mode) {
        std::optional<unix_seqpacket> made;
        r.io.spawn(connect(r.io, mode, made));
        r.settle();
        const auto of_connect = [](const auto& q) { return q.what == kind::connect; };
        const auto request = std::find_if(r.kernel.in_flight.begin(), r.kernel.in_flight.end(), of_connect);
        REQUIRE(request != r.kernel.in_flight.end());
        r.kernel.complete(request->name, 0);
        r.settle();
        REQUIRE(made);
        return std::move(*made);
    }
};

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
    };
}

} // namespace

TEST_CASE("unix: every operation, stopped or destroyed at every step of its life", "[unix][cancel]") {
    const operation_kind what = GENERATE(from_range(kinds()));
    check_every_moment(what);
}
