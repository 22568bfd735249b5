// SPDX-License-Identifier: Apache-2.0
//
// Counts what a test program takes from the heap. Replaces the global operator new: include it in one source file of a
// program, and in no more; the others read the counts (allocation_count.hpp).
#pragma once

#include "allocation_count.hpp"

#include <cstdlib>
#include <new>

namespace cotun::test {

inline void* count_allocation(void* memory, bool throws = true) {
    if (memory == nullptr) {
        if (throws) throw std::bad_alloc();
        return nullptr;
    }
    allocations.fetch_add(1, std::memory_order_relaxed);
    live.fetch_add(1, std::memory_order_relaxed);
    return memory;
}

inline void count_free(void* memory) noexcept {
    if (memory == nullptr) return;
    live.fetch_sub(1, std::memory_order_relaxed);
    std::free(memory);
}

inline void* aligned(std::size_t size, std::align_val_t alignment) {
    const auto to = static_cast<std::size_t>(alignment);
    return std::aligned_alloc(to, (size + to - 1) / to * to);
}

} // namespace cotun::test

void* operator new(std::size_t size) { return cotun::test::count_allocation(std::malloc(size > 0 ? size : 1)); }
void* operator new[](std::size_t size) { return cotun::test::count_allocation(std::malloc(size > 0 ? size : 1)); }
void* operator new(std::size_t size, std::align_val_t to) {
    return cotun::test::count_allocation(cotun::test::aligned(size, to));
}
void* operator new[](std::size_t size, std::align_val_t to) {
    return cotun::test::count_allocation(cotun::test::aligned(size, to));
}
// These too: a sanitizer brings its own, and would find that its memory is freed by another's delete.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    return cotun::test::count_allocation(std::malloc(size > 0 ? size : 1), false);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
    return cotun::test::count_allocation(std::malloc(size > 0 ? size : 1), false);
}
void operator delete(void* memory) noexcept { cotun::test::count_free(memory); }
void operator delete[](void* memory) noexcept { cotun::test::count_free(memory); }
void operator delete(void* memory, std::size_t) noexcept { cotun::test::count_free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { cotun::test::count_free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { cotun::test::count_free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { cotun::test::count_free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { cotun::test::count_free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { cotun::test::count_free(memory); }
