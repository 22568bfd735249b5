// SPDX-License-Identifier: Apache-2.0
#include "ring/process.hpp"

#include <atomic>
#include <cerrno>
#include <string>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>

namespace cotun::ring {
namespace {

constexpr std::size_t page_size = 4096;

std::uint64_t* make_page() noexcept {
    void* page = mmap(nullptr, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // Without memory for a page no reactor can be made either; without the advice (Linux 4.14), nothing is noticed.
    if (page == MAP_FAILED) return nullptr;
    madvise(page, page_size, MADV_WIPEONFORK);
    return static_cast<std::uint64_t*>(page);
}

// The kernel empties it in a child, however that was made.
std::uint64_t* page() noexcept {
    static std::uint64_t instead = 0;
    static std::uint64_t* const made = make_page();
    return made != nullptr ? made : &instead;
}

} // namespace

// The count goes on in a child, so that what is made there has another mark than what its parent made.
process_mark::process_mark() noexcept : page_(page()), value_(0) {
    static std::atomic<std::uint64_t> count{0};
    std::uint64_t expected = 0;
    const std::uint64_t fresh = ++count;
    const bool first = std::atomic_ref<std::uint64_t>(*page()).compare_exchange_strong(expected, fresh);
    value_ = first ? fresh : expected;
}

std::uint64_t this_thread_number() noexcept {
    static std::atomic<std::uint64_t> threads{0};
    thread_local const std::uint64_t number = ++threads;
    return number;
}

void refuse_forked(const char* what) {
    throw std::system_error(EPERM, std::generic_category(),
                            std::string("reactor: ") + what +
                                " in a child process: a reactor stays with the process that made it; make another one "
                                "in the child, or have it execute a program");
}

} // namespace cotun::ring
