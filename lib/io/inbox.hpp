// SPDX-License-Identifier: Apache-2.0
//
// inbox: the reading side of a device or a datagram socket, as a stream of packets.
//
// Where the kernel can, one multishot read fills buffers of the inbox's own group. Elsewhere a multishot poll tells
// that there is something, and read(2) or recvmsg(2) takes it, until EAGAIN or the quota of a pass. Either way packets
// come out in the order in which they came in.
//
// The inbox holds at most its share of the pool, in its group and in its queue together: a reader whose consumer is
// slow cannot take the others' buffers. Packets wait in the kernel's queue then.
//
// A multishot that has ended is armed again as soon as the group has a buffer: when one comes back, or at once if it
// already has. Its last completion may carry a packet. One that ends with an error is armed again too, unless the error
// is final; a second error in a row is waited out first, longer each time.
#pragma once

#include <cotun/coro/timer.hpp>
#include <cotun/coro/waiter.hpp>
#include <cotun/io/packet.hpp>
#include <cotun/io/packet_batch.hpp>
#include <cotun/io/read_mode.hpp>
#include <cotun/io/read_operation.hpp>
#include <cotun/io/statistics.hpp>

#include "io/packet_pool.hpp"
#include "io/reactor_core.hpp"
#include "ring/driver.hpp"
#include "ring/requests.hpp"

#include <bit>
#include <cassert>
#include <memory>

namespace cotun::detail {

/// Packets in order, in a ring of memory that never grows: it throws nothing once it is made.
class slot_queue {
public:
    explicit slot_queue(unsigned capacity)
        : ring_(std::make_unique<packet_slot*[]>(std::bit_ceil(capacity))), mask_(std::bit_ceil(capacity) - 1) {}

    bool empty() const noexcept { return size_ == 0; }
    std::size_t size() const noexcept { return size_; }
    packet_slot* front() const noexcept { return ring_[first_]; }
    packet_slot* back() const noexcept { return ring_[(first_ + size_ - 1) & mask_]; }
    /// There must be fewer than the capacity.
    void push_back(packet_slot* s) noexcept {
        assert(size_ <= mask_);
        ring_[(first_ + size_++) & mask_] = s;
    }
    packet_slot* pop_back() noexcept { return ring_[(first_ + --size_) & mask_]; }
    packet_slot* pop_front() noexcept {
        packet_slot* s = ring_[first_];
        first_ = (first_ + 1) & mask_;
        --size_;
        return s;
    }

private:
    std::unique_ptr<packet_slot*[]> ring_;
    std::size_t mask_;
    std::size_t first_ = 0;
    std::size_t size_ = 0;
};

class inbox : public ring::request_owner, public prepared, timer {
public:
    /// Packets that an inbox may hold, if its share allows: enough for a burst, few enough to stay in the cache.
    static constexpr unsigned usual_quota = 128;

    /// Joins the reactor's readers and asks for the first packets. Throws std::system_error.
    void start();
    void set_share(unsigned share) noexcept;
    /// From now on reads into buffers for packets of `size` bytes, if those it has are smaller; loses nothing. False:
    /// the pool has none that large, or no share left of them.
    bool make_room_for(std::size_t size) noexcept;

    // --- for those who wait ---------------------------------------------------------------------------------------

    // For each waiter that was made ready a packet of the queue is kept. Which one it is shows when the waiter takes
    // it: the first, so that packets are given out in order, whoever is destroyed meanwhile.

    bool can_take() const noexcept { return waiters_.empty() && (has_packet() || failure_ != 0); }
    bool has_packet() const noexcept { return queue_.size() > promised_; }
    /// The next packet; throws the failure when there is none.
    packet take();
    packet take_promised();
    /// The packet that was kept is for the next.
    void decline();
    void wait(read_waiter& w) noexcept { waiters_.push_back(w); }
    [[noreturn]] void throw_failure(int error) const;
    packet_port& port() noexcept { return *port_; }
    /// Whether take() would throw `error`.
    bool failed_with(int error) const noexcept { return failure_ == error && !has_packet(); }

    // --- for the port ---------------------------------------------------------------------------------------------

    /// No more packets are given out: who waits, or comes later, is told operation_canceled.
    void close();
    /// Asks for the end of the requests in flight.
    void cancel() noexcept;
    bool idle() const noexcept { return request_ == 0 && own_requests_ == 0; }
    /// Gives the buffers back that the kernel may fill, and the share of the pool. Nothing may be in flight that fills
    /// them.
    void release() noexcept;

    /// Reads anew: the kernel then says if there is nothing any more to read from. Loses no packet.
    void look_again() noexcept;

    const read_statistics& statistics() const noexcept { return statistics_; }
    bool uses_multishot() const noexcept { return multishot_; }

    void on_completion(std::uint32_t cookie, const ring::completion& done) final;
    void prepare() noexcept final;

protected:
    /// `parts`: the most packets that a buffer may hold.
    inbox(packet_port& port, reactor_core& core, size_class c, read_mode mode, ring::feature needed,
          unsigned quota = usual_quota, unsigned parts = 1);
    ~inbox() = default;

    /// Queues the multishot.
    virtual void arm(ring::token request, std::uint16_t group) = 0;
    /// Bytes of the buffer were filled, from space() on: finds the packet in them. False: there is none, drop it.
    virtual bool place(packet_slot& slot, std::int32_t result) = 0;
    /// Called by place(): the packet is several, of `size` bytes each but for the last, which may have fewer.
    void several(std::uint32_t size) noexcept { several_ = size; }
    /// The same in a buffer that nobody will take, because the inbox has been closed.
    virtual void discard(packet_slot&, std::int32_t) noexcept {}
    /// A packet that was placed is given up unread.
    virtual void dropped(packet_slot&) noexcept {}
    /// Reading has failed; it may go on all the same.
    virtual void failed(int) noexcept {}
    /// Called by place(), which then answers false: nothing will come any more. Who waits is told `error`.
    void end_of_input(int error) noexcept { end_ = error; }
    /// Reads once, without waiting; the result is what place() is then given, or a negative errno.
    virtual ssize_t read_now(packet_slot& slot) = 0;

    /// Asks for the end of the derived class's own requests.
    virtual void cancel_own() noexcept {}

    reactor_core& core() noexcept { return *core_; }
    read_statistics statistics_;
    unsigned own_requests_ = 0; // the derived class's, in flight

private:
    enum class state : std::uint8_t { made, reading, withdrawing, ended, closed };

    std::size_t held() const noexcept { return in_group_.size() + buffers_waiting(); }
    std::size_t buffers_waiting() const noexcept { return queue_.size() - shared_; }
    packet_slot* pop() noexcept;
    void drop_last() noexcept;
    void parted(const packet_slot& taken, const packet_slot& neighbour) noexcept;
    void deliver_parts(packet_slot& slot, std::uint32_t size);
    void on_time() override { core_->prepare_later(*this); }
    void end_read() noexcept;
    void deliver(packet_slot& slot);
    void promise();
    void make_group();
    void start_again();
    void refill();
    void starve();
    void arm_again();
    void multishot_ended(std::int32_t result);
    void fall_back_to_poll();
    void polled(const ring::completion& done);
    void read_ready();
    bool survives(int error);
    void fail(int error);
    void end_waiters(int error);
    void drop(packet_slot* slot) noexcept;
    void leave_group(packet_slot& slot);
    void empty_group() noexcept;

    packet_port* port_;
    reactor_core* core_;
    size_class class_;
    read_mode mode_;
    ring::feature needed_;
    bool multishot_;
    state state_ = state::made;
    bool readable_ = false; // poll: there may be something to read
    bool has_group_ = false;
    bool proven_ = false;  // the multishot has worked
    bool starved_ = false; // no buffer since the last packet: counted once
    std::uint16_t group_ = 0;
    unsigned quota_;
    unsigned target_;     // the share, or the quota if that is less
    slot_queue in_group_; // buffers that the kernel may fill; it takes them in this order
    unsigned failures_in_row_ = 0;
    int failure_ = 0;
    int end_ = 0; // an errno: the end has been read
    ring::token request_ = 0;
    bool cancelled_ = false; // request_ has been
    slot_queue queue_;
    std::size_t shared_ = 0; // packets of the queue that are in the buffer of the one before them
    std::uint32_t several_ = 0;
    std::size_t promised_ = 0; // packets of the queue that are kept for waiters
    waiter_list waiters_;
};

} // namespace cotun::detail
