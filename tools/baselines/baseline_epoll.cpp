// SPDX-License-Identifier: Apache-2.0

// epoll, read(2), write(2): see epoll_loop.hpp.

#include "epoll_loop.hpp"

namespace {

baseline::counters forward(const baseline::options& options) {
    return baseline::forward_by_epoll(options, baseline::write_packet);
}

} // namespace

int main(int argc, char** argv) { return baseline::run_baseline(argc, argv, forward); }
