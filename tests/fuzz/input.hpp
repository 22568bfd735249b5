// SPDX-License-Identifier: Apache-2.0
//
// A fuzzer's bytes, taken as decisions. When they are used up, all decisions are 0: an input that is cut short is one
// that ends early.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>

#include "../offload/packets.hpp"

namespace cotun::test {

class input {
public:
    input(const std::uint8_t* data, std::size_t size) : left_{data, size} {}

    bool empty() const { return left_.empty(); }
    std::size_t byte() {
        if (left_.empty()) return 0;
        const std::size_t value = left_.front();
        left_ = left_.subspan(1);
        return value;
    }
    std::size_t word() {
        const std::size_t high = byte();
        return high << 8 | byte();
    }
    bytes rest() {
        const auto all = std::as_bytes(left_);
        left_ = {};
        return {all.begin(), all.end()};
    }
    // As a dice, for what makes packets at random.
    std::size_t operator()(std::size_t below) { return (below > 256 ? word() : byte()) % below; }
    std::uint64_t next() { return word() << 16 | word(); }

private:
    std::span<const std::uint8_t> left_;
};

// Changes some bytes, and now and then the size.
inline void patch(bytes& packet, input& in) {
    for (std::size_t patches = in(4); patches > 0 && !packet.empty(); --patches) {
        const std::size_t at = in.byte();
        packet[at % packet.size()] = static_cast<std::byte>(in.byte());
    }
    if (in(16) == 1) packet.resize(in.byte() % (packet.size() + 9));
}

inline fields make_fields(input& in) {
    fields f;
    const std::size_t kind = in.byte();
    f.v6 = (kind & 1) != 0, f.tcp = (kind & 2) != 0;
    if ((kind & 4) != 0) f.ip_options = f.v6 ? extension_headers(1 + in(3), f.tcp ? 6 : 17) : bytes(4 * in(11));
    if (f.tcp && (kind & 8) != 0) f.tcp_options.assign(4 * in(11), std::byte{1});
    if ((kind & 16) != 0) f.link.assign(14, std::byte{2});
    f.flags = static_cast<std::uint8_t>(ack | in.byte());
    f.id = static_cast<std::uint16_t>(in.word()), f.fragment = in(2) == 0 ? 0x4000 : 0;
    f.sequence = static_cast<std::uint32_t>(in.next());
    return f;
}

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "wrong: %s\n", what);
    std::abort();
}
inline void must(bool holds, const char* what) {
    if (!holds) fail(what);
}

} // namespace cotun::test

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
