// SPDX-License-Identifier: Apache-2.0
#include <cotun/coro/frame.hpp>

#include <array>
#include <new>

namespace cotun::detail {
namespace {

constexpr std::size_t alignment = 64;
constexpr std::size_t classes = 32;      // frames up to 2 KiB; larger ones go to the allocator
constexpr std::size_t kept_a_class = 64; // what a burst leaves behind is bounded: 64 frames of each size a thread

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

struct size_class {
    free_frame_node* first;
    std::size_t count;
};

// Trivial, so that it can still be used while the thread's other objects are destroyed.
struct frame_lists {
    std::array<size_class, classes> of_class;
    bool closed;
};

constinit thread_local frame_lists lists{};

// Empties the lists when the thread ends; frames freed later than that go straight to the allocator.
struct frame_lists_closer {
    ~frame_lists_closer() {
        lists.closed = true;
        for (size_class& c : lists.of_class) {
            while (c.first != nullptr) {
                free_frame_node* node = c.first;
                c.first = node->next;
                ::operator delete (node, std::align_val_t{alignment});
            }
            c.count = 0;
        }
    }
};

std::size_t class_of(std::size_t size) noexcept { return (size - 1) / alignment; }

} // namespace

void* allocate_frame(std::size_t size) {
    const std::size_t index = class_of(size);
    if (!keeps_frames || index >= classes) return ::operator new (size, std::align_val_t{alignment});
    size_class& c = lists.of_class[index];
    if (c.first == nullptr) return ::operator new ((index + 1) * alignment, std::align_val_t{alignment});
    free_frame_node* node = c.first;
    c.first = node->next;
    --c.count;
    return node;
}

void free_frame(void* frame, std::size_t size) noexcept {
    const std::size_t index = class_of(size);
    if (keeps_frames && index < classes && !lists.closed) {
        size_class& c = lists.of_class[index];
        if (c.count < kept_a_class) {
            [[maybe_unused]] thread_local frame_lists_closer closer;
            c.first = ::new (frame) free_frame_node{c.first};
            ++c.count;
            return;
        }
    }
    ::operator delete (frame, std::align_val_t{alignment});
}

} // namespace cotun::detail
