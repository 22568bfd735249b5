// SPDX-License-Identifier: Apache-2.0
//
// The reactor's inside: what devices, sockets and operations are written against.
//
// A pass, in this order: what other threads posted is called; every waiter that is ready is resumed; what asked for it
// is prepared (buffers go back to their readers, ended multishots are armed again); the driver is entered once, waiting
// only if nothing is ready; completions are told to their owners, and due timers called. Completions and timers never
// resume a coroutine themselves: they make waiters ready. So a pass may be turned from inside a coroutine, which is
// what the destructors of devices do.
#pragma once

#include <cotun/coro/message.hpp>
#include <cotun/coro/scheduler.hpp>
#include <cotun/coro/stop.hpp>
#include <cotun/coro/task.hpp>
#include <cotun/io/reactor.hpp>

#include "io/helper_threads.hpp"
#include "io/links.hpp"
#include "io/packet_pool.hpp"
#include "io/poll_requests.hpp"
#include "io/reader_places.hpp"
#include "io/signal_hub.hpp"
#include "io/timer_heap.hpp"
#include "ring/driver.hpp"
#include "ring/process.hpp"
#include "ring/requests.hpp"

#include <array>
#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace cotun::detail {

class acceptor;
class inbox;
class outbox;
class packet_port;
class stream_hub;

struct admission_kind;
struct open_kind;

/// What must be closed before the reactor is gone, besides the packet ports.
class open_end : public link<open_kind> {
public:
    /// Cancels, reaps and closes; turns the reactor for that.
    virtual void close_now() = 0;
    /// Starts that, where it may take a while: so many ends take the time of one.
    virtual void begin_close_now() {}
    /// close_now() for good: the reactor is not to be touched after it has left its list.
    virtual void reactor_ends() { close_now(); }

protected:
    ~open_end() = default;
};

/// Something that has work to do before the next kernel entry.
class prepared {
public:
    virtual void prepare() noexcept = 0;

protected:
    ~prepared() = default;

private:
    friend class reactor_core;
    bool scheduled_ = false;
};

/// Is told when a reactor that had no tasks has one, and when the last has ended or was destroyed.
class task_watch {
public:
    virtual void tasks_began() noexcept = 0;
    virtual void tasks_ended() noexcept = 0;

protected:
    ~task_watch() = default;
};

/// Throws std::errc::invalid_argument for an option that is out of its range.
void check_options(const reactor_options& options);

class reactor_core final : public scheduler, packet_pool::listener {
public:
    reactor_core(const reactor_options& options, std::unique_ptr<ring::driver> driver);
    ~reactor_core();

    // --- for operations -------------------------------------------------------------------------------------------

    ring::driver& driver() noexcept { return *driver_; }
    packet_pool& pool() noexcept { return *pool_; }

    void prepare_later(prepared& p);
    void forget(prepared& p) noexcept;

    clock::time_point now() noexcept override { return driver_->now(); }
    /// Throws std::errc::resource_unavailable_try_again at reactor_options::timers.
    void arm(timer& t, clock::time_point when) override;
    /// For the reactor's own: a few for each device or socket, which are always armed.
    void arm_reserved(timer& t, clock::time_point when) { timers_.arm(t, when); }
    void disarm(timer& t) noexcept override { timers_.disarm(t); }

    /// A token for a new request, or 0 when there is no room. A quarter is set aside for `reserved` requests: the one
    /// read and the one poll that each device or socket may have in flight, and the accept of each listener. For those
    /// there is always room.
    ring::token begin(ring::request_owner& owner, std::uint32_t cookie, bool reserved = false) noexcept;
    /// How many tokens begin() would give, beside the reserved ones.
    unsigned requests_left() const noexcept;
    /// The receive of a stream, for which a place is kept (reserve_requests()); 0 where requests that were begun before
    /// that have it still. It takes none of what is set aside.
    ring::token begin_receive(ring::request_owner& owner) noexcept;
    /// Has `o` called (retry()) when there is room again.
    void await_room(outbox& o);

    /// A reader enters or leaves: every reader of a class has the same share of its buffers. enter throws
    /// std::errc::no_buffer_space if there are more readers than buffers.
    void add_reader(inbox& reader, size_class c);
    void remove_reader(inbox& reader) noexcept;
    /// A reader goes on with buffers of another class. False: there is no share left of them, and nothing has changed.
    bool move_reader(inbox& reader, size_class from, size_class to);
    /// The places of connections that will be readers of the class.
    reader_places& places(size_class c) noexcept { return places_[c]; }
    /// What there is too little of for one more reader.
    enum class lack : std::uint8_t { none, requests, buffers };
    lack lack_of_readers(size_class c) const noexcept;
    std::string explain_lack_of_readers(size_class c) const;
    /// Whether one more reader leaves places of the class for others: half of them.
    bool has_readers_to_spare(size_class c) const noexcept {
        return lack_of_readers(c) == lack::none && 2 * (readers(c) + 1) <= pool_->count(c);
    }
    /// Has `a` served when there may be a place for a reader again.
    void await_reader_place(acceptor& a) noexcept;
    void serve_connections() noexcept;
    /// Has `reader` prepared when a buffer of the class comes back.
    void await_buffer(inbox& reader, size_class c);
    void await_buffer(allocate_operation& operation, size_class c) noexcept;

    /// Requests that others may not take: as many as streams and listeners may begin at any time. `count` more, or
    /// fewer.
    void reserve_requests(int count) noexcept { kept_requests_ += count; }
    /// A listener comes or goes: it keeps one request, its accept, of the quarter that is set aside. add_listener
    /// throws std::errc::no_buffer_space when the quarter is taken.
    void add_listener();
    void remove_listener() noexcept;
    /// What the streams share; made with the first.
    stream_hub& streams();
    void await_buffer(stream_hub& hub) noexcept;
    void add_open(open_end& end) noexcept { open_.push_back(end); }

    void add_port(packet_port& port);
    void remove_port(packet_port& port) noexcept;

    /// Calls `work`, which must not throw, on a thread of its own, and then `ended` on the reactor's, in a later pass.
    /// Returns the work's number, from 1 on. It is waited for before the reactor goes: see helpers() for what may hang.
    /// There are few such threads at a time; what is beyond them waits in line, and what somebody waits for stands
    /// before what is only being cleared away, of which there may be much.
    enum class turn_in_line { first, last };
    std::uint64_t run_blocking(std::function<void()> work, std::function<void()> ended, turn_in_line turn);
    /// Waits for that work here, and calls `ended` before it returns; does nothing if that has been.
    void finish_blocking(std::uint64_t number);
    /// For who waits here for what a completion may tell before that work is over: turn(), which ends with the work,
    /// too. False: it is over, or the ring is, and there was no turn.
    bool turn_beside(std::uint64_t number);

    /// What a room above keeps one of a reactor; made when it is first asked for, and gone with the reactor. For a few.
    template <class T>
    T& extension() {
        static const char key = 0;
        for (const auto& e : extensions_)
            if (e.key == &key) return *static_cast<T*>(e.object.get());
        extensions_.push_back({&key, std::make_shared<T>()});
        return *static_cast<T*>(extensions_.back().object.get());
    }

    poll_requests& polls() noexcept { return polls_; }
    signal_hub& signals() noexcept { return signals_; }
    helper_threads& helpers() noexcept { return *helpers_; }
    unsigned request_capacity() const noexcept { return requests_.capacity(); }

    /// Whether this is a child of the process that made the reactor: nothing may be done with it then but let it go.
    bool forked() const noexcept { return process_.forked(); }
    /// Throws in such a child.
    void refuse_child(const char* what) const {
        if (forked()) ring::refuse_forked(what);
    }
    /// In builds without NDEBUG, ends the program if the reactor runs on another thread.
    void check_thread([[maybe_unused]] const char* what) const noexcept override {
#ifndef NDEBUG
        if (const int runner = runner_.load(std::memory_order_relaxed); runner != 0) check_thread(what, runner);
#endif
    }

    // --- for reactor ----------------------------------------------------------------------------------------------

    void run(task<>* main) { loop(main, false); }
    void spawn(task<> body);
    /// Throws std::errc::resource_unavailable_try_again at reactor_options::tasks.
    void check_room_for_task() const;
    using scheduler::post;
    void post(message& m) override;
    void stop() noexcept;

    /// Has `m` run on the reactor's thread. Any thread. From what another reactor runs, the wake-up goes with that
    /// one's pass, where its driver can.
    void deliver(message& m) noexcept;
    /// The same, with a wake-up of its own: safe in a signal handler.
    void deliver_at_once(message& m) noexcept;

    /// What this thread's reactor has promised to wake is woken now: the thread is about to block.
    static void wake_before_blocking() noexcept;

    // --- for reactor_group ----------------------------------------------------------------------------------------

    /// Before it first runs: tells `watch` of its tasks, whose waits `stop` stops. Both must outlive it.
    void watch_tasks(task_watch& watch, stop_state& stop) noexcept;
    /// Runs until stop(), also without tasks.
    void serve() { loop(nullptr, true); }
    /// Destroys all tasks; messages are dropped from here on. Not while it runs.
    void end_tasks() noexcept;
    /// Whether the driver has failed, so that it cannot run any more.
    bool is_broken() const noexcept { return broken_; }
    void drop_messages() noexcept;

    packet try_allocate(std::size_t size);
    reactor_statistics statistics() const noexcept;

    /// The kernel's half of a pass, for those who must wait for it synchronously: waits for a completion or a timer,
    /// and resumes nobody. `posts_wake`: a message from elsewhere ends the wait, too; take_posted() comes first then.
    void turn(bool posts_wake = false);
    /// turn(), or end_requests() where that cannot be.
    void turn_or_end();
    /// The driver cannot be entered any more: the thread that the ring belonged to has ended, and its requests with it
    /// (the kernel sees to that), or this is a child. Tells their owners.
    void end_requests();

    reactor_statistics counters; // those that the operations count themselves: rearms, buffers and requests exhausted

private:
    struct root;
    struct root_promise;
    struct main_outcome;
    struct blocking_work {
        std::uint64_t number;
        std::function<void()> work; // empty once it has been started
        std::function<void()> ended;
        std::thread thread;
        turn_in_line turn;
        std::shared_ptr<std::atomic<bool>> over;
    };

    static root run_root(reactor_core& core, task<> body, main_outcome* outcome);
    void start(task<> body, main_outcome* outcome);
    void root_ended(main_outcome* outcome, std::exception_ptr failure) noexcept;
    void pass();
    bool run_is_over() const noexcept;
    void resume_ready();
    void prepare_all();
    void enter_driver(bool wait);
    void deliver();
    bool wants_buffers() const noexcept;
    void prefetch(const ring::completion& soon) const noexcept;
    void after_enter();
    void fire_timers();
    void retry_writers();
    /// The innermost whose run() the calling thread is in.
    static reactor_core*& running_here() noexcept;
    void loop(task<>* main, bool until_stopped);
    bool prepare_to_sleep() noexcept;
    void push(message& m) noexcept;
    void wake_now() noexcept;
    void wake_with_pass(const reactor_core& other) noexcept;
    void send_wakes() noexcept;
    void wake_at_once() noexcept;
    void call_posted();
    void take_posted() noexcept;
    void start_blocking() noexcept;
    void begin_closing_all();
    void settle() noexcept;
    void check_thread(const char* what, int runner) const noexcept;
    // A quarter, and one for the poll of signals. What listeners take of it is among the kept ones.
    unsigned set_aside_requests() const noexcept { return requests_.capacity() / 4 + 1; }
    unsigned reserved_requests() const noexcept { return set_aside_requests() - listeners_; }
    void reserve_lists();
    void set_shares(size_class c);
    std::size_t readers(size_class c) const noexcept;
    void on_buffer_returned(size_class c) noexcept override;

    const ring::process_mark process_;
    std::unique_ptr<ring::driver> driver_;
    ring::request_table requests_;
    packet_pool* pool_;
    timer_heap timers_;
    const std::size_t most_timers_;
    const std::size_t most_tasks_;
    std::size_t tasks_ = 0; // in roots_
    waiter_list roots_;
    poll_requests polls_{*this};
    signal_hub signals_{*this};
    const std::shared_ptr<helper_threads> helpers_;
    std::vector<prepared*> to_prepare_;
    std::vector<prepared*> preparing_;
    std::vector<outbox*> awaiting_room_;
    std::vector<outbox*> retrying_;
    std::vector<packet_port*> ports_;
    link_list<open_end, open_kind> open_;
    std::unique_ptr<stream_hub> streams_;
    int kept_requests_ = 0;
    unsigned listeners_ = 0;
    struct readers_of_class {
        std::vector<inbox*> all;
        std::vector<inbox*> awaiting_buffer;
        bool streams_await_buffer = false;
        waiter_list allocations;
    };
    std::array<readers_of_class, size_classes> readers_;
    std::array<reader_places, size_classes> places_{reader_places(*this, small_packets),
                                                    reader_places(*this, large_packets)};
    link_list<acceptor, admission_kind> awaiting_place_;
    std::array<ring::completion, 256> completions_;
    std::size_t completed_ = 0;           // in completions_
    std::size_t delivered_ = 0;           // of those, told to their owners
    std::vector<blocking_work> blocking_; // in the order in which they are started
    std::size_t blocking_threads_ = 0;
    struct extension_of_key {
        const char* key;
        std::shared_ptr<void> object;
    };
    std::vector<extension_of_key> extensions_;
    std::uint64_t last_blocking_ = 0;
    std::exception_ptr failure_;                  // of a spawned task
    std::atomic<int> runner_{0};                  // the thread that is in run(), by the kernel's number
    std::atomic<std::uint64_t> runner_number_{0}; // and by our own, which is known without a system call
    const main_outcome* main_ = nullptr;          // of the current run(), if it has one
    std::atomic<bool> stop_{false};
    bool until_stopped_ = false;
    bool broken_ = false;
    bool drops_ = false;
    task_watch* watch_ = nullptr;
    stop_state* root_stop_ = nullptr;
    std::shared_ptr<ring::waker> waker_;
    std::vector<std::shared_ptr<ring::waker>> to_wake_; // other reactors, with the next kernel entry
    message* to_call_ = nullptr;                        // the reactor's own, first first

    // What other threads write. The list is pushed by any thread, last first.
    alignas(64) std::atomic<message*> posted_{nullptr};
    enum class sleep : unsigned char {
        awake,
        asleep,   // in the kernel, or on its way there: whoever changes this sees to it that it is woken
        promised, // the same, and another reactor wakes it with its next entry
    };
    std::atomic<sleep> sleep_{sleep::awake};
};

} // namespace cotun::detail
