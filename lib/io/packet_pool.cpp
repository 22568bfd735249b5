// SPDX-License-Identifier: Apache-2.0
#include "io/packet_pool.hpp"

#include "io/fail.hpp"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/mman.h>
#include <utility>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COTUN_ADDRESS_SANITIZER 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define COTUN_ADDRESS_SANITIZER 1
#endif
#if defined(COTUN_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#endif

namespace cotun::detail {
namespace {

// A buffer that nobody leases may not be touched: the sanitizer is told, since reuse would hide it.
void poison([[maybe_unused]] packet_slot& slot) noexcept {
#if defined(COTUN_ADDRESS_SANITIZER)
    __asan_poison_memory_region(slot.base, slot.capacity);
#endif
}
void unpoison([[maybe_unused]] packet_slot& slot) noexcept {
#if defined(COTUN_ADDRESS_SANITIZER)
    __asan_unpoison_memory_region(slot.base, slot.capacity);
#endif
}

void check(const char* name, unsigned value, unsigned least, unsigned most) {
    if (value < least || value > most)
        fail(EINVAL, fmt::format("reactor: pool option {} is {}; it must be {} to {}", name, value, least, most));
}

// Touched as it is used.
void* zero_memory(std::size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail(errno, fmt::format("reactor: {} bytes for packets", bytes));
    return memory;
}

constexpr unsigned line = 64;
unsigned whole_lines(unsigned bytes) { return (bytes + line - 1) / line * line; }

// From one buffer to the next: an odd number of cache lines, so that the headers of packets, which are what is touched
// most, spread over all sets of the cache. At 2048 bytes they would share two of the 64 of a usual first level.
std::size_t stride_of(unsigned size) { return size / line % 2 == 0 ? size + line : size; }

} // namespace

packet_pool::packet_pool(const pool_options& options) : headroom_(options.headroom), tailroom_(options.tailroom) {
    check("small_count", options.small_count, 1, 32768);
    check("small_size", options.small_size, 512, 65536);
    check("large_count", options.large_count, 0, 32767);
    check("large_size", options.large_size, 4096, 1U << 20);
    check("headroom", options.headroom, 0, options.small_size - 256);
    check("tailroom", options.tailroom, 0, options.small_size - options.headroom - 128);
    slots_ = std::make_unique<packet_slot[]>(options.small_count + options.large_count);
    offload_ = std::make_unique<offload::offload_state[]>(options.small_count + options.large_count);
    make_class(small_packets, options.small_count, whole_lines(options.small_size));
    try {
        make_class(large_packets, options.large_count, whole_lines(options.large_size));
    } catch (...) {
        munmap(classes_[small_packets].memory, classes_[small_packets].bytes);
        throw;
    }
}

packet_pool::~packet_pool() {
    for (unsigned i = 0; i < made_; ++i) unpoison(slots_[i]);
    for (buffer_class& c : classes_)
        if (c.memory != nullptr) munmap(c.memory, c.bytes);
    if (views_ != nullptr) munmap(views_, views_bytes_);
    if (view_offload_ != nullptr) munmap(view_offload_, view_count() * sizeof(offload::offload_state));
    if (view_ancillary_ != nullptr) munmap(view_ancillary_, view_count() * sizeof(ancillary));
}

void packet_pool::make_class(size_class index, unsigned count, unsigned size) {
    buffer_class& c = classes_[index];
    c.count = c.available = count;
    c.size = size;
    c.first = made_;
    c.free = std::make_unique<std::uint16_t[]>(count);
    if (count == 0) return;
    c.stride = stride_of(size);
    c.bytes = count * c.stride;
    c.memory = static_cast<std::byte*>(zero_memory(c.bytes));
    for (unsigned i = 0; i < count; ++i) {
        packet_slot& s = slots_[made_ + i];
        s.base = c.memory + i * c.stride;
        s.capacity = size;
        s.pool = this;
        c.free[count - 1 - i] = index_of(s);
        poison(s);
    }
    made_ += count;
}

packet_slot* packet_pool::take(size_class index) noexcept {
    buffer_class& c = classes_[index];
    if (c.available == 0) return nullptr;
    packet_slot* s = &slots_[c.free[--c.available]];
    unpoison(*s);
    return s;
}

void packet_pool::give(packet_slot* s) noexcept {
    if (is_view(*s)) return give_view(*s);
    const std::uint16_t index = index_of(*s);
    const size_class its = class_of(index);
    buffer_class& c = classes_[its];
    poison(*s);
    c.free[c.available++] = index;
    if (c.wanted) {
        c.wanted = false;
        listener_->on_buffer_returned(its);
    } else if (abandoned_ && all_back()) {
        delete this;
    }
}

void packet_pool::complete_checksum(packet_slot& slot) const noexcept {
    if (!slot.has_offload) return;
    offload::offload_state state = offload_of(slot);
    static_cast<void>(offload::complete_checksum({slot.base + slot.offset, slot.size}, state));
    slot.has_offload = false;
}

void packet_pool::keep_ancillary() {
    if (!ancillary_) ancillary_ = std::make_unique<ancillary[]>(made_);
    keep_view_ancillary();
}

// Zero bytes are a slot without a buffer, and a state of which nothing is known.
void packet_pool::keep_views() {
    if (views_ == nullptr && view_count() != 0) {
        if (view_offload_ == nullptr)
            view_offload_ =
                static_cast<offload::offload_state*>(zero_memory(view_count() * sizeof(offload::offload_state)));
        live_views_ = std::make_unique<std::uint8_t[]>(classes_[large_packets].count);
        views_ = static_cast<packet_slot*>(zero_memory(view_count() * sizeof(packet_slot)));
        views_bytes_ = view_count() * sizeof(packet_slot);
    }
    keep_view_ancillary();
}

// Zero bytes are ancillary data of which no field is set.
void packet_pool::keep_view_ancillary() {
    if (views_ == nullptr || !ancillary_ || view_ancillary_ != nullptr) return;
    view_ancillary_ = static_cast<ancillary*>(zero_memory(view_count() * sizeof(ancillary)));
}

packet_slot* packet_pool::view(packet_slot& whole, unsigned index, std::uint32_t offset, std::uint32_t size) noexcept {
    const std::size_t buffer = index_of(whole) - classes_[large_packets].first;
    packet_slot& made = views_[buffer * most_views + index];
    made = whole;
    made.base = whole.base + offset;
    made.capacity = made.size = size;
    made.offset = 0;
    made.has_offload = false;
    if (made.ancillary != ancillary_state::none) ancillary_of(made) = ancillary_of(whole);
    ++live_views_[buffer];
    return &made;
}

void packet_pool::give_view(const packet_slot& view) noexcept {
    const std::size_t buffer = view_index(view) / most_views;
    if (--live_views_[buffer] == 0) give(&slots_[classes_[large_packets].first + buffer]);
}

packet_slot* packet_pool::unshare(packet_slot* view) {
    const size_class fits = view->size <= payload(small_packets) ? small_packets : large_packets;
    packet_slot* const own = take(fits);
    if (own == nullptr) fail(ENOBUFS, "packet: no buffer is free to move a datagram into that came with others");
    start(*own, view->size);
    own->origin = view->origin;
    own->origin_size = view->origin_size;
    own->ancillary = view->ancillary;
    own->protocol = view->protocol;
    if (view->has_offload) set_offload(*own, state_of(*view));
    if (own->ancillary != ancillary_state::none) ancillary_of(*own) = ancillary_of(*view);
    std::memcpy(own->base + own->offset, view->base, view->size);
    give(view);
    return own;
}

void packet_pool::abandon() noexcept {
    abandoned_ = true;
    for (buffer_class& c : classes_) c.wanted = false;
    if (all_back()) delete this;
}

bool packet_pool::all_back() const noexcept {
    for (const buffer_class& c : classes_)
        if (c.available != c.count) return false;
    return true;
}

size_class packet_pool::class_for(std::size_t size) const {
    if (size <= payload(small_packets)) return small_packets;
    if (classes_[large_packets].count > 0 && size <= payload(large_packets)) return large_packets;
    fail(EMSGSIZE,
         fmt::format("packet pool: no buffer for {} bytes (small: {}, large: {}); raise "
                     "pool_options::large_size or large_count",
                     size, payload(small_packets), classes_[large_packets].count ? payload(large_packets) : 0));
}

void release(packet_slot* slot) noexcept { slot->pool->give_back(slot); }

} // namespace cotun::detail

namespace cotun {

using detail::fail;

std::span<std::byte> packet::prepend(std::size_t count) {
    if (count > headroom() && slot_->pool->is_view(*slot_)) slot_ = slot_->pool->unshare(slot_);
    if (count > headroom())
        fail(ENOBUFS, fmt::format("packet: prepending {} bytes, and the headroom is {}; raise pool_options::headroom",
                                  count, headroom()));
    slot_->offset -= static_cast<std::uint32_t>(count);
    slot_->size += static_cast<std::uint32_t>(count);
    if (slot_->has_offload) shift_offload(static_cast<int>(count));
    return bytes().first(count);
}

std::span<std::byte> packet::append(std::size_t count) {
    if (count > tailroom() && slot_->pool->is_view(*slot_)) slot_ = slot_->pool->unshare(slot_);
    if (count > tailroom())
        fail(ENOBUFS, fmt::format("packet: appending {} bytes, and the tailroom is {}; raise pool_options::tailroom",
                                  count, tailroom()));
    slot_->size += static_cast<std::uint32_t>(count);
    return bytes().last(count);
}

void packet::remove_prefix(std::size_t count) {
    if (count > size()) fail(EINVAL, fmt::format("packet: removing {} bytes of {}", count, size()));
    slot_->offset += static_cast<std::uint32_t>(count);
    slot_->size -= static_cast<std::uint32_t>(count);
    if (slot_->has_offload) shift_offload(-static_cast<int>(count));
}

void packet::remove_suffix(std::size_t count) {
    if (count > size()) fail(EINVAL, fmt::format("packet: removing {} bytes of {}", count, size()));
    slot_->size -= static_cast<std::uint32_t>(count);
}

void packet::assign(std::span<const std::byte> content) {
    if (slot_->pool->is_view(*slot_)) slot_ = slot_->pool->unshare(slot_);
    const unsigned front = slot_->pool->headroom();
    if (content.size() > slot_->capacity - front)
        fail(ENOBUFS,
             fmt::format("packet: {} bytes do not fit its buffer of {}", content.size(), slot_->capacity - front));
    slot_->offset = front;
    slot_->size = static_cast<std::uint32_t>(content.size());
    slot_->has_offload = false;
    if (!content.empty()) std::memmove(slot_->base + front, content.data(), content.size());
}

offload::offload_state packet::told_offload() const noexcept { return slot_->pool->offload_of(*slot_); }

void packet::set_offload(const offload::offload_state& state) noexcept {
    if (state == offload::offload_state())
        slot_->has_offload = false;
    else
        slot_->pool->set_offload(*slot_, state);
}

// Where the headers that it speaks of are cut off, it says nothing any more.
void packet::shift_offload(int bytes) noexcept {
    offload::offload_state state = told_offload();
    const int start = state.checksum_start + bytes;
    const int header = state.header_length + bytes;
    slot_->has_offload = start >= 0 && start <= UINT16_MAX && (state.header_length == 0 || header > 0);
    if (!slot_->has_offload) return;
    state.checksum_start = static_cast<std::uint16_t>(start);
    if (state.header_length != 0) state.header_length = static_cast<std::uint16_t>(header);
    slot_->pool->set_offload(*slot_, state);
}

} // namespace cotun
