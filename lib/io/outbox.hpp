// SPDX-License-Identifier: Apache-2.0
//
// outbox: the writing side of a device or a datagram socket.
//
// Packets that were accepted stand in a window, a ring of entries in the order in which they were given:
//
//     done_ <= submitted_ <= accepted_ <= done_ + window
//
// Entries up to submitted_ are with the kernel; those behind it wait for room among the reactor's requests, or in the
// socket's send buffer. Entries complete in any order, and leave the window in theirs.
//
// A socket's sends only try, and all of them are over when the driver has been entered: nothing is submitted before it
// is known what became of each. Those that found no room after all are refused, and go out again one after the other,
// in order, each waiting with the kernel, before any other: the kernel would wake several in an order of its own.
//
// Packets that go in several steps, or that were refused and go in another way, stand in the same line: the derived
// class says so of a request that has ended (goes_again()), and takes the next step when it is the packet's turn
// (go_again()). Nothing behind it is submitted before it is over.
//
// Several packets may go with one request: those that a derived class has put together (submit_several()), which need
// not stand one behind the other. What becomes of the request becomes of each; or, where it was refused for what they
// are together, each goes again by itself (fail_together()).
//
// A derived class may do without requests: it overrides submit(), writes what first_unwritten() and those behind it
// are, in order, and says written_first() of each, then advance().
#pragma once

#include <cotun/coro/waiter.hpp>
#include <cotun/io/packet.hpp>
#include <cotun/io/statistics.hpp>
#include <cotun/io/write_operation.hpp>

#include "io/packet_pool.hpp"
#include "ring/driver.hpp"
#include "ring/requests.hpp"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>

namespace cotun::detail {

class packet_port;
class reactor_core;

class outbox : public ring::request_owner {
public:
    static constexpr unsigned usual_window = 128; // a power of two

    // --- for those who write --------------------------------------------------------------------------------------

    bool has_room() const noexcept { return accepted_ - done_ <= mask_; }
    bool may_write() const noexcept { return failure_ == 0 && waiters_.empty(); }
    /// Why a write that begins now cannot be; 0: it can.
    int refusal() const noexcept { return refusal_; }
    /// Takes as many of the packets as there is room for; true when none is left. Empty handles are skipped.
    bool offer(packet*& next, packet* end) noexcept;
    void wait(write_waiter& w) noexcept;
    void wait(flush_waiter& w) noexcept;
    int failure() const noexcept { return failure_; }
    [[noreturn]] void throw_failure(int error) const;
    std::uint64_t accepted() const noexcept { return accepted_; }
    /// What was dropped counts as written.
    bool written(std::uint64_t until) const noexcept { return done_ >= std::min(until, accepted_); }
    int take_first_failure() noexcept { return std::exchange(first_failure_, 0); }
    packet_port& port() noexcept { return *port_; }
    const write_statistics& statistics() const noexcept { return statistics_; }

    /// There is room again: submits what waits for it.
    void retry();

    // --- for the port ---------------------------------------------------------------------------------------------

    /// Nothing more is accepted.
    void close();
    bool settled() const noexcept { return done_ == accepted_; }
    /// Asks for the end of all requests, and drops what was not submitted.
    void cancel() noexcept;
    bool idle() const noexcept { return in_flight_ == 0; }

    void on_completion(std::uint32_t cookie, const ring::completion& done) final;

protected:
    outbox(packet_port& port, reactor_core& core, unsigned window = usual_window);
    ~outbox() = default;

    /// Queues the write of one packet; `place`: its entry's index in the window, 0 to window - 1.
    virtual void transmit(ring::token request, std::size_t place, packet_slot& slot) = 0;
    /// The same, but such that it waits for room: where transmit() only tries, and there was none after all (EAGAIN).
    virtual void transmit_waiting(ring::token, std::size_t, packet_slot&) {}
    /// A try has found no room: what admits() goes by is wrong.
    virtual void misjudged() noexcept {}
    /// Whether the descriptor takes this packet without waiting. If not, the derived class sees to it that retry() is
    /// called, at the latest when nothing is in flight any more.
    virtual bool admits(const packet_slot& slot) = 0;
    /// The packet at `place` is no longer in flight. It may be said more than once.
    virtual void left(std::size_t) noexcept {}
    /// A request of several packets, the first of them at `place`, has failed with `error`. How many of them have
    /// failed so, from the first on; the others go again, one by one.
    virtual std::size_t fail_together(std::size_t, std::size_t count, int) { return count; }
    /// A request of several packets has ended well.
    virtual void went_together(std::size_t) noexcept {}
    /// A request of a packet with an offload state has ended with `result`. True: that was not the last of it, and
    /// go_again() will be called. False: it is over, with `result`, which this may change.
    virtual bool goes_again(packet_slot&, std::int32_t&) { return false; }
    /// It is the turn of a packet that goes again. True: it is under way, or waits for a request. False: it is over,
    /// with `result`.
    virtual bool go_again(std::size_t place, packet_slot& slot, std::int32_t& result);
    /// What the kernel's error means for this descriptor, where it is another than elsewhere.
    virtual int meaning_of(int error) const noexcept { return error; }
    /// Asks for the end of the derived class's own requests.
    virtual void cancel_own() noexcept {}
    /// Hands over what is accepted and not submitted, as far as there is room.
    virtual void submit();
    /// The next packet of that, or several. False: none can go now.
    virtual bool submit_next();
    /// Nothing more will be accepted: called before that holds.
    virtual void closing() {}
    /// A packet was accepted, and is given up unwritten.
    virtual void dropped(packet_slot&) noexcept {}

    // --- for those that write without requests --------------------------------------------------------------------

    std::size_t unwritten() const noexcept { return static_cast<std::size_t>(accepted_ - submitted_); }
    packet_slot& unwritten(std::size_t index) noexcept { return *at(submitted_ + index).slot; }
    /// The first of them is over; the bytes, or a negative errno.
    void written_first(std::int32_t result);
    /// Leaves behind what is over, and goes on with what has waited for that.
    void advance();
    /// Those who wait go on, where something is over or there is room again.
    void go_on();
    void leave_behind() noexcept {
        while (done_ != submitted_ && at(done_).slot == nullptr) ++done_;
    }
    /// The place of the first of them in the window.
    std::size_t first_place() const noexcept { return submitted_ & mask_; }
    /// The first of them is with the kernel from now on, by this request. 0: there is none left; retry() will be
    /// called.
    ring::token submit_first();
    /// The first `count` of them, which are not empty-handed, are with the kernel from now on: submit_several() says
    /// with which requests, and is called for each of them once. There must be room for as many requests.
    void submit_batch(std::size_t count) noexcept { submitted_ += count; }
    /// A request for those of the last batch of `batch` that `indices` name, in ascending order.
    ring::token submit_several(std::size_t batch, std::span<const std::uint32_t> indices) noexcept;
    std::size_t place_in_batch(std::size_t batch, std::size_t index) const noexcept {
        return (submitted_ - batch + index) & mask_;
    }
    packet_slot& in_window(std::size_t place) noexcept { return *entries_[place].slot; }
    /// The packet at `place`, which goes again, is with the kernel from now on. 0: as above.
    ring::token submit_again(std::size_t place);
    /// What a write of the whole packet would have answered.
    std::int32_t whole(const packet_slot& slot) const noexcept {
        return static_cast<std::int32_t>(slot.size + prefix_);
    }
    /// What is written from now on is refused; those that wait are not.
    void refuse(int error) noexcept { refusal_ = error; }
    bool is_closed() const noexcept { return closed_; }
    /// Some have been with the kernel, and are to go again.
    bool has_refused() const noexcept { return refused_ != 0; }
    bool has_waiters() const noexcept { return !waiters_.empty(); }

    reactor_core& core() noexcept { return *core_; }
    write_statistics statistics_;
    unsigned in_flight_ = 0; // requests, the derived class's own included
    unsigned prefix_ = 0;    // bytes that transmit() puts in front of each packet
    bool tries_ = false;     // transmit() does not wait for room, and there is a transmit_waiting()

private:
    static constexpr std::uint16_t nowhere = 0xffff; // no place

    struct entry {
        packet_slot* slot = nullptr; // nullptr: done
        ring::token request = 0;
        std::uint32_t size = 0;
        std::uint16_t next = nowhere; // the place of another that went with the same request
        bool refused = false;         // it goes again
    };

    entry& at(std::uint64_t sequence) noexcept { return entries_[sequence & mask_]; }
    void accept(packet_slot* slot) noexcept;
    bool is_to_go_again(entry& e, std::int32_t& result);
    void refuse_for_now(std::size_t place) noexcept;
    void end_one(std::size_t place, std::int32_t result);
    void end_several(std::size_t place, std::int32_t result);
    void submit_refused();
    void drop_refused() noexcept;
    void finish(std::size_t place, std::int32_t result);
    void count(int error);
    void fail(int error);
    void drop_unsubmitted() noexcept;
    bool awaited() const noexcept;
    void admit_waiters();
    void wake_flushers() noexcept;

    packet_port* port_;
    reactor_core* core_;
    std::unique_ptr<entry[]> entries_;
    std::uint64_t mask_; // the window is one more
    std::uint64_t accepted_ = 0;
    std::uint64_t submitted_ = 0;
    std::uint64_t done_ = 0;
    int failure_ = 0;       // final
    int first_failure_ = 0; // since the last flush
    int refusal_ = 0;
    bool closed_ = false;
    unsigned refused_ = 0;  // of the entries up to submitted_
    unsigned tried_ = 0;    // in flight, but for refused ones
    bool settling_ = false; // what became of some is known, of others not yet
    waiter_list waiters_;
    waiter_list flushers_;
};

} // namespace cotun::detail
