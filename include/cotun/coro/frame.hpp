// SPDX-License-Identifier: Apache-2.0
//
// Where coroutine frames live.
//
// Every frame is 64-byte aligned: GCC 12 lays out over-aligned locals as if the frame were, whatever `operator new`
// returned (research: misaligned in 100 of 128 frames with the plain one). Freed frames are kept, by size class of 64
// bytes and up to 2 KiB, so that awaiting a task in a loop costs no call of the allocator. Builds with a sanitizer keep
// nothing, so that a use after free is seen.
//
// Thread: a frame may be freed on another thread than the one that made it. What a thread keeps, up to 128 frames of a
// class, goes with it; what it has beyond, up to 256 of a class, is for any thread: so frames that are made here and
// freed there come back without the allocator.
#pragma once

#include <cstddef>

namespace cotun::detail {

/// Memory for a frame of `size` bytes, 64-byte aligned. Throws std::bad_alloc.
[[nodiscard]] void* allocate_frame(std::size_t size);

/// Gives back what allocate_frame(size) returned; `size` must be the same.
void free_frame(void* frame, std::size_t size) noexcept;

/// A base for promises: their coroutines' frames come from the lists above.
struct frame_allocated {
    static void* operator new(std::size_t size) { return allocate_frame(size); }
    static void operator delete(void* frame, std::size_t size) noexcept { free_frame(frame, size); }
};

} // namespace cotun::detail
