// SPDX-License-Identifier: Apache-2.0
#include <cotun/io/reactor_group.hpp>

#include "io/fail.hpp"
#include "io/group_core.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <system_error>
#include <utility>

namespace cotun::detail {
namespace {

// A set of CPUs of any size: the kernel refuses one that is smaller than its own.
class cpu_mask {
public:
    explicit cpu_mask(std::size_t cpus) : bits_(cpus / 64 + 1) {}
    std::size_t bytes() const noexcept { return bits_.size() * sizeof(std::uint64_t); }
    cpu_set_t* set() noexcept { return reinterpret_cast<cpu_set_t*>(bits_.data()); }
    void add(std::size_t cpu) noexcept { CPU_SET_S(cpu, bytes(), set()); }
    bool has(std::size_t cpu) noexcept { return CPU_ISSET_S(cpu, bytes(), set()); }
    std::size_t capacity() const noexcept { return bits_.size() * 64; }

private:
    std::vector<std::uint64_t> bits_;
};

std::vector<unsigned> usable_cpus() {
    for (std::size_t capacity = 1024; capacity <= 1024 * 64; capacity *= 4) {
        cpu_mask mask(capacity);
        if (sched_getaffinity(0, mask.bytes(), mask.set()) != 0) {
            if (errno == EINVAL) continue;
            break;
        }
        std::vector<unsigned> all;
        for (unsigned cpu = 0; cpu < mask.capacity(); ++cpu)
            if (mask.has(cpu)) all.push_back(cpu);
        return all;
    }
    fail(errno, "reactor_group: asking for the CPUs that may be used");
}

void pin_to(unsigned cpu) {
    cpu_mask mask(std::max(cpu + 1U, 1024U));
    mask.add(cpu);
    if (const int error = pthread_setaffinity_np(pthread_self(), mask.bytes(), mask.set()); error != 0)
        fail(error, fmt::format("pinning to CPU {} (EINVAL: there is none, or this process may not use it: see "
                                "taskset(1) and cpusets)",
                                cpu));
}

// The error of one of the threads, saying which.
[[noreturn]] void rethrow_start(const std::exception_ptr& failure, std::size_t index, std::size_t count) {
    try {
        std::rethrow_exception(failure);
    } catch (const std::system_error& e) {
        std::string text = e.what();
        const std::string tail = ": " + e.code().message(); // is put behind it again
        if (text.ends_with(tail)) text.resize(text.size() - tail.size());
        throw std::system_error(e.code(), fmt::format("reactor_group: reactor {} of {}: {}", index, count, text));
    }
}

} // namespace

// --- messages ------------------------------------------------------------------------------------------------------

// A message counts until it is destroyed, so that what it began counts by then.
group_message::~group_message() {
    if (group_ != nullptr) group_->end();
}

// What one member's thread has, and what others may touch of it: `core` once it has started, the atomics, `thread` for
// the group's owner.
struct group_core::member final : task_watch {
    struct ask_message final : message {
        explicit ask_message(member& m) noexcept : of(&m) {}
        void run() override { of->stop.request(); }
        void drop() noexcept override {}
        member* of;
    };

    member(group_core& g, std::size_t i) noexcept : group(&g), index(i) {}
    void tasks_began() noexcept override { group->begin(); }
    void tasks_ended() noexcept override { group->end(); }

    group_core* group;
    std::size_t index;
    std::optional<unsigned> cpu;
    std::thread thread;
    std::unique_ptr<reactor> io;
    reactor_core* core = nullptr;
    std::exception_ptr no_start;
    stop_state stop; // of all its tasks
    ask_message ask{*this};
    std::atomic<bool> asked{false};
    std::atomic<bool> stopped{false};
};

void group_message::run() {
    const std::unique_ptr<group_message> self(this); // also when it throws
    run_on(group_->reactor_of(to_));
}

void group_message::drop() noexcept { delete this; }

namespace {

task<> run_made(reactor& there, std::unique_ptr<task_maker> maker) {
    task<> made = maker->make(there);
    co_await std::move(made);
}

} // namespace

void spawn_message::run_on(reactor& there) { there.spawn(run_made(there, std::move(maker_))); }

void group_core::check(std::size_t index) const {
    if (index >= members_.size())
        fail(EINVAL, fmt::format("reactor_group: there is no reactor {}: there are {}", index, members_.size()));
}

void group_core::fail_ended(std::size_t index) {
    fail(EPIPE, fmt::format("reactor_group: reactor {} has ended: it takes no tasks and messages, and answers no calls",
                            index));
}

reactor& group_core::reactor_of(std::size_t index) noexcept { return *members_[index]->io; }
reactor_core& group_core::core_of(std::size_t index) noexcept { return *members_[index]->core; }

void group_core::send(std::size_t to, std::unique_ptr<group_message> m) {
    check(to);
    if (forked()) ring::refuse_forked("sending to a group");
    const bool open = begin();
    m->group_ = this; // counted from here on
    m->to_ = to;
    if (!open || members_[to]->stopped.load()) fail_ended(to);
    members_[to]->core->deliver(*m.release());
}

template <class Condition>
void group_core::await(Condition condition) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, condition);
}

// --- a member's thread ---------------------------------------------------------------------------------------------

void group_core::live(member& m) noexcept {
    try {
        make_reactor(m);
    } catch (...) {
        m.no_start = std::current_exception();
    }
    report(started_);
    if (m.core == nullptr) return;
    await([this] { return phase_ != phase::starting; });
    serve(m);
    m.core->end_tasks();
    report(ended_);
    while (!leaving_.load()) {
        try {
            m.core->serve();
        } catch (...) { // nothing runs that could: the ring has failed
        }
        if (m.core->is_broken() && !leaving_.load()) {
            m.core->drop_messages();
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
    }
    // What is dropped may have been the last that counted, and stop all.
    report(left_);
    await([this] { return phase_ == phase::leaving && left_ == reactors_; });
    m.io.reset();
}

void group_core::make_reactor(member& m) {
    if (m.cpu) pin_to(*m.cpu);
    pthread_setname_np(pthread_self(), fmt::format("cotun-{}", m.index).c_str());
    m.io = std::make_unique<reactor>(options_.each);
    m.core = &m.io->core();
    m.core->watch_tasks(m, m.stop);
}

// A failure ends run(), not the tasks: they are asked.
void group_core::serve(member& m) noexcept {
    while (!m.stopped.load()) {
        std::exception_ptr failure;
        try {
            m.core->serve();
        } catch (...) {
            failure = std::current_exception();
        }
        if (failure) failed(std::move(failure));
        if (m.core->is_broken()) m.stopped.store(true);
    }
}

void group_core::report(unsigned& count) noexcept {
    const std::lock_guard lock(mutex_);
    ++count;
    changed_.notify_all();
}

void group_core::enter_phase(phase p) noexcept {
    const std::lock_guard lock(mutex_);
    phase_ = p;
    changed_.notify_all();
}

void group_core::failed(std::exception_ptr failure) noexcept {
    if (given_up_.load() || (asked_.load() && is_cancellation(failure))) return;
    {
        const std::lock_guard lock(mutex_);
        if (!failure_ && !failed_) failure_ = std::move(failure);
        failed_ = true;
    }
    request_stop();
}

// --- life ----------------------------------------------------------------------------------------------------------

group_core::group_core(const group_options& options) : options_(options) {
    const std::vector<unsigned> usable = usable_cpus();
    const std::size_t count = options.reactors != 0 ? options.reactors : usable.size();
    if (count > 1024)
        fail(EINVAL, fmt::format("reactor_group: option reactors is {}; it must be 1 to 1024, or 0", count));
    for (std::size_t i = 0; i < count; ++i) {
        members_.push_back(std::make_unique<member>(*this, i));
        if (!options.cpus.empty())
            members_[i]->cpu = options.cpus[i % options.cpus.size()];
        else if (options.pin)
            members_[i]->cpu = usable[i % usable.size()];
    }
    start();
}

void group_core::start() {
    std::size_t running = 0;
    std::exception_ptr no_start;
    for (; running < members_.size() && !no_start; ++running) {
        member& m = *members_[running];
        try {
            m.thread = std::thread([this, &m] { live(m); });
        } catch (...) {
            no_start = std::current_exception();
            break;
        }
    }
    await([&] { return started_ == running; });
    for (const std::unique_ptr<member>& m : members_)
        if (m->core != nullptr) ++reactors_;
    std::size_t failed = running;
    for (std::size_t i = 0; i < running && !no_start; ++i) {
        if (members_[i]->no_start == nullptr) continue;
        no_start = std::exchange(members_[i]->no_start, nullptr);
        failed = i;
    }
    if (!no_start) return enter_phase(phase::running);
    leave();
    rethrow_start(no_start, failed, members_.size());
}

group_core::~group_core() {
    stop();
    await([this] { return ended_ == members_.size(); });
    leave();
}

// Those whose thread has no reactor have left already.
void group_core::leave() noexcept {
    leaving_.store(true);
    stop_all();
    enter_phase(phase::leaving);
    reactor_core::wake_before_blocking();
    for (const std::unique_ptr<member>& m : members_)
        if (m->thread.joinable()) m->thread.join();
}

void group_core::join() {
    if (forked()) ring::refuse_forked("join() of a group");
    for (const std::unique_ptr<member>& m : members_)
        if (m->thread.get_id() == std::this_thread::get_id())
            fail(EDEADLK, "reactor_group: join() on a thread of the group's, which it would wait for");
    if (!joined_.exchange(true)) end();
    reactor_core::wake_before_blocking();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ended_ == members_.size(); });
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

// --- the end -------------------------------------------------------------------------------------------------------

void group_core::end() noexcept {
    if (work_.fetch_sub(1) != 1) return;
    std::uint64_t none = 0;
    if (work_.compare_exchange_strong(none, closed)) stop_all();
}

void group_core::stop() noexcept {
    if (forked()) return;
    given_up_.store(true);
    work_.fetch_or(closed);
    stop_all();
}

void group_core::stop_all() noexcept {
    for (std::size_t i = 0; i < members_.size(); ++i) stop_member(*members_[i]);
}

void group_core::stop_member(member& m) noexcept {
    m.stopped.store(true);
    if (m.core != nullptr) m.core->stop();
}

void group_core::stop(std::size_t index) {
    check(index);
    if (forked()) return;
    stop_member(*members_[index]);
}

void group_core::request_stop() noexcept {
    if (forked()) return;
    asked_.store(true);
    for (const std::unique_ptr<member>& m : members_)
        if (!m->asked.exchange(true)) m->core->deliver_at_once(m->ask);
}

} // namespace cotun::detail

namespace cotun {

reactor_group::reactor_group(const group_options& options) : core_(std::make_unique<detail::group_core>(options)) {}
// In a child there are no threads to end, and what they held is held for ever.
reactor_group::~reactor_group() {
    if (core_->forked()) (void)core_.release();
}

std::size_t reactor_group::size() const noexcept { return core_->size(); }
reactor_group::handle reactor_group::operator[](std::size_t index) {
    check(index);
    return {*this, index};
}
void reactor_group::join() { core_->join(); }
void reactor_group::request_stop() noexcept { core_->request_stop(); }
void reactor_group::stop() noexcept { core_->stop(); }
void reactor_group::stop(std::size_t index) { core_->stop(index); }
void reactor_group::check(std::size_t index) const { core_->check(index); }
void reactor_group::send_message(std::size_t index, std::unique_ptr<detail::group_message> message) {
    core_->send(index, std::move(message));
}

} // namespace cotun
