// SPDX-License-Identifier: Apache-2.0
#include "io/reactor_core.hpp"

#include "io/acceptor.hpp"
#include "io/fail.hpp"
#include "io/inbox.hpp"
#include "io/outbox.hpp"
#include "io/packet_port.hpp"
#include "io/stream_hub.hpp"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <unistd.h>

namespace cotun::detail {

// --- roots: the coroutines at the bottom of each stack -------------------------------------------------------------

// What run() waits for.
struct reactor_core::main_outcome {
    bool ended = false;
    std::exception_ptr failure;
    root_promise* promise = nullptr;
};

// A root is in the reactor's list from its start to its end, and destroys itself there.
struct reactor_core::root {
    using promise_type = root_promise;
    root_promise* promise;
};

struct reactor_core::root_promise : frame_allocated, waiter {
    // Has the root start in the next pass.
    struct first_turn : waiter {
        explicit first_turn(reactor_core& of) noexcept : core(&of) {}
        bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> self) noexcept {
            coroutine = self;
            core->make_ready(*this);
        }
        void await_resume() const noexcept {}
        reactor_core* core;
    };

    root_promise(reactor_core& of, task<>&, main_outcome*) noexcept : core(&of) {
        coroutine = std::coroutine_handle<root_promise>::from_promise(*this);
        core->roots_.push_back(*this);
        if (core->tasks_++ == 0 && core->watch_ != nullptr) core->watch_->tasks_began();
    }
    root_promise(const root_promise&) = delete;
    root_promise& operator=(const root_promise&) = delete;
    ~root_promise() {
        if (--core->tasks_ == 0 && core->watch_ != nullptr) core->watch_->tasks_ended();
    }
    root get_return_object() noexcept { return {this}; }
    await_context context() const noexcept { return {core, core->root_stop_}; }
    first_turn initial_suspend() const noexcept { return first_turn(*core); }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void unhandled_exception() const noexcept { std::terminate(); } // run_root catches all
    void return_void() const noexcept {}

    reactor_core* core;
};

reactor_core::root reactor_core::run_root(reactor_core& core, task<> body, main_outcome* outcome) {
    std::exception_ptr failure;
    try {
        co_await std::move(body);
    } catch (...) {
        failure = std::current_exception();
    }
    core.root_ended(outcome, std::move(failure));
}

void reactor_core::root_ended(main_outcome* outcome, std::exception_ptr failure) noexcept {
    if (outcome != nullptr) {
        outcome->ended = true;
        outcome->failure = std::move(failure);
    } else if (failure && !failure_) {
        failure_ = std::move(failure);
    }
}

void reactor_core::start(task<> body, main_outcome* outcome) {
    const root started = run_root(*this, std::move(body), outcome);
    if (outcome != nullptr) outcome->promise = started.promise;
}

void reactor_core::spawn(task<> body) {
    refuse_child("spawn()");
    check_thread("spawn()");
    if (!body) fail(EINVAL, "reactor: spawn of an empty task (moved from?)");
    check_room_for_task();
    start(std::move(body), nullptr);
}

void reactor_core::check_room_for_task() const {
    if (tasks_ >= most_tasks_)
        fail(EAGAIN,
             fmt::format("reactor: spawn: {} tasks run, as many as may; spawn fewer (a scope has room() to wait "
                         "for), or raise reactor_options::tasks",
                         tasks_));
}

// --- life ----------------------------------------------------------------------------------------------------------

reactor_core::reactor_core(const reactor_options& options, std::unique_ptr<ring::driver> driver)
    : driver_((check_options(options), std::move(driver))),
      requests_(driver_->capacity()),
      pool_(new packet_pool(options.pool)),
      most_timers_(options.timers),
      most_tasks_(options.tasks),
      helpers_(std::make_shared<helper_threads>(options.helper_threads)),
      waker_(driver_->share_waker()) {
    pool_->listen(*this);
}

reactor_core::~reactor_core() {
    begin_closing_all(); // also those that the tasks have
    while (!roots_.empty()) roots_.front().coroutine.destroy();
    while (!ports_.empty()) ports_.back()->close_now();
    while (!open_.empty()) open_.front().reactor_ends();
    while (!blocking_.empty()) finish_blocking(blocking_.front().number);
    settle();
    drop_messages();
    streams_.reset();
    waker_.reset();  // so that the driver knows whether others have it
    driver_.reset(); // before the pool: the kernel may write into its buffers until the ring is gone
    pool_->abandon();
}

void reactor_core::begin_closing_all() {
    link_list<open_end, open_kind> all;
    all.take(open_);
    while (!all.empty()) {
        open_end& end = all.pop_front();
        open_.push_back(end);
        end.begin_close_now(); // may be its end
    }
}

// Waits for the requests that belong to the reactor itself; afterwards nothing in the kernel holds a descriptor of the
// program's. (Of a ring that is closed with requests in flight the kernel lets go some time later.)
void reactor_core::settle() noexcept {
    polls_.cancel_all();
    signals_.cancel();
    while (!polls_.idle() || !signals_.idle()) {
        try {
            turn();
        } catch (const std::system_error&) { // the ring's thread has ended, or this is a child: they have ended, too
            end_requests();
        }
    }
}

// --- the loop ------------------------------------------------------------------------------------------------------

void reactor_core::loop(task<>* main, bool until_stopped) {
    refuse_child("run()");
    if (main != nullptr && !*main) fail(EINVAL, "reactor: run of an empty task (moved from?)");
    if (int nobody = 0; !runner_.compare_exchange_strong(nobody, gettid()))
        fail(EBUSY, "reactor: run() while it runs; spawn() the task, or co_await it");
    runner_number_.store(ring::this_thread_number(), std::memory_order_relaxed);
    main_outcome outcome;
    struct run_guard { // also when run() is left by an exception, or stopped
        run_guard(reactor_core& of, main_outcome* m, bool stays)
            : core(of), main(m), outer(std::exchange(running_here(), &of)) {
            if (outer != nullptr) outer->wake_at_once(); // this may take long
            core.main_ = m;
            core.until_stopped_ = stays;
        }
        ~run_guard() {
            if (main != nullptr && main->promise != nullptr && !main->ended) main->promise->coroutine.destroy();
            core.wake_at_once();
            running_here() = outer;
            core.main_ = nullptr;
            core.stop_.store(false);
            core.runner_.store(0);
        }
        reactor_core& core;
        main_outcome* main;
        reactor_core* outer;
    };
    const run_guard guard(*this, main != nullptr ? &outcome : nullptr, until_stopped);
    if (main != nullptr) start(std::move(*main), &outcome);
    while (!stop_.load()) {
        pass();
        if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
        if (run_is_over()) break;
    }
    if (outcome.failure) std::rethrow_exception(outcome.failure);
}

bool reactor_core::run_is_over() const noexcept {
    if (runner_.load(std::memory_order_relaxed) == 0 || failure_) return true;
    return main_ != nullptr ? main_->ended : roots_.empty() && !until_stopped_;
}

void reactor_core::pass() {
    ++counters.passes;
    call_posted();
    resume_ready();
    prepare_all(); // may make waiters ready
    const bool idle = ready_.empty() && to_prepare_.empty() && to_call_ == nullptr &&
                      posted_.load(std::memory_order_relaxed) == nullptr && !stop_.load(std::memory_order_relaxed);
    const bool wait = idle && !run_is_over() && prepare_to_sleep();
    enter_driver(wait);
    after_enter();
}

// Whoever posts pushes first and looks whether this sleeps then; this says that it will sleep first, and looks whether
// something was pushed then. So one of the two sees the other.
bool reactor_core::prepare_to_sleep() noexcept {
    sleep_.store(sleep::asleep);
    if (posted_.load() == nullptr && !stop_.load()) return true;
    sleep_.store(sleep::awake, std::memory_order_relaxed);
    return false;
}

void reactor_core::turn(bool posts_wake) {
    prepare_all();
    driver_->report_sends();
    enter_driver(to_prepare_.empty() && (!posts_wake || prepare_to_sleep()));
    after_enter();
}

// In a child, what was in flight is the parent's: for the child it has ended.
void reactor_core::turn_or_end() {
    if (forked()) return end_requests();
    try {
        turn();
    } catch (const std::system_error& refused) { // EEXIST: the ring's thread has ended; anything else is fatal
        if (refused.code().value() != EEXIST) throw;
        end_requests();
    }
}

void reactor_core::end_requests() {
    deliver(); // what had come before
    requests_.end_all(ECANCELED);
    awaiting_room_.clear();
    if (streams_ && streams_->awaits_room()) streams_->retry();
}

void reactor_core::after_enter() {
    if (!timers_.empty()) fire_timers();
    if (!awaiting_room_.empty()) retry_writers();
    if (polls_.awaits_room()) polls_.retry();
    if (streams_ && streams_->awaits_room()) streams_->retry();
}

// Those that become ready meanwhile have their turn in the next pass: nobody is starved by a loop of yields.
void reactor_core::resume_ready() {
    waiter_list now;
    now.splice_back(ready_);
    while (!now.empty()) now.pop_front().coroutine.resume();
}

void reactor_core::add_port(packet_port& port) {
    refuse_child("opening a device or socket");
    ports_.push_back(&port);
    reserve_lists();
}

// Each port prepares its inbox and its outbox and waits for room once, and the hub of the streams is prepared: these
// lists never grow elsewhere.
void reactor_core::reserve_lists() {
    for (auto* list : {&to_prepare_, &preparing_}) list->reserve(2 * ports_.size() + 1);
    for (auto* list : {&awaiting_room_, &retrying_}) list->reserve(ports_.size());
}

stream_hub& reactor_core::streams() {
    if (!streams_) {
        reserve_lists();
        streams_ = std::make_unique<stream_hub>(*this);
        set_shares(small_packets);
    }
    return *streams_;
}

void reactor_core::prepare_later(prepared& p) {
    if (p.scheduled_) return;
    p.scheduled_ = true;
    to_prepare_.push_back(&p);
}

void reactor_core::forget(prepared& p) noexcept {
    if (!p.scheduled_) return;
    p.scheduled_ = false;
    std::erase(to_prepare_, &p);
    std::replace(preparing_.begin(), preparing_.end(), &p, static_cast<prepared*>(nullptr));
}

void reactor_core::prepare_all() {
    if (to_prepare_.empty()) return;
    preparing_.swap(to_prepare_);
    for (std::size_t i = 0; i < preparing_.size(); ++i) {
        prepared* p = preparing_[i];
        if (p == nullptr) continue;
        p->scheduled_ = false;
        p->prepare();
    }
    preparing_.clear();
}

void reactor_core::enter_driver(bool wait) {
    struct awake { // also when this throws
        ~awake() {
            if (slept) state.store(sleep::awake, std::memory_order_relaxed);
        }
        std::atomic<sleep>& state;
        bool slept;
    };
    const awake at_the_end{sleep_, wait};
    if (delivered_ < completed_) return deliver();
    if (wants_buffers()) driver_->report_sends(); // what was sent gives some back
    if (!to_wake_.empty()) send_wakes();
    delivered_ = completed_ = 0;
    try {
        completed_ = driver_->enter(wait, wait ? timers_.next() : std::nullopt, completions_);
    } catch (...) {
        broken_ = true;
        throw; // and run()'s end wakes those that were to be
    }
    to_wake_.clear();
    deliver();
}

// A completion comes once: if an owner throws, those behind it are told instead of the next entry.
void reactor_core::deliver() {
    constexpr std::size_t ahead = 4;
    while (delivered_ < completed_) {
        const ring::completion& done = completions_[delivered_++];
        if (delivered_ + ahead <= completed_) prefetch(completions_[delivered_ + ahead - 1]);
        if (!requests_.deliver(done)) ++counters.strays;
    }
}

bool reactor_core::wants_buffers() const noexcept {
    return std::any_of(readers_.begin(), readers_.end(),
                       [](const auto& r) { return !r.awaiting_buffer.empty() || !r.allocations.empty(); });
}

// The kernel has used the cache meanwhile.
void reactor_core::prefetch(const ring::completion& soon) const noexcept {
    if (soon.has_buffer)
        pool_->prefetch(soon.buffer);
    else
        requests_.prefetch(soon.request);
}

void reactor_core::fire_timers() {
    const ring::clock::time_point now = driver_->now();
    while (timer* t = timers_.pop_due(now)) t->on_time();
}

void reactor_core::arm(timer& t, clock::time_point when) {
    check_thread("a timer");
    if (timers_.size() >= most_timers_)
        fail(EAGAIN, fmt::format("reactor: {} timers are armed, as many as may be; raise reactor_options::timers",
                                 timers_.size()));
    timers_.arm(t, when);
}

ring::token reactor_core::begin(ring::request_owner& owner, std::uint32_t cookie, bool reserved) noexcept {
    check_thread("a request");
    if (!reserved && requests_left() == 0) {
        ++counters.requests_exhausted;
        return 0;
    }
    return requests_.begin(owner, cookie, reserved);
}

unsigned reactor_core::requests_left() const noexcept {
    const unsigned taken = requests_.in_flight() + reserved_requests() + static_cast<unsigned>(kept_requests_);
    return requests_.capacity() - std::min(requests_.capacity(), taken);
}

ring::token reactor_core::begin_receive(ring::request_owner& owner) noexcept {
    check_thread("a request");
    const unsigned others = requests_.in_flight() - requests_.set_aside();
    return others < requests_.capacity() - set_aside_requests() ? requests_.begin(owner, 0) : 0;
}

void reactor_core::await_room(outbox& o) {
    if (std::find(awaiting_room_.begin(), awaiting_room_.end(), &o) == awaiting_room_.end())
        awaiting_room_.push_back(&o);
}

void reactor_core::remove_port(packet_port& port) noexcept {
    std::erase(ports_, &port);
    std::erase(awaiting_room_, &port.out());
    std::replace(retrying_.begin(), retrying_.end(), &port.out(), static_cast<outbox*>(nullptr));
}

void reactor_core::retry_writers() {
    retrying_.swap(awaiting_room_);
    for (std::size_t i = 0; i < retrying_.size(); ++i)
        if (retrying_[i] != nullptr) retrying_[i]->retry();
    retrying_.clear();
}

// --- buffers -------------------------------------------------------------------------------------------------------

// Those that are to be opened are readers already.
std::size_t reactor_core::readers(size_class c) const noexcept {
    return readers_[c].all.size() + places_[c].admitted();
}

auto reactor_core::lack_of_readers(size_class c) const noexcept -> lack {
    if (2 * (readers(small_packets) + readers(large_packets) + 1) >= reserved_requests()) return lack::requests;
    if (readers(c) + 1 >= pool_->count(c) && pool_->count(c) > 1) return lack::buffers;
    return lack::none;
}

std::string reactor_core::explain_lack_of_readers(size_class c) const {
    if (lack_of_readers(c) == lack::buffers)
        return fmt::format("reactor: {} devices and sockets already share the {} packet buffers of their class; "
                           "raise pool_options::{}",
                           readers(c), pool_->count(c), c == small_packets ? "small_count" : "large_count");
    return fmt::format("reactor: {} devices and sockets and {} listeners are as many as {} requests allow; "
                       "raise reactor_options::requests",
                       readers(small_packets) + readers(large_packets), listeners_, requests_.capacity());
}

void reactor_core::add_reader(inbox& reader, size_class c) {
    if (lack_of_readers(c) != lack::none) fail(ENOBUFS, explain_lack_of_readers(c));
    readers_[c].all.push_back(&reader);
    set_shares(c);
}

// Those for which there is still no place come back to the end, all of them: so they stay in their order.
void reactor_core::serve_connections() noexcept {
    link_list<acceptor, admission_kind> now;
    now.take(awaiting_place_);
    while (!now.empty()) now.pop_front().serve();
}

void reactor_core::await_reader_place(acceptor& a) noexcept { awaiting_place_.push_back(a); }

void reactor_core::add_listener() {
    const std::size_t all = readers(small_packets) + readers(large_packets);
    if (2 * all + 1 >= reserved_requests())
        fail(ENOBUFS, fmt::format("reactor: {} listeners and {} devices and sockets are as many as {} requests allow; "
                                  "raise reactor_options::requests",
                                  listeners_, all, requests_.capacity()));
    ++listeners_;
    reserve_requests(1);
}

void reactor_core::remove_listener() noexcept {
    --listeners_;
    reserve_requests(-1);
    serve_connections();
}

void reactor_core::remove_reader(inbox& reader) noexcept {
    for (const size_class c : {small_packets, large_packets}) {
        readers_of_class& r = readers_[c];
        std::erase(r.awaiting_buffer, &reader);
        if (std::erase(r.all, &reader) == 0) continue;
        set_shares(c);
        serve_connections();
    }
}

bool reactor_core::move_reader(inbox& reader, size_class from, size_class to) {
    if (readers(to) + 1 >= pool_->count(to) && pool_->count(to) > 1) return false;
    readers_[to].all.push_back(&reader);
    std::erase(readers_[from].all, &reader);
    std::erase(readers_[from].awaiting_buffer, &reader);
    set_shares(from);
    set_shares(to);
    serve_connections();
    return true;
}

// One share is left over for packets that are on their way. What a driver with a small ring can hold bounds it, too.
void reactor_core::set_shares(size_class c) {
    readers_of_class& r = readers_[c];
    const unsigned all = pool_->count(small_packets) + pool_->count(large_packets);
    const auto usable =
        static_cast<unsigned>(std::uint64_t{pool_->count(c)} * std::min(all, driver_->buffer_capacity()) / all);
    const unsigned sharing = static_cast<unsigned>(r.all.size()) + 1 + (c == small_packets && streams_ ? 1 : 0);
    const unsigned share = std::max(1U, usable / sharing);
    for (inbox* reader : r.all) reader->set_share(share);
}

void reactor_core::await_buffer(inbox& reader, size_class c) {
    std::vector<inbox*>& waiting = readers_[c].awaiting_buffer;
    if (std::find(waiting.begin(), waiting.end(), &reader) == waiting.end()) waiting.push_back(&reader);
    pool_->want(c);
}

void reactor_core::await_buffer(allocate_operation& operation, size_class c) noexcept {
    readers_[c].allocations.push_back(operation);
    pool_->want(c);
}

void reactor_core::await_buffer(stream_hub&) noexcept {
    readers_[small_packets].streams_await_buffer = true;
    pool_->want(small_packets);
}

// Readers are prepared in the order in which they ran dry; a program that allocates has its turn before them, since it
// holds on to no more than it asked for.
void reactor_core::on_buffer_returned(size_class c) noexcept {
    readers_of_class& r = readers_[c];
    if (!r.allocations.empty()) {
        auto& operation = static_cast<allocate_operation&>(r.allocations.pop_front());
        operation.got_ = try_allocate(operation.size_);
        make_ready(operation);
    } else {
        for (inbox* reader : r.awaiting_buffer) prepare_later(*reader);
        r.awaiting_buffer.clear();
        if (std::exchange(r.streams_await_buffer, false)) prepare_later(*streams_);
    }
    if (!r.allocations.empty() || !r.awaiting_buffer.empty() || r.streams_await_buffer) pool_->want(c);
}

packet reactor_core::try_allocate(std::size_t size) {
    check_thread("allocate()");
    packet_slot* slot = pool_->take(pool_->class_for(size));
    if (slot == nullptr) return {};
    pool_->start(*slot, size);
    return packet_pool::lease(slot);
}

reactor_statistics reactor_core::statistics() const noexcept {
    reactor_statistics s = counters;
    const ring::driver_statistics d = driver_->statistics();
    s.enters = d.enters;
    s.submissions = d.submissions;
    s.completions = d.completions;
    s.overflows = d.overflows;
    s.busy = d.busy;
    s.wakes = d.wakes;
    s.messages = d.messages;
    s.busy_polls = d.busy_polls;
    s.busy_poll_hits = d.busy_poll_hits;
    s.tasks = tasks_;
    s.timers = timers_.size();
    s.requests_in_flight = requests_.in_flight();
    s.small_buffers_free = pool_->available(small_packets);
    s.large_buffers_free = pool_->available(large_packets);
    return s;
}

} // namespace cotun::detail
