// SPDX-License-Identifier: Apache-2.0
//
// What stands behind a udp_socket: its descriptor and both halves.
#pragma once

#include <cotun/net/udp.hpp>

#include "io/packet_port.hpp"
#include "net/udp_inbox.hpp"
#include "net/udp_outbox.hpp"

#include <optional>
#include <string>

namespace cotun::detail {

class udp_port final : public packet_port {
public:
    /// A socket, bound and connected as the options say. Throws std::system_error.
    static udp_port* open(reactor_core& core, const udp_options& options);

    endpoint local() const;
    const std::optional<endpoint>& peer() const noexcept { return peer_; }
    void connect(const endpoint& peer);
    std::optional<unsigned> path_mtu() const noexcept;
    int family() const noexcept { return family_; }
    bool v6() const noexcept;
    /// An address of the family to which send() sends.
    wire::ip_address peer_address(const wire::ip_address& otherwise) const noexcept;
    void allow_ancillary() { outbox_.allow_ancillary(); }

    std::string describe() const override;
    std::string explain(int error) const override;
    inbox& in() noexcept override { return inbox_; }
    outbox& out() noexcept override { return outbox_; }

private:
    udp_port(reactor_core& core, int descriptor, const udp_options& options);

    int family_;
    std::optional<endpoint> peer_;
    udp_inbox inbox_;
    udp_outbox outbox_;
};

} // namespace cotun::detail
