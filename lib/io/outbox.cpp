// SPDX-License-Identifier: Apache-2.0
#include "io/outbox.hpp"

#include "io/fail.hpp"
#include "io/packet_port.hpp"
#include "io/reactor_core.hpp"

#include <bit>
#include <cassert>
#include <cerrno>
#include <fmt/format.h>

namespace cotun::detail {

outbox::outbox(packet_port& port, reactor_core& core, unsigned window)
    : port_(&port), core_(&core), entries_(std::make_unique<entry[]>(window)), mask_(window - 1) {
    assert(std::has_single_bit(window));
}

bool outbox::offer(packet*& next, packet* end) noexcept {
    for (; next != end; ++next) {
        if (!*next) continue;
        if (!has_room()) return false;
        accept(packet_pool::unwrap(std::move(*next)));
    }
    return true;
}

void outbox::accept(packet_slot* slot) noexcept {
    entry& e = at(accepted_++);
    e.slot = slot;
    e.size = slot->size;
    e.request = 0;
    e.next = nowhere;
    e.refused = false;
    if (submitted_ + 1 == accepted_) submit();
}

void outbox::submit() {
    if (settling_) return;
    if (refused_ != 0) submit_refused();
    if (refused_ != 0) return;
    while (submitted_ != accepted_ && failure_ == 0 && submit_next()) {}
    if (awaited()) core_->driver().report_sends();
}

bool outbox::submit_next() {
    packet_slot& slot = *at(submitted_).slot;
    if (!admits(slot)) return false;
    const std::size_t place = first_place();
    const ring::token request = submit_first();
    if (request == 0) return false;
    transmit(request, place, slot);
    return true;
}

ring::token outbox::submit_first() {
    entry& e = at(submitted_);
    e.request = core_->begin(*this, static_cast<std::uint32_t>(first_place()));
    if (e.request == 0) {
        core_->await_room(*this);
        return 0;
    }
    ++in_flight_;
    ++tried_;
    ++submitted_;
    return e.request;
}

ring::token outbox::submit_several(std::size_t batch, std::span<const std::uint32_t> indices) noexcept {
    const std::uint64_t first = submitted_ - batch;
    const std::size_t place = (first + indices.front()) & mask_;
    const ring::token request = core_->begin(*this, static_cast<std::uint32_t>(place));
    assert(request != 0);
    ++in_flight_;
    ++tried_;
    at(first + indices.front()).request = request;
    for (std::size_t i = 1; i < indices.size(); ++i)
        at(first + indices[i - 1]).next = static_cast<std::uint16_t>((first + indices[i]) & mask_);
    return request;
}

ring::token outbox::submit_again(std::size_t place) {
    entry& e = entries_[place];
    e.request = core_->begin(*this, static_cast<std::uint32_t>(place));
    if (e.request == 0)
        core_->await_room(*this);
    else
        ++in_flight_;
    return e.request;
}

void outbox::refuse_for_now(std::size_t place) noexcept {
    entry& e = entries_[place];
    e.request = 0;
    left(place);
    if (e.refused) return;
    if (refused_ == 0) misjudged();
    e.refused = true;
    ++refused_;
}

// The first of them, unless it is with the kernel already; and further ones, as long as they are over at once.
void outbox::submit_refused() {
    for (std::uint64_t place = done_; refused_ != 0; ++place) {
        entry& e = at(place);
        if (!e.refused || e.slot == nullptr) continue;
        std::int32_t result = 0;
        if (e.request != 0 || go_again(place & mask_, *e.slot, result)) return;
        --refused_;
        finish(place & mask_, result);
    }
    leave_behind();
}

bool outbox::go_again(std::size_t place, packet_slot& slot, std::int32_t&) {
    const ring::token request = submit_again(place);
    if (request != 0) transmit_waiting(request, place, slot);
    return true;
}

// Whether anything here goes on when a write has ended; else the driver may keep that to itself until something else
// happens.
bool outbox::awaited() const noexcept {
    return submitted_ != accepted_ || refused_ != 0 || !waiters_.empty() || !flushers_.empty() || closed_;
}

void outbox::wait(write_waiter& w) noexcept {
    waiters_.push_back(w);
    core_->driver().report_sends();
}

void outbox::wait(flush_waiter& w) noexcept {
    flushers_.push_back(w);
    core_->driver().report_sends();
}

void outbox::retry() {
    submit();
    go_on();
}

void outbox::go_on() {
    admit_waiters();
    wake_flushers();
    if (closed_) port_->progress();
}

void outbox::on_completion(std::uint32_t place, const ring::completion& done) {
    --in_flight_;
    if (!entries_[place].refused) --tried_;
    if (entries_[place].next == nowhere)
        end_one(place, done.result);
    else
        end_several(place, done.result);
    settling_ = tried_ != 0 && (tries_ || refused_ != 0);
    advance();
}

void outbox::end_one(std::size_t place, std::int32_t result) {
    entry& e = entries_[place];
    const bool again = is_to_go_again(e, result);
    if (again && failure_ == 0) return refuse_for_now(place);
    refused_ -= e.refused;
    finish(place, again ? -ECANCELED : result); // given up with all others
}

void outbox::end_several(std::size_t first, std::int32_t result) {
    std::size_t count = 0;
    for (std::size_t place = first; place != nowhere; place = entries_[place].next) ++count;
    std::size_t over = count;
    if (result >= 0)
        went_together(first);
    else if (!is_final(-result))
        over = result == -EAGAIN && tries_ ? 0 : fail_together(first, count, -result);
    for (std::size_t place = first; place != nowhere;) {
        entry& e = entries_[place];
        const std::size_t next = std::exchange(e.next, nowhere);
        if (over > 0) {
            --over;
            finish(place, result < 0 ? result : whole(*e.slot));
        } else if (failure_ == 0) {
            refuse_for_now(place);
        } else {
            finish(place, -ECANCELED); // given up with all others
        }
        place = next;
    }
}

bool outbox::is_to_go_again(entry& e, std::int32_t& result) {
    if (result == -EAGAIN && tries_ && !e.refused) return true;
    return e.slot->has_offload && goes_again(*e.slot, result);
}

void outbox::written_first(std::int32_t result) { finish(submitted_++ & mask_, result); }

void outbox::finish(std::size_t place, std::int32_t result) {
    entry& e = entries_[place];
    left(place);
    core_->pool().give(std::exchange(e.slot, nullptr));
    e.request = 0;
    if (result < 0) {
        count(meaning_of(-result));
    } else if (static_cast<std::uint32_t>(result) != e.size + prefix_) {
        ++statistics_.other; // a part of it
        if (first_failure_ == 0) first_failure_ = EIO;
    } else {
        ++statistics_.packets;
        statistics_.bytes += e.size;
    }
}

void outbox::advance() {
    leave_behind();
    if (!awaited()) return;
    if (submitted_ != accepted_ || refused_ != 0) submit();
    admit_waiters();
    wake_flushers();
    if (closed_) port_->progress();
}

void outbox::admit_waiters() {
    while (!waiters_.empty() && failure_ == 0) {
        auto& w = static_cast<write_waiter&>(waiters_.front());
        if (!offer(w.next_, w.end_)) return;
        core_->make_ready(w);
    }
}

void outbox::wake_flushers() noexcept {
    while (!flushers_.empty()) {
        auto& w = static_cast<flush_waiter&>(flushers_.front());
        if (!written(w.until_)) return;
        core_->make_ready(w);
    }
}

void outbox::count(int error) {
    switch (error) {
    case EIO:
    case ENETDOWN: ++statistics_.link_down; break;
    case EINVAL:
    case EAFNOSUPPORT:
    case EPROTONOSUPPORT: ++statistics_.invalid; break;
    case EMSGSIZE: ++statistics_.too_large; break;
    case ECONNREFUSED:
    case ECONNRESET:
    case ENOENT: // Unix sockets: there is no such file
    case ENOTCONN: ++statistics_.refused; break;
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EADDRNOTAVAIL: ++statistics_.unreachable; break;
    case ENOBUFS:
    case ENOMEM: ++statistics_.no_memory; break;
    case EPERM:
    case EACCES: ++statistics_.not_permitted; break;
    case ECANCELED: // cancelled while closing
        ++statistics_.dropped;
        break;
    default: ++statistics_.other;
    }
    if (first_failure_ == 0) first_failure_ = error;
    if (failure_ == 0 && is_final(error)) fail(error);
}

void outbox::fail(int error) {
    failure_ = error;
    drop_unsubmitted();
    drop_refused();
    while (!waiters_.empty()) {
        auto& w = static_cast<write_waiter&>(waiters_.pop_front());
        w.failure_ = error;
        core_->make_ready(w);
    }
}

void outbox::drop_unsubmitted() noexcept {
    while (accepted_ != submitted_) {
        entry& e = at(--accepted_);
        dropped(*e.slot);
        core_->pool().give(std::exchange(e.slot, nullptr));
        ++statistics_.dropped;
    }
}

// But for the one that is with the kernel.
void outbox::drop_refused() noexcept {
    for (std::uint64_t place = done_; refused_ != 0 && place != submitted_; ++place) {
        entry& e = at(place);
        if (!e.refused || e.slot == nullptr || e.request != 0) continue;
        left(place & mask_);
        dropped(*e.slot);
        core_->pool().give(std::exchange(e.slot, nullptr));
        ++statistics_.dropped;
        --refused_;
    }
}

void outbox::throw_failure(int error) const {
    detail::fail(error, fmt::format("{}: writing: {}", port_->describe(), port_->explain(error)));
}

void outbox::close() {
    closing();
    closed_ = true;
    refusal_ = ECANCELED;
    core_->driver().report_sends();
    while (!waiters_.empty()) {
        auto& w = static_cast<write_waiter&>(waiters_.pop_front());
        w.failure_ = ECANCELED;
        core_->make_ready(w);
    }
}

void outbox::cancel() noexcept {
    if ((accepted_ != submitted_ || refused_ != 0) && first_failure_ == 0) first_failure_ = ECANCELED; // flush() tells
    drop_unsubmitted();
    drop_refused();
    leave_behind();
    cancel_own();
    for (std::uint64_t place = 0; place <= mask_; ++place)
        if (const ring::token request = entries_[place].request) core_->driver().cancel(request);
    if (failure_ == 0) failure_ = ECANCELED;
    wake_flushers();
}

} // namespace cotun::detail
