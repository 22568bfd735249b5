// SPDX-License-Identifier: Apache-2.0
#include "wire/checksum_kernels.hpp"

#include <array>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cotun::wire {

namespace {

std::uint64_t sum_scalar(const std::byte* from, std::size_t size) noexcept {
    return take_scalar<false>(nullptr, from, size);
}
std::uint64_t copy_scalar(std::byte* to, const std::byte* from, std::size_t size) noexcept {
    return take_scalar<true>(to, from, size);
}

#if defined(__x86_64__)

// (The masked forms of some intrinsics below do the same as the plain ones, of which GCC 12 warns wrongly.)
//
// A lane of 64 bits takes two sums: `all` of the whole lanes, which loses carries, and `high` of their upper halves,
// which cannot for 2^32 rounds. all - (high << 32) is then the sum of the lower halves, again without loss. That is
// three instructions a vector, one fewer than masking and shifting. At the end the halves are added as they are,
// because 2^32 is 1 modulo 0xffff; what comes of it stays below 2^64 for pieces of up to 2^34 bytes.

[[gnu::target("avx2")]] inline std::uint64_t add_lanes(__m256i all, __m256i high) noexcept {
    const __m256i four = _mm256_add_epi64(_mm256_sub_epi64(all, _mm256_slli_epi64(high, 32)), high);
    const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
    return static_cast<std::uint64_t>(_mm_cvtsi128_si64(two)) + static_cast<std::uint64_t>(_mm_extract_epi64(two, 1));
}

template <bool Copy>
[[gnu::target("avx2")]] inline std::uint64_t take_avx2(std::byte* to, const std::byte* from,
                                                       std::size_t size) noexcept {
    __m256i all0 = _mm256_setzero_si256(), all1 = all0, high0 = all0, high1 = all0;
    std::size_t at = 0;
    for (; size - at >= 64; at += 64) {
        const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at));
        const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at + 32));
        if constexpr (Copy) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + at), a);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + at + 32), b);
        }
        all0 = _mm256_add_epi64(all0, a);
        all1 = _mm256_add_epi64(all1, b);
        high0 = _mm256_add_epi64(high0, _mm256_srli_epi64(a, 32));
        high1 = _mm256_add_epi64(high1, _mm256_srli_epi64(b, 32));
    }
    const std::uint64_t sum = add_lanes(_mm256_add_epi64(all0, all1), _mm256_add_epi64(high0, high1));
    return add_with_carry(sum, take_scalar<Copy>(Copy ? to + at : nullptr, from + at, size - at));
}

template <bool Copy>
[[gnu::target("avx512f,avx512bw")]] inline std::uint64_t take_avx512(std::byte* to, const std::byte* from,
                                                                     std::size_t size) noexcept {
    __m512i all0 = _mm512_setzero_si512(), all1 = all0, high0 = all0, high1 = all0;
    std::size_t at = 0;
    for (; size - at >= 128; at += 128) {
        const __m512i a = _mm512_loadu_si512(from + at);
        const __m512i b = _mm512_loadu_si512(from + at + 64);
        if constexpr (Copy) {
            _mm512_storeu_si512(to + at, a);
            _mm512_storeu_si512(to + at + 64, b);
        }
        all0 = _mm512_add_epi64(all0, a);
        all1 = _mm512_add_epi64(all1, b);
        high0 = _mm512_add_epi64(high0, _mm512_maskz_srli_epi64(0xff, a, 32));
        high1 = _mm512_add_epi64(high1, _mm512_maskz_srli_epi64(0xff, b, 32));
    }
    // What is left is less than two vectors; lanes that a mask leaves out are neither read nor written.
    for (std::size_t left = size - at; left > 0; left = size - at) {
        const std::size_t part = left < 64 ? left : 64;
        const __mmask64 lanes = ~std::uint64_t{0} >> (64 - part);
        const __m512i a = _mm512_maskz_loadu_epi8(lanes, from + at);
        if constexpr (Copy) _mm512_mask_storeu_epi8(to + at, lanes, a);
        all0 = _mm512_add_epi64(all0, a);
        high0 = _mm512_add_epi64(high0, _mm512_maskz_srli_epi64(0xff, a, 32));
        at += part;
    }
    const __m512i all = _mm512_add_epi64(all0, all1), high = _mm512_add_epi64(high0, high1);
    return add_lanes(
        _mm256_add_epi64(_mm512_maskz_extracti64x4_epi64(0xf, all, 0), _mm512_maskz_extracti64x4_epi64(0xf, all, 1)),
        _mm256_add_epi64(_mm512_maskz_extracti64x4_epi64(0xf, high, 0), _mm512_maskz_extracti64x4_epi64(0xf, high, 1)));
}

[[gnu::target("avx2")]] std::uint64_t sum_avx2(const std::byte* from, std::size_t size) noexcept {
    return take_avx2<false>(nullptr, from, size);
}
[[gnu::target("avx2")]] std::uint64_t copy_avx2(std::byte* to, const std::byte* from, std::size_t size) noexcept {
    return take_avx2<true>(to, from, size);
}
[[gnu::target("avx512f,avx512bw")]] std::uint64_t sum_avx512(const std::byte* from, std::size_t size) noexcept {
    return take_avx512<false>(nullptr, from, size);
}
[[gnu::target("avx512f,avx512bw")]] std::uint64_t copy_avx512(std::byte* to, const std::byte* from,
                                                              std::size_t size) noexcept {
    return take_avx512<true>(to, from, size);
}

bool has_avx2() noexcept { return __builtin_cpu_supports("avx2") != 0; }
// The VBMI2 of Ice Lake and Zen 4 stands for a processor that does not slow down for its wide registers.
bool has_avx512() noexcept {
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
           __builtin_cpu_supports("avx512vbmi2") != 0;
}

#endif

constexpr std::array kernels {
#if defined(__x86_64__)
    checksum_kernel{"avx512", has_avx512, sum_avx512, copy_avx512},
        checksum_kernel{"avx2", has_avx2, sum_avx2, copy_avx2},
#endif
        checksum_kernel{"scalar", []() noexcept { return true; }, sum_scalar, copy_scalar},
};

} // namespace

std::span<const checksum_kernel> checksum_kernels() noexcept { return kernels; }

} // namespace cotun::wire
