// SPDX-License-Identifier: Apache-2.0
#include <cotun/tun/device_events.hpp>

#include "io/fail.hpp"

#include <cerrno>

namespace cotun {

void next_event_operation::throw_closed() { detail::fail(ECANCELED, "events of a device: the device was closed"); }

void device_events::put(link_event event) noexcept {
    while (!queue_.try_send(std::move(event)) && !queue_.is_closed()) {
        static_cast<void>(queue_.try_receive());
        ++lost_;
    }
}

} // namespace cotun
