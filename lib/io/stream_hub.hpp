// SPDX-License-Identifier: Apache-2.0
//
// stream_hub: what the streams of a reactor share, so that ten thousand idle ones cost no buffers.
//
// Receiving: one group of small buffers, from which the kernel takes one when bytes arrive. What has arrived and is not
// read yet, and the group, take at most half of the small buffers. When the group runs dry, streams that nobody reads
// at present hand theirs back: their bytes, some eight buffers' a stream at most, are copied to memory of their own,
// and no more are received for them until somebody waits. Streams that starved are armed again in the order in which
// they ran dry, for one buffer each.
//
// Sending: bytes that were accepted and not sent take at most a quarter of the small buffers.
//
// Requests: five eighths are for streams, and every stream may always have its receive in flight. So there are no more
// streams than that: beyond it connecting fails, and connections wait to be accepted.
#pragma once

#include "io/admission.hpp"
#include "io/links.hpp"
#include "io/packet_pool.hpp"
#include "io/reactor_core.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace cotun::detail {

class acceptor;
class stream_port;
class stream_reader;
class stream_writer;

struct scheduled_kind;
struct starving_kind;
struct holding_kind;
struct room_kind;
struct admission_kind;

class stream_hub final : public prepared, public admission {
public:
    explicit stream_hub(reactor_core& core);
    ~stream_hub();
    stream_hub(const stream_hub&) = delete;
    stream_hub& operator=(const stream_hub&) = delete;

    // --- streams --------------------------------------------------------------------------------------------------

    /// Takes a place for one more stream. The first makes the group: throws std::system_error. False: there are as many
    /// as there may be.
    bool admit() override;
    void dismiss() noexcept override;
    void await_admission(acceptor& a) noexcept override;
    std::string refusal() const override;
    unsigned most_streams() const noexcept;
    unsigned streams() const noexcept { return streams_; }

    /// Has the stream prepared before the next kernel entry.
    void schedule(stream_port& stream) noexcept;
    /// Its send, or its receive, found no place among the requests.
    void await_room(stream_writer& writer) noexcept;
    void await_room(stream_reader& reader) noexcept;
    bool awaits_room() const noexcept { return !awaiting_room_.empty() || !readers_awaiting_room_.empty(); }
    void retry() noexcept;

    // --- receiving ------------------------------------------------------------------------------------------------

    std::uint16_t group() const noexcept { return group_; }
    unsigned in_group() const noexcept { return in_group_count_; }
    /// The kernel has filled a buffer of the group: it is the caller's.
    packet_slot& took(std::uint16_t index) noexcept;
    /// The reader has a buffer with unread bytes, or one less.
    void holds(stream_reader& reader) noexcept;
    void released(stream_reader& reader) noexcept;
    /// The group had no buffer left for the reader, or the pool had none.
    void starve(stream_reader& reader) noexcept;
    void starve_of_pool(stream_reader& reader) noexcept;

    // --- sending --------------------------------------------------------------------------------------------------

    /// A buffer for bytes that are accepted, or nullptr.
    packet_slot* take_to_send() noexcept;
    /// Whether one that somebody brings, full, may be kept.
    bool may_keep_to_send() const noexcept;
    void keeps_to_send() noexcept { ++sending_; }
    void sent(packet_slot& slot) noexcept;

    void prepare() noexcept override;

private:
    void make_group();
    void remove_group() noexcept;
    void refill() noexcept;
    void spill() noexcept;
    void serve_wanting() noexcept;

    reactor_core* core_;
    bool has_group_ = false;
    std::uint16_t group_ = 0;
    unsigned target_; // buffers in the group
    unsigned most_;   // in the group and unread
    unsigned in_group_count_ = 0;
    unsigned held_ = 0;
    unsigned sending_ = 0;
    unsigned streams_ = 0;
    std::vector<bool> in_group_; // by index
    link_list<stream_port, scheduled_kind> scheduled_;
    link_list<stream_reader, starving_kind> starving_; // for the group
    link_list<stream_reader, starving_kind> wanting_;  // a buffer of the pool, for bytes that were spilled
    link_list<stream_reader, holding_kind> holding_;
    link_list<stream_writer, room_kind> awaiting_room_;
    link_list<stream_reader, room_kind> readers_awaiting_room_;
    link_list<acceptor, admission_kind> awaiting_admission_;
};

} // namespace cotun::detail
