// SPDX-License-Identifier: Apache-2.0
//
// Texts and lists for option structs, kept in place: such a struct needs no destructor.
//
// That is what they are for. GCC before 13 destroys an aggregate twice that is a temporary in a co_await expression, as
// the options are in
//
//     co_await serve(open_tun(io, {.name = "tun0", .addresses = {"10.9.0.1/24"}}));
//
// and where nothing is destroyed, nothing is destroyed twice.
//
// Errors: std::system_error for what does not fit.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <ranges>
#include <string_view>
#include <type_traits>

namespace cotun {

namespace detail {
[[noreturn]] void refuse_option_text(std::size_t size, std::size_t most);
[[noreturn]] void refuse_option_list(std::size_t most);
} // namespace detail

/// 0 to 255 bytes of text, a name or a path; from anything that reads as a std::string_view.
class option_text {
public:
    static constexpr std::size_t capacity = 255;

    constexpr option_text() noexcept = default;
    template <class Text>
    requires std::convertible_to<const Text&, std::string_view>
    constexpr option_text(const Text& text) { // NOLINT: implicit by design
        const std::string_view from = text;
        if (from.size() > capacity) detail::refuse_option_text(from.size(), capacity);
        std::copy(from.begin(), from.end(), bytes_.begin());
        size_ = from.size();
    }

    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr std::string_view view() const noexcept { return {bytes_.data(), size_}; }
    constexpr operator std::string_view() const noexcept { return view(); } // NOLINT: implicit by design
    constexpr const char* c_str() const noexcept { return bytes_.data(); }
    friend constexpr bool operator==(const option_text& a, std::string_view b) noexcept { return a.view() == b; }

private:
    std::array<char, capacity + 1> bytes_{};
    std::size_t size_ = 0;
};

/// 0 to `Capacity` values, in order; from a braced list of what a T is made of, or from a range of T.
template <class T, std::size_t Capacity>
requires std::is_trivially_destructible_v<T>
class option_list {
public:
    static constexpr std::size_t capacity = Capacity;

    constexpr option_list() noexcept = default;
    // Not by std::initializer_list: GCC before 13 does not take one in a co_await expression.
    template <class... Values>
    requires(sizeof...(Values) > 0 &&
             (std::convertible_to<const Values&, T> &&
              ...)) constexpr option_list(const Values&... values) { // NOLINT: implicit by design
        (push_back(values), ...);
    }
    template <std::ranges::input_range Range>
    requires(!std::convertible_to<const Range&, T> && !std::same_as<Range, option_list> &&
             std::convertible_to<std::ranges::range_reference_t<const Range>,
                                 T>) constexpr option_list(const Range& values) { // NOLINT: implicit by design
        for (const auto& value : values) push_back(value);
    }

    constexpr void push_back(const T& value) {
        if (size_ == Capacity) detail::refuse_option_list(Capacity);
        values_[size_++] = value;
    }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr const T& operator[](std::size_t index) const noexcept { return values_[index]; }
    constexpr const T* begin() const noexcept { return values_.data(); }
    constexpr const T* end() const noexcept { return values_.data() + size_; }

private:
    std::array<T, Capacity> values_{};
    std::size_t size_ = 0;
};

} // namespace cotun
