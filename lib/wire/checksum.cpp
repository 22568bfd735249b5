// SPDX-License-Identifier: Apache-2.0
#include "cotun/wire/checksum.hpp"

#include <algorithm>
#include <atomic>
#include <bit>

#include "wire/checksum_kernels.hpp"

namespace cotun::wire {

namespace {

// Below this a header's worth of bytes is added sooner than a wide kernel is called.
constexpr std::size_t small = 64;

// Found at the first use, because static objects of other files may use it before this one's would be made. Threads
// that come at the same time find the same.
constinit std::atomic<const checksum_kernel*> chosen{nullptr};

[[gnu::noinline, gnu::cold]] const checksum_kernel& choose() noexcept {
    const auto kernels = checksum_kernels();
    const checksum_kernel& kernel =
        *std::find_if(kernels.begin(), kernels.end(), [](const checksum_kernel& k) { return k.works_here(); });
    chosen.store(&kernel, std::memory_order_relaxed);
    return kernel;
}

const checksum_kernel& widest() noexcept {
    const checksum_kernel* kernel = chosen.load(std::memory_order_relaxed);
    return kernel != nullptr ? *kernel : choose();
}

partial_sum to_wire_order(std::uint64_t native_sum, partial_sum sum) noexcept {
    std::uint16_t folded = fold_sum(native_sum);
    if constexpr (std::endian::native == std::endian::little)
        folded = static_cast<std::uint16_t>(folded << 8 | folded >> 8);
    return add_to_sum(folded, sum);
}

} // namespace

partial_sum add_to_sum(std::span<const std::byte> bytes, partial_sum sum) noexcept {
    const std::uint64_t native = bytes.size() < small ? take_scalar<false>(nullptr, bytes.data(), bytes.size())
                                                      : widest().sum(bytes.data(), bytes.size());
    return to_wire_order(native, sum);
}

partial_sum checksum_copy(std::byte* to, std::span<const std::byte> bytes, partial_sum sum) noexcept {
    const std::uint64_t native = bytes.size() < small ? take_scalar<true>(to, bytes.data(), bytes.size())
                                                      : widest().copy(to, bytes.data(), bytes.size());
    return to_wire_order(native, sum);
}

} // namespace cotun::wire
