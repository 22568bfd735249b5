// SPDX-License-Identifier: Apache-2.0
//
// Every operation, stopped and destroyed at every step of its life. Whatever the moment: no result is lost, one that
// has arrived wins, nothing stays in flight, and every buffer comes back. Those of streams: cancellation_streams.cpp;
// combinations of operations: cancellation_combined.cpp.
#include <cotun/io/interval.hpp>
#include <cotun/net/udp.hpp>

#include "cancel_moments.hpp"

#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <algorithm>
#include <csignal>
#include <iterator>
#include <poll.h>

using namespace cotun;
using namespace cotun::test;
using namespace std::chrono_literals;

namespace {

class reading : public subject {
public:
    explicit reading(rig& r, read_mode mode = read_mode::automatic) : subject(r), port_(r.io, mode) {}
    task<> operate() override {
        const packet p = co_await port_.read_packet();
        CHECK(number_of(p) == 7);
    }
    void answer() override { REQUIRE(rig_->arrive(port_, 7)); }

protected:
    port port_;
};

class reading_batch final : public reading {
public:
    using reading::reading;
    task<> operate() override {
        const packet_batch batch = co_await port_.read_packets();
        CHECK(batch.size() == 1);
        CHECK(number_of(*batch.begin()) == 7);
    }
};

class reading_by_poll final : public reading {
public:
    explicit reading_by_poll(rig& r) : reading(r, read_mode::poll) {}
    void answer() override {
        rig_->kernel.immediates[port_.descriptor].push_back({0, numbered(7), {}});
        rig_->kernel.complete(rig_->polling(port_)->name, 1, true);
    }
};

// A window that is full: `writes` packets wait for room.
class writing final : public subject {
public:
    writing(rig& r, unsigned writes) : subject(r), port_(r.io, read_mode::automatic, window), writes_(writes) {
        // The reader's share is taken first, else it would take what the test frees.
        r.settle();
        r.io.spawn(write_many(r, port_, 0, window, filled_));
        r.settle();
        REQUIRE(filled_.ended);
    }
    ~writing() override { finish_writes(*rig_, port_); }
    task<> operate() override {
        if (writes_ == 1) {
            co_await port_.write_packet(rig_->make(100));
        } else {
            packet_batch batch;
            for (unsigned i = 0; i < writes_; ++i) batch.push_back(rig_->make(100 + i));
            co_await port_.write_packets(std::move(batch));
        }
    }
    void answer() override {
        for (unsigned i = 0; i < writes_; ++i) rig_->written(port_, i);
    }
    moment done_from() const override { return moment::ready; } // the packets are accepted

    static void finish_writes(rig& r, port& of) {
        for (;;) {
            const std::vector<unsigned> all = r.writing(of);
            if (all.empty()) return;
            for (const unsigned n : all) r.written(of, n);
            r.settle();
        }
    }

private:
    static constexpr unsigned window = 4;
    port port_;
    unsigned writes_;
    outcome filled_;
};

// The kernel writes in one of the six orders.
class flushing final : public subject {
public:
    flushing(rig& r, std::array<unsigned, 3> order) : subject(r), port_(r.io), order_(order) {
        r.io.spawn(write_many(r, port_, 0, 3, filled_));
        r.settle();
    }
    ~flushing() override { writing::finish_writes(*rig_, port_); }
    task<> operate() override { co_await port_.flush(); }
    void answer() override {
        for (const unsigned i : order_) rig_->written(port_, i);
    }

private:
    port port_;
    std::array<unsigned, 3> order_;
    outcome filled_;
};

class allocating final : public subject {
public:
    explicit allocating(rig& r) : subject(r) {
        while (packet p = r.io.try_allocate(1)) held_.push_back(std::move(p));
        REQUIRE(held_.size() == rig_buffers);
    }
    task<> operate() override {
        const packet p = co_await rig_->io.allocate(100);
        CHECK(p.size() == 100);
    }
    void answer() override { held_.pop_back(); }
    moment wins_from() const override { return moment::answered; } // it needs no completion

private:
    std::vector<packet> held_;
};

class sleeping final : public subject {
public:
    explicit sleeping(rig& r) : subject(r), until_(r.io.core().now() + 1s) {}
    task<> operate() override { co_await rig_->io.sleep_until(until_); }
    void answer() override { rig_->kernel.advance(1s); }

private:
    cotun::reactor::clock::time_point until_;
};

class beating final : public subject {
public:
    explicit beating(rig& r) : subject(r), tick_(r.io, 1s) {}
    task<> operate() override {
        const std::uint64_t periods = co_await tick_.next();
        CHECK(periods == 1);
    }
    void answer() override { rig_->kernel.advance(1s); }

private:
    interval tick_;
};

// A poll that the kernel has answered is not undone by a cancel that comes later.
class polling final : public subject {
public:
    polling(rig& r, short events) : subject(r), descriptor_(1000 + events), events_(events) {}
    task<> operate() override {
        if (events_ == POLLIN)
            co_await rig_->io.readable(descriptor_);
        else
            co_await rig_->io.writable(descriptor_);
    }
    void answer() override {
        ring::scripted::request* poll = rig_->kernel.find(ring::scripted::kind::poll, descriptor_);
        if (poll == nullptr) return;
        CHECK(poll->events == events_);
        rig_->kernel.complete(poll->name, events_);
    }
    moment wins_from() const override { return moment::answered; }
    bool keeps() const override { return false; } // the descriptor does, not the wait

private:
    int descriptor_;
    short events_;
};

// The signal is real, and goes to this thread.
class signalled final : public subject {
public:
    explicit signalled(rig& r) : subject(r) {
        r.settle();
        const auto others = r.kernel.in_flight;
        (void)r.io.signal(SIGUSR1); // from here on it is caught
        r.settle();
        for (const ring::scripted::request& q : r.kernel.in_flight)
            if (std::none_of(others.begin(), others.end(), [&](const auto& o) { return o.name == q.name; }))
                descriptor_ = q.descriptor;
        REQUIRE(descriptor_ >= 0);
    }
    task<> operate() override {
        const int number = co_await rig_->io.signal(SIGUSR1);
        CHECK(number == SIGUSR1);
    }
    void answer() override {
        raise(SIGUSR1);
        rig_->kernel.complete(rig_->kernel.find(ring::scripted::kind::poll, descriptor_)->name, 1, true);
    }

private:
    int descriptor_ = -1;
};

// Closing is not stopped, and goes on when nobody waits for it any more.
class closing final : public subject {
public:
    explicit closing(rig& r) : subject(r), port_(r.io) {
        r.io.spawn(write_many(r, port_, 0, 1, filled_));
        r.settle();
    }
    ~closing() override { answer(); }
    task<> operate() override { co_await port_.close(); }
    void answer() override {
        if (!rig_->writing(port_).empty()) rig_->written(port_, 0);
    }
    bool can_be_stopped() const override { return false; }

private:
    port port_;
    outcome filled_;
};

// A UDP socket whose kernel the test plays.
class udp_subject : public subject {
public:
    udp_subject(rig& r, read_mode mode) : subject(r), descriptor_(lowest_free()), socket_(open(r, mode)) { r.settle(); }

protected:
    // The kernel takes as many as it has been given, and `most`.
    void finish_sends(unsigned most) {
        while (most-- > 0) {
            const ring::scripted::request* q = rig_->kernel.find(ring::scripted::kind::send, descriptor_);
            if (q == nullptr) return;
            rig_->kernel.complete(q->name, static_cast<std::int32_t>(q->bytes.size()));
        }
    }
    void finish_sends() {
        for (;;) {
            rig_->settle();
            if (rig_->kernel.find(ring::scripted::kind::send, descriptor_) == nullptr) return;
            finish_sends(~0U);
        }
    }
    int descriptor_; // what socket(2) answers next
    udp_socket socket_;

private:
    static int lowest_free() {
        const int d = ::dup(STDERR_FILENO);
        ::close(d);
        return d;
    }
    static udp_socket open(rig& r, read_mode mode) {
        udp_options o;
        o.read = mode;
        o.peer = endpoint::from_string("127.0.0.1:9");
        o.socket.send_buffer = 1;
        return open_udp(r.io, o);
    }
};

class receiving_datagrams final : public udp_subject {
public:
    receiving_datagrams(rig& r, bool batch) : udp_subject(r, read_mode::multishot), batch_(batch) {}
    task<> operate() override {
        if (batch_) {
            const packet_batch all = co_await socket_.receive_packets();
            CHECK(all.size() == 1);
            CHECK(number_of(*all.begin()) == 7);
        } else {
            const datagram d = co_await socket_.receive();
            CHECK(number_of(d.payload) == 7);
        }
    }
    void answer() override { REQUIRE(rig_->kernel.deliver(descriptor_, numbered(7))); }

private:
    bool batch_;
};

// The window is full by what the send buffer has no room for.
class sending_datagrams final : public udp_subject {
public:
    sending_datagrams(rig& r, unsigned datagrams) : udp_subject(r, read_mode::poll), datagrams_(datagrams) {
        r.io.spawn(fill(*this));
        r.settle();
        REQUIRE(given_ == window);
    }
    ~sending_datagrams() override { finish_sends(); }
    task<> operate() override {
        if (datagrams_ == 1) {
            co_await socket_.send(rig_->make(200, next_size_++));
        } else {
            packet_batch batch;
            for (unsigned i = 0; i < datagrams_; ++i) batch.push_back(rig_->make(200 + i, next_size_++));
            co_await socket_.send_packets(std::move(batch));
        }
    }
    void answer() override { finish_sends(datagrams_); }
    moment done_from() const override { return moment::ready; } // they are accepted

private:
    static constexpr unsigned window = 128;
    static task<> fill(sending_datagrams& s) {
        for (; s.given_ < window; ++s.given_) co_await s.socket_.send(s.rig_->make(s.given_, s.next_size_++));
    }
    std::size_t next_size_ = sizeof(unsigned); // each is larger than the one before: no two are one send
    unsigned datagrams_;
    unsigned given_ = 0;
};

class flushing_datagrams final : public udp_subject {
public:
    explicit flushing_datagrams(rig& r) : udp_subject(r, read_mode::poll) {
        r.io.spawn(give(*this));
        r.settle();
    }
    ~flushing_datagrams() override { finish_sends(); }
    task<> operate() override { co_await socket_.flush(); }
    void answer() override { finish_sends(1); }

private:
    static task<> give(flushing_datagrams& s) { co_await s.socket_.send(s.rig_->make(1)); }
};

std::vector<operation_kind> kinds() {
    std::vector<operation_kind> all{
        of<reading>("read_packet", read_mode::automatic),
        of<reading_batch>("read_packets"),
        of<reading_by_poll>("read_packet by poll"),
        of<writing>("write_packet", 1U),
        of<writing>("write_packets", 3U),
        of<sleeping>("sleep"),
        of<beating>("interval"),
        of<polling>("readable", short{POLLIN}),
        of<polling>("writable", short{POLLOUT}),
        of<closing>("close"),
        of<receiving_datagrams>("udp: receive", false),
        of<receiving_datagrams>("udp: receive_packets", true),
        of<sending_datagrams>("udp: send", 1U),
        of<sending_datagrams>("udp: send_packets", 3U),
        of<flushing_datagrams>("udp: flush"),
    };
    std::array<unsigned, 3> order{0, 1, 2};
    do {
        all.push_back(of<flushing>("flush", order));
    } while (std::next_permutation(order.begin(), order.end()));
    all.push_back(of<allocating>("allocate"));
    all.push_back(of<signalled>("signal"));
    all.back().requests_kept = 1; // the poll of the signalfd
    return all;
}

} // namespace

TEST_CASE("every operation, stopped or destroyed at every step of its life", "[cancel]") {
    const operation_kind what = GENERATE(from_range(kinds()));
    check_every_moment(what);
}
