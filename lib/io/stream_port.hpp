// SPDX-License-Identifier: Apache-2.0
//
// stream_port: a stream socket's descriptor, its reader and writer, and its orderly end, which is a packet_port's: what
// was accepted is sent, for a second at most; requests are cancelled and their last completions awaited; the descriptor
// is closed.
//
// A port is counted by its handle and by the operations that wait on it, so that either may go first.
#pragma once

#include <cotun/coro/task.hpp>
#include <cotun/coro/timer.hpp>
#include <cotun/coro/waiter.hpp>

#include "io/counted.hpp"
#include "io/reactor_core.hpp"
#include "io/stream_reader.hpp"
#include "io/stream_writer.hpp"
#include "ring/driver.hpp"

#include <string>

namespace cotun::detail {

class stream_hub;
struct scheduled_kind;

class stream_port : public open_end, public link<scheduled_kind>, timer {
public:
    stream_port(const stream_port&) = delete;
    stream_port& operator=(const stream_port&) = delete;

    /// What errors call it: `TCP stream 192.0.2.1:80 to 192.0.2.7:40000`.
    virtual std::string describe() const = 0;
    virtual std::string explain(int error) const;
    [[noreturn]] void throw_failure(int error, const char* doing) const;

    reactor_core& core() noexcept { return *core_; }
    /// In builds without NDEBUG, ends the program if the reactor runs on another thread. Closed, the port may be
    /// without a reactor.
    void check_thread(const char* what) const noexcept {
        if (is_open()) core_->check_thread(what);
    }
    stream_hub& hub() noexcept { return *hub_; }
    stream_reader& reader() noexcept { return reader_; }
    stream_writer& writer() noexcept { return writer_; }
    ring::file file() const noexcept { return {descriptor_, -1}; }
    int descriptor() const noexcept { return descriptor_; }
    bool is_open() const noexcept { return state_ == state::open; }

    static task<> close(counted<stream_port> port);
    void close_now() override;
    void begin_close_now() override { begin_close(); }

    void hold() noexcept { ++references_; }
    void drop() noexcept {
        if (--references_ == 0) delete this;
    }

    /// Has it prepared before the next kernel entry.
    void schedule() noexcept;
    void prepare() noexcept {
        reader_.prepare();
        writer_.prepare();
    }
    /// Called when a request has ended.
    void progress();

protected:
    /// Takes the descriptor, and a place that the hub has admitted it to.
    stream_port(reactor_core& core, int descriptor) noexcept;
    virtual ~stream_port();

private:
    enum class state : std::uint8_t { open, draining, cancelling, closed };

    void on_time() override { begin_cancel(); }
    void begin_close();
    void begin_cancel();

    reactor_core* core_;
    stream_hub* hub_;
    int descriptor_;
    state state_ = state::open;
    unsigned references_ = 0;
    stream_reader reader_{*this};
    stream_writer writer_{*this};
    waiter_list closers_;
};

} // namespace cotun::detail
