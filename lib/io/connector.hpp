// SPDX-License-Identifier: Apache-2.0
//
// connector: addresses that are tried in turn until one answers.
//
// The address that the kernel reads, and the socket, are the connector's. When who waits is gone, the request is
// cancelled, and the connector goes with its last completion; a connection that was made in spite of that is closed.
#pragma once

#include <cotun/coro/stop.hpp>
#include <cotun/coro/timer.hpp>
#include <cotun/io/accept_operation.hpp>

#include "io/admission.hpp"
#include "io/reactor_core.hpp"
#include "ring/requests.hpp"

#include <chrono>
#include <string>
#include <sys/socket.h>

namespace cotun::detail {

class connector : public open_end, public ring::request_owner, timer {
public:
    reactor_core& core() noexcept { return *core_; }

    /// Starts; false: there is nothing to wait for.
    bool start(connect_waiter& w) noexcept;
    /// Ends the attempt; who waits is told when it has ended.
    void stop() noexcept;
    /// Nobody waits any more.
    void abandon() noexcept;
    /// The socket; throws what became of each attempt.
    int take();

    void close_now() override { reactor_ends(); }
    void reactor_ends() override;
    void on_completion(std::uint32_t cookie, const ring::completion& done) override;

protected:
    /// `attempt`: how long one may take; 0: as long as the kernel lets it.
    connector(reactor_core& core, std::chrono::milliseconds attempt) noexcept : core_(&core), attempt_(attempt) {}
    virtual ~connector();

    struct target {
        const sockaddr* address = nullptr; // nullptr: there is no further one
        socklen_t size = 0;
    };
    /// The next address, and a socket for it in `descriptor`. Throws std::system_error: that address is passed over.
    virtual target next(int& descriptor) = 0;
    /// What a connection of this kind takes a place of; else the streams'.
    virtual admission& places_of(reactor_core& core);
    /// "connecting to 192.0.2.1:80", and the remedy.
    virtual std::string attempt_failed(int error) const = 0;

private:
    void on_time() override;
    bool try_next() noexcept;
    clock::time_point end_of_attempt() const noexcept;
    void note(int error, const std::string& text);
    void close_descriptor() noexcept;
    void end() noexcept;

    reactor_core* core_;
    std::chrono::milliseconds attempt_;
    int descriptor_ = -1;
    admission* admitted_ = nullptr; // where there is a place for it
    bool started_ = false;
    bool connected_ = false;
    bool stopping_ = false;
    bool timed_out_ = false;
    bool cancelled_ = false;
    ring::token request_ = 0;
    connect_waiter* waiting_ = nullptr;
    int error_ = 0;
    std::string failures_;
};

} // namespace cotun::detail
