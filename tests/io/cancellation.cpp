// SPDX-License-Identifier: Apache-2.0
//
// Every operation, stopped and destroyed at every step of its life. Whatever the moment: no result is lost, one that
// has arrived wins, nothing stays in flight, and every buffer comes back.
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/io/interval.hpp>

#include "../support/scripted_port.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace cotun;
using namespace cotun::test;
using namespace std::chrono_literals;

namespace {

enum class moment {
    before,      // it has not begun
    unsubmitted, // it waits; what it queued has not gone to the kernel
    in_flight,
    answered, // the kernel has answered, and the reactor has not seen it
    ready,    // the coroutine is to be resumed
    after,
};
constexpr std::array moments{moment::before,   moment::unsubmitted, moment::in_flight,
                             moment::answered, moment::ready,       moment::after};
constexpr std::array names{"before", "unsubmitted", "in flight", "answered", "ready", "after"};

// An operation with all that belongs to it.
class subject {
public:
    virtual ~subject() = default;
    /// Awaits the operation once.
    virtual task<> operate() = 0;
    /// What ends the wait.
    virtual void answer() = 0;
    /// Whether answer() needs no completion to make the coroutine ready.
    virtual bool is_answered_at_once() const { return false; }
    /// Whether the operation has done its work when the coroutine is ready, though it may never be resumed.
    virtual bool is_done_when_ready() const { return false; }
    /// Whether a stop ends the wait.
    virtual bool can_be_stopped() const { return true; }

    rig& reactor() { return *rig_; }

protected:
    static constexpr unsigned count = 16;
    explicit subject(const rig_options& options = with_buffers(count)) : rig_(std::make_unique<rig>(options)) {
        rig_->kernel.writes_complete = false;
    }
    std::unique_ptr<rig> rig_;
};

class reading : public subject {
public:
    explicit reading(const rig_options& options = with_buffers(count)) : subject(options), port_(rig_->io) {}
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
    task<> operate() override {
        const packet_batch batch = co_await port_.read_packets();
        CHECK(batch.size() == 1);
        CHECK(number_of(*batch.begin()) == 7);
    }
};

class reading_by_poll final : public reading {
public:
    reading_by_poll() : reading(polled(with_buffers(count))) {}
    void answer() override {
        rig_->kernel.immediates[port_.descriptor].push_back({0, numbered(7), {}});
        rig_->kernel.complete(rig_->polling(port_)->name, 1, true);
    }
};

class reading_in_time final : public reading {
public:
    task<> operate() override {
        const packet p = co_await with_timeout(port_.read_packet(), 1h);
        CHECK(number_of(p) == 7);
    }
};

// A window that is full: `writes` packets wait for room.
class writing final : public subject {
public:
    explicit writing(unsigned writes) : port_(rig_->io, read_mode::automatic, window), writes_(writes) {
        // The reader's share is taken first, else it would take what the test frees.
        rig_->settle();
        rig_->io.spawn(write_many(*rig_, port_, 0, window, filled_));
        rig_->settle();
        REQUIRE(filled_.ended);
    }
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
    bool is_done_when_ready() const override { return true; } // the packets are accepted

private:
    static constexpr unsigned window = 4;
    port port_;
    unsigned writes_;
    outcome filled_;
};

class flushing final : public subject {
public:
    flushing() : port_(rig_->io) {
        rig_->io.spawn(write_many(*rig_, port_, 0, 3, filled_));
        rig_->settle();
    }
    task<> operate() override { co_await port_.flush(); }
    void answer() override {
        for (unsigned i = 0; i < 3; ++i) rig_->written(port_, i);
    }

private:
    port port_;
    outcome filled_;
};

class allocating final : public subject {
public:
    allocating() {
        while (packet p = rig_->io.try_allocate(1)) held_.push_back(std::move(p));
        REQUIRE(held_.size() == count);
    }
    task<> operate() override {
        const packet p = co_await rig_->io.allocate(100);
        CHECK(p.size() == 100);
    }
    void answer() override { held_.pop_back(); }
    bool is_answered_at_once() const override { return true; }

private:
    std::vector<packet> held_;
};

class sleeping final : public subject {
public:
    sleeping() : until_(rig_->io.core().now() + 1s) {}
    task<> operate() override { co_await rig_->io.sleep_until(until_); }
    void answer() override { rig_->kernel.advance(1s); }

private:
    cotun::reactor::clock::time_point until_;
};

class beating final : public subject {
public:
    beating() : tick_(rig_->io, 1s) {}
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
    task<> operate() override {
        if (ready_) rig_->io.spawn(tell()); // as a kernel would
        co_await rig_->io.readable(descriptor);
    }
    void answer() override {
        ready_ = true;
        if (ring::scripted::request* poll = rig_->kernel.find(ring::scripted::kind::poll, descriptor))
            rig_->kernel.complete(poll->name, 1);
    }
    bool is_answered_at_once() const override { return true; }

private:
    static constexpr int descriptor = 1000;
    task<> tell() {
        co_await rig_->io.yield();
        answer();
    }
    bool ready_ = false;
};

// The signal is real, and goes to this thread.
class signalled final : public subject {
public:
    signalled() : first_(rig_->io.signal(SIGUSR1)) {}
    task<> operate() override {
        const int number = co_await rig_->io.signal(SIGUSR1);
        CHECK(number == SIGUSR1);
    }
    void answer() override {
        raise(SIGUSR1);
        for (const ring::scripted::request& r : rig_->kernel.in_flight)
            if (r.what == ring::scripted::kind::poll) return rig_->kernel.complete(r.name, 1, true);
    }

private:
    signal_operation first_; // from here on it is caught
};

// Closing is not stopped, and goes on when nobody waits for it any more.
class closing final : public subject {
public:
    closing() : port_(rig_->io) {
        rig_->io.spawn(write_many(*rig_, port_, 0, 1, filled_));
        rig_->settle();
    }
    task<> operate() override { co_await port_.close(); }
    void answer() override {
        if (!rig_->writing(port_).empty()) rig_->written(port_, 0);
    }
    bool can_be_stopped() const override { return false; }

private:
    port port_;
    outcome filled_;
};

struct kind {
    std::string name;
    std::function<std::unique_ptr<subject>()> make;
};

std::vector<kind> kinds() {
    return {
        {"read_packet", [] { return std::make_unique<reading>(); }},
        {"read_packets", [] { return std::make_unique<reading_batch>(); }},
        {"read_packet by poll", [] { return std::make_unique<reading_by_poll>(); }},
        {"with_timeout(read_packet)", [] { return std::make_unique<reading_in_time>(); }},
        {"write_packet", [] { return std::make_unique<writing>(1); }},
        {"write_packets", [] { return std::make_unique<writing>(3); }},
        {"flush", [] { return std::make_unique<flushing>(); }},
        {"allocate", [] { return std::make_unique<allocating>(); }},
        {"sleep", [] { return std::make_unique<sleeping>(); }},
        {"interval", [] { return std::make_unique<beating>(); }},
        {"readable", [] { return std::make_unique<polling>(); }},
        {"signal", [] { return std::make_unique<signalled>(); }},
        {"close", [] { return std::make_unique<closing>(); }},
    };
}

struct ending {
    bool begun = false;
    bool done = false;
    bool stopped = false;
};

task<> record(subject& s, ending& end) {
    end.begun = true;
    try {
        co_await s.operate();
        end.done = true;
    } catch (const std::system_error& e) {
        end.stopped = e.code() == std::errc::operation_canceled;
        CHECK(end.stopped);
        throw;
    }
}

task<> call(const std::function<void()>& function) {
    function();
    co_return;
}

// The kernel's half of a pass: completions are told, and nobody is resumed.
void half_a_pass(rig& r) {
    r.kernel.idle = [](ring::scripted& k) { k.wake(); };
    r.io.core().turn();
    r.kernel.idle = nullptr;
}

// Until it has ended by itself; closing takes a thread's help.
void settle_until(rig& r, const bool& done) {
    for (int i = 0; i < 1000 && !done; ++i) {
        r.settle();
        if (!done) std::this_thread::sleep_for(1ms);
    }
}

} // namespace

TEST_CASE("every operation, stopped or destroyed at every step of its life", "[cancel]") {
    const kind what = GENERATE(from_range(kinds()));
    const moment when = GENERATE(from_range(moments));
    const bool destroy = GENERATE(false, true);
    CAPTURE(what.name, names[static_cast<std::size_t>(when)], destroy);

    const std::unique_ptr<subject> s = what.make();
    rig& r = s->reactor();
    auto tasks = std::make_unique<scope>(r.io);
    ending end;
    const std::function<void()> end_it = [&] {
        if (destroy)
            tasks.reset();
        else
            tasks->request_stop();
    };

    tasks->spawn(record(*s, end));
    if (when == moment::before) end_it();
    if (when == moment::unsubmitted) r.io.spawn(call(end_it)); // in the same pass, behind it
    if (when >= moment::in_flight) r.settle();
    if (when == moment::in_flight) end_it();
    if (when >= moment::answered) s->answer();
    if (when == moment::answered) end_it();
    if (when >= moment::ready) {
        half_a_pass(r);
        half_a_pass(r); // by poll, the event first and then the packet
    }
    if (when == moment::ready) end_it();
    r.settle();
    if (when == moment::after) {
        settle_until(r, end.done);
        end_it();
    }
    r.settle();

    // A result that had arrived wins; else it was stopped. What was destroyed has done neither.
    const bool arrived = when >= (s->is_answered_at_once() ? moment::answered : moment::ready);
    if (!destroy && s->can_be_stopped()) {
        CHECK(end.stopped == !arrived);
        CHECK(end.done == arrived);
    }
    if (destroy) CHECK(end.done == (when == moment::after));
    if (when == moment::before) CHECK(end.begun == !destroy);

    // The next one gets what this one has not taken.
    if (when < moment::answered) s->answer();
    if (!end.done && !(s->is_done_when_ready() && when == moment::ready)) {
        ending next;
        scope again(r.io);
        again.spawn(record(*s, next));
        settle_until(r, next.done);
        CHECK(next.done);
    }
    tasks.reset();
}
