// SPDX-License-Identifier: Apache-2.0
#include "io/inbox.hpp"

#include "io/fail.hpp"
#include "io/packet_port.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cerrno>
#include <chrono>
#include <fmt/format.h>
#include <poll.h>

namespace cotun::detail {
namespace {

constexpr unsigned reads_a_pass = 64;      // poll: what one reader may take before the others have their turn
constexpr unsigned failures_survived = 64; // in a row, without a packet between them
constexpr std::chrono::milliseconds longest_pause{100};
constexpr unsigned buffers_at_once = 64;

} // namespace

inbox::inbox(packet_port& port, reactor_core& core, size_class c, read_mode mode, ring::feature needed, unsigned quota,
             unsigned parts)
    : port_(&port),
      core_(&core),
      class_(c),
      mode_(mode),
      needed_(needed),
      multishot_(mode == read_mode::multishot || (mode == read_mode::automatic && core.driver().supports(needed))),
      quota_(quota),
      target_(quota),
      in_group_(quota),
      queue_(quota * parts) {}

void inbox::start() {
    core_->add_reader(*this, class_);
    if (multishot_) make_group();
    state_ = state::reading;
    core_->prepare_later(*this);
}

// A group takes memory that is locked; where there is none to be had, poll serves.
void inbox::make_group() {
    try {
        group_ = core_->driver().add_group(std::bit_ceil(std::min(quota_, core_->pool().count(class_))));
        has_group_ = true;
    } catch (const std::system_error& refused) {
        if (refused.code().value() != ENOMEM || mode_ == read_mode::multishot) throw;
        multishot_ = false;
    }
}

// Buffers cannot be taken out of a group one by one; a reader that holds more than its new share ends its read, empties
// the group, and starts again with less.
void inbox::set_share(unsigned share) noexcept {
    target_ = std::min(share, quota_);
    if (state_ != state::reading || !multishot_ || in_group_.size() <= target_) return;
    state_ = state::withdrawing;
    end_read();
    core_->prepare_later(*this);
}

// The kernel may fill the old buffers until the read has ended; only then is the group made anew.
bool inbox::make_room_for(std::size_t size) noexcept {
    packet_pool& pool = core_->pool();
    if (size <= pool.payload(class_)) return true;
    if (size > pool.payload(large_packets) || pool.count(large_packets) == 0) return false;
    if (state_ == state::made) {
        class_ = large_packets;
        return true;
    }
    if (state_ != state::reading && state_ != state::withdrawing) return false;
    if (!core_->move_reader(*this, class_, large_packets)) return false;
    class_ = large_packets;
    if (!multishot_) return true;
    state_ = state::withdrawing;
    end_read();
    core_->prepare_later(*this);
    return true;
}

// --- packets -------------------------------------------------------------------------------------------------------

void inbox::deliver(packet_slot& slot) {
    if (several_ != 0) return deliver_parts(slot, std::exchange(several_, 0U));
    ++statistics_.packets;
    statistics_.bytes += slot.size;
    failures_in_row_ = 0;
    starved_ = false;
    queue_.push_back(&slot);
    if (!waiters_.empty()) promise();
}

void inbox::deliver_parts(packet_slot& slot, std::uint32_t size) {
    unsigned count = 0;
    failures_in_row_ = 0;
    starved_ = false;
    statistics_.bytes += slot.size;
    for (std::uint32_t at = 0; at < slot.size; at += size) {
        if (count == packet_pool::most_views) { // a later kernel's
            ++statistics_.truncated;
            break;
        }
        packet_slot* const part = core_->pool().view(slot, count++, slot.offset + at, std::min(size, slot.size - at));
        queue_.push_back(part);
    }
    statistics_.packets += count;
    shared_ += count - 1;
    for (; count > 0 && !waiters_.empty(); --count) promise();
}

packet_slot* inbox::pop() noexcept {
    packet_slot* const slot = queue_.pop_front();
    if (shared_ != 0 && !queue_.empty()) parted(*slot, *queue_.front());
    return slot;
}

void inbox::drop_last() noexcept {
    packet_slot* const slot = queue_.pop_back();
    if (shared_ != 0 && !queue_.empty()) parted(*slot, *queue_.back());
    drop(slot);
}

// Those that share a buffer stand side by side.
void inbox::parted(const packet_slot& taken, const packet_slot& neighbour) noexcept {
    const packet_pool& pool = core_->pool();
    if (&pool.buffer_of(taken) == &pool.buffer_of(neighbour)) --shared_;
}

void inbox::promise() {
    auto& w = static_cast<read_waiter&>(waiters_.pop_front());
    w.promised_ = true;
    ++promised_;
    core_->make_ready(w);
}

packet inbox::take() {
    if (!has_packet()) throw_failure(failure_ != 0 ? failure_ : ECANCELED);
    packet p = packet_pool::lease(pop());
    if (state_ == state::reading) core_->prepare_later(*this);
    return p;
}

packet inbox::take_promised() {
    --promised_;
    return take();
}

void inbox::decline() {
    --promised_;
    if (state_ == state::closed)
        drop(pop());
    else if (!waiters_.empty())
        promise();
}

// Nothing is read any more; the buffers are the others'. The packets that have come stay.
void inbox::fail(int error) {
    if (state_ != state::closed) {
        state_ = state::ended;
        release();
    }
    end_waiters(error);
}

void inbox::end_waiters(int error) {
    failure_ = error;
    while (!waiters_.empty()) {
        auto& w = static_cast<read_waiter&>(waiters_.pop_front());
        w.failure_ = error;
        core_->make_ready(w);
    }
}

void inbox::throw_failure(int error) const {
    detail::fail(error, fmt::format("{}: reading: {}", port_->describe(), port_->explain(error)));
}

// Failures that a later read may survive. A refusal by the network comes once for a datagram of ours: however many
// there are, they are not the end. Of others, such as a shortage of memory, a run is.
bool inbox::survives(int error) {
    failed(error);
    if (is_final(error)) return false;
    ++statistics_.refused;
    switch (error) {
    case ECONNREFUSED:
    case ECONNRESET: // a Unix datagram's peer went on to another
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETUNREACH:
    case ENONET:
    case ENOPROTOOPT:
    case EPROTO:
    case EMSGSIZE: return true;
    default: ++failures_in_row_;
    }
    if (failures_in_row_ > failures_survived) return false;
    if (failures_in_row_ > 1 && !armed()) { // a poll may fail while a read's failure is waited out
        const std::chrono::milliseconds pause(1U << std::min(failures_in_row_ - 2, 10U));
        core_->arm_reserved(*this, core_->driver().now() + std::min(pause, longest_pause));
    }
    return true;
}

// --- the kernel's side ---------------------------------------------------------------------------------------------

void inbox::prepare() noexcept {
    if (state_ == state::withdrawing && request_ == 0) start_again();
    if (state_ != state::reading || armed()) return;
    if (multishot_) {
        refill();
        if (request_ == 0 && !in_group_.empty()) arm_again();
    } else {
        if (request_ == 0) arm_again();
        if (readable_) read_ready();
    }
}

void inbox::start_again() {
    state_ = state::reading;
    empty_group();
    try {
        make_group();
    } catch (const std::system_error& refused) {
        fail(refused.code().value());
    }
}

void inbox::starve() {
    if (std::exchange(starved_, true)) return;
    ++statistics_.buffers_exhausted;
    ++core_->counters.buffers_exhausted;
}

void inbox::refill() {
    std::array<ring::group_buffer, buffers_at_once> batch;
    unsigned filled = 0;
    while (held() < target_) {
        packet_slot* slot = core_->pool().take(class_);
        if (slot == nullptr) {
            if (in_group_.empty()) starve();
            core_->await_buffer(*this, class_);
            break;
        }
        const std::span<std::byte> space = core_->pool().space(*slot);
        batch[filled++] = {space.data(), static_cast<std::uint32_t>(space.size()), core_->pool().index_of(*slot)};
        in_group_.push_back(slot);
        if (filled == batch.size()) core_->driver().provide(group_, {batch.data(), std::exchange(filled, 0U)});
    }
    if (filled > 0) core_->driver().provide(group_, {batch.data(), filled});
}

void inbox::arm_again() {
    request_ = core_->begin(*this, 0, true);
    cancelled_ = false;
    assert(request_ != 0); // add_reader saw to it
    if (multishot_) {
        if (proven_) {
            ++statistics_.rearms;
            ++core_->counters.rearms;
        }
        arm(request_, group_);
    } else {
        core_->driver().poll(request_, port_->file(), POLLIN, true);
    }
}

void inbox::on_completion(std::uint32_t, const ring::completion& done) {
    if (!done.more) request_ = 0;
    if (!multishot_) {
        polled(done);
    } else {
        if (done.has_buffer) {
            packet_slot& slot = core_->pool().slot(done.buffer);
            leave_group(slot);
            proven_ = true;
            if (done.result >= 0 && state_ == state::closed) discard(slot, done.result);
            if (done.result >= 0 && state_ != state::closed && place(slot, done.result))
                deliver(slot);
            else
                core_->pool().give(&slot);
            if (end_ != 0 && done.more) end_read();
            if (state_ == state::reading) core_->prepare_later(*this);
        }
        if (!done.more) multishot_ended(done.result);
    }
    if (!done.more && state_ == state::closed) port_->progress();
}

void inbox::multishot_ended(std::int32_t result) {
    if (state_ == state::closed || state_ == state::ended) return;
    if (end_ != 0) return fail(end_);
    if (result == -EINVAL && !proven_) {
        core_->driver().lacks(needed_);
        if (mode_ == read_mode::multishot) return fail(EINVAL);
        return fall_back_to_poll();
    }
    const bool out_of_buffers = result == -ENOBUFS;
    if (out_of_buffers) starve();
    const bool asked_for = result == -ECANCELED && cancelled_;
    if (result < 0 && !out_of_buffers && !asked_for && !survives(-result)) return fail(-result);
    core_->prepare_later(*this); // refills, and arms again if there is a buffer
}

void inbox::fall_back_to_poll() {
    empty_group();
    multishot_ = false;
    state_ = state::reading;
    core_->prepare_later(*this);
}

void inbox::polled(const ring::completion& done) {
    if (state_ != state::reading) return;
    const bool asked_for = done.result == -ECANCELED && cancelled_;
    if (done.result < 0 && !asked_for && !survives(-done.result)) return fail(-done.result);
    readable_ = true;
    core_->prepare_later(*this);
}

void inbox::read_ready() {
    for (unsigned reads = 0; reads < reads_a_pass; ++reads) {
        if (buffers_waiting() >= target_) return starve(); // take() brings us back
        packet_slot* slot = core_->pool().take(class_);
        if (slot == nullptr) {
            starve();
            return core_->await_buffer(*this, class_);
        }
        const ssize_t result = read_now(*slot);
        if (result >= 0 && place(*slot, static_cast<std::int32_t>(result))) {
            deliver(*slot);
            continue;
        }
        core_->pool().give(slot);
        if (end_ != 0) {
            end_read();
            return fail(end_);
        }
        if (result >= 0 || result == -EINTR) continue;
        if (result == -EAGAIN) {
            readable_ = false;
            return;
        }
        if (!survives(static_cast<int>(-result))) return fail(static_cast<int>(-result));
        if (armed()) return; // on_time() brings us back
    }
    core_->prepare_later(*this);
}

// --- the end -------------------------------------------------------------------------------------------------------

void inbox::close() {
    state_ = state::closed;
    core_->disarm(*this);
    end_waiters(failure_ != 0 ? failure_ : ECANCELED);
    while (has_packet()) drop_last(); // but what has arrived for a waiter is its own
}

void inbox::drop(packet_slot* slot) noexcept {
    dropped(*slot);
    packet_pool::lease(slot).reset();
}

void inbox::look_again() noexcept {
    if (state_ == state::reading) end_read();
}

void inbox::cancel() noexcept {
    end_read();
    cancel_own();
}

void inbox::end_read() noexcept {
    if (request_ != 0 && !std::exchange(cancelled_, true)) core_->driver().cancel(request_);
}

void inbox::empty_group() noexcept {
    if (!has_group_) return;
    assert(request_ == 0); // else the kernel would still fill them
    has_group_ = false;
    core_->driver().remove_group(group_);
    while (!in_group_.empty()) core_->pool().give(in_group_.pop_front());
}

// The kernel fills buffers in the order in which they were provided, except where it put one back.
void inbox::leave_group(packet_slot& slot) {
    for (std::size_t passed = in_group_.size(); passed > 0; --passed) {
        packet_slot* first = in_group_.pop_front();
        if (first == &slot) return;
        in_group_.push_back(first);
    }
    assert(false && "a buffer came back that was not in the group");
}

void inbox::release() noexcept {
    empty_group();
    core_->forget(*this);
    core_->remove_reader(*this);
}

} // namespace cotun::detail
