// SPDX-License-Identifier: Apache-2.0
#include <cotun/link/link_monitor.hpp>

#include <cotun/coro/event.hpp>
#include <cotun/coro/when_any.hpp>

#include "io/fail.hpp"
#include "io/reactor_core.hpp"
#include "link/event_socket.hpp"
#include "link/netns_scope.hpp"

#include <cerrno>
#include <deque>
#include <optional>
#include <utility>

namespace cotun {
namespace link {

// Shared by the handle and the tasks that wait.
class monitor {
public:
    monitor(reactor& io, const link_monitor_options& o) : io_(&io) {
        io.core().refuse_child("link_monitor");
        const tracked kinds = (o.links ? track_links : 0) | (o.addresses ? track_addresses : 0) |
                              (o.routes ? track_routes : 0) | (o.rules ? track_rules : 0) |
                              (o.neighbours ? track_neighbours : 0);
        if (kinds == 0) detail::fail(EINVAL, "link_monitor: nothing is to be told of: choose links, for example");
        if (o.only != 0 && (o.rules || o.neighbours))
            detail::fail(EINVAL, "link_monitor: of one link, only the link and its addresses are told");
        // Routes of one link come by no filter: they are left out rather than looked for among all.
        const event_socket_options options{.kinds = o.only != 0 ? kinds & ~track_routes : kinds,
                                           .only = o.only,
                                           .initial = o.initial,
                                           .receive_buffer = o.receive_buffer};
        run_in_namespace(o.netns, "link_monitor", [&] { socket_ = std::make_shared<event_socket>(options); });
    }

    void close() noexcept {
        socket_.reset();
        closing_.set();
    }

    static task<link_event> next(std::shared_ptr<monitor> self) {
        for (;;) {
            self->check_open();
            if (const auto event = self->take()) co_return *event;
            const std::shared_ptr<event_socket> socket = self->socket_; // open while it is waited for
            co_await when_any(self->io_->readable(socket->descriptor()), self->came_.wait(), self->closing_.wait());
        }
    }

private:
    void check_open() const {
        if (!socket_) detail::fail(ECANCELED, "cotun: link_monitor: it was closed by this program");
    }

    // One datagram's events are kept until they are taken; more is read only then. Others who wait are told that there
    // are some, since the socket may not be readable any more.
    std::optional<link_event> take() {
        while (waiting_.empty()) {
            read_.clear();
            const bool more = socket_->read(read_);
            waiting_.insert(waiting_.end(), read_.begin(), read_.end());
            if (!more) break;
        }
        if (waiting_.empty()) return std::nullopt;
        const link_event first = waiting_.front();
        waiting_.pop_front();
        if (!waiting_.empty()) {
            came_.set();
            came_.reset();
        }
        return first;
    }

    reactor* io_;
    std::shared_ptr<event_socket> socket_;
    events read_;
    std::deque<link_event> waiting_;
    event came_;    // set and reset when there are events to take
    event closing_; // set for good
};

} // namespace link

link_monitor::link_monitor(reactor& io, const link_monitor_options& options)
    : monitor_(std::make_shared<link::monitor>(io, options)) {}
link_monitor::link_monitor(link_monitor&& other) noexcept = default;
link_monitor& link_monitor::operator=(link_monitor&& other) noexcept {
    if (this != &other) {
        close();
        monitor_ = std::move(other.monitor_);
    }
    return *this;
}
link_monitor::~link_monitor() { close(); }

void link_monitor::close() noexcept {
    if (monitor_) monitor_->close();
}

task<link_event> link_monitor::next() {
    if (!monitor_) detail::fail(EBADF, "cotun: link_monitor: it was moved from");
    return link::monitor::next(monitor_);
}

} // namespace cotun
