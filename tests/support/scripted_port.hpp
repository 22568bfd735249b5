// SPDX-License-Identifier: Apache-2.0
//
// A reactor over the scripted driver, and a port on it as a device would be: what tests of inbox and outbox are written
// against.
#pragma once

#include <cotun/io/packet.hpp>
#include <cotun/io/packet_batch.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/io/read_operation.hpp>
#include <cotun/io/write_operation.hpp>

#include "held_task.hpp"
#include "io/inbox.hpp"
#include "io/outbox.hpp"
#include "io/packet_port.hpp"
#include "io/reactor_core.hpp"
#include "ring/scripted.hpp"

#include <catch2/catch_test_macros.hpp>
#include <cerrno>
#include <cstring>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

namespace cotun::test {

class port_inbox final : public detail::inbox {
public:
    port_inbox(detail::packet_port& port, detail::reactor_core& core, read_mode mode)
        : inbox(port, core, detail::small_packets, mode, ring::feature::read_multishot) {}

private:
    void arm(ring::token request, std::uint16_t group) override {
        core().driver().read_multishot(request, port().file(), group);
    }
    bool place(detail::packet_slot& slot, std::int32_t result) override {
        slot.offset = core().pool().headroom();
        slot.size = static_cast<std::uint32_t>(result);
        return result > 0;
    }
    ssize_t read_now(detail::packet_slot& slot) override {
        return core().driver().read_now(port().file(), core().pool().space(slot));
    }
};

class port_outbox final : public detail::outbox {
public:
    port_outbox(detail::packet_port& port, detail::reactor_core& core, unsigned window) : outbox(port, core, window) {}

private:
    void transmit(ring::token request, std::size_t, detail::packet_slot& slot) override {
        core().driver().write(request, port().file(), {slot.base + slot.offset, slot.size});
    }
    bool admits(const detail::packet_slot&) override { return true; }
};

class test_port final : public detail::packet_port {
public:
    test_port(detail::reactor_core& core, int descriptor, read_mode mode, unsigned window)
        : packet_port(core, descriptor), inbox_(*this, core, mode), outbox_(*this, core, window) {
        open();
    }
    std::string describe() const override { return "test port"; }
    std::string explain(int) const override { return "as the test wanted"; }
    detail::inbox& in() noexcept override { return inbox_; }
    detail::outbox& out() noexcept override { return outbox_; }

private:
    bool closes_slowly() const noexcept override { return true; } // as a device

    port_inbox inbox_;
    port_outbox outbox_;
};

/// The handle, as device is one.
class port {
public:
    explicit port(reactor& io, read_mode mode = read_mode::automatic, unsigned window = 128)
        : descriptor(::dup(STDERR_FILENO)) {
        try {
            port_ = new test_port(io.core(), descriptor, mode, window);
        } catch (...) {
            ::close(descriptor);
            throw;
        }
        port_->hold();
    }
    port(port&& other) noexcept : descriptor(other.descriptor), port_(std::exchange(other.port_, nullptr)) {}
    port& operator=(port&&) = delete;
    ~port() { reset(); }

    void reset() {
        if (port_ == nullptr) return;
        port_->close_now();
        std::exchange(port_, nullptr)->drop();
    }

    read_packet_operation read_packet() { return read_packet_operation(port_->in()); }
    read_packets_operation read_packets() { return read_packets_operation(port_->in()); }
    write_packet_operation write_packet(packet p) { return {port_->out(), std::move(p)}; }
    write_packets_operation write_packets(packet_batch b) { return {port_->out(), std::move(b)}; }
    flush_operation flush() { return flush_operation(port_->out()); }
    task<> close() { return detail::packet_port::close(detail::port_reference(port_)); }
    read_statistics reads() const { return port_->in().statistics(); }
    write_statistics writes() const { return port_->out().statistics(); }
    bool uses_multishot() const { return port_->in().uses_multishot(); }
    void look_again() { port_->in().look_again(); }

    const int descriptor;

private:
    test_port* port_ = nullptr;
};

inline std::vector<std::byte> numbered(unsigned n, std::size_t size = sizeof(unsigned)) {
    std::vector<std::byte> made(size);
    std::memcpy(made.data(), &n, sizeof n);
    return made;
}

inline unsigned number_of(std::span<const std::byte> packet) {
    unsigned n = 0;
    REQUIRE(packet.size() >= sizeof n);
    std::memcpy(&n, packet.data(), sizeof n);
    return n;
}
inline unsigned number_of(const packet& p) { return number_of(p.bytes()); }

/// 0 to n - 1.
inline std::vector<unsigned> up_to(unsigned n) {
    std::vector<unsigned> all(n);
    std::iota(all.begin(), all.end(), 0U);
    return all;
}

struct rig_options {
    pool_options pool;
    unsigned requests = 64;
    unsigned ring_buffers = 4096;
    bool multishot = true;
    std::size_t timers = 1000;
};

inline rig_options with_buffers(unsigned count) {
    rig_options o;
    o.pool.small_count = count;
    o.pool.large_count = 0;
    return o;
}

/// Of a kernel that has no multishot read.
inline rig_options polled(rig_options o = {}) {
    o.multishot = false;
    return o;
}

/// A reactor over the scripted driver, turned by hand.
class rig {
public:
    explicit rig(const rig_options& options = {})
        : rig(options, std::make_unique<ring::scripted>(options.requests, options.ring_buffers)) {}
    ~rig() { kernel.idle = nullptr; }

    /// Runs until there is nothing left to do without a completion. Time stands still.
    void settle() {
        kernel.idle = [this](ring::scripted&) { io.stop(); };
        io.run();
        kernel.idle = nullptr;
    }

    /// Half of a pass: completions are told to their owners, and nobody is resumed.
    void turn() {
        kernel.idle = [](ring::scripted& k) { k.wake(); };
        io.core().turn();
        kernel.idle = nullptr;
    }

    packet make(unsigned n, std::size_t size = sizeof(unsigned)) {
        packet p = io.try_allocate(size);
        REQUIRE(p);
        std::memcpy(p.bytes().data(), &n, sizeof n);
        return p;
    }
    std::size_t free() const { return io.statistics().small_buffers_free; }

    /// The kernel has a packet for the port.
    bool arrive(const port& at, unsigned n) { return kernel.deliver(at.descriptor, numbered(n)); }
    ring::scripted::request* reading(const port& at) {
        return kernel.find(ring::scripted::kind::read_multishot, at.descriptor);
    }
    ring::scripted::request* polling(const port& at) { return kernel.find(ring::scripted::kind::poll, at.descriptor); }
    /// The numbers of the packets whose writes are in flight, in order.
    std::vector<unsigned> writing(const port& at) {
        std::vector<unsigned> all;
        for (const ring::scripted::request& r : kernel.in_flight)
            if (r.what == ring::scripted::kind::write && r.descriptor == at.descriptor)
                all.push_back(number_of(r.bytes));
        return all;
    }
    /// Completes the write of packet n: with success, or an errno.
    void written(const port& at, unsigned n, int error = 0) {
        for (const ring::scripted::request& r : kernel.in_flight) {
            if (r.what != ring::scripted::kind::write || r.descriptor != at.descriptor || number_of(r.bytes) != n)
                continue;
            return kernel.complete(r.name, error != 0 ? -error : static_cast<std::int32_t>(r.bytes.size()));
        }
        throw std::logic_error("no write of that packet is in flight");
    }

    ring::scripted& kernel;
    reactor io;

private:
    rig(const rig_options& options, std::unique_ptr<ring::scripted> driver)
        : kernel(*driver), io(make_core(options, std::move(driver))) {
        kernel.supported = {options.multishot, options.multishot, options.multishot};
        io.spawn(stay(io)); // so that run() goes on when every other task has ended
    }
    static std::unique_ptr<detail::reactor_core> make_core(const rig_options& options,
                                                           std::unique_ptr<ring::scripted> driver) {
        reactor_options o;
        o.pool = options.pool;
        o.timers = options.timers;
        return std::make_unique<detail::reactor_core>(o, std::move(driver));
    }
    static task<> stay(reactor& of) { co_await of.sleep_until(reactor::clock::time_point::max()); }
};

// --- tasks that tests spawn; what they are given must outlive them ------------------------------------------------

/// What became of an operation: an errno, or 0.
struct outcome {
    bool ended = false;
    int error = 0;
    std::string text;

    void failed(const std::system_error& e) {
        error = e.code().value();
        text = e.what();
    }
};

inline task<> read_all(port& from, std::vector<unsigned>& into, outcome& end) {
    try {
        for (;;) {
            const packet p = co_await from.read_packet();
            into.push_back(number_of(p));
        }
    } catch (const std::system_error& e) {
        end.failed(e);
    }
    end.ended = true;
}

/// A rig, and a port that a task reads to its end.
struct reading_rig {
    explicit reading_rig(const rig_options& options = {}) : r(options), p(r.io) {
        r.io.spawn(read_all(p, got, end));
        r.settle();
    }
    rig r;
    port p;
    std::vector<unsigned> got;
    outcome end;
};

inline task<> read_one(port& from, std::vector<unsigned>& into, outcome& end) {
    try {
        const packet p = co_await from.read_packet();
        into.push_back(number_of(p));
    } catch (const std::system_error& e) {
        end.failed(e);
    }
    end.ended = true;
}

inline task<> write_one(port& to, packet p, outcome& end) {
    try {
        co_await to.write_packet(std::move(p));
    } catch (const std::system_error& e) {
        end.failed(e);
    }
    end.ended = true;
}

/// Writes packets numbered from `first` on.
inline task<> write_many(rig& r, port& to, unsigned first, unsigned count, outcome& end) {
    try {
        for (unsigned i = 0; i < count; ++i) {
            packet p = co_await r.io.allocate(sizeof i);
            const unsigned n = first + i;
            std::memcpy(p.bytes().data(), &n, sizeof n);
            co_await to.write_packet(std::move(p));
        }
    } catch (const std::system_error& e) {
        end.failed(e);
    }
    end.ended = true;
}

inline task<> flush(port& of, outcome& end) {
    try {
        co_await of.flush();
    } catch (const std::system_error& e) {
        end.failed(e);
    }
    end.ended = true;
}

inline task<> close(port& closed, outcome& end) {
    co_await closed.close();
    end.ended = true;
}

} // namespace cotun::test
