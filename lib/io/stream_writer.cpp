// SPDX-License-Identifier: Apache-2.0
#include "io/stream_writer.hpp"

#include "io/stream_hub.hpp"
#include "io/stream_port.hpp"

#include <cerrno>
#include <cstring>
#include <new>

namespace cotun::detail {

// --- those who write -----------------------------------------------------------------------------------------------

int stream_writer::refusal() const noexcept {
    if (failure_ != 0) return failure_;
    if (closed_) return ECANCELED;
    return shutting_ != shutting::no ? EPIPE : 0;
}

// Behind others that wait, a write waits too.
bool stream_writer::accept(stream_write_operation& w) noexcept {
    if (!waiters_.empty()) return false;
    if (!w.packet_) return accept_copy(w.bytes_);
    if (queue_.size() >= window || !port_->hub().may_keep_to_send()) return false;
    packet_slot* slot = packet_pool::unwrap(std::move(w.packet_));
    queue_.push_back(port_->core().pool(), *slot);
    port_->hub().keeps_to_send();
    accepted_ += slot->size;
    port_->schedule();
    return true;
}

bool stream_writer::accept_copy(std::span<const std::byte> bytes) noexcept {
    packet_pool& pool = port_->core().pool();
    const std::size_t payload = pool.payload(small_packets);
    if (bytes.size() > payload) return false;
    const std::size_t room = std::min(bytes.size(), room_in_last());
    packet_slot* last = room > 0 ? &queue_.back(pool) : nullptr;
    packet_slot* more = nullptr;
    if (room < bytes.size()) {
        more = queue_.size() < window ? port_->hub().take_to_send() : nullptr;
        if (more == nullptr) return false;
        pool.start(*more, bytes.size() - room);
        std::memcpy(more->base + more->offset, bytes.data() + room, bytes.size() - room);
    }
    if (room > 0) {
        std::memcpy(last->base + last->offset + last->size, bytes.data(), room);
        last->size += static_cast<std::uint32_t>(room);
    }
    if (more != nullptr) queue_.push_back(pool, *more);
    accepted_ += bytes.size();
    port_->schedule();
    return true;
}

std::size_t stream_writer::room_in_last() const noexcept {
    if (queue_.size() <= flying_) return 0;
    const packet_slot& last = queue_.back(port_->core().pool());
    return last.capacity - last.offset - last.size;
}

// Whole buffers, and what is left of the last one.
std::size_t stream_writer::accept_some(const stream_write_operation& w) noexcept {
    if (!waiters_.empty()) return 0;
    const std::size_t payload = port_->core().pool().payload(small_packets);
    std::size_t taken = 0;
    for (std::size_t size = 0; taken < w.bytes_.size(); taken += size) {
        const std::span<const std::byte> rest = w.bytes_.subspan(taken);
        size = std::min(rest.size(), payload);
        if (accept_copy(rest.first(size))) continue;
        size = std::min(rest.size(), room_in_last());
        if (size == 0 || !accept_copy(rest.first(size))) break;
    }
    return taken;
}

void stream_writer::wait(stream_write_operation& w) noexcept {
    waiters_.push_back(w);
    port_->schedule();
}

void stream_writer::shut_down() {
    if (shutting_ != shutting::no) return;
    shutting_ = shutting::asked;
    port_->schedule();
}

void stream_writer::interrupt(stream_write_operation& w) noexcept {
    if (flier_ != &w) return end_interrupted(w);
    w.stopping_ = true;
    end_send();
}

void stream_writer::withdraw(stream_write_operation& w) {
    if (flier_ == &w) {
        w.stopping_ = true;
        end_send();
        while (flier_ == &w) port_->core().turn_or_end();
    } else if (w.linked() && !w.is_ready()) {
        end_interrupted(w);
    }
    w.unlink();
}

// --- the kernel's side ---------------------------------------------------------------------------------------------

void stream_writer::end_send() noexcept {
    if (request_ != 0 && !std::exchange(end_asked_, true)) port_->core().driver().cancel(request_);
}

void stream_writer::prepare() noexcept {
    if (request_ != 0 || failure_ != 0) return;
    if (!queue_.empty() || !waiters_.empty()) return submit();
    if (shutting_ != shutting::asked || closed_) return;
    shutting_ = shutting::done;
    port_->core().driver().shutdown_send(port_->file());
}

void stream_writer::submit() noexcept {
    packet_pool& pool = port_->core().pool();
    const std::size_t pieces = queue_.size() + (waiters_.empty() ? 0 : 1);
    if (pieces > 1 && !gather_) gather_.reset(new (std::nothrow) gather);
    const std::size_t most = gather_ ? gather_->pieces.size() : 1; // short of memory: one by one
    request_ = port_->core().begin(*this, 0);
    if (request_ == 0) return port_->hub().await_room(*this);
    end_asked_ = false;
    std::size_t used = 0;
    iovec only{};
    const auto add = [&](const std::byte* data, std::size_t size) {
        (most > 1 ? gather_->pieces[used] : only) = {const_cast<std::byte*>(data), size};
        ++used;
    };
    flying_ = 0;
    for (stream_queue rest = queue_; !rest.empty() && used < most; ++flying_) {
        const packet_slot& slot = rest.pop_front(pool);
        add(slot.base + slot.offset, slot.size);
    }
    flier_ = nullptr;
    if (!waiters_.empty() && flying_ == queue_.size() && used < most) {
        flier_ = &static_cast<stream_write_operation&>(waiters_.front());
        add(flier_->bytes_.data(), flier_->bytes_.size());
    }
    if (used == 1) {
        const iovec& piece = most > 1 ? gather_->pieces[0] : only;
        // the kernel takes no more than it can say in its answer
        constexpr std::size_t at_once = 1U << 30;
        port_->core().driver().send(request_, port_->file(),
                                    {static_cast<const std::byte*>(piece.iov_base), std::min(piece.iov_len, at_once)});
        return;
    }
    gather_->header = msghdr{};
    gather_->header.msg_iov = gather_->pieces.data();
    gather_->header.msg_iovlen = used;
    port_->core().driver().send_message(request_, port_->file(), gather_->header);
}

void stream_writer::on_completion(std::uint32_t, const ring::completion& done) {
    request_ = 0;
    const bool asked = std::exchange(end_asked_, false);
    stream_write_operation* flier = std::exchange(flier_, nullptr);
    flying_ = 0;
    if (done.result > 0) advance(static_cast<std::size_t>(done.result));
    if (flier != nullptr && flier->stopping_ && !flier->is_ready()) end_interrupted(*flier);
    const int error = -done.result;
    const bool goes_on = error <= 0 || error == EINTR || error == EAGAIN || (error == ECANCELED && asked);
    if (!goes_on && failure_ == 0) fail(error);
    if (failure_ != 0) drop();
    wake_flushers();
    port_->schedule();
    port_->progress();
}

void stream_writer::advance(std::size_t count) noexcept {
    packet_pool& pool = port_->core().pool();
    while (count > 0 && !queue_.empty()) {
        packet_slot& slot = queue_.front(pool);
        const std::size_t size = std::min<std::size_t>(count, slot.size);
        count -= size;
        sent_ += size;
        slot.offset += static_cast<std::uint32_t>(size);
        slot.size -= static_cast<std::uint32_t>(size);
        if (slot.size > 0) return;
        port_->hub().sent(queue_.pop_front(pool));
    }
    if (count == 0) return;
    auto& w = static_cast<stream_write_operation&>(waiters_.front());
    w.bytes_ = w.bytes_.subspan(count);
    w.sent_ += count;
    if (w.bytes_.empty() || w.some_) port_->core().make_ready(w);
}

// Of what was cut off in its midst, the peer has a part: nothing may follow.
void stream_writer::end_interrupted(stream_write_operation& w) noexcept {
    w.unlink();
    w.stopped_ = true;
    const bool broken = w.sent_ > 0 && !w.bytes_.empty();
    port_->core().make_ready(w);
    if (broken && failure_ == 0) fail(ECONNABORTED);
}

void stream_writer::fail(int error) noexcept {
    failure_ = error;
    drop();
    while (!waiters_.empty()) finish(static_cast<stream_write_operation&>(waiters_.front()));
    wake_flushers();
}

void stream_writer::finish(stream_write_operation& w) noexcept {
    w.failure_ = failure_;
    port_->core().make_ready(w);
}

void stream_writer::drop() noexcept {
    while (!queue_.empty()) port_->hub().sent(queue_.pop_front(port_->core().pool()));
}

void stream_writer::wake_flushers() noexcept {
    while (!flushers_.empty()) {
        auto& w = static_cast<stream_flush_operation&>(flushers_.front());
        if (!sent(w.until_)) return;
        port_->core().make_ready(w);
    }
}

// --- the end -------------------------------------------------------------------------------------------------------

// A write whose memory is with the kernel ends when the kernel has let go of it.
void stream_writer::close() noexcept {
    closed_ = true;
    waiter_list others;
    others.splice_back(waiters_);
    while (!others.empty()) {
        auto& w = static_cast<stream_write_operation&>(others.front());
        if (&w == flier_) {
            waiters_.push_back(w);
            w.failure_ = ECANCELED;
            w.stopping_ = true;
            end_send();
        } else {
            w.failure_ = ECANCELED;
            port_->core().make_ready(w);
        }
    }
}

void stream_writer::cancel() noexcept {
    if (failure_ == 0) failure_ = ECANCELED;
    end_send();
    if (request_ == 0) drop();
    wake_flushers();
}

} // namespace cotun::detail
