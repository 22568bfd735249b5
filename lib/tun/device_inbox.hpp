// SPDX-License-Identifier: Apache-2.0
//
// The reading half of a device.
#pragma once

#include "io/inbox.hpp"
#include "io/packet_port.hpp"
#include "tun/virtio_front.hpp"

namespace cotun::detail {

class device_inbox final : public inbox {
public:
    device_inbox(packet_port& port, reactor_core& core, size_class c, read_mode mode, front_shape shape)
        : inbox(port, core, c, mode, ring::feature::read_multishot), shape_(shape) {}

private:
    void arm(ring::token request, std::uint16_t group) override {
        core().driver().read_multishot(request, port().file(), group);
    }
    bool place(packet_slot& slot, std::int32_t result) override {
        const auto size = static_cast<std::size_t>(result);
        if (size >= core().pool().space(slot).size()) {
            ++statistics_.truncated;
            return false;
        }
        core().pool().start(slot, size);
        if (shape_.information && !take_information(slot)) return false;
        return !shape_.virtio || take_virtio_header(slot);
    }
    bool take_information(packet_slot& slot) noexcept;
    bool take_virtio_header(packet_slot& slot) noexcept;
    ssize_t read_now(packet_slot& slot) override {
        return core().driver().read_now(port().file(), core().pool().space(slot));
    }

    const front_shape shape_;
};

} // namespace cotun::detail
