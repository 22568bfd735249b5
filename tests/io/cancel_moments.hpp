// SPDX-License-Identifier: Apache-2.0
//
// An operation, stopped or destroyed at a step of its life, over the scripted driver: what the tests of cancellation
// have in common. Each names its operations; what is asserted of all of them is here.
#pragma once

#include <cotun/coro/scope.hpp>

#include "../support/process.hpp"
#include "../support/scripted_port.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace cotun::test {

enum class moment : std::uint8_t {
    before,      // it has not begun
    unsubmitted, // it waits; what it queued has not gone to the kernel
    in_flight,
    answered, // the kernel has answered, and the reactor has not seen it
    ready,    // the coroutine is to be resumed
    after,
};
inline constexpr std::array moments{moment::before,   moment::unsubmitted, moment::in_flight,
                                    moment::answered, moment::ready,       moment::after};
inline const char* name_of(moment m) {
    static constexpr std::array names{"before", "unsubmitted", "in flight", "answered", "ready", "after"};
    return names[static_cast<std::size_t>(m)];
}

inline constexpr unsigned rig_buffers = 160;

/// An operation with all that belongs to it. Destroyed, it leaves the rig as it found it.
class subject {
public:
    explicit subject(rig& r) : rig_(&r) {}
    subject(const subject&) = delete;
    subject& operator=(const subject&) = delete;
    virtual ~subject() = default;
    /// Awaits the operation once.
    virtual task<> operate() = 0;
    /// What ends the wait. Does nothing if there is nothing to answer.
    virtual void answer() = 0;
    /// From when on a result has arrived that a stop does not undo.
    virtual moment wins_from() const { return moment::ready; }
    /// From when on its work is done, though the coroutine may never be resumed.
    virtual moment done_from() const { return moment::after; }
    /// Whether an answer that nobody took, or that comes while nobody waits, is the next one's.
    virtual bool keeps() const { return true; }
    /// Whether an answer can come at present while nobody waits.
    virtual bool listens() { return keeps(); }
    virtual bool can_be_stopped() const { return true; }

protected:
    rig* rig_;
};

struct operation_kind {
    std::string name;
    std::function<std::unique_ptr<subject>(rig&)> make{};
    unsigned requests_kept = 0; // that the reactor keeps in flight to its end
};

template <class Subject, class... Arguments>
operation_kind of(std::string name, Arguments... arguments) {
    operation_kind all{std::move(name)};
    all.make = [arguments...](rig& r) { return std::make_unique<Subject>(r, arguments...); };
    return all;
}

struct ending {
    bool begun = false;
    bool done = false;
    bool stopped = false;
};

inline task<> record(subject& s, ending& end) {
    end.begun = true;
    try {
        co_await s.operate();
        end.done = true;
    } catch (const std::system_error& e) {
        INFO(e.what());
        end.stopped = e.code() == std::errc::operation_canceled;
        CHECK(end.stopped);
        throw;
    }
}

inline task<> call(const std::function<void()>& function) {
    function();
    co_return;
}

/// A subject that operates once, and its rig.
class trial {
public:
    explicit trial(const operation_kind& what) : what_(what), files_(::test::open_files()), rig_(options()) {
        rig_.kernel.writes_complete = false;
        subject_ = what.make(rig_);
    }

    /// Ends one by a stop or by its destruction. `in_spite`: what the kernel is asked to cancel in flight it completes.
    void end_at(moment when, bool destroy, bool in_spite) {
        CAPTURE(name_of(when), destroy, in_spite);
        auto tasks = std::make_unique<scope>(rig_.io);
        ending end;
        const std::function<void()> end_it = [&] {
            if (destroy)
                tasks.reset();
            else
                tasks->request_stop();
        };
        tasks->spawn(record(*subject_, end));
        if (when == moment::before) end_it();
        if (when == moment::unsubmitted) rig_.io.spawn(call(end_it)); // in the same pass, behind it
        if (when >= moment::in_flight) rig_.settle();
        bool answered = false;
        if (when == moment::in_flight) answered = end_in_flight(end_it, end, destroy, in_spite);
        if (when >= moment::answered) subject_->answer();
        if (when == moment::answered) end_it();
        if (when >= moment::ready) {
            half_a_pass();
            half_a_pass(); // by poll, the event first and then the packet
        }
        if (when == moment::ready) end_it();
        rig_.settle();
        if (when == moment::after) {
            settle_until(end.done);
            end_it();
        }
        rig_.settle();

        // A result that had arrived wins; else it was stopped. What was destroyed has done neither.
        const bool arrived = when >= subject_->wins_from();
        if (!destroy && subject_->can_be_stopped()) {
            CHECK(end.stopped == !end.done);
            if (!answered) CHECK(end.done == arrived);
        }
        if (!destroy && !subject_->can_be_stopped()) {
            if (when < moment::answered && !answered) subject_->answer();
            settle_until(end.done);
            CHECK(end.done);
        }
        if (destroy) CHECK(end.done == (when == moment::after));
        if (when == moment::before) CHECK(end.begun == !destroy);

        const bool kept = subject_->keeps() && (answered || when >= moment::answered);
        if (!end.done && when < subject_->done_from()) check_next(kept);
        tasks.reset();
        check_nothing_left();
    }

private:
    static rig_options options() {
        rig_options o = with_buffers(rig_buffers);
        o.requests = 128;
        return o;
    }

    // Returns whether it was answered.
    bool end_in_flight(const std::function<void()>& end_it, const ending& end, bool destroy, bool in_spite) {
        if (!in_spite) {
            end_it();
            return false;
        }
        bool answered = false;
        rig_.kernel.cancels_answered = false;
        rig_.kernel.idle = [&](ring::scripted& k) { // its destruction awaits the kernel
            if (!std::exchange(answered, true)) subject_->answer();
            k.wake();
        };
        end_it();
        rig_.settle();
        const bool waits_on = !destroy && !end.stopped; // for the kernel, whose answer it takes
        if (!answered) subject_->answer();
        rig_.settle();
        rig_.kernel.cancels_answered = true;
        // What was cancelled, and is not what was answered: a reader beside it, for example.
        const std::vector<ring::token> asked = rig_.kernel.cancelled;
        for (const ring::token t : asked)
            if (rig_.kernel.find(t) != nullptr) rig_.kernel.complete(t, -ECANCELED);
        rig_.settle();
        if (waits_on) {
            settle_until(end.done);
            CHECK(end.done);
        }
        return true;
    }

    // The next one gets what this one has not taken.
    void check_next(bool kept) {
        if (!kept && subject_->listens()) {
            subject_->answer();
            kept = true;
        }
        ending next;
        scope again(rig_.io);
        again.spawn(record(*subject_, next));
        rig_.settle();
        if (!kept) CHECK_FALSE(next.done);
        for (int i = 0; i < 3 && !kept && !next.done; ++i) { // behind what was before it
            subject_->answer();
            rig_.settle();
        }
        settle_until(next.done);
        CHECK(next.done);
    }

    void check_nothing_left() {
        subject_.reset();
        rig_.settle();
        CHECK(rig_.kernel.in_flight.size() == what_.requests_kept);
        const reactor_statistics s = rig_.io.statistics();
        CHECK(s.requests_in_flight == what_.requests_kept);
        CHECK(s.small_buffers_free == rig_buffers);
        CHECK(s.timers == 1); // the rig's own
        CHECK(s.strays == 0);
        if (what_.requests_kept == 0) CHECK(::test::open_files() == files_);
    }

    // The kernel's half of a pass: completions are told, and nobody is resumed.
    void half_a_pass() {
        rig_.kernel.idle = [](ring::scripted& k) { k.wake(); };
        rig_.io.core().turn();
        rig_.kernel.idle = nullptr;
    }

    // Until it has ended by itself; closing takes a thread's help.
    void settle_until(const bool& done) {
        for (int i = 0; i < 1000 && !done; ++i) {
            rig_.settle();
            if (!done) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }

    const operation_kind& what_;
    std::ptrdiff_t files_;
    rig rig_;
    std::unique_ptr<subject> subject_;
};

/// Every moment of it.
inline void check_every_moment(const operation_kind& what) {
    CAPTURE(what.name);
    for (const moment when : moments)
        for (const bool destroy : {false, true})
            for (const bool in_spite : {false, true}) {
                if (in_spite && when != moment::in_flight) continue;
                trial t(what);
                t.end_at(when, destroy, in_spite);
            }
}

} // namespace cotun::test
