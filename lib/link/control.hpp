// SPDX-License-Identifier: Apache-2.0
//
// control: what a link_control and its tasks share: the socket, and the answers that are awaited.
//
// A request's answer is mostly there when the request was sent, so it is received at once; the socket is polled only
// where it is not: behind a thread that sends, or when a table is long. Whoever receives tells all answers that have
// come, whosever they are, and wakes those who wait for theirs.
#pragma once

#include <cotun/coro/event.hpp>
#include <cotun/coro/mutex.hpp>
#include <cotun/coro/task.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/link/link_control.hpp>

#include "link/answer.hpp"
#include "link/netlink_port.hpp"
#include "link/order.hpp"

#include <cstdint>
#include <memory>
#include <vector>

namespace cotun::link {

class control {
public:
    control(reactor& io, const link_control_options& options);

    // The coroutines hold what they use: it may be closed, and its handle be gone, before they run.
    using reference = std::shared_ptr<control>;

    // Sends it and awaits its answer; throws its refusal.
    static task<> perform(reference self, order asked);
    // The same for a whole table.
    static task<> list(reference self, order asked, answer& a);
    // The one row of the answer, into `a`.
    static task<> ask(reference self, order asked, answer& a);
    static task<unsigned> index_of(reference self, link_reference link);

    void close() noexcept;

private:
    static task<> exchange(reference self, order& asked, answer& a);
    static task<> send(reference self, order& asked);
    static task<> send_aside(reference self, order& asked);
    static task<> refuse(reference self, order& asked, outcome why);
    void check_open() const;
    bool receive_some();

    reactor* io_;
    const link_sending sending_;
    std::shared_ptr<netlink_port> port_; // shared with threads that send
    std::vector<std::byte> buffer_;
    answers awaited_;
    std::uint32_t sequence_ = 0;
    event came_;    // set and reset when answers have ended
    event closing_; // set for good
    mutex dumping_; // the kernel makes one dump at a time for a socket
};

} // namespace cotun::link
