// SPDX-License-Identifier: Apache-2.0
//
// Streams of flows as real senders make them, with what may go wrong: splitting what was merged gives them back.
#include <exception>

#include "../offload/merging.hpp"
#include "../offload/streams.hpp"
#include "input.hpp"

using namespace cotun;
using namespace cotun::offload;
using namespace cotun::test;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    input in{data, size};
    coalescer_options options;
    options.id = static_cast<id_rule>(in(3));
    if (in(4) == 0) options.most_datagrams = 3, options.most_tcp_segments = 4;
    if (in(4) == 0) options.most_bytes = 250;
    options.ecn = in(2) == 0;
    stream_maker<input> maker{in};
    std::vector<bytes> packets;
    std::vector<offload_state> states;
    while (!in.empty() && packets.size() < 40) {
        packets.push_back(maker.next());
        states.push_back(maker.state());
    }
    coalescer merging{options, 4};
    try {
        for (int batch = 0; batch < 2; ++batch) { // the second with the memory of the first
            merging.begin();
            for (std::size_t i = 0; i < packets.size(); ++i) merging.add(packets[i], states[i]);
            check_merged(merging.finish(), packets, states, options);
        }
    } catch (const std::exception& wrong) {
        fail(wrong.what());
    }
    return 0;
}
