// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/frame.hpp>

#include <array>
#include <atomic>
#include <new>
#include <utility>

namespace cotun::detail {
namespace {

constexpr std::size_t alignment = 64;
constexpr std::size_t classes = 32;       // frames up to 2 KiB; larger ones go to the allocator
constexpr std::size_t magazine_size = 64; // frames that are handed over together
constexpr std::size_t depot_size = 4;     // magazines of each class that no thread has

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool keeps_frames = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
constexpr bool keeps_frames = false;
#else
constexpr bool keeps_frames = true;
#endif
#else
constexpr bool keeps_frames = true;
#endif

struct free_frame_node {
    free_frame_node* next;
};

// At most magazine_size free frames of one class.
struct magazine {
    free_frame_node* first;
    std::size_t count;
};

// A thread takes from and gives to the first; the second is empty or full, so that a program at the bound between two
// magazines does not go to the depot for each frame.
struct size_class {
    magazine current;
    magazine other;
};

enum class life : unsigned char { unused, open, closed };

// Trivial, so that it can still be used while the thread's other objects are destroyed.
struct frame_lists {
    std::array<size_class, classes> of_class;
    life state;
};

constinit thread_local frame_lists lists{};

// Full magazines between the threads. Each place is taken and filled by one exchange, so there is no list to corrupt.
using depot = std::array<std::atomic<free_frame_node*>, depot_size>;
constinit std::array<depot, classes> depots{};

bool put_into_depot(std::size_t index, free_frame_node* full) noexcept {
    for (std::atomic<free_frame_node*>& place : depots[index]) {
        free_frame_node* empty = nullptr;
        if (place.load(std::memory_order_relaxed) == nullptr &&
            place.compare_exchange_strong(empty, full, std::memory_order_release, std::memory_order_relaxed))
            return true;
    }
    return false;
}

free_frame_node* take_from_depot(std::size_t index) noexcept {
    for (std::atomic<free_frame_node*>& place : depots[index]) {
        if (place.load(std::memory_order_relaxed) == nullptr) continue;
        if (free_frame_node* full = place.exchange(nullptr, std::memory_order_acquire)) return full;
    }
    return nullptr;
}

void free_all(magazine& m) noexcept {
    while (m.first != nullptr) {
        free_frame_node* node = m.first;
        m.first = node->next;
        ::operator delete (node, std::align_val_t{alignment});
    }
    m.count = 0;
}

// Empties the lists when the thread ends; frames freed later than that go straight to the allocator.
struct frame_lists_closer {
    ~frame_lists_closer() {
        lists.state = life::closed;
        for (size_class& c : lists.of_class) {
            free_all(c.current);
            free_all(c.other);
        }
    }
};

// Whether the thread may keep frames; from its first on it has them given back at its end.
bool open() noexcept {
    if (lists.state == life::unused) {
        [[maybe_unused]] thread_local frame_lists_closer closer;
        lists.state = life::open;
    }
    return lists.state == life::open;
}

// The current magazine is empty: another, if there is one.
bool refill(size_class& c, std::size_t index) noexcept {
    if (c.other.count != 0) {
        std::swap(c.current, c.other);
        return true;
    }
    c.current.first = take_from_depot(index);
    if (c.current.first == nullptr) return false;
    c.current.count = magazine_size;
    return true;
}

// The current magazine is full: makes room.
void hand_over(size_class& c, std::size_t index) noexcept {
    if (c.other.count != 0) {
        if (put_into_depot(index, c.other.first))
            c.other = {};
        else
            free_all(c.other);
    }
    std::swap(c.current, c.other);
}

std::size_t class_of(std::size_t size) noexcept { return (size - 1) / alignment; }

} // namespace

void* allocate_frame(std::size_t size) {
    const std::size_t index = class_of(size);
    if (!keeps_frames || index >= classes) return ::operator new (size, std::align_val_t{alignment});
    size_class& c = lists.of_class[index];
    if (c.current.count == 0 && (!open() || !refill(c, index)))
        return ::operator new ((index + 1) * alignment, std::align_val_t{alignment});
    free_frame_node* node = c.current.first;
    c.current.first = node->next;
    --c.current.count;
    return node;
}

void free_frame(void* frame, std::size_t size) noexcept {
    const std::size_t index = class_of(size);
    if (!keeps_frames || index >= classes || !open()) {
        ::operator delete (frame, std::align_val_t{alignment});
        return;
    }
    size_class& c = lists.of_class[index];
    if (c.current.count == magazine_size) hand_over(c, index);
    c.current.first = ::new (frame) free_frame_node{c.current.first};
    ++c.current.count;
}

} // namespace cotun::detail
