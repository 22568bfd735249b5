// SPDX-License-Identifier: Apache-2.0
//
// stream_writer: the sending side of a stream socket.
//
// What is to be sent, in order: buffers with bytes that were accepted, then waiters whose bytes go out from their own
// memory. One send is in flight at a time, for as much of it as one system call takes; where it stops, the next goes
// on. What brings descriptors begins a send of its own, since they go with its first byte.
#pragma once

#include <cotun/coro/waiter.hpp>
#include <cotun/io/stream_operation.hpp>

#include "io/links.hpp"
#include "io/stream_queue.hpp"
#include "ring/requests.hpp"

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <sys/socket.h>
#include <sys/uio.h>

namespace cotun::detail {

class stream_port;
struct room_kind;

class stream_writer final : public ring::request_owner, public link<room_kind> {
public:
    static constexpr unsigned window = 8; // buffers

    explicit stream_writer(stream_port& port) noexcept : port_(&port) {}

    // --- for those who write --------------------------------------------------------------------------------------

    /// The error that ended writing; 0: none.
    int failure() const noexcept { return failure_; }
    /// Why a write that begins now cannot be; 0: it can.
    int refusal() const noexcept;
    /// Accepts all of the write, or nothing.
    bool accept(stream_write_operation& w) noexcept;
    /// Accepts what there are buffers for; how many bytes that was.
    std::size_t accept_some(const stream_write_operation& w) noexcept;
    void wait(stream_write_operation& w) noexcept;
    void wait(stream_flush_operation& w) noexcept { flushers_.push_back(w); }
    /// Makes it ready, once the kernel is done with its memory.
    void interrupt(stream_write_operation& w) noexcept;
    /// It is being destroyed: returns when the kernel is done with its memory.
    void withdraw(stream_write_operation& w);
    std::uint64_t accepted() const noexcept { return accepted_; }
    bool sent(std::uint64_t until) const noexcept { return sent_ >= until || failure_ != 0; }
    /// Once all is sent, the peer is told that no more comes.
    void shut_down();

    // --- for the port ---------------------------------------------------------------------------------------------

    stream_port& port() noexcept { return *port_; }
    void prepare() noexcept;
    /// Nothing more is accepted; those who wait are told.
    void close() noexcept;
    bool settled() const noexcept { return request_ == 0 && (queue_.empty() || failure_ != 0); }
    void cancel() noexcept;
    bool idle() const noexcept { return request_ == 0; }

    void on_completion(std::uint32_t cookie, const ring::completion& done) override;

private:
    // What a send of several pieces points to, until it has completed.
    struct gather {
        msghdr header{};
        std::array<iovec, 2 * window> pieces{};
    };

    using piece_list = std::span<const std::span<const std::byte>>;

    bool accept_copy(std::span<const std::byte> bytes, piece_list more = {}) noexcept;
    void submit_with_descriptors(stream_write_operation& w) noexcept;
    bool ends_one(stream_write_operation& w, int error) noexcept;
    /// What the last buffer still takes.
    std::size_t room_in_last() const noexcept;
    void submit() noexcept;
    void advance(std::size_t count) noexcept;
    void finish(stream_write_operation& w) noexcept;
    void end_interrupted(stream_write_operation& w) noexcept;
    void end_send() noexcept;
    void fail(int error) noexcept;
    void drop() noexcept;
    void wake_flushers() noexcept;

    stream_port* port_;
    ring::token request_ = 0;
    bool end_asked_ = false; // of request_
    bool closed_ = false;
    enum class shutting : std::uint8_t { no, asked, done } shutting_ = shutting::no;
    int failure_ = 0;
    std::uint32_t flying_ = 0;                // buffers of the queue that are with the kernel
    stream_write_operation* flier_ = nullptr; // the waiter whose memory is
    stream_queue queue_;
    std::unique_ptr<gather> gather_;
    std::uint64_t accepted_ = 0; // bytes, in buffers
    std::uint64_t sent_ = 0;
    waiter_list waiters_;
    waiter_list flushers_;
};

} // namespace cotun::detail
