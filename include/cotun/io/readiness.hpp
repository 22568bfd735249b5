// SPDX-License-Identifier: Apache-2.0
//
// co_await io.readable(fd), io.writable(fd): waits on descriptors that are not cotun's, so that other libraries can
// live in the reactor.
//
//     co_await io.readable(PQsocket(connection));
//     PQconsumeInput(connection);
//
// Each wait is one poll: it ends when the descriptor can be read from (or written to) without blocking, which is also
// at the end of the stream, when the peer has gone, and when there is an error: the read or write then tells. A
// descriptor that is ready already ends it in the next pass. Any number of tasks may wait on one descriptor; all of
// them are told.
//
// What can be polled: sockets, pipes, terminals, eventfd, timerfd, signalfd, inotify, pidfd, epoll, and devices that
// poll(2) waits for. A file on a disk is always ready, as poll(2) has it: reading it may still block.
//
// Lifetime: the descriptor stays the caller's, and must not be closed while it is waited for: neither would the wait
// end, nor the file be closed. When the wait has ended, or was destroyed, it may be. Destroying or stopping the wait
// (coro/stop.hpp) takes nothing from the descriptor.
// Thread: the reactor's.
// Errors: std::errc::bad_file_descriptor for what is not open, or was opened with O_PATH;
// std::errc::resource_unavailable_try_again when as many wait as half of reactor_options::requests.
// Kernel: Linux 5.19; IORING_OP_POLL_ADD.
#pragma once

#include <cotun/coro/stop.hpp>
#include <cotun/coro/waiter.hpp>

#include <coroutine>
#include <utility>

namespace cotun {

namespace detail {
class reactor_core;
class poll_requests;
struct poll_request;
} // namespace detail

class [[nodiscard]] readiness_operation final : detail::waiter, detail::stop_link {
public:
    readiness_operation(detail::reactor_core& core, int descriptor, short events) noexcept
        : core_(&core), descriptor_(descriptor), events_(events) {}
    /// Only before it is awaited.
    readiness_operation(readiness_operation&& other) noexcept
        : waiter(), stop_link(), core_(other.core_), descriptor_(other.descriptor_), events_(other.events_) {}
    ~readiness_operation();

    bool await_ready() const noexcept { return false; }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    void await_resume() const;

private:
    friend class detail::poll_requests;
    void on_stop() noexcept override;

    detail::reactor_core* core_;
    int descriptor_;
    short events_;
    int result_ = 0;                          // what occurred, or a negative errno
    detail::poll_request* request_ = nullptr; // while it waits
};

} // namespace cotun
