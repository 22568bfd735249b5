// SPDX-License-Identifier: Apache-2.0
//
// acceptor: a listening socket.
//
// An accept is in flight, multishot where the kernel can, once somebody has waited, and while fewer than `bound`
// connections wait to be taken; then it is cancelled, and the kernel's backlog holds the others. It is armed again when
// they have been taken. So the program holds `bound` and, at the worst, one backlog.
//
// Out of descriptors or memory, accepting pauses, longer each time, and goes on; so does giving out, when a connection
// was, and could not be made use of: a program that goes on at once does not turn in circles. Other failures are a
// connection's own, which ended before it was accepted, and do not matter to the next.
#pragma once

#include <cotun/coro/task.hpp>
#include <cotun/coro/timer.hpp>
#include <cotun/coro/waiter.hpp>
#include <cotun/io/accept_operation.hpp>
#include <cotun/io/statistics.hpp>

#include "io/admission.hpp"
#include "io/counted.hpp"
#include "io/links.hpp"
#include "io/reactor_core.hpp"
#include "ring/requests.hpp"

#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <utility>

namespace cotun::detail {

struct admission_kind;

class acceptor final : public open_end, public ring::request_owner, public link<admission_kind>, timer {
public:
    static constexpr unsigned bound = 64;
    static constexpr std::chrono::milliseconds first_pause{10};
    static constexpr std::chrono::milliseconds longest_pause{1000};

    /// Takes the descriptor. `name`: what errors call it. `places`: what connections take one of; nullptr: streams'.
    acceptor(reactor_core& core, int descriptor, std::string name, admission* places = nullptr);

    reactor_core& core() noexcept { return *core_; }
    int descriptor() const noexcept { return descriptor_; }
    const std::string& name() const noexcept { return name_; }
    const accept_statistics& statistics() const noexcept { return statistics_; }
    bool uses_multishot() const noexcept { return multishot_; }
    /// Keeps `what` until the socket is about to be closed.
    void owns(std::shared_ptr<void> what) noexcept { owned_ = std::move(what); }

    // --- for those who wait ---------------------------------------------------------------------------------------

    bool try_take(accept_waiter& w) noexcept;
    void wait(accept_waiter& w) noexcept;
    /// `unusable`: nothing could be made of it for now.
    void put_back(int descriptor, bool unusable) noexcept;
    /// One of those who waited is gone.
    void left() noexcept;
    [[noreturn]] void throw_failure(int error) const;
    /// Gives what has been accepted to those who wait.
    void serve() noexcept;

    void close_now() override;
    void reactor_ends() override;
    static task<> close(counted<acceptor> of);
    void hold() noexcept { ++references_; }
    void drop() noexcept {
        if (--references_ == 0) delete this;
    }

    void on_completion(std::uint32_t cookie, const ring::completion& done) override;

private:
    ~acceptor();
    void on_time() override;
    void rest() noexcept;
    void hold_back() noexcept;
    void arm() noexcept;
    void cancel() noexcept;
    void keep(int descriptor, bool first) noexcept;
    void ended(int error);
    void fail(int error) noexcept;
    void begin_close() noexcept;
    void finish_close() noexcept;

    reactor_core* core_;
    admission* places_;
    int descriptor_;
    std::string name_;
    bool multishot_;
    bool armed_multishot_ = false;
    bool cancelled_ = false;
    bool closing_ = false;
    bool held_back_ = false; // nothing is given out until the pause is over
    int failure_ = 0;
    std::chrono::milliseconds pause_{0}; // of the last failure; 0: the last was accepted
    unsigned references_ = 0;
    ring::token request_ = 0;
    std::deque<int> accepted_;
    waiter_list waiters_;
    waiter_list closers_;
    std::shared_ptr<void> owned_;
    accept_statistics statistics_;
};

} // namespace cotun::detail
