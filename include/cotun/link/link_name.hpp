// SPDX-License-Identifier: Apache-2.0
//
// link_name: the name of a link, kept in place: 0 to 15 bytes, from anything that reads as a std::string_view.
//
// It is a value without a destructor, for events and option structs (io/option_values.hpp says why). Whether the kernel
// would take it as a name is not checked here: only that it fits.
// Errors: std::errc::filename_too_long.
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string_view>

namespace cotun {

namespace detail {
[[noreturn]] void refuse_link_name(std::string_view text);
} // namespace detail

class link_name {
public:
    static constexpr std::size_t capacity = 15; // IFNAMSIZ without the zero

    constexpr link_name() noexcept = default;
    template <class Text>
    requires std::convertible_to<const Text&, std::string_view>
    constexpr link_name(const Text& text) { // NOLINT: implicit by design
        const std::string_view from = text;
        if (from.size() > capacity) detail::refuse_link_name(from);
        std::copy(from.begin(), from.end(), bytes_.begin());
        size_ = static_cast<std::uint8_t>(from.size());
    }

    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr std::string_view view() const noexcept { return {bytes_.data(), size_}; }
    constexpr operator std::string_view() const noexcept { return view(); } // NOLINT: implicit by design
    constexpr const char* c_str() const noexcept { return bytes_.data(); }

    friend constexpr auto operator<=>(const link_name&, const link_name&) noexcept = default;
    template <class Text>
    requires std::convertible_to<const Text&, std::string_view>
    friend constexpr bool operator==(const link_name& a, const Text& b) noexcept {
        return a.view() == std::string_view(b);
    }
    friend std::ostream& operator<<(std::ostream& to, const link_name& name) { return to << name.view(); }

private:
    std::array<char, capacity + 1> bytes_{};
    std::uint8_t size_ = 0;
};

} // namespace cotun
