// SPDX-License-Identifier: Apache-2.0
//
// How packets are brought in.
#pragma once

namespace cotun {

enum class read_mode {
    automatic, // the best that the kernel has: multishot, else poll
    multishot, // one multishot read into provided buffers: devices from Linux 6.7, sockets from 6.0
    poll,      // a multishot poll, and read(2) or recvmsg(2) until there is nothing more
};

} // namespace cotun
