// SPDX-License-Identifier: Apache-2.0
//
// Which sanitizer the test is built with.
#pragma once

#ifdef __has_feature
#define COTUN_TEST_HAS(feature) __has_feature(feature)
#else
#define COTUN_TEST_HAS(feature) 0
#endif

namespace cotun::test {

/// It has a thread of its own, and a program of several threads cannot make itself a user namespace.
#if defined(__SANITIZE_THREAD__) || COTUN_TEST_HAS(thread_sanitizer)
inline constexpr bool thread_sanitized = true;
#else
inline constexpr bool thread_sanitized = false;
#endif

/// One that makes it many times slower.
#if defined(__SANITIZE_ADDRESS__) || COTUN_TEST_HAS(address_sanitizer)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = thread_sanitized;
#endif

} // namespace cotun::test

#undef COTUN_TEST_HAS
