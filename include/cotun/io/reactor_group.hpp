// SPDX-License-Identifier: Apache-2.0
//
// reactor_group: more cores: a reactor a thread, pinned to its CPU if asked.
//
//     cotun::task<> serve(cotun::reactor& io, cotun::reactor_group& group, int port);
//
//     cotun::reactor_group group({.reactors = 4, .pin = true});
//     for (std::size_t i = 0; i < group.size(); ++i) group.spawn_on(i, serve, std::ref(group), 5000);
//     group.run(); // until all tasks have ended; throws what the first threw that failed
//
// Reactors share nothing: each opens its own devices' queues and sockets, on its own thread. A task is made where it
// runs: spawn_on() takes the coroutine's function and calls it there, as it calls what post() and call_on() take: with
// the reactor there, and then the arguments, which are copied or moved as std::thread does it; a reference is given by
// std::ref, to what outlives the group. Packets stay with their reactor: copy the bytes.
//
//     group.post(2, note_arrival, address);                                    // no answer
//     std::size_t peers = co_await group.call_on(2, count_peers, network);     // its result, or what it threw
//
// Messages of one thread to one reactor come in order. Their number is not bounded: who must not run ahead awaits
// call_on().
//
// End: a group is at its end when no task runs, on any of its reactors, and no message is on its way. request_stop()
// asks all tasks to stop, as a scope does; stop() ends all reactors, destroying the tasks that are left. A task, or a
// posted function, that fails has the others asked to stop. Tasks that end with std::errc::operation_canceled after a
// request have not failed.
//
// Lifetime: the destructor does stop() and waits. Tasks are destroyed on their own threads, before join() returns.
// Thread: all of it from any thread, but join(), run() and the destructor not from the group's own. request_stop() and
// stop() are safe in a signal handler.
// Signals: the group's threads block what the thread that makes it blocks. So block, before it is made, those that a
// task is to wait for by io.signal() (pthread_sigmask), on one of its reactors; else they go to any of the threads.
// Processes: in a child of fork(2), sending and joining are refused (std::errc::operation_not_permitted), and the rest
// does nothing.
// Errors: std::system_error. Those at the start, of any of the threads, are thrown by the constructor: no thread is
// left then. What is sent to a reactor or a group that has ended is refused with std::errc::broken_pipe.
#pragma once

#include <cotun/io/option_values.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/io/remote_call.hpp>

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

namespace cotun {

struct group_options {
    /// How many, 1 to 1024. 0: one for each CPU that it may use.
    unsigned reactors = 0;
    /// Keeps each thread on one CPU, in turn those that the thread that makes the group may use.
    bool pin = false;
    /// Those instead, in turn; pins.
    option_list<unsigned, 256> cpus{};
    /// What each reactor is made with.
    reactor_options each{};
};
static_assert(std::is_trivially_destructible_v<group_options>); // see io/option_values.hpp

class reactor_group {
public:
    /// One reactor of the group, seen from anywhere. It names it, and must not be used when the group is gone.
    class handle {
    public:
        std::size_t index() const noexcept { return index_; }
        template <class Factory, class... Args>
        void spawn(Factory&& factory, Args&&... arguments) const {
            group_->spawn_on(index_, std::forward<Factory>(factory), std::forward<Args>(arguments)...);
        }
        template <class Function, class... Args>
        void post(Function&& function, Args&&... arguments) const {
            group_->post(index_, std::forward<Function>(function), std::forward<Args>(arguments)...);
        }
        template <class Function, class... Args>
        auto call(Function&& function, Args&&... arguments) const {
            return group_->call_on(index_, std::forward<Function>(function), std::forward<Args>(arguments)...);
        }
        /// Ends this reactor: its tasks are destroyed, there. The others go on.
        void stop() const { group_->stop(index_); }

    private:
        friend class reactor_group;
        handle(reactor_group& group, std::size_t index) noexcept : group_(&group), index_(index) {}
        reactor_group* group_;
        std::size_t index_;
    };

    explicit reactor_group(const group_options& options = {});
    reactor_group(const reactor_group&) = delete;
    reactor_group& operator=(const reactor_group&) = delete;
    ~reactor_group();

    std::size_t size() const noexcept;
    /// Throws std::errc::invalid_argument for an index that is not below size(), as those below do.
    handle operator[](std::size_t index);

    /// Starts, on that reactor, the task that `factory(reactor&, arguments...)` makes there. Beyond
    /// reactor_options::tasks the group fails with std::errc::resource_unavailable_try_again.
    template <class Factory, class... Args>
    void spawn_on(std::size_t index, Factory&& factory, Args&&... arguments) {
        using produced = std::invoke_result_t<std::decay_t<Factory>&, reactor&, std::unwrap_ref_decay_t<Args>...>;
        static_assert(std::is_same_v<produced, task<>>, "spawn_on takes a function (reactor&, arguments...) that "
                                                        "returns a task<>");
        send<detail::spawn_message>(
            index, std::make_unique<detail::task_maker_of<std::decay_t<Factory>, std::unwrap_ref_decay_t<Args>...>>(
                       std::forward<Factory>(factory), std::forward<Args>(arguments)...));
    }

    /// Has `function(reactor&, arguments...)` called on that reactor's thread.
    template <class Function, class... Args>
    void post(std::size_t index, Function&& function, Args&&... arguments) {
        static_assert(
            !detail::is_task<
                std::invoke_result_t<std::decay_t<Function>&, reactor&, std::unwrap_ref_decay_t<Args>...>>::value,
            "a task that is posted never runs: use spawn_on()");
        send<detail::function_message<std::decay_t<Function>, std::unwrap_ref_decay_t<Args>...>>(
            index, std::forward<Function>(function), std::forward<Args>(arguments)...);
    }

    /// Calls `function(reactor&, arguments...)` on that reactor, awaits it there if it is a task, and yields its result
    /// here, or throws what it threw. A request to stop is handed on: the call then ends with the other side, and a
    /// result that it has all the same is delivered. Where the wait is destroyed, the other side is asked to stop, and
    /// ends by itself. Throws std::errc::broken_pipe if that reactor has ended, or ends before it has answered. The
    /// callable may not have captures that need destruction: GCC before 13 destroys them twice in a co_await
    /// expression. Results and arguments may be destroyed on either thread.
    template <class Function, class... Args>
    auto call_on(std::size_t index, Function&& function, Args&&... arguments) {
        using callable = std::decay_t<Function>;
        using result = detail::remote_result<callable, std::unwrap_ref_decay_t<Args>...>;
        static_assert(std::is_trivially_destructible_v<callable>,
                      "give what the function needs as arguments: GCC before 13 destroys captures twice here");
        static_assert(!std::is_reference_v<result>, "a reference to what is another reactor's: return a copy");
        static_assert(!std::is_same_v<result, packet> && !std::is_same_v<result, packet_batch>,
                      "packets stay with their reactor: copy the bytes");
        check(index);
        return call_operation<result>(*new detail::remote_call_of<callable, std::unwrap_ref_decay_t<Args>...>(
            *core_, index, std::forward<Function>(function), std::forward<Args>(arguments)...));
    }

    /// Waits until the group is at its end, or was stopped, and throws what the first that failed threw, once. Again
    /// returns at once. Throws std::errc::resource_deadlock_would_occur on a thread of the group's.
    void join();
    void run() { join(); }

    /// Asks all tasks to stop, and those that are started later. Again does nothing.
    void request_stop() noexcept;
    /// Ends all reactors; tasks are destroyed where they stand. Returns before that is done: join() waits for it. What
    /// fails from then on, for want of the others perhaps, is not thrown.
    void stop() noexcept;

private:
    template <class Message, class... Parts>
    void send(std::size_t index, Parts&&... parts) {
        send_message(index, std::make_unique<Message>(std::forward<Parts>(parts)...));
    }
    void send_message(std::size_t index, std::unique_ptr<detail::group_message> message);
    void check(std::size_t index) const;
    void stop(std::size_t index);

    std::unique_ptr<detail::group_core> core_;
};

} // namespace cotun
