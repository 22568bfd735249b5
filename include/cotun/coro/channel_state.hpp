// SPDX-License-Identifier: Apache-2.0
//
// channel_state: what a channel is beneath its waits: values in order, and who waits to send and to receive. channel
// has one for the tasks of a thread; cross_channel has one under a lock.
//
// A receiver that is woken has a value of the queue promised to it. Which one it is shows when it takes it: the first,
// so that values are given out in order, whoever is destroyed meanwhile. Whoever comes later takes none that is
// promised.
//
// Where senders wait there is no room, so that nobody has to look whether others came before. Room, in a channel
// without capacity, is for one value, and only while somebody waits to receive: nobody waits for it any more once it is
// sent, and if the receiver goes it stays for the next.
#pragma once

#include <cotun/coro/waiter.hpp>

#include <cstddef>
#include <memory>
#include <new>
#include <optional>
#include <type_traits>
#include <utility>

namespace cotun::detail {

/// Values in order, in a ring of memory that never grows: it throws nothing once it is made.
template <class T>
class value_queue {
public:
    explicit value_queue(std::size_t capacity) : capacity_(capacity), memory_(std::allocator<T>().allocate(capacity)) {}
    value_queue(const value_queue&) = delete;
    value_queue& operator=(const value_queue&) = delete;
    ~value_queue() {
        while (!empty()) pop_back();
        std::allocator<T>().deallocate(memory_, capacity_);
    }

    bool empty() const noexcept { return size_ == 0; }
    std::size_t size() const noexcept { return size_; }
    /// There must be fewer than the capacity.
    void push_back(T&& value) noexcept {
        std::construct_at(memory_ + place(size_), std::move(value));
        ++size_;
    }
    std::optional<T> pop_front() noexcept {
        T& first = memory_[first_];
        std::optional<T> value(std::move(first));
        std::destroy_at(&first);
        first_ = place(1);
        --size_;
        return value;
    }
    void pop_back() noexcept {
        --size_;
        std::destroy_at(memory_ + place(size_));
    }

private:
    std::size_t place(std::size_t behind) const noexcept {
        const std::size_t p = first_ + behind;
        return p < capacity_ ? p : p - capacity_;
    }
    std::size_t capacity_;
    T* memory_;
    std::size_t first_ = 0;
    std::size_t size_ = 0;
};

/// How a wait at a channel ended.
enum class channel_outcome : unsigned char {
    pending,
    done, // sent; or a value is promised
    closed,
    gone, // the channel was destroyed
};

/// Throws std::errc::broken_pipe.
[[noreturn]] void refuse_send_to_closed(const char* what);
/// Throws std::errc::operation_canceled.
[[noreturn]] void throw_channel_gone(const char* what);

/// Sender and Receiver are waiters with `void finish(channel_outcome) noexcept`, called when they have left their list;
/// a sender has `T& value()`.
template <class T, class Sender, class Receiver>
class channel_state {
    static_assert(std::is_object_v<T> && !std::is_const_v<T>, "a channel carries objects that can be moved");
    static_assert(std::is_nothrow_move_constructible_v<T> && std::is_nothrow_destructible_v<T>,
                  "a channel moves values when nobody is there to catch an exception: T's move may not throw");

public:
    explicit channel_state(std::size_t capacity) : capacity_(capacity), queue_(capacity > 0 ? capacity : 1) {}

    std::size_t capacity() const noexcept { return capacity_; }
    std::size_t size() const noexcept { return queue_.size(); }
    bool closed() const noexcept { return closed_; }

    bool has_room() const noexcept {
        return capacity_ > 0 ? queue_.size() < capacity_ : queue_.empty() && !receivers_.empty();
    }
    /// Without capacity, the queue may be empty and a sender have the value.
    bool can_receive() const noexcept { return queue_.size() > promised_ || (queue_.empty() && !senders_.empty()); }
    /// Where there is room.
    void put(T&& value) noexcept {
        queue_.push_back(std::move(value));
        if (!receivers_.empty()) match();
    }
    /// Where one can receive.
    std::optional<T> take() noexcept {
        if (queue_.empty()) return take_from_sender();
        std::optional<T> value = queue_.pop_front();
        if (!senders_.empty()) match();
        return value;
    }
    std::optional<T> take_promised() noexcept {
        --promised_;
        return take();
    }
    /// The value that was promised is for the next.
    void decline() noexcept {
        --promised_;
        if (outcome_of_all_ == channel_outcome::gone)
            (void)queue_.pop_front();
        else
            match();
    }

    void wait_to_send(Sender& s) noexcept { senders_.push_back(s); }
    void wait_to_receive(Receiver& r) noexcept { receivers_.push_back(r); }

    void close() noexcept {
        closed_ = true;
        end_waits(channel_outcome::closed);
    }
    /// The channel is destroyed: what is promised stays for who it is promised to.
    void abandon() noexcept {
        closed_ = true;
        end_waits(channel_outcome::gone);
        while (queue_.size() > promised_) queue_.pop_back();
    }

private:
    std::optional<T> take_from_sender() noexcept {
        auto& s = static_cast<Sender&>(senders_.pop_front());
        std::optional<T> value(std::move(s.value()));
        s.finish(channel_outcome::done);
        return value;
    }
    void match() noexcept {
        for (;;) {
            if (!receivers_.empty() && queue_.size() > promised_) {
                ++promised_;
                static_cast<Receiver&>(receivers_.pop_front()).finish(channel_outcome::done);
            } else if (!senders_.empty() && has_room()) {
                auto& s = static_cast<Sender&>(senders_.pop_front());
                queue_.push_back(std::move(s.value()));
                s.finish(channel_outcome::done);
            } else {
                return;
            }
        }
    }
    void end_waits(channel_outcome how) noexcept {
        outcome_of_all_ = how;
        while (!senders_.empty()) static_cast<Sender&>(senders_.pop_front()).finish(how);
        while (!receivers_.empty()) static_cast<Receiver&>(receivers_.pop_front()).finish(how);
    }

    std::size_t capacity_;
    bool closed_ = false;
    channel_outcome outcome_of_all_ = channel_outcome::pending;
    std::size_t promised_ = 0; // values of the queue that are kept for receivers
    value_queue<T> queue_;
    waiter_list senders_;
    waiter_list receivers_;
};

} // namespace cotun::detail
