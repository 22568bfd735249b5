// SPDX-License-Identifier: Apache-2.0
//
// What Unix datagram and seqpacket sockets receive and send, and the operations for it. Streams pass descriptors, too:
// net/unix.hpp.
//
// Descriptors: a message may carry descriptors of open files, which then are open in the receiving program too
// (SCM_RIGHTS, unix(7)). A socket takes them only if its options say how many a message may bring; else the kernel
// closes those that come. They arrive close-on-exec, and belong to the message: whatever becomes of it (unread when the
// socket is closed, too large, too many), they are closed with it. Cancelling a wait loses neither. Those that are to
// be sent belong to the socket from the call on, and are closed here when the kernel has the message or it was given
// up.
//
// Lifetime, thread: as io/read_operation.hpp and io/write_operation.hpp.
#pragma once

#include <cotun/io/packet.hpp>
#include <cotun/io/packet_batch.hpp>
#include <cotun/io/read_operation.hpp>
#include <cotun/io/unique_fd.hpp>
#include <cotun/io/write_operation.hpp>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace cotun {

namespace detail {
struct unix_attachment;
class unix_inbox;
class unix_outbox;
} // namespace detail

/// The most descriptors that a message carries: the kernel's bound (SCM_MAX_FD).
inline constexpr unsigned most_descriptors = 253;

struct unix_message {
    unix_message() noexcept = default;
    /// False: the peer has ended the connection. A message of no bytes is true.
    explicit operator bool() const noexcept { return static_cast<bool>(payload); }

    packet payload;
    /// The name of the socket that sent the datagram, as send_to() takes it; empty: it has none. Seqpackets do not
    /// tell.
    std::string sender;
    std::vector<unique_fd> descriptors;
};

/// Yields the next message; on a seqpacket socket a false one at the end.
class [[nodiscard]] unix_receive_operation final : public detail::read_waiter {
public:
    explicit unix_receive_operation(detail::unix_inbox& from) noexcept;
    unix_receive_operation(unix_receive_operation&&) noexcept = default;
    unix_message await_resume();

private:
    detail::unix_inbox* inbox_;
};

/// Yields the payloads of all messages that have come, 1 to 64; on a seqpacket socket none at the end. Descriptors that
/// came with them are closed, and names are not told.
class [[nodiscard]] unix_receive_packets_operation final : public detail::read_waiter {
public:
    explicit unix_receive_packets_operation(detail::unix_inbox& from) noexcept;
    unix_receive_packets_operation(unix_receive_packets_operation&&) noexcept = default;
    packet_batch await_resume();

private:
    detail::unix_inbox* inbox_;
};

/// A message with a destination or descriptors. Done when it is accepted; destroying it before closes the descriptors.
class [[nodiscard]] unix_send_operation final : public detail::write_waiter {
public:
    unix_send_operation(detail::unix_outbox& into, packet&& payload, detail::unix_attachment* attached) noexcept;
    unix_send_operation(unix_send_operation&& other) noexcept;
    ~unix_send_operation();

private:
    detail::unix_outbox* outbox_; // counted with its port; nullptr once moved from
    packet packet_;
};

} // namespace cotun
