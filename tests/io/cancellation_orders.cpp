// SPDX-License-Identifier: Apache-2.0
//
// Operations beside each other in one reactor, each answered by the kernel, asked to stop, and, where that cancels a
// request, told so: in every order that there is of all of these. Whatever the order, each has its result or was
// stopped, as the order has it; what came for one that was stopped is the next one's; nothing is left.
#include <cotun/coro/event.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/net/tcp.hpp>

#include "../support/sanitizers.hpp"
#include "../support/scripted_stream.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <poll.h>
#include <string>
#include <string_view>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

using namespace cotun;
using namespace cotun::test;
using namespace std::chrono_literals;

namespace {

constexpr std::string_view seven = "seven";

[[noreturn]] void wrong(const std::string& what) { throw std::logic_error(what); }
void expect(bool so, const char* what) {
    if (!so) wrong(what);
}

// An operation with all that belongs to it.
class part {
public:
    explicit part(rig& r) : rig_(&r) {}
    part(const part&) = delete;
    part& operator=(const part&) = delete;
    virtual ~part() = default;
    virtual task<> operate() = 0;
    /// The kernel ends what the operation waits for; nothing, if it is over.
    virtual void answer() = 0;
    /// Whether a stop cancels a request, whose end the operation awaits: an answer that comes before that wins.
    virtual bool cancels() const { return false; }
    /// Whether an answer that comes when nobody waits is for the next.
    virtual bool keeps() const { return !cancels(); }
    /// What the kernel has for it still is dealt with, before it goes.
    virtual void finish() {}

protected:
    ring::scripted::request* find(kind what, int descriptor) { return rig_->kernel.find(what, descriptor); }
    rig* rig_;
};

class packet_part final : public part {
public:
    explicit packet_part(rig& r) : part(r), port_(r.io) {}
    task<> operate() override {
        const packet p = co_await port_.read_packet();
        expect(number_of(p.bytes()) == 7, "another packet");
    }
    void answer() override { expect(rig_->arrive(port_, 7), "no read is armed"); }

private:
    port port_;
};

class read_part final : public part {
public:
    explicit read_part(rig& r) : part(r), stream_(r.io) {}
    task<> operate() override {
        std::string got(seven.size(), '.');
        co_await stream_.read(bytes_of(got));
        expect(got == seven, "other bytes");
    }
    void answer() override {
        const auto bytes = std::as_bytes(std::span(seven));
        expect(rig_->kernel.deliver(stream_.descriptor, bytes.first(2)), "no receive is armed");
        expect(rig_->kernel.deliver(stream_.descriptor, bytes.subspan(2)), "no receive is armed");
    }

private:
    test_stream stream_;
};

class write_part final : public part {
public:
    explicit write_part(rig& r) : part(r), stream_(r.io) {}
    task<> operate() override { co_await stream_.write(large_); }
    void answer() override {
        if (const ring::scripted::request* q = find(kind::send, stream_.descriptor))
            rig_->kernel.complete(q->name, static_cast<std::int32_t>(q->bytes.size()));
    }
    bool cancels() const override { return true; }

private:
    test_stream stream_;
    std::string large_ = std::string(5'000, 'x');
};

class flush_part final : public part {
public:
    explicit flush_part(rig& r) : part(r), stream_(r.io) {
        by_hand write(r, stream_.write("text"));
        expect(write.ready(), "a small write waits");
    }
    task<> operate() override { co_await stream_.flush(); }
    void answer() override {
        if (const ring::scripted::request* q = find(kind::send, stream_.descriptor))
            rig_->kernel.complete(q->name, static_cast<std::int32_t>(q->bytes.size()));
    }
    void finish() override { answer(); }

private:
    test_stream stream_;
};

int lowest_free() {
    const int d = ::dup(STDERR_FILENO);
    ::close(d);
    return d;
}

class connect_part final : public part {
public:
    using part::part;
    task<> operate() override {
        descriptor_ = lowest_free();
        const endpoint peer = endpoint::from_string("192.0.2.1:80");
        tcp_stream stream = co_await connect_tcp(rig_->io, peer);
        expect(stream.is_open(), "a stream that is not open");
    }
    void answer() override {
        if (const ring::scripted::request* q = find(kind::connect, descriptor_)) rig_->kernel.complete(q->name, 0);
    }
    bool cancels() const override { return true; }

private:
    int descriptor_ = -1;
};

class accept_part final : public part {
public:
    explicit accept_part(rig& r) : part(r), descriptor_(lowest_free()), listener_(listen(r)) {}
    task<> operate() override {
        tcp_stream stream = co_await listener_.accept();
        expect(stream.is_open(), "a stream that is not open");
    }
    void answer() override {
        const ring::scripted::request* q = find(kind::accept, descriptor_);
        expect(q != nullptr, "no accept is armed");
        rig_->kernel.complete(q->name, ::dup(STDERR_FILENO), true);
    }

private:
    static tcp_listener listen(rig& r) {
        listen_options o;
        o.local = endpoint::from_string("127.0.0.1:0");
        return listen_tcp(r.io, o);
    }
    int descriptor_;
    tcp_listener listener_;
};

class poll_part final : public part {
public:
    using part::part;
    task<> operate() override { co_await rig_->io.readable(descriptor); }
    void answer() override {
        if (const ring::scripted::request* q = find(kind::poll, descriptor)) rig_->kernel.complete(q->name, POLLIN);
    }
    bool cancels() const override { return true; }

private:
    static constexpr int descriptor = 1'000'000;
};

class sleep_part final : public part {
public:
    explicit sleep_part(rig& r) : part(r), until_(r.io.core().now() + 1s) {}
    task<> operate() override { co_await rig_->io.sleep_until(until_); }
    void answer() override { rig_->kernel.advance(1s); }

private:
    cotun::reactor::clock::time_point until_;
};

class event_part final : public part {
public:
    using part::part;
    task<> operate() override { co_await event_.wait(); }
    void answer() override { event_.set(); }

private:
    event event_;
};

struct part_kind {
    const char* name;
    std::unique_ptr<part> (*make)(rig&);
    bool cancels;
};
template <class Part>
part_kind of(const char* name, bool cancels) {
    return {name, [](rig& r) -> std::unique_ptr<part> { return std::make_unique<Part>(r); }, cancels};
}
const part_kind reading_packet = of<packet_part>("read_packet", false);
const part_kind reading = of<read_part>("read", false);
const part_kind writing = of<write_part>("write", true);
const part_kind flushing = of<flush_part>("flush", false);
const part_kind connecting = of<connect_part>("connect", true);
const part_kind accepting = of<accept_part>("accept", false);
const part_kind polling = of<poll_part>("readable", true);
const part_kind sleeping = of<sleep_part>("sleep", false);
const part_kind awaiting = of<event_part>("event", false);

enum class happening : std::uint8_t { answered, stopped, cancelled };
struct step {
    std::size_t who;
    happening what;
    friend bool operator==(const step&, const step&) = default;
    friend auto operator<=>(const step&, const step&) = default;
};

struct ending {
    bool done = false;
    bool stopped = false;
    std::string failure{};
};

task<> record(part& p, ending& end) {
    try {
        co_await p.operate();
        end.done = true;
    } catch (const std::system_error& e) {
        end.stopped = e.code() == std::errc::operation_canceled;
        if (!end.stopped) end.failure = e.what();
    } catch (const std::logic_error& e) {
        end.failure = e.what();
    }
}

/// Whether coroutines are resumed after each step, or only when all has happened.
enum class resuming : bool { at_once, late };

// Also where a check throws, they are answered when all closes.
struct cancels_by_hand {
    explicit cancels_by_hand(ring::scripted& k) noexcept : kernel(&k) { k.cancels_answered = false; }
    cancels_by_hand(const cancels_by_hand&) = delete;
    cancels_by_hand& operator=(const cancels_by_hand&) = delete;
    ~cancels_by_hand() { kernel->cancels_answered = true; }
    ring::scripted* kernel;
};

class order_rig : public stream_rig {
public:
    order_rig() : stream_rig(options()) {
        kernel.writes_complete = false;
        settle();
    }

    /// What happens to operations of these kinds, in this order.
    void play(const std::vector<part_kind>& kinds, const std::vector<step>& steps, resuming when) {
        std::vector<std::unique_ptr<part>> parts;
        std::vector<ending> ends(kinds.size());
        std::vector<std::unique_ptr<scope>> tasks;
        for (std::size_t i = 0; i < kinds.size(); ++i) {
            parts.push_back(kinds[i].make(*this));
            tasks.push_back(std::make_unique<scope>(io));
            tasks.back()->spawn(record(*parts[i], ends[i]));
            settle(); // one after the other: those that make descriptors know them
        }
        kernel.cancelled.clear(); // readers that made room for others
        const cancels_by_hand guard(kernel);
        std::vector<std::vector<ring::token>> asked(kinds.size());
        for (const step& s : steps) {
            const std::size_t before = kernel.cancelled.size();
            switch (s.what) {
            case happening::answered: parts[s.who]->answer(); break;
            case happening::stopped: tasks[s.who]->request_stop(); break;
            case happening::cancelled:
                for (const ring::token t : asked[s.who])
                    if (kernel.find(t) != nullptr) kernel.complete(t, -ECANCELED);
            }
            when == resuming::at_once ? settle() : turn();
            if (s.what == happening::stopped)
                asked[s.who].assign(kernel.cancelled.begin() + static_cast<std::ptrdiff_t>(before),
                                    kernel.cancelled.end());
            else
                expect(kernel.cancelled.size() == before, "something was cancelled without a stop");
        }
        settle();
        kernel.cancels_answered = true;
        for (std::size_t i = 0; i < kinds.size(); ++i) check(*parts[i], i, ends[i], asked[i].size(), steps);
        kernel.cancelled.clear();
        tasks.clear();
        parts.clear();
        settle();
        check_nothing_left();
    }

private:
    static rig_options options() {
        rig_options o = with_buffers(buffers);
        o.requests = 128;
        return o;
    }

    void check(part& p, std::size_t who, const ending& end, std::size_t asked, const std::vector<step>& steps) {
        const auto place = [&](happening what) {
            return std::find(steps.begin(), steps.end(), step{who, what}) - steps.begin();
        };
        expect(end.failure.empty(), end.failure.c_str());
        expect(end.done != end.stopped, "it has not ended, or has ended twice");
        const bool answered_first = place(happening::answered) < place(happening::stopped);
        const bool in_spite = p.cancels() && place(happening::answered) < place(happening::cancelled);
        expect(end.done == (answered_first || in_spite), "the wrong one has won");
        if (!p.cancels()) expect(asked == 0, "a stop has cancelled what others use, too");
        if (p.cancels() && !answered_first) expect(asked == 1, "a stop has not cancelled its request, and only that");
        if (end.stopped && p.keeps()) { // what came for it is here
            ending next;
            scope again(io);
            again.spawn(record(p, next));
            settle();
            expect(next.done && next.failure.empty(), "a result is lost");
        }
        p.finish();
        settle();
    }

    void check_nothing_left() {
        const reactor_statistics s = io.statistics();
        expect(kernel.in_flight.empty(), "the kernel has a request still");
        expect(s.requests_in_flight == 0, "a request is left");
        expect(s.small_buffers_free == buffers, "a buffer is left");
        expect(s.timers == 1, "a timer is left"); // beside the rig's own
        expect(s.strays == 0, "a stray");
    }

    static constexpr unsigned buffers = 48;
};

std::vector<step> steps_of(const std::vector<part_kind>& kinds) {
    std::vector<step> all;
    for (std::size_t i = 0; i < kinds.size(); ++i) {
        all.push_back({i, happening::answered});
        all.push_back({i, happening::stopped});
        if (kinds[i].cancels) all.push_back({i, happening::cancelled});
    }
    return all;
}

// The kernel does not end what nobody asked it to end.
bool can_be(const std::vector<step>& steps) {
    for (auto s = steps.begin(); s != steps.end(); ++s)
        if (s->what == happening::cancelled && std::find(steps.begin(), s, step{s->who, happening::stopped}) == s)
            return false;
    return true;
}

std::string text_of(const std::vector<part_kind>& kinds, const std::vector<step>& steps) {
    static constexpr std::array names{" answered; ", " stopped; ", " cancelled; "};
    std::string all;
    for (const step& s : steps) all += std::string(kinds[s.who].name) + names[static_cast<std::size_t>(s.what)];
    return all;
}

/// Every order; returns how many. With `stride`, every so manieth.
std::size_t play_all(const std::vector<part_kind>& kinds, std::size_t stride = 1) {
    std::size_t orders = 0;
    auto r = std::make_unique<order_rig>();
    std::vector<step> steps = steps_of(kinds);
    do {
        if (!can_be(steps) || orders++ % stride != 0) continue;
        for (const resuming when : {resuming::at_once, resuming::late}) {
            try {
                r->play(kinds, steps, when);
            } catch (const std::logic_error& e) {
                FAIL(text_of(kinds, steps) << (when == resuming::late ? "resumed late: " : "") << e.what());
            }
        }
    } while (std::next_permutation(steps.begin(), steps.end()));
    return orders;
}

} // namespace

TEST_CASE("two operations beside each other: every order of answers, stops and cancels", "[cancel][orders]") {
    const std::vector<part_kind> all{reading_packet, reading, writing,  flushing, connecting,
                                     accepting,      polling, sleeping, awaiting};
    for (const part_kind& one : all)
        for (const part_kind& other : all) {
            if (&one == &other && one.name == sleeping.name) continue; // one time for both
            if (&one == &other && one.name == polling.name) continue;  // one descriptor
            const std::size_t orders = play_all({one, other});
            CHECK(orders == (one.cancels && other.cancels ? 180 : one.cancels || other.cancels ? 60 : 24));
        }
}

TEST_CASE("three operations beside each other: every order of answers, stops and cancels", "[cancel][orders]") {
    CHECK(play_all({writing, connecting, polling}, sanitized ? 16 : 1) == 45'360);
    CHECK(play_all({reading, writing, connecting}, sanitized ? 16 : 1) == 10'080);
    CHECK(play_all({reading_packet, reading, writing}) == 2'520);
    CHECK(play_all({accepting, sleeping, polling}) == 2'520);
    CHECK(play_all({flushing, accepting, reading}) == 720);
    CHECK(play_all({sleeping, reading_packet, awaiting}) == 720);
}
