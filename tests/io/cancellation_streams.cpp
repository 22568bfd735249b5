// SPDX-License-Identifier: Apache-2.0
//
// Every operation of streams and of their making, stopped and destroyed at every step of its life: no byte and no
// connection is lost, nothing stays in flight, and every buffer and descriptor comes back. More of a stream's moments,
// with short reads and sends: stream_moments.cpp; of accepting and connecting: stream_accept.cpp.
#include <cotun/net/tcp.hpp>
#include <cotun/net/unix.hpp>

#include "../support/scripted_stream.hpp"
#include "cancel_moments.hpp"

#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <type_traits>
#include <unistd.h>

using namespace cotun;
using namespace cotun::test;

namespace {

std::string text_of(const packet& p) { return {reinterpret_cast<const char*>(p.bytes().data()), p.size()}; }

class stream_subject : public subject {
public:
    explicit stream_subject(rig& r) : subject(r), stream_(r.io) {}

protected:
    bool come(std::string_view text) {
        return rig_->kernel.deliver(stream_.descriptor, std::as_bytes(std::span(text)));
    }
    // The kernel takes all that is being sent.
    bool take() {
        for (const kind what : {kind::send, kind::send_message})
            if (const ring::scripted::request* q = rig_->kernel.find(what, stream_.descriptor)) {
                rig_->kernel.complete(q->name, static_cast<std::int32_t>(ring::scripted::total(*q)));
                return true;
            }
        return false;
    }
    void take_all() {
        rig_->settle();
        while (take()) rig_->settle();
    }
    test_stream stream_;
};

enum class reading_way : std::uint8_t { some, exactly, until, lease };

// What comes, comes in pieces.
class reading_stream final : public stream_subject {
public:
    reading_stream(rig& r, reading_way how, std::vector<std::string> pieces)
        : stream_subject(r), how_(how), pieces_(std::move(pieces)) {}
    task<> operate() override {
        std::string got(all.size(), '.');
        switch (how_) {
        case reading_way::some: {
            const std::size_t size = co_await stream_.read_some(bytes_of(got));
            got.resize(size);
            break;
        }
        case reading_way::exactly: co_await stream_.read(bytes_of(got)); break;
        case reading_way::until: {
            std::string line = co_await stream_.read_until("\n", 100);
            got = line;
            break;
        }
        case reading_way::lease: {
            const packet p = co_await stream_.receive();
            got = text_of(p);
            break;
        }
        }
        CHECK(got == all);
    }
    void answer() override {
        for (const std::string& piece : pieces_) REQUIRE(come(piece));
    }
    bool listens() override { return rig_->kernel.find(kind::receive, stream_.descriptor) != nullptr; }

    static constexpr std::string_view all = "seven\n";

private:
    reading_way how_;
    std::vector<std::string> pieces_;
};

// More than a buffer holds, or behind a write that is accepted and goes out with it. The kernel reads its memory.
class writing_stream final : public stream_subject {
public:
    writing_stream(rig& r, bool behind) : stream_subject(r), behind_(behind) {}
    ~writing_stream() override { take_all(); }
    task<> operate() override {
        if (behind_) co_await stream_.write("before it");
        co_await stream_.write(large_);
    }
    void answer() override { take(); }
    moment wins_from() const override { return moment::answered; }
    moment done_from() const override { return moment::answered; }
    bool keeps() const override { return false; }

private:
    bool behind_;
    std::string large_ = std::string(100'000, 'x');
};

// A small write that no buffer can be had for: it waits, and its bytes go out from its own memory.
class writing_without_buffer final : public stream_subject {
public:
    writing_without_buffer(rig& r, bool some) : stream_subject(r), some_(some) {
        while (packet p = r.io.try_allocate(1)) held_.push_back(std::move(p));
    }
    ~writing_without_buffer() override { take_all(); }
    task<> operate() override {
        if (!some_) {
            co_await stream_.write("small");
        } else {
            const std::size_t size = co_await stream_.write_some(std::as_bytes(std::span(small_)));
            CHECK(size == small_.size());
        }
    }
    void answer() override { take(); }
    moment wins_from() const override { return moment::answered; }
    moment done_from() const override { return moment::answered; }
    bool keeps() const override { return false; }

private:
    bool some_;
    std::string_view small_ = "small";
    std::vector<packet> held_;
};

// Behind a window of others, with which it goes out. What is stopped or destroyed keeps its buffer no longer.
class writing_packet final : public stream_subject {
public:
    using stream_subject::stream_subject;
    ~writing_packet() override { take_all(); }
    task<> operate() override {
        for (unsigned i = 0; i <= detail::stream_writer::window; ++i) co_await stream_.write(rig_->make(i, 100));
    }
    void answer() override { take(); }
    moment wins_from() const override { return moment::answered; }
    moment done_from() const override { return moment::answered; }
    bool keeps() const override { return false; }
};

class flushing_stream final : public stream_subject {
public:
    explicit flushing_stream(rig& r) : stream_subject(r) {
        by_hand write(r, stream_.write("text"));
        REQUIRE(write.ready());
        r.settle();
    }
    task<> operate() override { co_await stream_.flush(); }
    void answer() override { take(); }
};

// What was accepted is sent first.
class closing_stream final : public stream_subject {
public:
    explicit closing_stream(rig& r) : stream_subject(r) {
        by_hand write(r, stream_.write("text"));
        REQUIRE(write.ready());
        r.settle();
    }
    ~closing_stream() override { take(); }
    task<> operate() override { co_await stream_.close(); }
    void answer() override { take(); }
    bool can_be_stopped() const override { return false; }
};

// --- making them ---------------------------------------------------------------------------------------------------

ring::scripted::request* of_kind(rig& r, kind what) {
    for (ring::scripted::request& q : r.kernel.in_flight)
        if (q.what == what) return &q;
    return nullptr;
}

template <class Listener>
Listener listen(rig& r) {
    if constexpr (std::is_same_v<Listener, tcp_listener>) {
        listen_options o;
        o.local = endpoint::from_string("127.0.0.1:0");
        return listen_tcp(r.io, o);
    } else {
        return listen_unix(r.io, "@cotun-cancellation"); // abstract: no file is left
    }
}

template <class Listener>
class accepting final : public subject {
public:
    accepting(rig& r, bool multishot) : subject(r), listener_(make(r, multishot)) {}
    task<> operate() override {
        auto stream = co_await listener_.accept();
        CHECK(stream.is_open());
    }
    void answer() override {
        REQUIRE(listens());
        rig_->kernel.complete(of_kind(*rig_, kind::accept)->name, ::dup(STDERR_FILENO),
                              of_kind(*rig_, kind::accept)->multishot);
    }
    bool listens() override { return of_kind(*rig_, kind::accept) != nullptr; }

private:
    static Listener make(rig& r, bool multishot) {
        r.kernel.supported[static_cast<std::size_t>(ring::feature::accept_multishot)] = multishot;
        return listen<Listener>(r);
    }
    Listener listener_;
};

// An accept is in flight, and the kernel takes its time to end it.
class closing_listener final : public subject {
public:
    explicit closing_listener(rig& r) : subject(r), listener_(listen<tcp_listener>(r)) {
        by_hand arm(r, listener_.accept());
        r.settle();
        accept_ = of_kind(r, kind::accept)->name;
        r.kernel.cancels_answered = false;
    }
    ~closing_listener() override { rig_->kernel.cancels_answered = true; }
    task<> operate() override { co_await listener_.close(); }
    void answer() override {
        if (listens()) rig_->kernel.complete(accept_, -ECANCELED);
    }
    bool listens() override {
        const auto& asked = rig_->kernel.cancelled;
        return rig_->kernel.find(accept_) != nullptr && std::find(asked.begin(), asked.end(), accept_) != asked.end();
    }
    bool can_be_stopped() const override { return false; }

private:
    tcp_listener listener_;
    ring::token accept_ = 0;
};

// A connection that was made is not undone by a stop that comes later.
class connecting final : public subject {
public:
    connecting(rig& r, bool tcp) : subject(r), tcp_(tcp) {}
    task<> operate() override {
        if (tcp_) {
            const endpoint peer = endpoint::from_string("192.0.2.1:80");
            tcp_stream stream = co_await connect_tcp(rig_->io, peer);
            CHECK(stream.is_open());
        } else {
            unix_stream stream = co_await connect_unix(rig_->io, "@nobody");
            CHECK(stream.is_open());
        }
    }
    void answer() override {
        if (ring::scripted::request* q = of_kind(*rig_, kind::connect)) rig_->kernel.complete(q->name, 0);
    }
    moment wins_from() const override { return moment::answered; }
    bool keeps() const override { return false; }

private:
    bool tcp_;
};

// The first address has refused, and the second is being tried.
class connecting_to_second final : public subject {
public:
    using subject::subject;
    task<> operate() override {
        rig_->io.spawn(refuse_first(*rig_));
        const endpoint_list peers{endpoint::from_string("192.0.2.1:80"), endpoint::from_string("192.0.2.2:80")};
        tcp_stream stream = co_await connect_tcp(rig_->io, peers);
        CHECK(stream.is_open());
        CHECK(refused_ > 0);
    }
    void answer() override {
        if (ring::scripted::request* q = of_kind(*rig_, kind::connect)) rig_->kernel.complete(q->name, 0);
    }
    moment wins_from() const override { return moment::answered; }
    bool keeps() const override { return false; }

private:
    task<> refuse_first(rig& r) {
        for (int i = 0; i < 3; ++i) {
            if (const ring::scripted::request* q = of_kind(r, kind::connect)) {
                ++refused_;
                r.kernel.complete(q->name, -ECONNREFUSED);
                co_return;
            }
            co_await r.io.yield();
        }
    }
    int refused_ = 0;
};

std::vector<operation_kind> kinds() {
    const std::vector<std::string> whole{"seven\n"};
    const std::vector<std::string> pieces{"s", "ev", "en", "\n"};
    return {
        of<reading_stream>("read_some", reading_way::some, whole),
        of<reading_stream>("read_some, pieces", reading_way::some, pieces),
        of<reading_stream>("read", reading_way::exactly, whole),
        of<reading_stream>("read, pieces", reading_way::exactly, pieces),
        of<reading_stream>("read_until", reading_way::until, whole),
        of<reading_stream>("read_until, pieces", reading_way::until, pieces),
        of<reading_stream>("receive", reading_way::lease, whole),
        of<writing_stream>("write", false),
        of<writing_stream>("write, behind another", true),
        of<writing_without_buffer>("write, without a buffer", false),
        of<writing_without_buffer>("write_some, without a buffer", true),
        of<writing_packet>("write of a packet at a full window"),
        of<flushing_stream>("stream: flush"),
        of<closing_stream>("stream: close"),
        of<accepting<tcp_listener>>("tcp: accept", true),
        of<accepting<tcp_listener>>("tcp: accept, one by one", false),
        of<accepting<unix_listener>>("unix: accept", true),
        of<closing_listener>("tcp: close of a listener"),
        of<connecting>("tcp: connect", true),
        of<connecting_to_second>("tcp: connect to the second address"),
        of<connecting>("unix: connect", false),
    };
}

} // namespace

TEST_CASE("every operation of streams, stopped or destroyed at every step of its life", "[cancel]") {
    const operation_kind what = GENERATE(from_range(kinds()));
    check_every_moment(what);
}
