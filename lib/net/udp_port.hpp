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

    /// Also once it is closed.
    endpoint local() const;
    const std::optional<endpoint>& peer() const noexcept { return peer_; }
    void connect(const endpoint& peer);
    std::optional<unsigned> path_mtu() const noexcept;
    int family() const noexcept { return family_; }
    bool v6() const noexcept;
    /// An address of the family to which send() sends.
    wire::ip_address peer_address(const wire::ip_address& otherwise) const noexcept;
    /// It is a member of a group: the kernel ends that when it is closed.
    void joined() noexcept { has_groups_ = true; }
    void allow_ancillary() { outbox_.allow_ancillary(); }

    std::string describe() const override;
    std::string explain(int error) const override;
    inbox& in() noexcept override { return inbox_; }
    outbox& out() noexcept override { return outbox_; }

private:
    // Leaving groups takes the lock of the kernel's network configuration (rtnl), for which others may wait long.
    bool closes_slowly() const noexcept override { return has_groups_; }
    void leaving() noexcept override { closed_local_ = bound_to(); }
    endpoint bound_to() const noexcept;

    udp_port(reactor_core& core, int descriptor, const udp_options& options);

    int family_;
    std::optional<endpoint> peer_;
    endpoint closed_local_; // once it closes
    bool has_groups_ = false;
    udp_inbox inbox_;
    udp_outbox outbox_;
};

} // namespace cotun::detail
