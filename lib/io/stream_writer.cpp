// SPDX-License-Identifier: Apache-2.0
#include "io/stream_writer.hpp"

#include "io/passed_descriptors.hpp"
#include "io/stream_hub.hpp"
#include "io/stream_port.hpp"

#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace cotun::detail {

// --- those who write -----------------------------------------------------------------------------------------------

int stream_writer::refusal() const noexcept {
    if (failure_ != 0) return failure_;
    if (closed_) return ECANCELED;
    return shutting_ != shutting::no ? EPIPE : 0;
}

// Behind others that wait, a write waits too.
bool stream_writer::accept(stream_write_operation& w) noexcept {
    if (!waiters_.empty() || w.beside_ != nullptr) return false;
    if (!w.packet_) return accept_copy(w.bytes_, w.pieces_);
    if (queue_.size() >= window || !port_->hub().may_keep_to_send()) return false;
    packet_slot* slot = packet_pool::unwrap(std::move(w.packet_));
    queue_.push_back(port_->core().pool(), *slot);
    port_->hub().keeps_to_send();
    accepted_ += slot->size;
    port_->schedule();
    return true;
}

bool stream_writer::accept_copy(std::span<const std::byte> bytes, piece_list pieces) noexcept {
    packet_pool& pool = port_->core().pool();
    const std::size_t payload = pool.payload(small_packets);
    std::size_t all = bytes.size();
    for (std::size_t i = 0; i < pieces.size() && all <= payload; ++i) all += pieces[i].size();
    if (all > payload) return false;
    std::size_t room = std::min(all, room_in_last());
    packet_slot* last = room > 0 ? &queue_.back(pool) : nullptr;
    packet_slot* more = nullptr;
    if (room < all) {
        more = queue_.size() < window ? port_->hub().take_to_send() : nullptr;
        if (more == nullptr) return false;
        pool.start(*more, 0);
    }
    const auto append = [](packet_slot& to, std::span<const std::byte> piece) {
        if (piece.empty()) return;
        std::memcpy(to.base + to.offset + to.size, piece.data(), piece.size());
        to.size += static_cast<std::uint32_t>(piece.size());
    };
    for (;; pieces = pieces.subspan(1)) {
        const std::size_t fits = std::min(bytes.size(), room);
        if (fits > 0) append(*last, bytes.first(fits));
        if (fits < bytes.size()) append(*more, bytes.subspan(fits));
        room -= fits;
        if (pieces.empty()) break;
        bytes = pieces.front();
    }
    if (more != nullptr) queue_.push_back(pool, *more);
    accepted_ += all;
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
    auto* const first = waiters_.empty() ? nullptr : &static_cast<stream_write_operation&>(waiters_.front());
    const bool alone = queue_.empty() && first != nullptr && first->beside_ != nullptr;
    const std::size_t pieces = queue_.size() + (first != nullptr ? 1 + first->pieces_.size() : 0);
    if ((pieces > 1 || alone) && !gather_) gather_.reset(new (std::nothrow) gather);
    if (alone && !gather_) {
        first->failure_ = ENOMEM;
        port_->core().make_ready(*first);
        return port_->schedule();
    }
    const std::size_t most = gather_ ? gather_->pieces.size() : 1; // short of memory: one by one
    request_ = port_->core().begin(*this, 0);
    if (request_ == 0) return port_->hub().await_room(*this);
    end_asked_ = false;
    flying_ = 0;
    flier_ = nullptr;
    if (alone) return submit_with_descriptors(*first);
    std::size_t used = 0;
    iovec only{};
    const auto add = [&](const std::byte* data, std::size_t size) {
        (most > 1 ? gather_->pieces[used] : only) = {const_cast<std::byte*>(data), size};
        ++used;
    };
    for (stream_queue rest = queue_; !rest.empty() && used < most; ++flying_) {
        const packet_slot& slot = rest.pop_front(pool);
        add(slot.base + slot.offset, slot.size);
    }
    if (first != nullptr && first->beside_ == nullptr && flying_ == queue_.size() && used < most) {
        flier_ = first;
        add(first->bytes_.data(), first->bytes_.size());
        for (std::size_t i = 0; i < first->pieces_.size() && used < most; ++i)
            if (!first->pieces_[i].empty()) add(first->pieces_[i].data(), first->pieces_[i].size());
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

// Nothing else is in this send. The kernel reads the control message whenever it tries, until it has ended.
void stream_writer::submit_with_descriptors(stream_write_operation& w) noexcept {
    flier_ = &w;
    gather_->pieces[0] = {const_cast<std::byte*>(w.bytes_.data()), w.bytes_.size()};
    gather_->header = msghdr{};
    gather_->header.msg_iov = gather_->pieces.data();
    gather_->header.msg_iovlen = 1;
    gather_->header.msg_control = w.beside_->control();
    gather_->header.msg_controllen = w.beside_->control_size();
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
    const bool goes_on = error <= 0 || error == EINTR || error == EAGAIN || (error == ECANCELED && asked) ||
                         (flier != nullptr && ends_one(*flier, error));
    if (!goes_on && failure_ == 0) fail(error);
    if (failure_ != 0) drop();
    wake_flushers();
    port_->schedule();
    port_->progress();
}

// Descriptors that the kernel does not take are no reason to end the stream: nothing of the write has gone.
bool stream_writer::ends_one(stream_write_operation& w, int error) noexcept {
    if (w.beside_ == nullptr) return false;
    if (error != EBADF && error != EINVAL && error != ETOOMANYREFS && error != EPERM && error != EACCES) return false;
    if (w.is_ready()) return true; // stopped meanwhile
    w.failure_ = error;
    port_->core().make_ready(w);
    return true;
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
    if (w.beside_ != nullptr) std::exchange(w.beside_, nullptr)->clear();
    w.advance(count);
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
