// SPDX-License-Identifier: Apache-2.0
//
// A stream over the scripted driver, and its operations turned by hand: what tests of streams are written against.
#pragma once

#include <cotun/net/stream.hpp>

#include "io/stream_hub.hpp"
#include "io/stream_port.hpp"
#include "scripted_port.hpp"

#include <chrono>
#include <coroutine>
#include <optional>
#include <string>
#include <string_view>
#include <unistd.h>
#include <vector>

namespace cotun::test {

class test_stream_port final : public detail::stream_port {
public:
    test_stream_port(detail::reactor_core& core, int of) noexcept : stream_port(core, of) {}
    std::string describe() const override { return "test stream"; }
};

class test_stream : public stream_socket {
public:
    explicit test_stream(reactor& io) : stream_socket(make(io)), descriptor(port().descriptor()) {}
    detail::stream_reader& reader() { return port().reader(); }
    const int descriptor;

private:
    static detail::stream_port* make(reactor& io) {
        if (!io.core().streams().admit()) throw std::runtime_error("not admitted");
        return new test_stream_port(io.core(), ::dup(STDERR_FILENO));
    }
};

using kind = ring::scripted::kind;

/// A rig whose reactor is turned pass by pass, without resuming anybody.
struct stream_rig : rig {
    using rig::rig;
    /// A millisecond.
    void pass() {
        kernel.advance(std::chrono::milliseconds(1));
        turn();
    }
    bool come(const test_stream& s, std::string_view text, bool last = false) {
        return kernel.deliver(s.descriptor, std::as_bytes(std::span(text)), last);
    }
    ring::scripted::request* receiving(const test_stream& s) { return kernel.find(kind::receive, s.descriptor); }
    /// The send in flight, of one piece or of several.
    ring::scripted::request* sending(const test_stream& s) {
        ring::scripted::request* one = kernel.find(kind::send, s.descriptor);
        return one != nullptr ? one : kernel.find(kind::send_message, s.descriptor);
    }
    static std::string text_of(const ring::scripted::request& r) {
        const auto text = [](const void* data, std::size_t size) {
            return std::string(static_cast<const char*>(data), size);
        };
        if (r.pieces.empty()) return text(r.bytes.data(), r.bytes.size());
        std::string all;
        for (const iovec& piece : r.pieces) all += text(piece.iov_base, piece.iov_len);
        return all;
    }
    /// Has the kernel take `most` bytes of what is being sent; they are put behind `wire`.
    bool take(const test_stream& s, std::string& wire, std::size_t most = ~std::size_t{0}) {
        const ring::scripted::request* r = sending(s);
        if (r == nullptr) return false;
        const std::string text = text_of(*r).substr(0, most);
        wire += text;
        kernel.complete(r->name, static_cast<std::int32_t>(text.size()));
        return true;
    }
};

/// An operation that is awaited by hand.
template <class Operation>
class by_hand {
public:
    by_hand(rig& r, Operation&& op) : operation(std::move(op)) {
        ready_ = operation->await_ready();
        if (!ready_) ready_ = !operation->suspend(std::noop_coroutine(), {&r.io.core(), &stop});
    }
    bool ready() const { return ready_ || operation->is_ready(); }

    detail::stop_state stop;
    std::optional<Operation> operation;

private:
    bool ready_;
};

/// What awaiting it throws, as an errno; 0: nothing. Its value goes to `into`.
template <class Operation, class Value>
int outcome_of(Operation& op, Value& into) {
    try {
        into = op.await_resume();
        return 0;
    } catch (const std::system_error& e) {
        return e.code().value();
    }
}
template <class Operation>
int outcome_of(Operation& op) {
    try {
        op.await_resume();
        return 0;
    } catch (const std::system_error& e) {
        return e.code().value();
    }
}

inline std::span<std::byte> bytes_of(std::string& s) { return std::as_writable_bytes(std::span(s)); }

/// All that can be read without waiting.
inline std::string rest_of(rig& r, test_stream& s) {
    std::string all;
    for (;;) {
        std::string piece(7, '\0');
        by_hand op(r, s.read_some(bytes_of(piece)));
        if (!op.ready()) return all;
        std::size_t size = 0;
        if (outcome_of(*op.operation, size) != 0 || size == 0) return all;
        all += piece.substr(0, size);
    }
}

} // namespace cotun::test
