// SPDX-License-Identifier: Apache-2.0
//
// event_socket: a netlink socket that tells of changes, and the reading of the state they change.
//
// Dumps come by the same socket as messages do, so that each row is in its order among them. event_reader is the part
// without a socket: it takes datagrams and says which request is to be sent next; event_socket does that.
//
//     poll event_socket::descriptor() for POLLIN; then
//     while (there is room for events && socket.read(out)) {}
//
// Events that nobody takes stay in the kernel's buffer; when that is full the kernel drops messages, the next read sees
// it, reads the state anew, tells what is different, and then `resynchronised`. A dump during which the table changed
// is made again. Never blocks but for the kernel's own locks. Throws std::system_error.
#pragma once

#include "link/answer.hpp"
#include "link/event.hpp"
#include "link/netlink_port.hpp"

#include <cstdint>
#include <optional>
#include <vector>

namespace cotun::link {

class event_reader {
public:
    // `only`: the index of the one link to tell of; 0: all. `initial`: what there is already is told as if it had just
    // been made, and then `resynchronised`.
    event_reader(tracked kinds, unsigned only, bool initial);

    // One datagram; `port` is the socket's own address.
    void take(byte_view datagram, std::uint32_t port, events& out);
    // The kernel has dropped messages.
    void lost() noexcept;
    // The request to send, once there is nothing left to receive; nothing while one is not answered, and when the state
    // is known. Its number is in it.
    [[nodiscard]] std::optional<request> next_request(std::uint32_t port);
    [[nodiscard]] const link_info* find(unsigned index) const noexcept { return tracker_.find(index); }
    // Whether the state is known.
    [[nodiscard]] bool is_settled() const noexcept { return to_read_ == 0 && !doubt_; }

private:
    static constexpr int most_tries = 50; // to read a table that changes or is in use

    void begin(tracked kinds) noexcept;
    void ended(const outcome& how, events& out);
    void read_is_over(events& out);

    link_state_tracker tracker_;
    tracked kinds_;
    unsigned only_;
    std::uint32_t sequence_ = 0;
    bool awaited_ = false;     // the answer to the request of that number
    bool interrupted_ = false; // that answer is
    bool incomplete_ = false;  // one was, every time
    tracked reading_ = 0;      // all of this reading
    tracked to_read_ = 0;      // what of it is left
    bool fresh_ = false;       // nothing of it was asked for yet
    bool silent_ = false;      // the first reading, where nobody wants to be told
    bool announces_ = false;   // `resynchronised` follows
    bool doubt_ = false;       // of the routes
    int tries_ = 0;
};

struct event_socket_options {
    tracked kinds = track_links | track_addresses;
    // The index of the one link to tell of; a filter in the kernel drops what is about others. 0: all.
    unsigned only = 0;
    // Whether to tell of what there is already.
    bool initial = false;
    // Bytes of the kernel's buffer of messages (SO_RCVBUF); 0: its default.
    int receive_buffer = 0;
};

class event_socket {
public:
    // In the calling thread's namespace. Nothing that happens after it has returned is missed.
    explicit event_socket(const event_socket_options& options);

    [[nodiscard]] int descriptor() const noexcept { return port_.descriptor(); }
    // Takes one datagram, if there is one, and puts its events behind those of `out`: mostly none or one. False: there
    // is nothing for now.
    bool read(events& out);
    // What is known of a link; nullptr: there is none.
    [[nodiscard]] const link_info* find(unsigned index) const noexcept { return reader_.find(index); }
    // The descriptor must not be in use any more.
    void close() noexcept { port_.close(); }

private:
    void attach_filter(unsigned index);

    netlink_port port_;
    event_reader reader_;
};

} // namespace cotun::link
