// SPDX-License-Identifier: Apache-2.0
#include "io/passed_descriptors.hpp"

#include "io/fail.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <iterator>
#include <new>
#include <utility>

namespace cotun::detail {
namespace {

// Calls `use` with each descriptor. The kernel has already opened them: whoever reads this owns them.
template <class Use>
void for_each_descriptor(std::span<const std::byte> control, Use use) {
    cmsghdr header{};
    while (control.size() >= sizeof header) {
        std::memcpy(&header, control.data(), sizeof header);
        if (header.cmsg_len < CMSG_LEN(0) || header.cmsg_len > control.size()) return;
        std::span<const std::byte> data = control.subspan(CMSG_LEN(0), header.cmsg_len - CMSG_LEN(0));
        if (header.cmsg_level == SOL_SOCKET && header.cmsg_type == SCM_RIGHTS)
            for (; data.size() >= sizeof(int); data = data.subspan(sizeof(int))) {
                int descriptor = -1;
                std::memcpy(&descriptor, data.data(), sizeof descriptor);
                use(descriptor);
            }
        control = control.subspan(std::min<std::size_t>(CMSG_ALIGN(header.cmsg_len), control.size()));
    }
}

} // namespace

void check_passed(const std::vector<unique_fd>& all, const char* who) {
    if (all.size() > most_passed)
        fail(EINVAL, fmt::format("{}: sending {} descriptors; a message carries at most {} (SCM_MAX_FD)", who,
                                 all.size(), most_passed));
    for (const unique_fd& d : all)
        if (!d) fail(EINVAL, fmt::format("{}: sending a unique_fd that is empty (moved from?)", who));
}

descriptors_to_send::descriptors_to_send(std::vector<unique_fd> all) : all_(std::move(all)) {
    if (all_.empty()) return;
    const std::size_t bytes = all_.size() * sizeof(int);
    control_ = std::make_unique<std::byte[]>(CMSG_SPACE(bytes));
    size_ = CMSG_SPACE(bytes);
    cmsghdr header{};
    header.cmsg_level = SOL_SOCKET;
    header.cmsg_type = SCM_RIGHTS;
    header.cmsg_len = CMSG_LEN(bytes);
    std::memcpy(control_.get(), &header, sizeof header);
    std::byte* into = control_.get() + CMSG_LEN(0);
    for (const unique_fd& d : all_) {
        const int number = d.get();
        std::memcpy(into, &number, sizeof number);
        into += sizeof number;
    }
}

void descriptors_to_send::clear() noexcept {
    all_.clear();
    control_.reset();
    size_ = 0;
}

std::vector<unique_fd> descriptors_in(std::span<const std::byte> control) {
    std::vector<unique_fd> all;
    std::size_t count = 0;
    for_each_descriptor(control, [&](int) { ++count; });
    if (count == 0) return all;
    try {
        all.reserve(count);
    } catch (const std::bad_alloc&) {
        close_descriptors(control);
        throw;
    }
    for_each_descriptor(control, [&](int descriptor) { all.emplace_back(descriptor); });
    return all;
}

void close_descriptors(std::span<const std::byte> control) noexcept {
    for_each_descriptor(control, [](int descriptor) { unique_fd(descriptor).reset(); });
}

// --- over a stream -------------------------------------------------------------------------------------------------

void arrived_descriptors::came(std::size_t bytes, std::span<const std::byte> control, bool cut_off) noexcept {
    const std::uint64_t place = std::exchange(came_, came_ + bytes);
    lost_ += cut_off;
    try {
        std::vector<unique_fd> all = descriptors_in(control);
        if (all.empty() && !cut_off) return;
        received_ += all.size();
        const bool too_many = kept_ + all.size() > most_kept;
        if (too_many) {
            all.clear();
            lost_ += !cut_off;
        }
        const std::size_t count = all.size();
        batches_.push_back({place, std::move(all), cut_off || too_many});
        kept_ += count;
    } catch (const std::bad_alloc&) { // what there was is closed
        lost_ += !cut_off;
        if (!batches_.empty()) batches_.back().lost = true; // the best that can be told
    }
}

std::size_t arrived_descriptors::together() const noexcept {
    const auto next = std::find_if(batches_.begin(), batches_.end(), [&](const batch& b) { return b.place > read_; });
    return next == batches_.end() ? ~std::size_t{0} : static_cast<std::size_t>(next->place - read_);
}

bool arrived_descriptors::has_lost() const noexcept {
    return std::any_of(batches_.begin(), batches_.end(), [&](const batch& b) { return b.lost && b.place <= read_; });
}

bool arrived_descriptors::tell_loss(std::uint64_t place) noexcept {
    bool some = false;
    for (batch& b : batches_)
        if (b.place < place) some |= std::exchange(b.lost, false);
    return some;
}

std::vector<unique_fd> arrived_descriptors::take(std::uint64_t place) {
    std::vector<unique_fd> all;
    std::size_t count = 0;
    for (const batch& b : batches_)
        if (b.place < place) count += b.all.size();
    all.reserve(count); // before any is moved: if it throws, all are there for the next
    while (!batches_.empty() && batches_.front().place < place) {
        std::vector<unique_fd>& some = batches_.front().all;
        kept_ -= some.size();
        std::move(some.begin(), some.end(), std::back_inserter(all));
        batches_.pop_front();
    }
    return all;
}

void arrived_descriptors::drop_unread() noexcept {
    while (!batches_.empty() && batches_.back().place >= read_) {
        kept_ -= batches_.back().all.size();
        batches_.pop_back();
    }
}

} // namespace cotun::detail
