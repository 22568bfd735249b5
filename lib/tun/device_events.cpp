// SPDX-License-Identifier: Apache-2.0
#include <cotun/tun/device_events.hpp>

#include "link/event_source.hpp"

#include <new>

namespace cotun {

namespace detail {

class device_event_queue final : public cotun::link::event_source {
public:
    device_event_queue() noexcept : event_source("events of a device") {}

    void put(const link_event& event) noexcept {
        if (has_ended()) return;
        while (events_.size() >= device_events::most_waiting) {
            events_.pop_front();
            ++lost_;
        }
        try {
            events_.push_back(event);
        } catch (const std::bad_alloc&) {
            ++lost_;
        }
        serve();
    }
    using event_source::end;
    std::uint64_t lost() const noexcept { return lost_; }

private:
    std::uint64_t lost_ = 0;
};

} // namespace detail

device_events::device_events() : queue_(new detail::device_event_queue) { queue_->hold(); }

device_events::~device_events() {
    queue_->end();
    queue_->drop();
}

link_event_operation device_events::next() noexcept { return link_event_operation(*queue_); }
std::uint64_t device_events::lost() const noexcept { return queue_->lost(); }
void device_events::put(const link_event& event) noexcept { queue_->put(event); }
void device_events::end() noexcept { queue_->end(); }

} // namespace cotun
