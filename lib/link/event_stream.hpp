// SPDX-License-Identifier: Apache-2.0
//
// event_stream: an event_socket in a reactor, and who waits for its events.
//
// Nothing is read before somebody waits, nor beyond what one datagram tells: what has come stays in the kernel, which
// bounds it, and makes up for what it drops. A poll is in flight while somebody waits in vain.
//
// It is counted by its handle and by the waits, so that either may go first. Thread: the reactor's.
#pragma once

#include <cotun/coro/timer.hpp>

#include "io/reactor_core.hpp"
#include "link/event_socket.hpp"
#include "link/event_source.hpp"
#include "ring/requests.hpp"

#include <chrono>
#include <optional>

namespace cotun::link {

class event_stream final : public event_source, public detail::open_end, ring::request_owner, detail::timer {
public:
    // `call`: for errors, "link_monitor".
    event_stream(detail::reactor_core& core, event_socket&& socket, const char* call);

    [[nodiscard]] const link_info* find(unsigned index) const noexcept { return socket_->find(index); }

    // Ends what waits; the descriptor is closed when the kernel has let go of it, soon.
    void close() noexcept;
    // And now.
    void close_now() override;
    void reactor_ends() override;

private:
    static constexpr std::chrono::milliseconds pause{10}; // where there is no room for a request
    static constexpr int turn = 64;                       // datagrams that are read before others have a turn

    ~event_stream() override;
    [[nodiscard]] detail::scheduler* loop() const noexcept override { return core_; }
    void fill() override;
    void expect_more() noexcept override;
    void on_completion(std::uint32_t cookie, const ring::completion& done) override;
    void on_time() override { serve(); }

    detail::reactor_core* core_;
    std::optional<event_socket> socket_; // empty once closed
    ring::token request_ = 0;
    events read_;
};

} // namespace cotun::link
