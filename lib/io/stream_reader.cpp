// SPDX-License-Identifier: Apache-2.0
#include "io/stream_reader.hpp"

#include "io/stream_hub.hpp"
#include "io/stream_port.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <new>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

namespace cotun::detail {

stream_hub& stream_reader::hub() const noexcept { return port_->hub(); }
packet_pool& stream_reader::pool() const noexcept { return port_->core().pool(); }

// --- those who wait ------------------------------------------------------------------------------------------------

void stream_reader::wait(stream_read_waiter& w) {
    waiters_.push_back(w);
    if (request_ == 0 && !ended() && !wants_slot_) arm(true);
}

void stream_reader::serve() noexcept {
    while (promised_ == nullptr && !waiters_.empty()) {
        auto& w = static_cast<stream_read_waiter&>(waiters_.front());
        try {
            if (!w.feed(*this)) return;
        } catch (const std::bad_alloc&) {
            w.failure_ = ENOMEM;
        }
        promised_ = &w;
        port_->core().make_ready(w);
    }
}

void stream_reader::settle(stream_read_waiter& w) noexcept {
    if (promised_ != &w) return;
    promised_ = nullptr;
    if (closed_) return drop();
    mark();
    serve();
    port_->schedule();
}

std::span<const std::byte> stream_reader::front() const noexcept {
    if (spilled_ < spill_.size()) return std::span(spill_).subspan(spilled_);
    if (queue_.empty()) return {};
    const packet_slot& slot = queue_.front(pool());
    return {slot.base + slot.offset, slot.size};
}

void stream_reader::consume(std::size_t count) noexcept {
    if (arrived_) arrived_->read(count);
    if (spilled_ < spill_.size()) {
        spilled_ += count;
        if (spilled_ < spill_.size()) return;
        spill_ = {};
        spilled_ = 0;
        return;
    }
    if (count == 0) return;
    packet_slot& slot = queue_.front(pool());
    slot.offset += static_cast<std::uint32_t>(count);
    slot.size -= static_cast<std::uint32_t>(count);
    if (slot.size > 0) return;
    queue_.pop_front(pool());
    pool().give(&slot);
    hub().released(*this);
}

std::size_t stream_reader::copy(std::span<std::byte> into) noexcept {
    std::size_t copied = 0;
    while (copied < into.size()) {
        const std::span<const std::byte> piece = front();
        const std::size_t size = std::min(piece.size(), into.size() - copied);
        if (size == 0) break;
        std::memcpy(into.data() + copied, piece.data(), size);
        consume(size);
        copied += size;
    }
    return copied;
}

void stream_reader::unread(std::span<const std::byte> bytes) noexcept {
    if (bytes.empty()) return;
    if (arrived_) arrived_->unread(bytes.size());
    if (closed_) {
        if (arrived_) arrived_->drop_unread();
        return;
    }
    try {
        spill_.erase(spill_.begin(), spill_.begin() + static_cast<std::ptrdiff_t>(std::exchange(spilled_, 0U)));
        spill_.insert(spill_.begin(), bytes.begin(), bytes.end());
    } catch (const std::bad_alloc&) { // what follows would be taken for them
        drop();
        error_ = ENOMEM;
    }
    serve();
}

bool stream_reader::can_take() noexcept {
    if (spilled_ == spill_.size()) return !queue_.empty();
    if (pool().available(small_packets) > 0) return true;
    wants_slot_ = true;
    hub().starve_of_pool(*this);
    return false;
}

packet stream_reader::take() noexcept {
    if (spilled_ == spill_.size()) {
        packet_slot& slot = queue_.pop_front(pool());
        hub().released(*this);
        if (arrived_) arrived_->read(slot.size);
        return packet_pool::lease(&slot);
    }
    packet_slot* slot = pool().take(small_packets);
    if (slot == nullptr) return {};
    std::size_t size = std::min(spill_.size() - spilled_, pool().payload(small_packets));
    if (arrived_) size = std::min(size, arrived_->together());
    pool().start(*slot, size);
    std::memcpy(slot->base + slot->offset, spill_.data() + spilled_, size);
    consume(size);
    return packet_pool::lease(slot);
}

// --- the kernel's side ---------------------------------------------------------------------------------------------

void stream_reader::arm(bool multishot) noexcept {
    if (static_cast<link<starving_kind>&>(*this).linked()) return;
    // A poll would end at once, and nothing be received: settle() brings us back.
    if (arrived_ && promised_ != nullptr) return;
    if (!arrived_ && hub().in_group() == 0) return hub().starve(*this);
    request_ = port_->core().begin_receive(*this);
    if (request_ == 0) return hub().await_room(*this); // what was begun before there were so many streams is in flight
    cancelled_ = false;
    if (arrived_) {
        port_->core().reserve_requests(-1);
        port_->core().driver().poll(request_, port_->file(), POLLIN, false);
        return;
    }
    armed_multishot_ = multishot && port_->core().driver().supports(ring::feature::receive_multishot);
    port_->core().reserve_requests(-1);
    port_->core().driver().receive(request_, port_->file(), hub().group(), armed_multishot_);
}

void stream_reader::on_completion(std::uint32_t, const ring::completion& done) {
    const bool asked = cancelled_;
    if (!done.more) {
        request_ = 0;
        port_->core().reserve_requests(1);
    }
    if (done.has_buffer) {
        packet_slot& slot = hub().took(done.buffer);
        if (done.result > 0 && !closed_) {
            slot.offset = pool().headroom();
            slot.size = static_cast<std::uint32_t>(done.result);
            slot.origin_size = 0;
            slot.forget_what_the_device_told();
            queue_.push_back(pool(), slot);
            hub().holds(*this);
        } else {
            pool().give(&slot);
        }
    }
    if (!done.more && done.result <= 0) receive_ended(done.result, asked);
    if (arrived_ && done.result > 0) receive_messages();
    serve();
    if (!closed_)
        port_->schedule();
    else if (!done.more)
        port_->progress();
}

void stream_reader::receive_ended(std::int32_t result, bool asked) {
    if (closed_) return;
    switch (-result) {
    case 0: ended_ = true; break;
    case ENOBUFS: hub().starve(*this); break;
    case EINTR:
    case EAGAIN: break;
    case EINVAL:
        if (armed_multishot_)
            port_->core().driver().lacks(ring::feature::receive_multishot);
        else
            error_ = EINVAL;
        break;
    case ECANCELED:
        if (asked) break;
        [[fallthrough]];
    default: error_ = -result;
    }
}

// Only for somebody who waits: what nobody asked for stays with the kernel. What there is no buffer for does, too.
void stream_reader::receive_messages() noexcept {
    for (unsigned count = 0; count < bound; ++count) {
        serve();
        if (closed_ || ended() || wants_slot_ || waiters_.empty() || promised_ != nullptr) return;
        if (!receive_message()) return;
    }
}

// False: there is no more for the moment.
bool stream_reader::receive_message() noexcept {
    packet_slot* slot = pool().take(small_packets);
    if (slot == nullptr) {
        wants_slot_ = true;
        hub().starve_of_pool(*this);
        return false;
    }
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(most_passed * sizeof(int))> control; // NOLINT: the kernel's
    const std::span<std::byte> space = pool().space(*slot);
    iovec into{space.data(), space.size()};
    msghdr message{};
    message.msg_iov = &into;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = arrived_->control_room();
    message.msg_flags = MSG_CMSG_CLOEXEC;
    const ssize_t result = port_->core().driver().receive_now(port_->file(), message);
    if (result <= 0) {
        pool().give(slot);
        receive_ended(static_cast<std::int32_t>(result), false);
        return false;
    }
    slot->offset = pool().headroom();
    slot->size = static_cast<std::uint32_t>(result);
    slot->origin_size = 0;
    arrived_->came(slot->size, std::span(control).first(message.msg_controllen), (message.msg_flags & MSG_CTRUNC) != 0);
    queue_.push_back(pool(), *slot);
    hub().holds(*this);
    return true;
}

void stream_reader::fed() noexcept {
    if (closed_) return;
    if (std::exchange(wants_slot_, false)) serve();
    if (request_ == 0 && !ended() && !waiters_.empty()) arm(false);
}

void stream_reader::prepare() noexcept {
    if (closed_) return;
    if (request_ != 0) {
        if (!cancelled_ && (waiters_.empty() || wants_slot_) && unread_buffers() >= bound) cancel();
    } else if (!waiters_.empty() && !ended() && !wants_slot_) {
        arm(true);
    }
}

void stream_reader::retry() noexcept { port_->schedule(); }

// What comes later stays with the kernel until somebody waits for it: the buffers that this gives back would let the
// peer send as much again, and again, into memory that nothing bounds.
void stream_reader::spill() noexcept {
    if (!is_free()) return;
    move_to_spill();
    cancel();
}

std::size_t stream_reader::unread_buffers() const noexcept {
    const std::size_t payload = pool().payload(small_packets);
    return queue_.size() + (spill_.size() - spilled_ + payload - 1) / payload;
}

void stream_reader::move_to_spill() noexcept {
    if (queue_.empty()) return;
    try {
        std::size_t size = 0;
        stream_queue all = queue_;
        for (stream_queue rest = queue_; !rest.empty();) size += rest.pop_front(pool()).size;
        spill_.reserve(spill_.size() + size);
        while (!all.empty()) {
            const packet_slot& slot = all.pop_front(pool());
            spill_.insert(spill_.end(), slot.base + slot.offset, slot.base + slot.offset + slot.size);
        }
    } catch (const std::bad_alloc&) { // it keeps its buffers, then
        return;
    }
    drop_queue();
}

// --- the end -------------------------------------------------------------------------------------------------------

void stream_reader::drop_queue() noexcept {
    while (!queue_.empty()) {
        pool().give(&queue_.pop_front(pool()));
        hub().released(*this);
    }
}

void stream_reader::drop() noexcept {
    drop_queue();
    spill_ = {};
    spilled_ = 0;
    if (arrived_) arrived_->drop_unread();
}

// What has arrived for a waiter is its own; the buffers are the others'.
void stream_reader::close() noexcept {
    closed_ = true;
    static_cast<link<starving_kind>&>(*this).leave();
    static_cast<link<room_kind>&>(*this).leave();
    while (!waiters_.empty()) {
        auto& w = static_cast<stream_read_waiter&>(waiters_.front());
        w.failure_ = ECANCELED;
        port_->core().make_ready(w);
    }
    if (promised_ != nullptr) move_to_spill();
    drop_queue();
    if (promised_ == nullptr) drop();
}

void stream_reader::cancel() noexcept {
    if (request_ != 0 && !std::exchange(cancelled_, true)) port_->core().driver().cancel(request_);
}

} // namespace cotun::detail
