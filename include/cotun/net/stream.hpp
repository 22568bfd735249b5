// SPDX-License-Identifier: Apache-2.0
//
// stream_socket: what TCP and Unix streams have in common: reading, writing, and their end.
//
//     std::string head = co_await s.read_until("\r\n\r\n", 8192);   // what follows stays for the next read
//     co_await s.write("HTTP/1.1 204 No Content\r\n\r\n");          // done when it is accepted
//     cotun::packet p = co_await s.receive();                       // what has come, without a copy; empty at the end
//
// io/stream_operation.hpp says what a read and a write are. Bytes are received only while somebody waits for them, into
// small buffers that all streams share: an idle stream holds none. What is not read stays with the kernel, but for
// some ten kilobytes, and the peer is held back.
//
// Bounds: of bytes that nobody reads a stream holds 8 small buffers, and what came before the kernel knew; all streams
// together half of the small buffers. Where others need those, the bytes are copied to memory of the stream's own, as
// many at most, and it receives no more until it is read to the end of them. (What a read that was stopped had taken is
// kept, too: as much as it asked for.) Of accepted bytes a stream holds 8 buffers, all streams together a quarter of
// the small ones; beyond it a write waits until the kernel has its bytes. Streams at a time: five eighths of
// reactor_options::requests.
// Lifetime: the destructor closes the stream: what was accepted is sent for a second at most, then the descriptor is
// closed; it turns the reactor for that. `co_await s.close()` does so without holding up others. Operations that wait
// end with std::errc::operation_canceled.
// As TCP has it, closing a stream with bytes that were not received resets the connection, and the peer may lose what
// was sent last: shutdown_send(), and read to the end before, where that matters.
// Errors: std::system_error. What came before an error is read first. An error of writing is thrown by the next write
// or flush(). Thread: the reactor's. Kernel: Linux 5.19; multishot receiving from 6.0 on.
#pragma once

#include <cotun/coro/task.hpp>
#include <cotun/io/packet.hpp>
#include <cotun/io/stream_operation.hpp>

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>

namespace cotun {

class stream_socket {
public:
    /// Waits for bytes and takes what there is, up to into.size(); yields how many, 0: the peer has shut down its side.
    stream_read_some_operation read_some(std::span<std::byte> into) noexcept;
    /// Fills `into`. Throws end_of_stream if the peer ends before: what came is there for the next read.
    stream_read_operation read(std::span<std::byte> into) noexcept;
    /// Yields the bytes up to the first `delimiter`, that included: at most `most`, else it throws
    /// std::errc::message_size, and end_of_stream if the peer ends before. Then what came is there for the next read.
    stream_read_until_operation read_until(std::string_view delimiter, std::size_t most);
    /// Yields a packet with what has come, at most a small buffer's; an empty handle: the peer has shut down its side.
    stream_receive_operation receive() noexcept;

    /// Writes all of it.
    stream_write_operation write(std::span<const std::byte> bytes) noexcept;
    stream_write_operation write(std::string_view text) noexcept;
    stream_write_operation write(packet p) noexcept;
    /// Writes all of several pieces, in order: `const std::array parts{head, body}; co_await s.write(parts);`. The
    /// array is memory that is named, as the pieces are.
    stream_write_operation write(std::span<const std::span<const std::byte>> pieces) noexcept;
    /// Waits until some of it can be taken, and takes what can at once; yields how many bytes, 0 only of none.
    stream_write_some_operation write_some(std::span<const std::byte> bytes) noexcept;
    /// Waits until all that was accepted is with the kernel.
    stream_flush_operation flush() noexcept;

    /// Tells the peer that no more comes, once all has been sent; it can still be read from. Later writes throw
    /// std::errc::broken_pipe.
    void shutdown_send();
    task<> close();
    bool is_open() const noexcept;
    /// The descriptor, for getsockopt(2) and setsockopt(2) of what cotun has no options for; -1 once it is closed. It
    /// stays the stream's: not to be read, written or closed, nor made non-blocking.
    int native_handle() const noexcept;

protected:
    explicit stream_socket(detail::stream_port* port) noexcept;
    stream_socket(stream_socket&& other) noexcept : port_(std::exchange(other.port_, nullptr)) {}
    stream_socket& operator=(stream_socket&& other) noexcept;
    ~stream_socket() { reset(); }
    detail::stream_port& port() const noexcept;

private:
    void reset() noexcept;
    detail::stream_port* port_; // counted; nullptr once moved from
};

} // namespace cotun
