// SPDX-License-Identifier: Apache-2.0
#include <cotun/link/link_monitor.hpp>

#include "io/fail.hpp"
#include "io/reactor_core.hpp"
#include "link/event_stream.hpp"
#include "link/netns_scope.hpp"

#include <cassert>
#include <cerrno>
#include <optional>
#include <utility>

namespace cotun {
namespace {

link::event_socket_options options_of(const link_monitor_options& o) {
    using namespace link;
    // The routes of one link come by no filter: they are left out rather than looked for among all.
    const tracked kinds = (o.links ? track_links : 0) | (o.addresses ? track_addresses : 0) |
                          (o.routes && o.only == 0 ? track_routes : 0) | (o.rules ? track_rules : 0) |
                          (o.neighbours ? track_neighbours : 0);
    if (kinds == 0) detail::fail(EINVAL, "link_monitor: nothing is to be told of: choose links, for example");
    if (o.only != 0 && (o.rules || o.neighbours))
        detail::fail(EINVAL, "link_monitor: of one link, only the link and its addresses are told");
    if (o.receive_buffer < 0) detail::fail(EINVAL, "link_monitor: a buffer cannot be smaller than nothing");
    return {.kinds = kinds, .only = o.only, .initial = o.initial, .receive_buffer = o.receive_buffer};
}

} // namespace

link_monitor::link_monitor(reactor& io, const link_monitor_options& options) {
    io.core().refuse_child("link_monitor");
    std::optional<link::event_socket> socket;
    link::run_in_namespace(options.netns, "link_monitor", [&] { socket.emplace(options_of(options)); });
    stream_ = new link::event_stream(io.core(), std::move(*socket), "link_monitor");
    stream_->hold();
}

link_monitor::link_monitor(link_monitor&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
link_monitor& link_monitor::operator=(link_monitor&& other) noexcept {
    if (this != &other) {
        reset();
        stream_ = std::exchange(other.stream_, nullptr);
    }
    return *this;
}
link_monitor::~link_monitor() { reset(); }

void link_monitor::reset() noexcept {
    if (stream_ == nullptr) return;
    stream_->close();
    std::exchange(stream_, nullptr)->drop();
}

void link_monitor::close() noexcept {
    if (stream_ != nullptr) stream_->close();
}

link_event_operation link_monitor::next() noexcept {
    assert(stream_ != nullptr && "the monitor was moved from");
    return link_event_operation(*stream_);
}

} // namespace cotun
