// SPDX-License-Identifier: Apache-2.0
//
// waiter: a coroutine that waits, as a node of the one list that it waits on.
//
// Awaiters derive from it. It is part of the coroutine's frame; when the frame is destroyed while it waits, the
// destructor takes it out of its list, so that nothing ever resumes a coroutine that is gone.
#pragma once

#include <coroutine>

namespace cotun::detail {

class waiter {
public:
    waiter() noexcept = default;
    waiter(const waiter&) = delete;
    waiter& operator=(const waiter&) = delete;
    ~waiter() { unlink(); }

    bool linked() const noexcept { return next_ != nullptr; }
    /// Whether it was made ready: what it waited for has come, or it was stopped.
    bool is_ready() const noexcept { return ready_; }

    void unlink() noexcept {
        if (next_ == nullptr) return;
        previous_->next_ = next_;
        next_->previous_ = previous_;
        next_ = previous_ = nullptr;
    }

    std::coroutine_handle<> coroutine;

private:
    friend class waiter_list;
    friend class scheduler;
    waiter* next_ = nullptr;
    waiter* previous_ = nullptr;
    bool ready_ = false;
};

/// First in, first out; owns nothing. Must be empty, or its waiters gone, when it is destroyed.
class waiter_list {
public:
    waiter_list() noexcept { head_.next_ = head_.previous_ = &head_; }
    waiter_list(const waiter_list&) = delete;
    waiter_list& operator=(const waiter_list&) = delete;
    ~waiter_list() {
        while (!empty()) front().unlink();
        head_.next_ = head_.previous_ = nullptr;
    }

    bool empty() const noexcept { return head_.next_ == &head_; }
    waiter& front() noexcept { return *head_.next_; }

    /// A waiter is in one list at a time: it leaves the one that it was in.
    void push_back(waiter& w) noexcept {
        w.unlink();
        w.previous_ = head_.previous_;
        w.next_ = &head_;
        head_.previous_->next_ = &w;
        head_.previous_ = &w;
    }

    waiter& pop_front() noexcept {
        waiter& w = front();
        w.unlink();
        return w;
    }

    /// Moves all of `other` behind what is here.
    void splice_back(waiter_list& other) noexcept {
        if (other.empty()) return;
        waiter* first = other.head_.next_;
        waiter* last = other.head_.previous_;
        other.head_.next_ = other.head_.previous_ = &other.head_;
        first->previous_ = head_.previous_;
        head_.previous_->next_ = first;
        last->next_ = &head_;
        head_.previous_ = last;
    }

private:
    waiter head_;
};

} // namespace cotun::detail
