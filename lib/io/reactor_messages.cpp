// SPDX-License-Identifier: Apache-2.0
//
// The half of the reactor that other threads see: what is posted to it, and what wakes it.
#include "io/reactor_core.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>
#include <utility>

namespace cotun::detail {

reactor_core*& reactor_core::running_here() noexcept {
    thread_local reactor_core* innermost = nullptr;
    return innermost;
}

// A burst of posts costs one wake-up: whoever pushes the first changes sleep_. None is lost (prepare_to_sleep).
void reactor_core::post(message& m) {
    refuse_child("post()");
    deliver(m);
}

void reactor_core::deliver(message& m) noexcept {
    push(m);
    reactor_core* const here = running_here();
    if (here == nullptr || here == this || !here->driver_->supports(ring::feature::message_ring)) return wake_now();
    sleep seen = sleep_.load();
    if (seen == sleep::awake) return;
    if (seen == sleep::asleep && !sleep_.compare_exchange_strong(seen, sleep::promised) && seen == sleep::awake) return;
    here->wake_with_pass(*this);
}

void reactor_core::deliver_at_once(message& m) noexcept {
    push(m);
    wake_now();
}

void reactor_core::push(message& m) noexcept {
    message* head = posted_.load(std::memory_order_relaxed);
    do m.next = head;
    while (!posted_.compare_exchange_weak(head, &m, std::memory_order_seq_cst, std::memory_order_relaxed));
}

// A wake-up that another reactor has promised may take its time, and is not relied on: one too many is harmless.
void reactor_core::wake_now() noexcept {
    if (sleep_.load() != sleep::awake && sleep_.exchange(sleep::awake) != sleep::awake) driver_->wake();
}

void reactor_core::wake_with_pass(const reactor_core& other) noexcept {
    if (std::find(to_wake_.begin(), to_wake_.end(), other.waker_) != to_wake_.end()) return;
    try {
        to_wake_.push_back(other.waker_);
    } catch (const std::bad_alloc&) { // then at once
        other.waker_->wake();
    }
}

void reactor_core::send_wakes() noexcept {
    for (const std::shared_ptr<ring::waker>& w : to_wake_)
        if (!driver_->send_wake(w)) w->wake();
}

void reactor_core::wake_at_once() noexcept {
    for (const std::shared_ptr<ring::waker>& w : to_wake_) w->wake();
    to_wake_.clear();
}

void reactor_core::wake_before_blocking() noexcept {
    if (reactor_core* const here = running_here()) here->wake_at_once();
}

void reactor_core::stop() noexcept {
    if (forked()) return;
    stop_.store(true);
    wake_now();
}

void reactor_core::take_posted() noexcept {
    message* taken = posted_.exchange(nullptr, std::memory_order_acquire);
    message* in_order = nullptr;
    while (taken != nullptr) {
        message* next = taken->next;
        taken->next = in_order;
        in_order = taken;
        taken = next;
    }
    message** end = &to_call_;
    while (*end != nullptr) end = &(*end)->next;
    *end = in_order;
}

// A function that throws ends run(); those behind it are called by the next one.
void reactor_core::call_posted() {
    if (posted_.load(std::memory_order_relaxed) != nullptr) take_posted();
    if (drops_) return drop_messages();
    while (to_call_ != nullptr) std::exchange(to_call_, to_call_->next)->run();
}

void reactor_core::drop_messages() noexcept {
    take_posted();
    while (to_call_ != nullptr) std::exchange(to_call_, to_call_->next)->drop();
}

// --- the reactor of a group ----------------------------------------------------------------------------------------

void reactor_core::watch_tasks(task_watch& watch, stop_state& stop) noexcept {
    watch_ = &watch;
    root_stop_ = &stop;
}

void reactor_core::end_tasks() noexcept {
    begin_closing_all();
    while (!roots_.empty()) roots_.front().coroutine.destroy();
    drops_ = true;
    drop_messages();
}

std::uint64_t reactor_core::run_blocking(std::function<void()> work, std::function<void()> ended, turn_in_line turn) {
    const std::uint64_t number = ++last_blocking_;
    auto place = blocking_.end();
    if (turn == turn_in_line::first)
        place = std::find_if(blocking_.begin(), blocking_.end(),
                             [](const auto& b) { return b.work && b.turn == turn_in_line::last; });
    blocking_.insert(
        place,
        blocking_work{number, std::move(work), std::move(ended), {}, turn, std::make_shared<std::atomic<bool>>(false)});
    start_blocking();
    return number;
}

// What they wait for is the kernel's RCU, mostly, and they wait for it together: more of them do not end sooner.
void reactor_core::start_blocking() noexcept {
    constexpr std::size_t most_threads = 16;
    for (blocking_work& b : blocking_) {
        if (blocking_threads_ == most_threads) return;
        if (!b.work) continue;
        auto tell = [this, number = b.number] { finish_blocking(number); };
        ++blocking_threads_;
        const std::function<void()> work = std::exchange(b.work, nullptr);
        try {
            b.thread = start_quiet_thread([this, work, tell, over = b.over] {
                work();
                over->store(true);
                post(tell);
            });
        } catch (const std::system_error&) { // no thread to be had: then here, late rather than never
            work();
            b.over->store(true);
            post(tell);
        }
    }
}

// The work is over before it posts that: who finds that it is not, after having taken what was posted, is woken by it.
bool reactor_core::turn_beside(std::uint64_t number) {
    const auto found =
        std::find_if(blocking_.begin(), blocking_.end(), [number](const auto& b) { return b.number == number; });
    if (found == blocking_.end()) return false;
    if (found->work) { // in line still
        finish_blocking(blocking_.front().number);
        return true;
    }
    if (posted_.load(std::memory_order_relaxed) != nullptr) take_posted();
    if (found->over->load()) return false;
    try {
        turn(true);
        return true;
    } catch (const std::system_error& refused) { // EEXIST: the ring's thread has ended; anything else is fatal
        if (refused.code().value() != EEXIST) throw;
        return false;
    }
}

void reactor_core::finish_blocking(std::uint64_t number) {
    const auto found =
        std::find_if(blocking_.begin(), blocking_.end(), [number](const auto& b) { return b.number == number; });
    if (found == blocking_.end()) return;
    blocking_work done = std::move(*found);
    blocking_.erase(found);
    wake_at_once(); // this may take a while
    if (done.work) {
        done.work(); // it was in line still
    } else {
        if (forked())
            done.thread.detach(); // there is no such thread in a child
        else if (done.thread.joinable())
            done.thread.join();
        --blocking_threads_;
        if (!forked()) start_blocking();
    }
    done.ended();
}

} // namespace cotun::detail
