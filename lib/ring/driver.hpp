// SPDX-License-Identifier: Apache-2.0
//
// The driver: the seam between cotun and the kernel's asynchronous I/O.
//
// Everything above speaks of requests, completions and buffer groups; only the bodies of this interface know how they
// are carried out: uring.cpp by io_uring, scripted.cpp by a test.
//
// A request is queued by one of the functions below and starts with the next enter(). Each carries a token that the
// caller chose (not 0), and is answered by completions with that token; the last of them has more == false, and until
// it has come the memory that the request names belongs to the kernel. A request may answer more than once only if it
// is one of the multishots.
//
// Room: the caller keeps the number of requests in flight (queued and not yet answered by their last completion) at or
// below capacity(), and the number of buffers in groups at or below buffer_capacity(). Then neither queue can overflow,
// and none of these functions can fail for want of room. ring/requests.hpp does the counting.
//
// Thread: all of it on one thread, the first that calls enter(), except wake() and share_waker().
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

namespace cotun::ring {

using clock = std::chrono::steady_clock;

/// Names a request. 0 names none.
using token = std::uint64_t;

/// A descriptor as the driver knows it (registered with the ring where the kernel allows).
struct file {
    int descriptor = -1;
    int registered = -1; // index in the ring's file table; -1: none
};

/// A buffer in a group: `id` comes back with the completion that filled it.
struct group_buffer {
    std::byte* data;
    std::uint32_t size;
    std::uint16_t id;
};

struct completion {
    token request;
    std::int32_t result;  // what the system call would have returned: bytes, events, or a negative errno
    std::uint16_t buffer; // the filled buffer's id, if has_buffer
    bool has_buffer;
    bool more; // the request goes on: further completions will come
};

/// What a kernel may lack; found by trying, and remembered once it was refused.
enum class feature : std::uint8_t {
    read_multishot,    // Linux 6.7
    receive_multishot, // Linux 6.0
    accept_multishot,  // Linux 5.19
    message_ring,      // a message from ring to ring: Linux 5.18
};
inline constexpr std::size_t features = 4;

struct driver_statistics {
    std::uint64_t enters = 0;         // kernel entries
    std::uint64_t submissions = 0;    // requests handed to the kernel
    std::uint64_t completions = 0;    // completions reaped
    std::uint64_t overflows = 0;      // enters that found completions in the kernel's backlog, the queue being full
    std::uint64_t busy = 0;           // enters that answered EBUSY, EAGAIN or ENOMEM and were tried again
    std::uint64_t wakes = 0;          // wake-ups from other threads
    std::uint64_t messages = 0;       // wake-ups sent to other drivers with the requests
    std::uint64_t busy_polls = 0;     // waits that began by looking for completions without sleeping
    std::uint64_t busy_poll_hits = 0; // those of them that needed no sleep
};

/// Wakes a driver. It may outlive it, and wakes nobody then. Any thread; safe in a signal handler.
class waker {
public:
    waker() = default;
    waker(const waker&) = delete;
    waker& operator=(const waker&) = delete;
    virtual ~waker() = default;
    virtual void wake() noexcept = 0;
};

class driver {
public:
    driver() = default;
    driver(const driver&) = delete;
    driver& operator=(const driver&) = delete;
    virtual ~driver() = default;

    /// The most requests that may be in flight, and the most buffers that may be in groups.
    virtual unsigned capacity() const noexcept = 0;
    virtual unsigned buffer_capacity() const noexcept = 0;

    virtual bool supports(feature) const noexcept = 0;
    /// Called when a first arm was refused with EINVAL: supports() answers false from now on.
    virtual void lacks(feature) noexcept = 0;

    /// Makes a descriptor known. It stays the caller's, who calls detach() after the last completion and before
    /// close(2).
    virtual file attach(int descriptor) = 0;
    virtual void detach(file&) noexcept = 0;

    /// A group of buffers that multishot reads fill in the order in which they were provided. `entries`: the most that
    /// it will hold, a power of two. Throws std::system_error.
    virtual std::uint16_t add_group(unsigned entries) = 0;
    virtual void provide(std::uint16_t group, std::span<const group_buffer> buffers) noexcept = 0;
    /// All buffers still in the group are the caller's again. No request may use the group any more.
    virtual void remove_group(std::uint16_t group) noexcept = 0;

    virtual void read_multishot(token, file, std::uint16_t group) noexcept = 0;
    /// Of `shape` only the sizes msg_namelen and msg_controllen count, and msg_flags, which are recvmsg(2)'s flags; it
    /// must live until the next enter(). A filled buffer begins with the kernel's struct io_uring_recvmsg_out, then
    /// that much name, control data, and the payload.
    virtual void receive_multishot(token, file, const msghdr& shape, std::uint16_t group) noexcept = 0;
    /// Bytes of a stream, into a buffer of the group: once, or whenever some come. 0: the peer has shut down its side.
    virtual void receive(token, file, std::uint16_t group, bool multishot) noexcept = 0;
    /// The result is a descriptor, which is the caller's; close-on-exec.
    virtual void accept(token, file, bool multishot) noexcept = 0;
    /// `address` must live until the last completion.
    virtual void connect(token, file, const sockaddr* address, socklen_t size) noexcept = 0;
    /// `events`: POLLIN, POLLOUT...; the result is what occurred.
    virtual void poll(token, file, short events, bool multishot) noexcept = 0;
    virtual void write(token, file, std::span<const std::byte>) noexcept = 0;
    /// One write of several pieces (writev(2)). The array must live until the next enter(), what it points to until the
    /// last completion.
    virtual void write_gathered(token, file, std::span<const iovec> pieces) noexcept = 0;
    virtual void send(token, file, std::span<const std::byte>) noexcept = 0;
    /// `message` and what it points to, the payload aside, must live until the next enter().
    virtual void send_message(token, file, const msghdr& message) noexcept = 0;
    /// As the two above, but they never wait for room: EAGAIN where there is none. So they are over when the enter()
    /// that starts them returns, and their completions are among those that it brings, but do not end its wait by
    /// themselves: one that waits goes on until another one comes, unless report_sends() was called since the last.
    virtual void try_send(token request, file f, std::span<const std::byte> bytes) noexcept { send(request, f, bytes); }
    virtual void try_send_message(token request, file f, const msghdr& message) noexcept {
        send_message(request, f, message);
    }
    virtual void report_sends() noexcept {}
    /// Asks for the end of a request; its last completion comes all the same (ECANCELED, or what it had reached). Needs
    /// no room of the caller's: at most one cancel a request.
    virtual void cancel(token) noexcept = 0;

    /// The system calls that are made at once, without the ring: read(2), writev(2) and recvmsg(2) on a non-blocking
    /// descriptor. Return bytes or a negative errno.
    virtual ssize_t read_now(file, std::span<std::byte>) noexcept = 0;
    virtual ssize_t write_now(file, std::span<const iovec> pieces) noexcept = 0;
    /// msg_flags are recvmsg(2)'s flags, and then what it answers.
    virtual ssize_t receive_now(file, msghdr&) noexcept = 0;
    /// sendmmsg(2), which does not wait. Returns how many were sent, at least one, or a negative errno.
    virtual int send_now(file, std::span<mmsghdr>) noexcept = 0;
    /// Bytes that sit in the socket's send queue (SIOCOUTQ), or a negative errno.
    virtual ssize_t unsent_bytes(file) noexcept = 0;
    /// The error that waits on the socket (SO_ERROR), which is thereby over; 0: none.
    virtual int take_error(file) noexcept = 0;
    /// shutdown(2) of the sending side. Returns 0 or a negative errno.
    virtual int shutdown_send(file) noexcept = 0;

    /// Hands over what was queued and fills `out` with completions. Waits until there is one, a wake(), or `deadline`
    /// (none: for ever), unless `wait` is false. Returns how many were filled. Throws std::system_error when the ring
    /// itself fails.
    virtual std::size_t enter(bool wait, std::optional<clock::time_point> deadline, std::span<completion> out) = 0;

    /// Makes the current or the next waiting enter() return. Any thread; safe in a signal handler.
    virtual void wake() noexcept = 0;
    /// What does the same for others, who may keep it. Any thread, while the driver lives.
    virtual std::shared_ptr<waker> share_waker() const noexcept = 0;
    /// Wakes another driver with the next enter(), at no system call's expense. False: it cannot be done here and now;
    /// use target->wake().
    virtual bool send_wake(const std::shared_ptr<waker>& target) noexcept = 0;

    virtual clock::time_point now() noexcept { return clock::now(); }
    virtual driver_statistics statistics() const noexcept = 0;
};

} // namespace cotun::ring
