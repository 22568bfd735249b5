// SPDX-License-Identifier: Apache-2.0
#include <cotun/net/unix_message.hpp>

#include "io/packet_port.hpp"
#include "net/unix_inbox.hpp"
#include "net/unix_outbox.hpp"

#include <cerrno>

namespace cotun {

unix_receive_operation::unix_receive_operation(detail::unix_inbox& from) noexcept : read_waiter(from), inbox_(&from) {}

unix_message unix_receive_operation::await_resume() {
    unix_message message;
    if (would_throw(ENODATA)) return message;
    message.payload = take();
    message.descriptors = inbox_->take_descriptors(message.payload);
    message.sender = inbox_->sender_of(message.payload);
    return message;
}

unix_receive_packets_operation::unix_receive_packets_operation(detail::unix_inbox& from) noexcept
    : read_waiter(from), inbox_(&from) {}

packet_batch unix_receive_packets_operation::await_resume() {
    packet_batch batch;
    if (would_throw(ENODATA)) return batch;
    batch.push_back(take());
    take_more(batch);
    for (const packet& p : batch) (void)inbox_->take_descriptors(p); // closed
    return batch;
}

unix_send_operation::unix_send_operation(detail::unix_outbox& into, packet&& payload,
                                         detail::unix_attachment* attached) noexcept
    : write_waiter(into), outbox_(&into), packet_(std::move(payload)) {
    outbox_->port().hold();
    detail::unix_outbox::address(packet_, attached);
    hold(&packet_, &packet_ + 1);
}

unix_send_operation::unix_send_operation(unix_send_operation&& other) noexcept
    : write_waiter(std::move(other)),
      outbox_(std::exchange(other.outbox_, nullptr)),
      packet_(std::move(other.packet_)) {
    hold(&packet_, &packet_ + 1);
}

unix_send_operation::~unix_send_operation() {
    if (outbox_ == nullptr) return;
    outbox_->withdraw(packet_);
    outbox_->port().drop();
}

} // namespace cotun
