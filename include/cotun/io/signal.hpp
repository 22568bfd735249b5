// SPDX-License-Identifier: Apache-2.0
//
// co_await io.signal(...): signals as something that a task waits for.
//
//     int number = co_await io.signal(SIGINT, SIGTERM);
//
//     cotun::task<> serve_until_asked(cotun::reactor& io, cotun::device& dev) {
//         co_await cotun::when_any(serve(dev), io.signal(SIGINT, SIGTERM));
//     }
//
// The first call that names a signal blocks it in the calling thread, for as long as the reactor lives: it then has no
// effect of its own any more, and is read from a signalfd. Every wait that names the signal is told of it. One that
// comes while nobody waits for it is kept for the next wait, once, however often it came (as the kernel does with
// signals that are pending); so nothing is missed between two waits, nor before the first one after the call.
//
// Threads: a signal that is sent to the process goes to any thread that does not block it. So call io.signal() before
// other threads are started, in main() for example; they inherit what is blocked. (The reactor's own threads block all
// signals.) Call it on the thread that runs the reactor; signals that are sent to a thread, such as by pthread_kill(),
// are seen on that thread only.
//
// Children inherit what is blocked, too, and what they execute keeps it: a program that was started so could not be
// ended by SIGTERM. Before exec, unblock: sigset_t none; sigemptyset(&none); sigprocmask(SIG_SETMASK, &none, nullptr);
// with posix_spawn() by posix_spawnattr_setsigmask() and POSIX_SPAWN_SETSIGMASK.
//
// Lifetime: the reactor's destructor drops what has come and was not waited for, and unblocks what this thread did not
// block before; if it runs on another thread than the first call, that one's mask stays.
// Two reactors: of two that name the same signal, one of them is told, and nothing says which; name each in one. Those
// on one thread share the mask: it is restored when the last of them goes.
//
// Stopping and destroying a wait: as everywhere (coro/stop.hpp); a signal that had come for it goes to another that
// waits for it, or is kept.
// Errors: std::errc::invalid_argument for what is not a signal, cannot be caught (SIGKILL, SIGSTOP), or tells of a
// fault of the program itself (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS). Kernel: signalfd(2).
#pragma once

#include <cotun/coro/stop.hpp>

#include <concepts>
#include <coroutine>
#include <csignal>
#include <cstdint>
#include <utility>

namespace cotun {

namespace detail {
class reactor_core;
class signal_hub;
} // namespace detail

/// Signals by number, for io.signal(): signal_set(SIGINT, SIGTERM).
class signal_set {
public:
    /// Throws std::errc::invalid_argument for one that cannot be waited for.
    template <std::same_as<int>... Numbers>
    requires(sizeof...(Numbers) > 0) explicit signal_set(Numbers... numbers) : bits_((bit_of(numbers) | ...)) {}

    bool contains(int number) const noexcept { return number > 0 && number <= 64 && (bits_ >> (number - 1) & 1) != 0; }
    /// The set as the kernel has it: signal n is bit n - 1.
    std::uint64_t bits() const noexcept { return bits_; }

private:
    static std::uint64_t bit_of(int number);
    std::uint64_t bits_;
};

/// Yields the number of the signal.
class [[nodiscard]] signal_operation final : detail::stoppable_wait {
public:
    signal_operation(detail::reactor_core& core, const signal_set& any) noexcept : core_(&core), any_(any) {}
    /// Only before it is awaited.
    signal_operation(signal_operation&& other) noexcept
        : stoppable_wait(std::move(other)), core_(other.core_), any_(other.any_) {}
    ~signal_operation();

    bool await_ready();
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    int await_resume();

private:
    friend class detail::signal_hub;
    detail::reactor_core* core_;
    signal_set any_;
    int came_ = 0; // and was not taken yet
};

} // namespace cotun
