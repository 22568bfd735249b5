// SPDX-License-Identifier: Apache-2.0
//
// reactor: the loop that drives devices, sockets, timers and tasks on one thread.
//
//     cotun::reactor io;
//     io.spawn(background(io));
//     io.run(serve(io));      // returns when serve has ended, or stop() was called
//
// A pass of the loop resumes every coroutine that is ready; what they queue goes to the kernel in one entry, together
// with the wait for what comes next.
//
// Lifetime: devices and sockets use the reactor and are closed by its destructor if they still live; tasks that have
// not ended are destroyed with it. Tasks that were spawned stay when run() returns, and go on with the next run().
// Thread: one thread a reactor: the first that runs it (it may be built on another), and it is destroyed there too.
// Only post() and stop() may be called from any thread; so may what reactor_group and cross_channel offer. Builds
// without NDEBUG end the program with a message that names both threads when another one spawns, arms a timer or starts
// a request while the reactor runs.
// Processes: a reactor stays in the process that made it. In a child of fork(2) run(), spawn(), post() and the opening
// of devices and sockets are refused (std::errc::operation_not_permitted), stop() does nothing, and the destructors let
// go of the child's copies only: nothing of the parent's is touched. A child may make a reactor of its own.
// Bounds: what there is at most, and what happens there.
//   requests in flight       reactor_options::requests; writes wait
//   waits for descriptors    half of the requests; refused (io/readiness.hpp)
//   streams                  five eighths of the requests; connecting is refused, connections wait to be accepted
//   connections kept         64 a listener, besides the kernel's backlog, until somebody accepts
//   packets not yet read     each reader's share of the pool's buffers; more waits, or is dropped, in the kernel
//   packets not yet written  a window for each device and socket; writes wait
//   bytes of streams         half of the small buffers for what is not read, a quarter for what is not sent; they wait.
//                            Besides, some eight buffers' bytes, copied, a stream that nobody reads (net/stream.hpp)
//   timers, tasks            reactor_options; refused
//   helper threads           reactor_options; names to resolve wait in line; a device that is being closed has one more
//   functions and messages   what other threads post is not bounded, since refusing it would lose wake-ups: who must
//                            not run ahead awaits call_on(), or sends through a cross_channel, which is bounded
// Errors: std::system_error, with the remedy, where the kernel refuses io_uring.
// Kernel: Linux 5.19; its speed from 6.1 on, multishot reads of devices from 6.7 on.
#pragma once

#include <cotun/coro/awaitable.hpp>
#include <cotun/coro/stop.hpp>
#include <cotun/coro/task.hpp>
#include <cotun/coro/timer.hpp>
#include <cotun/io/packet.hpp>
#include <cotun/io/readiness.hpp>
#include <cotun/io/signal.hpp>
#include <cotun/io/statistics.hpp>

#include <chrono>
#include <concepts>
#include <cstddef>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

namespace cotun {

namespace detail {
class reactor_core;
}

/// The packet pool of a reactor: one block of memory a size class, touched as it is used, never grown.
struct pool_options {
    /// Buffers for packets up to a usual MTU: how many (1 to 32768), and the bytes of each, headroom and tailroom
    /// included (512 to 65536).
    unsigned small_count = 1024;
    unsigned small_size = 2048;
    /// Buffers for anything larger, up to the 65,535 bytes of the largest IP packet: how many (0 to 32767), their bytes
    /// (4096 to 1 MiB).
    unsigned large_count = 64;
    unsigned large_size = 66 * 1024;
    /// Room in front of and behind a packet when it is read or made, bytes.
    unsigned headroom = 128;
    unsigned tailroom = 64;
};

/// How the kernel hands completions over. `automatic` takes the best that the kernel has; the others force one.
enum class ring_mode {
    automatic,
    deferred,    // SINGLE_ISSUER | DEFER_TASKRUN: Linux 6.1
    cooperative, // COOP_TASKRUN: Linux 5.19
    plain,
};

struct reactor_options {
    pool_options pool{};
    /// The most requests in flight (32 to 16384). At the bound, writes wait; a device or socket reserves two of the
    /// quarter that is kept for reading and closing, a listener one. Four of them are the reactor's own where a power
    /// of two is asked for (1024: 1020 are the program's), since the ring's queue has that many entries.
    unsigned requests = 1024;
    /// The most timers: sleeps, timeouts and intervals that wait at the same time (1 to 2^30). Each is 16 bytes of the
    /// reactor's; all of them together are one deadline of the kernel entry. Beyond, the wait throws
    /// std::errc::resource_unavailable_try_again.
    std::size_t timers = std::size_t{1} << 20;
    /// The most tasks that run() and spawn() have started and that have not ended (1 to 2^30). spawn() beyond throws
    /// std::errc::resource_unavailable_try_again. Tasks that tasks await are not counted, nor those of a scope, which
    /// has a bound of its own.
    std::size_t tasks = std::size_t{1} << 20;
    /// The most threads that do what the kernel cannot do asynchronously, the resolving of names (1 to 256). They are
    /// started as they are needed and end when there is nothing to do; what is beyond them waits in line.
    unsigned helper_threads = 8;
    ring_mode ring = ring_mode::automatic;
    /// The longest that a wait with nothing to submit gathers packets, as a network card moderates its interrupts
    /// (Linux 6.12). It does so only while they come so fast that four or more are to be expected in that time, no
    /// longer than it takes for sixteen, and delays them by as much; packets that come slower, or each as an answer to
    /// the one before, it does not delay. 0 to 1000 microseconds; 0: never.
    std::chrono::microseconds coalesce{100};
    /// How long a wait looks for completions before it sleeps (0 to 100,000 microseconds; 0: it sleeps at once). It
    /// saves the wake-up, which can be half of a round trip or more, and takes a whole processor while it lasts: for a
    /// reactor that has a core of its own. Where others need the core, the peer of a loopback connection for example,
    /// everything takes longer.
    std::chrono::microseconds busy_poll{0};
    /// Registers descriptors with the ring, which saves the kernel a look-up an operation; only where a removed one is
    /// let go at once (Linux 6.13, found by trying), since a closed interface would not be gone otherwise.
    bool registered_files = true;
    /// Wakes other reactors by messages from ring to ring (IORING_OP_MSG_RING, Linux 5.18), which go with what is
    /// submitted anyway; otherwise by a system call each.
    bool messages = true;
};

/// co_await io.sleep_for(...), io.sleep_until(...), io.yield().
class [[nodiscard]] sleep_operation final : detail::stoppable_wait, detail::timer {
public:
    using clock = std::chrono::steady_clock;

    sleep_operation(detail::reactor_core& core, clock::time_point until) noexcept : core_(&core), until_(until) {}
    sleep_operation(sleep_operation&& other) noexcept
        : stoppable_wait(std::move(other)), timer(), core_(other.core_), until_(other.until_) {}
    ~sleep_operation();

    bool await_ready() const noexcept { return false; }
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    void await_resume() const { throw_if_stopped(); }

private:
    void on_time() override;
    void give_up() noexcept override;

    detail::reactor_core* core_;
    clock::time_point until_;
};

/// co_await io.allocate(size).
class [[nodiscard]] allocate_operation : detail::stoppable_wait {
public:
    allocate_operation(detail::reactor_core& core, std::size_t size) noexcept : core_(&core), size_(size) {}

    bool await_ready();
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context);
    packet await_resume() {
        throw_if_stopped();
        return std::move(got_);
    }

private:
    friend class detail::reactor_core;
    detail::reactor_core* core_;
    std::size_t size_;
    packet got_;
};

class reactor {
public:
    using clock = std::chrono::steady_clock;

    /// Throws std::system_error if the kernel refuses the ring or the memory; std::errc::invalid_argument for an option
    /// that is out of its range.
    explicit reactor(const reactor_options& options = {});
    /// Over a driver of the caller's choice: for the library's own tests.
    explicit reactor(std::unique_ptr<detail::reactor_core> core) noexcept;
    reactor(const reactor&) = delete;
    reactor& operator=(const reactor&) = delete;
    ~reactor();

    /// Runs `main` to its end, with all that was spawned beside it, and returns its value or throws its exception. An
    /// exception that leaves a spawned task, or a posted function, ends run() with it; `main` is destroyed then.
    /// After stop(): `main` is destroyed; a run of a task<> returns, one of a task with a value throws
    /// std::errc::operation_canceled. A stop() that comes before run() counts. Throws
    /// std::errc::device_or_resource_busy if the reactor runs already.
    template <class T>
    T run(task<T> main) {
        if constexpr (std::is_void_v<T>) {
            run_main(std::move(main));
        } else {
            std::optional<T> value;
            if (!main) run_main({}); // refuses it
            run_main(keep(std::move(main), value));
            if (!value) throw_stopped();
            return std::move(*value);
        }
    }

    /// The same with an operation, as in `io.run(cotun::with_timeout(serve(io), 2s))`.
    template <operation Operation>
    auto run(Operation main) {
        return run(await_it<detail::result_of<Operation>>(std::move(main)));
    }

    /// Runs until every spawned task has ended, or stop().
    void run();

    /// Starts a task that nobody awaits. It first runs in the next pass. Throws
    /// std::errc::resource_unavailable_try_again when there are as many as reactor_options::tasks.
    void spawn(task<> body);

    /// Has `function` called on the reactor's thread, where it is destroyed, too. Any thread; the reactor must live.
    /// Allocates. What one thread posts is called in its order. A burst of posts costs one wake-up, and none if the
    /// reactor is awake. Posted by what another reactor runs, the wake-up goes with that reactor's next kernel entry:
    /// do not block there until `function` has been called.
    template <std::invocable Function>
    void post(Function function) {
        auto m = std::make_unique<detail::posted_function<Function>>(std::move(function));
        post(*m);
        static_cast<void>(m.release());
    }

    /// Ends the current run(), or the next one. Any thread; safe in a signal handler.
    void stop() noexcept;

    /// Waits for the time to pass; 0 or less lets every other ready task run first. Steady clock.
    sleep_operation sleep_for(clock::duration time) noexcept;
    sleep_operation sleep_until(clock::time_point time) noexcept;
    sleep_operation yield() noexcept { return sleep_for(clock::duration::zero()); }

    /// Yields the number of the first of these signals that comes: io.signal(SIGINT, SIGTERM). From the call on, and
    /// not only while somebody waits, they are caught; see io/signal.hpp. Throws std::errc::invalid_argument for one
    /// that cannot be.
    template <std::same_as<int>... More>
    signal_operation signal(int first, More... more) {
        return signal(signal_set(first, more...));
    }
    signal_operation signal(const signal_set& any);

    /// Waits until the descriptor, which stays the caller's, can be read from or written to; see io/readiness.hpp.
    readiness_operation readable(int descriptor) noexcept;
    readiness_operation writable(int descriptor) noexcept;

    /// A packet of `size` unspecified bytes; waits while the pool is empty. Throws std::errc::message_size if no buffer
    /// of the pool is that large.
    allocate_operation allocate(std::size_t size) noexcept { return {core(), size}; }
    /// The same, at once: an empty handle if the pool is empty.
    packet try_allocate(std::size_t size);

    reactor_statistics statistics() const noexcept;

    detail::reactor_core& core() noexcept { return *core_; }
    /// What a scope runs on.
    detail::scheduler& loop() noexcept;

private:
    template <class T>
    static task<> keep(task<T> body, std::optional<T>& value) {
        value.emplace(co_await std::move(body));
    }
    template <class T, class Operation>
    static task<T> await_it(Operation body) {
        co_return co_await std::move(body);
    }
    void run_main(task<> main);
    void post(detail::message& m);
    [[noreturn]] static void throw_stopped();

    std::unique_ptr<detail::reactor_core> core_;
};

} // namespace cotun
