// SPDX-License-Identifier: Apache-2.0
//
// What cotun counts. All counters start at 0 with the object that they belong to and only grow, except where a line
// says that it is a level.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cotun {

struct reactor_statistics {
    std::uint64_t passes = 0;             // turns of the loop
    std::uint64_t enters = 0;             // kernel entries
    std::uint64_t submissions = 0;        // requests handed to the kernel
    std::uint64_t completions = 0;        // completions reaped
    std::uint64_t strays = 0;             // completions that belonged to no request: 0, or a defect
    std::uint64_t overflows = 0;          // kernel entries at which completions did not fit the queue: 0, or a defect
    std::uint64_t busy = 0;               // kernel entries that were refused for the moment and tried again
    std::uint64_t wakes = 0;              // wake-ups from other threads
    std::uint64_t messages = 0;           // wake-ups of other reactors that went with a kernel entry of this one's own
    std::uint64_t rearms = 0;             // multishots started again
    std::uint64_t buffers_exhausted = 0;  // times that a reader had to wait for a buffer
    std::uint64_t requests_exhausted = 0; // times that a write had to wait for a place among the requests
    std::uint64_t busy_polls = 0;         // waits that looked for completions before they slept
    std::uint64_t busy_poll_hits = 0;     // those of them that needed no sleep
    std::size_t tasks = 0;                // level: spawned or run, and not ended
    std::size_t timers = 0;               // level
    std::size_t requests_in_flight = 0;   // level
    std::size_t small_buffers_free = 0;   // level
    std::size_t large_buffers_free = 0;   // level
};

/// One direction of a device or a socket: what was read.
struct read_statistics {
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
    std::uint64_t superpackets = 0;      // of packets: those that hold several (tun/offload_options.hpp)
    std::uint64_t malformed = 0;         // not what the virtio-net header in front says: dropped
    std::uint64_t truncated = 0;         // larger than the buffer: dropped
    std::uint64_t refused = 0;           // ICMP refusals and the like, reported by a connected socket
    std::uint64_t rearms = 0;            // multishots started again
    std::uint64_t buffers_exhausted = 0; // times that reading paused for want of buffers
};

/// The other: what was accepted for writing, and what came of it.
struct write_statistics {
    std::uint64_t packets = 0;         // written
    std::uint64_t bytes = 0;           // written
    std::uint64_t superpackets = 0;    // writes of several packets at once: superpackets, merged ones, UDP_SEGMENT
    std::uint64_t segmented = 0;       // of packets: superpackets that were written in several steps
    std::uint64_t offload_refused = 0; // times that the kernel refused such a write: they go one by one since
    std::uint64_t link_down = 0;       // failed: EIO, ENETDOWN: the link is not up
    std::uint64_t invalid = 0;         // failed: EINVAL and the like: not a packet that the kernel takes
    std::uint64_t too_large = 0;       // failed: EMSGSIZE
    std::uint64_t refused = 0;         // failed: ECONNREFUSED and its like: nobody listens at the peer
    std::uint64_t unreachable = 0;     // failed: no route, host or network unreachable
    std::uint64_t no_memory = 0;       // failed: ENOBUFS, ENOMEM
    std::uint64_t not_permitted = 0;   // failed: EPERM, EACCES: a firewall
    std::uint64_t other = 0;           // failed otherwise
    std::uint64_t dropped = 0;         // accepted, and given up when the device or socket was closed or gone

    std::uint64_t failed() const noexcept {
        return link_down + invalid + too_large + refused + unreachable + no_memory + not_permitted + other;
    }
};

/// A listener.
struct accept_statistics {
    std::uint64_t accepted = 0;
    std::uint64_t exhausted = 0; // times that descriptors or memory were short (EMFILE...): it paused, and went on
    std::uint64_t failed = 0;    // connections that ended before they were accepted, or that a firewall refused
    std::uint64_t admissions_awaited = 0; // times that a connection waited, since there were as many streams as may be
};

} // namespace cotun
