// SPDX-License-Identifier: Apache-2.0
#include "json.hpp"

#include <cstddef>
#include <fmt/format.h>

namespace cotun::command {
namespace {

// Bytes of the UTF-8 sequence at the front of `text` (RFC 3629, section 4); 0: there is none.
std::size_t sequence_at(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
    const auto follows = [&](std::size_t i) { return (byte(i) & 0xc0U) == 0x80U; };
    const unsigned first = byte(0);
    if (first < 0x80) return 1;
    if (first >= 0xc2 && first < 0xe0) return follows(1) ? 2 : 0;
    if (first >= 0xe0 && first < 0xf0) {
        const bool overlong = first == 0xe0 && byte(1) < 0xa0;
        const bool surrogate = first == 0xed && byte(1) >= 0xa0;
        return follows(1) && follows(2) && !overlong && !surrogate ? 3 : 0;
    }
    if (first >= 0xf0 && first < 0xf5) {
        const bool overlong = first == 0xf0 && byte(1) < 0x90;
        const bool beyond = first == 0xf4 && byte(1) >= 0x90;
        return follows(1) && follows(2) && follows(3) && !overlong && !beyond ? 4 : 0;
    }
    return 0;
}

} // namespace

void json_writer::put_string(std::string_view text) {
    out_ += '"';
    while (!text.empty()) {
        const std::size_t size = sequence_at(text);
        const char c = text.front();
        if (size == 0)
            out_ += "\\ufffd";
        else if (c == '"' || c == '\\')
            out_.append(1, '\\').append(1, c);
        else if (c == '\n')
            out_ += "\\n";
        else if (c == '\t')
            out_ += "\\t";
        else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            out_ += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
        else
            out_ += text.substr(0, size);
        text.remove_prefix(size == 0 ? 1 : size);
    }
    out_ += '"';
}

} // namespace cotun::command
