// SPDX-License-Identifier: Apache-2.0
//
// stream_reader: the receiving side of a stream socket.
//
// A receive is in flight while somebody waits, and stays there, multishot, while its consumer keeps up: one that has
// `bound` unread buffers or more, and nobody who waits, has it cancelled; so has one that hands its buffers back to
// the others (spill()). It is armed again when somebody waits, who has read all that there was. The bytes are in the
// kernel's buffer meanwhile, and the peer is held back. What came before the cancel has reached the kernel is kept.
//
// Unread bytes are, in order, in the spill (memory of the reader's own, counted as buffers, too) and in the queue
// (buffers of the pool). The spill has also what a read that was given up had taken, which its own size bounds.
//
// Where descriptors may come beside the bytes, a poll is in flight instead, and what it tells of is received at once
// (recvmsg(2)), for somebody who waits: so what comes with descriptors never lies in a buffer that nobody knows.
#pragma once

#include <cotun/io/packet.hpp>
#include <cotun/io/stream_operation.hpp>

#include "io/links.hpp"
#include "io/passed_descriptors.hpp"
#include "io/stream_queue.hpp"
#include "ring/requests.hpp"

#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace cotun::detail {

class stream_hub;
class stream_port;
struct holding_kind;
struct starving_kind;
struct room_kind;

class stream_reader final : public ring::request_owner,
                            public link<holding_kind>,
                            public link<starving_kind>,
                            public link<room_kind> {
public:
    static constexpr unsigned bound = 8;

    explicit stream_reader(stream_port& port) noexcept : port_(&port) {}

    // --- for those who read ---------------------------------------------------------------------------------------

    /// Whether a new read may take at once.
    bool is_free() const noexcept { return waiters_.empty() && promised_ == nullptr; }
    void wait(stream_read_waiter& w);
    /// The waiter that bytes are kept for has taken them, or is gone.
    void settle(stream_read_waiter& w) noexcept;

    bool has_bytes() const noexcept { return !queue_.empty() || spilled_ < spill_.size(); }
    /// Nothing will come behind what is there.
    bool ended() const noexcept { return ended_ || error_ != 0; }
    bool is_closed() const noexcept { return closed_; }
    int error() const noexcept { return error_; }
    /// The first of the unread bytes; empty: there are none.
    std::span<const std::byte> front() const noexcept;
    void consume(std::size_t count) noexcept;
    std::size_t copy(std::span<std::byte> into) noexcept;
    /// Puts bytes back in front of all others.
    void unread(std::span<const std::byte> bytes) noexcept;
    /// A read begins: what was read before is settled.
    void mark() noexcept {
        if (arrived_) arrived_->mark();
    }
    /// What came beside the bytes; nullptr: descriptors are not taken.
    arrived_descriptors* arrived() const noexcept { return arrived_.get(); }
    /// Whether take() has a buffer; asks for one if not.
    bool can_take() noexcept;
    packet take() noexcept;

    // --- for the hub ----------------------------------------------------------------------------------------------

    std::size_t held() const noexcept { return queue_.size(); }
    /// Moves the queue to the spill, and receives no more until somebody waits; unless somebody is about to read it.
    void spill() noexcept;
    /// There is a buffer for it.
    void fed() noexcept;
    /// There may be room for its request.
    void retry() noexcept;

    // --- for the port ---------------------------------------------------------------------------------------------

    /// Takes descriptors, from the first byte on.
    void accept_descriptors(std::unique_ptr<arrived_descriptors> into) noexcept { arrived_ = std::move(into); }
    void prepare() noexcept;
    void close() noexcept;
    void cancel() noexcept;
    bool idle() const noexcept { return request_ == 0; }

    void on_completion(std::uint32_t cookie, const ring::completion& done) override;

private:
    void arm(bool multishot) noexcept;
    void receive_ended(std::int32_t result, bool asked);
    void receive_messages() noexcept;
    bool receive_message() noexcept;
    void serve() noexcept;
    void move_to_spill() noexcept;
    std::size_t unread_buffers() const noexcept;
    void drop_queue() noexcept;
    void drop() noexcept;
    stream_hub& hub() const noexcept;
    packet_pool& pool() const noexcept;

    stream_port* port_;
    ring::token request_ = 0;
    bool cancelled_ = false;
    bool armed_multishot_ = false;
    bool ended_ = false;
    bool closed_ = false;
    bool wants_slot_ = false; // the first waiter's take() has no buffer
    int error_ = 0;
    stream_queue queue_;
    std::size_t spilled_ = 0; // of the spill, what has been read
    std::vector<std::byte> spill_;
    std::unique_ptr<arrived_descriptors> arrived_;
    // Ready, and not resumed yet. The next one's turn is when it has resumed: what it took, or is to take, comes back
    // if it is destroyed instead, and is in front of all others' bytes.
    stream_read_waiter* promised_ = nullptr;
    waiter_list waiters_;
};

} // namespace cotun::detail
