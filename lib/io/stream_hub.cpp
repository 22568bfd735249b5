// SPDX-License-Identifier: Apache-2.0
#include "io/stream_hub.hpp"

#include "io/acceptor.hpp"
#include "io/stream_port.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <fmt/format.h>

namespace cotun::detail {
namespace {

constexpr unsigned usual_target = 256; // buffers of a group: a pass's worth at a few gigabits a second

// Of the small buffers, those that a driver with a small ring can hold.
unsigned usable(reactor_core& core) {
    const packet_pool& pool = core.pool();
    const unsigned all = pool.count(small_packets) + pool.count(large_packets);
    const std::uint64_t held = std::min(all, core.driver().buffer_capacity());
    return static_cast<unsigned>(held * pool.count(small_packets) / all);
}

} // namespace

stream_hub::stream_hub(reactor_core& core)
    : core_(&core),
      target_(std::clamp(usable(core) / 4, 1U, usual_target)),
      most_(std::max(2 * target_, core.pool().count(small_packets) / 2)),
      in_group_(core.pool().count(small_packets)) {}

stream_hub::~stream_hub() { remove_group(); }

unsigned stream_hub::most_streams() const noexcept { return core_->driver().capacity() / 8 * 5; }

bool stream_hub::admit() {
    if (streams_ >= most_streams()) return false;
    if (!has_group_) make_group();
    ++streams_;
    core_->reserve_requests(1);
    return true;
}

void stream_hub::dismiss() noexcept {
    core_->reserve_requests(-1);
    --streams_;
    // One that has nobody waiting any more takes no place: the next is asked.
    while (streams_ < most_streams() && !awaiting_admission_.empty()) awaiting_admission_.pop_front().serve();
    if (streams_ == 0) remove_group();
}

void stream_hub::await_admission(acceptor& a) noexcept { awaiting_admission_.push_back(a); }

std::string stream_hub::refusal() const {
    return fmt::format("{} streams are as many as {} requests allow; raise reactor_options::requests, or close some",
                       streams_, core_->driver().capacity());
}

void stream_hub::schedule(stream_port& stream) noexcept {
    if (static_cast<link<scheduled_kind>&>(stream).linked()) return;
    scheduled_.push_back(stream);
    core_->prepare_later(*this);
}

void stream_hub::await_room(stream_writer& writer) noexcept { awaiting_room_.push_back(writer); }
void stream_hub::await_room(stream_reader& reader) noexcept { readers_awaiting_room_.push_back(reader); }

void stream_hub::retry() noexcept {
    link_list<stream_writer, room_kind> now;
    now.take(awaiting_room_);
    while (!now.empty()) now.pop_front().port().schedule();
    link_list<stream_reader, room_kind> readers;
    readers.take(readers_awaiting_room_);
    while (!readers.empty()) readers.pop_front().retry();
}

// --- receiving -----------------------------------------------------------------------------------------------------

void stream_hub::make_group() {
    group_ = core_->driver().add_group(std::bit_ceil(target_));
    has_group_ = true;
    refill();
}

// Nothing is in flight that would use it: there is no stream.
void stream_hub::remove_group() noexcept {
    if (!has_group_) return;
    has_group_ = false;
    core_->driver().remove_group(group_);
    for (std::size_t i = 0; i < in_group_.size(); ++i) {
        if (!in_group_[i]) continue;
        in_group_[i] = false;
        core_->pool().give(&core_->pool().slot(static_cast<std::uint16_t>(i)));
    }
    in_group_count_ = 0;
    core_->forget(*this);
}

packet_slot& stream_hub::took(std::uint16_t index) noexcept {
    in_group_[index] = false;
    --in_group_count_;
    core_->prepare_later(*this); // refills
    return core_->pool().slot(index);
}

void stream_hub::holds(stream_reader& reader) noexcept {
    ++held_;
    if (!static_cast<link<holding_kind>&>(reader).linked()) holding_.push_back(reader);
}

void stream_hub::released(stream_reader& reader) noexcept {
    --held_;
    if (reader.held() == 0) static_cast<link<holding_kind>&>(reader).leave();
    if (!starving_.empty()) core_->prepare_later(*this);
}

void stream_hub::starve(stream_reader& reader) noexcept {
    if (static_cast<link<starving_kind>&>(reader).linked()) return;
    ++core_->counters.buffers_exhausted;
    starving_.push_back(reader);
    core_->prepare_later(*this);
}

void stream_hub::starve_of_pool(stream_reader& reader) noexcept {
    wanting_.push_back(reader);
    core_->await_buffer(*this); // not before: it would find none
}

void stream_hub::refill() noexcept {
    std::array<ring::group_buffer, 64> batch;
    packet_pool& pool = core_->pool();
    unsigned filled = 0;
    while (in_group_count_ < target_ && in_group_count_ + held_ < most_) {
        packet_slot* slot = pool.take(small_packets);
        if (slot == nullptr) break;
        const std::span<std::byte> space = pool.space(*slot);
        const std::uint16_t index = pool.index_of(*slot);
        batch[filled++] = {space.data(), static_cast<std::uint32_t>(space.size()), index};
        in_group_[index] = true;
        ++in_group_count_;
        if (filled == batch.size()) core_->driver().provide(group_, {batch.data(), std::exchange(filled, 0U)});
    }
    if (filled > 0) core_->driver().provide(group_, {batch.data(), filled});
}

// Those that nobody reads at present.
void stream_hub::spill() noexcept {
    link_list<stream_reader, holding_kind> all;
    all.take(holding_);
    const unsigned enough = held_ > target_ ? held_ - target_ : 0;
    while (!all.empty()) {
        stream_reader& reader = all.pop_front();
        holding_.push_back(reader);
        if (held_ > enough) reader.spill();
    }
}

// Before the group is filled: it would take every buffer that comes back, and they would wait for ever.
void stream_hub::serve_wanting() noexcept {
    link_list<stream_reader, starving_kind> now;
    now.take(wanting_);
    while (!now.empty() && core_->pool().available(small_packets) > 0) now.pop_front().fed();
    now.take(wanting_);
    wanting_.take(now);
}

void stream_hub::prepare() noexcept {
    if (!has_group_) return;
    serve_wanting();
    refill();
    if (!starving_.empty()) {
        if (in_group_count_ == 0) {
            spill();
            refill();
        }
        for (unsigned spare = in_group_count_; spare > 0 && !starving_.empty(); --spare) starving_.pop_front().fed();
    }
    const bool wants_more = in_group_count_ < target_ && (in_group_count_ == 0 || !starving_.empty());
    if (wants_more || !wanting_.empty()) core_->await_buffer(*this);
    link_list<stream_port, scheduled_kind> now;
    now.take(scheduled_);
    while (!now.empty()) now.pop_front().prepare();
}

// --- sending -------------------------------------------------------------------------------------------------------

bool stream_hub::may_keep_to_send() const noexcept { return sending_ < core_->pool().count(small_packets) / 4; }

packet_slot* stream_hub::take_to_send() noexcept {
    if (!may_keep_to_send()) return nullptr;
    packet_slot* slot = core_->pool().take(small_packets);
    if (slot != nullptr) ++sending_;
    return slot;
}

void stream_hub::sent(packet_slot& slot) noexcept {
    --sending_;
    core_->pool().give(&slot);
}

} // namespace cotun::detail
