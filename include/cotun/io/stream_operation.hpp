// SPDX-License-Identifier: Apache-2.0
//
// What can be awaited on a stream socket: reads, writes, flush().
//
// Reads. Bytes lie in buffers of the reactor's, where the kernel has put them; a read into memory of the program's
// copies them from there, at once and on this thread. Stopping a read (coro/stop.hpp) or destroying it loses no byte:
// what it had taken is there for the next read. What came before an error or the end is read before that is told.
//
// Writes. One that fits a small buffer is copied into it, and done when it is accepted: several go out in one system
// call. A larger one is sent from the program's memory, without a copy, and is done when the kernel has all of it; so
// is a small one while no buffer may be had, since the peer does not take what was accepted before. Stopping a write
// that waits its turn leaves the stream as it was. Stopping one of which a part has been sent breaks the stream: the
// peer would take what follows for the rest. Later writes throw std::errc::connection_aborted then. Destroying a write
// that the kernel works on waits until the kernel has let go of the memory.
// A write of several pieces is one write: they go out in order, in one system call as far as that takes them, from
// where they are. The pieces, and the array that names them, are memory that is named. write_some() takes what may be
// copied at once, of any size; while that is nothing, it waits its turn, and takes what the kernel then does in one
// system call. Of what it takes it tells, though it was stopped: it never breaks the stream.
//
// Lifetime: memory that is named must outlive the await; the stream need not. Thread: the reactor's.
// Several coroutines may read, or write, one stream; each has its turn in the order in which they came.
#pragma once

#include <cotun/coro/stop.hpp>
#include <cotun/io/packet.hpp>

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace cotun {

/// The peer has ended the stream in the middle of what was to be read; what had come can still be read with
/// read_some(). Its code is std::errc::no_message_available (ENODATA).
class end_of_stream : public std::system_error {
public:
    explicit end_of_stream(const std::string& what);
};

namespace detail {

class descriptors_to_send;
class stream_port;
class stream_reader;
class stream_writer;

/// A wait for bytes.
class stream_read_waiter : public stoppable_wait {
public:
    bool await_ready();
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const await_context& context);

protected:
    explicit stream_read_waiter(stream_port& from) noexcept : from_(&from) {}
    stream_read_waiter(stream_read_waiter&& other) noexcept : stoppable_wait(std::move(other)), from_(other.from_) {}
    ~stream_read_waiter() = default;

    /// Takes of what has come. True: nothing more is to be waited for.
    virtual bool feed(stream_reader& from) = 0;

    stream_reader& reader() const noexcept;
    /// The wait is over: what was kept for it is for the next.
    void end() noexcept;
    /// Throws if it was stopped, or the stream was closed by this program.
    void throw_if_over() const;
    [[noreturn]] void throw_end(std::size_t got, std::size_t wanted) const;

    stream_port* from_;
    int failure_ = 0;

private:
    friend class stream_reader;
    bool holds_port_ = false;
};

} // namespace detail

/// co_await s.read_some(into): the number of bytes, at least one; 0: the peer has shut down its side.
class [[nodiscard]] stream_read_some_operation final : public detail::stream_read_waiter {
public:
    stream_read_some_operation(detail::stream_port& from, std::span<std::byte> into) noexcept
        : stream_read_waiter(from), into_(into) {}
    stream_read_some_operation(stream_read_some_operation&&) noexcept = default;
    ~stream_read_some_operation() { end(); }
    std::size_t await_resume();

private:
    bool feed(detail::stream_reader& from) override;
    std::span<std::byte> into_;
};

/// co_await s.receive(): a packet with what has come, without a copy; an empty one: the peer has shut down its side.
class [[nodiscard]] stream_receive_operation final : public detail::stream_read_waiter {
public:
    explicit stream_receive_operation(detail::stream_port& from) noexcept : stream_read_waiter(from) {}
    stream_receive_operation(stream_receive_operation&&) noexcept = default;
    ~stream_receive_operation() {
        give_up();
        end();
    }
    packet await_resume();

private:
    bool feed(detail::stream_reader& from) override;
    void give_up() noexcept override;
    packet got_;
};

/// co_await s.read(into): all of it. Throws end_of_stream if the peer ends before.
class [[nodiscard]] stream_read_operation final : public detail::stream_read_waiter {
public:
    stream_read_operation(detail::stream_port& from, std::span<std::byte> into) noexcept
        : stream_read_waiter(from), into_(into) {}
    stream_read_operation(stream_read_operation&&) noexcept = default;
    ~stream_read_operation() {
        give_up();
        end();
    }
    void await_resume();

private:
    bool feed(detail::stream_reader& from) override;
    void give_up() noexcept override;
    std::span<std::byte> into_;
    std::size_t got_ = 0;
};

/// co_await s.read_until(delimiter, most): the bytes up to the delimiter, that included. Throws end_of_stream if the
/// peer ends before it, std::errc::message_size if it is not within the first `most` bytes.
class [[nodiscard]] stream_read_until_operation final : public detail::stream_read_waiter {
public:
    stream_read_until_operation(detail::stream_port& from, std::string_view delimiter, std::size_t most)
        : stream_read_waiter(from), delimiter_(delimiter), most_(most) {}
    stream_read_until_operation(stream_read_until_operation&&) noexcept = default;
    ~stream_read_until_operation() {
        give_up();
        end();
    }
    std::string await_resume();

private:
    bool feed(detail::stream_reader& from) override;
    void give_up() noexcept override;
    std::string delimiter_;
    std::size_t most_;
    std::string got_;
    bool found_ = false;
};

/// co_await s.write(...).
class [[nodiscard]] stream_write_operation : public detail::waiter, detail::stop_link {
public:
    stream_write_operation(detail::stream_port& to, std::span<const std::byte> bytes) noexcept
        : to_(&to), bytes_(bytes) {}
    stream_write_operation(detail::stream_port& to, std::span<const std::span<const std::byte>> pieces) noexcept
        : to_(&to), pieces_(pieces) {
        skip_empty();
    }
    stream_write_operation(detail::stream_port& to, packet&& p) noexcept;
    stream_write_operation(stream_write_operation&& other) noexcept // only before it is awaited
        : waiter(),
          stop_link(),
          to_(other.to_),
          bytes_(other.bytes_),
          pieces_(other.pieces_),
          packet_(std::move(other.packet_)),
          beside_(std::exchange(other.beside_, nullptr)),
          some_(other.some_) {}
    ~stream_write_operation() { end(); }

    bool await_ready();
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    void await_resume();

protected:
    struct some {};
    stream_write_operation(detail::stream_port& to, std::span<const std::byte> bytes, some) noexcept
        : to_(&to), bytes_(bytes), some_(true) {}
    stream_write_operation(detail::stream_port& to, std::span<const std::byte> bytes,
                           detail::descriptors_to_send* beside) noexcept
        : to_(&to), bytes_(bytes), beside_(beside) {}
    std::size_t resume_some();
    /// Returns when the kernel has let go of all that is named.
    void end() noexcept {
        if (std::exchange(holds_port_, false)) leave();
    }

private:
    friend class detail::stream_writer;
    void on_stop() noexcept override;
    void leave() noexcept;
    /// Of what is to be sent, so many bytes have been.
    void advance(std::size_t count) noexcept;
    void skip_empty() noexcept {
        for (; bytes_.empty() && !pieces_.empty(); pieces_ = pieces_.subspan(1)) bytes_ = pieces_.front();
    }
    std::size_t left() const noexcept;

    detail::stream_port* to_;
    std::span<const std::byte> bytes_;                   // what is not sent yet; empty: all is
    std::span<const std::span<const std::byte>> pieces_; // and what follows that
    std::size_t sent_ = 0;
    packet packet_;
    detail::descriptors_to_send* beside_ = nullptr; // what goes with the first byte, until it has gone
    int failure_ = 0;
    bool some_ = false;     // it is content with a part
    bool stopping_ = false; // asked to stop, or destroyed, while the kernel worked on it
    bool stopped_ = false;
    bool holds_port_ = false;
};

/// co_await s.write_some(bytes): how many of them were taken, one at least; 0: of none.
class [[nodiscard]] stream_write_some_operation final : public stream_write_operation {
public:
    stream_write_some_operation(detail::stream_port& to, std::span<const std::byte> bytes) noexcept
        : stream_write_operation(to, bytes, some{}) {}
    stream_write_some_operation(stream_write_some_operation&&) noexcept = default;
    std::size_t await_resume() { return resume_some(); }
};

/// co_await s.flush(): all that was accepted is with the kernel. Throws the error that ended writing, if one has.
class [[nodiscard]] stream_flush_operation final : public detail::stoppable_wait {
public:
    explicit stream_flush_operation(detail::stream_port& of) noexcept : of_(&of) {}
    stream_flush_operation(stream_flush_operation&& other) noexcept
        : stoppable_wait(std::move(other)), of_(other.of_) {}
    ~stream_flush_operation();

    bool await_ready() noexcept;
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    void await_resume();

private:
    friend class detail::stream_writer;
    detail::stream_port* of_;
    std::uint64_t until_ = 0; // bytes accepted since the stream was opened
    bool holds_port_ = false;
};

} // namespace cotun
