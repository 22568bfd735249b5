// SPDX-License-Identifier: Apache-2.0
//
// What stands behind a unix_datagram and a unix_seqpacket: the descriptor and both halves.
#pragma once

#include <cotun/io/read_mode.hpp>
#include <cotun/io/unique_fd.hpp>

#include "io/packet_pool.hpp"
#include "io/packet_port.hpp"
#include "net/unix_address.hpp"
#include "net/unix_inbox.hpp"
#include "net/unix_outbox.hpp"

#include <string>

namespace cotun::detail {

class unix_packet_port final : public packet_port {
public:
    struct shape {
        bool connected = false; // seqpacket
        unsigned largest = 0;   // message to receive, bytes
        unsigned descriptors = 0;
        unsigned send_buffer = 0;
        read_mode read = read_mode::automatic;
    };

    /// Throws std::system_error for a shape that cannot be; `who`: what errors begin with.
    static void check(const shape& s, const char* who);
    /// Of the buffers that it reads into; throws std::errc::message_size.
    static size_class class_of(reactor_core& core, const shape& s);
    /// Takes the descriptor unless it throws.
    static unix_packet_port* open(reactor_core& core, unique_fd& descriptor, const shape& s, std::string name);

    /// Its file is removed when the port is closed.
    void owns(bound_file file) noexcept { file_ = std::move(file); }

    std::string describe() const override { return name_; }
    std::string explain(int error) const override;
    unix_inbox& in() noexcept override { return inbox_; }
    unix_outbox& out() noexcept override { return outbox_; }

private:
    void leaving() noexcept override { file_.remove(); }
    unix_packet_port(reactor_core& core, int descriptor, const shape& s, std::string name);

    std::string name_;
    bool connected_;
    bound_file file_;
    unix_inbox inbox_;
    unix_outbox outbox_;
};

} // namespace cotun::detail
