// SPDX-License-Identifier: Apache-2.0
//
// Writes JSON (RFC 8259): what the commands' --json prints. Bytes that are not UTF-8, as file names may have, become
// U+FFFD, so that what is written is JSON whatever it is given.
#pragma once

#include <concepts>
#include <string>
#include <string_view>
#include <vector>

namespace cotun::command {

class json_writer {
public:
    /// `one_line`: for streams of records, one a line.
    explicit json_writer(bool one_line = false) : one_line_(one_line) {}

    void begin_object() { begin('{'); }
    void end_object() { end('}'); }
    void begin_array() { begin('['); }
    void end_array() { end(']'); }

    /// In an object, before each value.
    void key(std::string_view name) {
        separate();
        put_string(name);
        out_ += ':';
        after_key_ = true;
    }

    void value(std::string_view text) {
        separate();
        put_string(text);
    }
    void value(const char* text) { value(std::string_view(text)); }
    void value(bool b) {
        separate();
        out_ += b ? "true" : "false";
    }
    template <std::integral Number>
    void value(Number n) {
        separate();
        out_ += std::to_string(n);
    }

    template <class Value>
    void member(std::string_view name, const Value& v) {
        key(name);
        value(v);
    }

    std::string text() && { return std::move(out_); }

private:
    void begin(char bracket) {
        separate();
        out_ += bracket;
        empty_.push_back(true);
    }
    void end(char bracket) {
        const bool empty = empty_.back();
        empty_.pop_back();
        if (!empty) new_line();
        out_ += bracket;
    }
    void new_line() {
        if (!one_line_) out_.append(1, '\n').append(2 * empty_.size(), ' ');
    }
    void separate() {
        if (after_key_) {
            out_ += ' ';
            after_key_ = false;
            return;
        }
        if (empty_.empty()) return;
        if (!empty_.back()) out_ += ',';
        empty_.back() = false;
        new_line();
    }
    void put_string(std::string_view text);

    bool one_line_;
    std::string out_;
    std::vector<bool> empty_; // of each bracket that is open: nothing is in it yet
    bool after_key_ = false;
};

} // namespace cotun::command
