// SPDX-License-Identifier: Apache-2.0
//
// What tests of tasks are made of: ways to run one, a gate to suspend at, a class that counts its objects.
#pragma once

#include <cotun/coro/task.hpp>

#include "../support/held_task.hpp"

#include <catch2/catch_test_macros.hpp>

#include <coroutine>
#include <utility>

namespace cotun::test {

template <class T>
held_task hold_into(task<T> body, T& value) {
    value = co_await std::move(body);
}

inline void finish(task<> body) {
    held_task r = hold(std::move(body));
    REQUIRE(r.ended());
    r.rethrow();
}

template <class T>
T value_of(task<T> body) {
    T value{};
    held_task r = hold_into(std::move(body), value);
    REQUIRE(r.ended());
    r.rethrow();
    return value;
}

// Suspends who awaits it until open() is called.
class gate {
public:
    class wait {
    public:
        explicit wait(gate& at) noexcept : at_(&at) {}
        wait(const wait&) = delete;
        wait& operator=(const wait&) = delete;
        ~wait() {
            at_->waiting_ = nullptr;
            ++at_->waits_destroyed;
        }
        bool await_ready() const noexcept { return false; }
        void await_suspend(std::coroutine_handle<> who) noexcept { at_->waiting_ = who; }
        void await_resume() const noexcept {}

    private:
        gate* at_;
    };
    wait operator co_await() noexcept { return wait(*this); }
    bool awaited() const noexcept { return static_cast<bool>(waiting_); }
    void open() { std::exchange(waiting_, nullptr).resume(); }
    int waits_destroyed = 0;

private:
    std::coroutine_handle<> waiting_;
};

// Counts its own objects.
struct counted {
    counted() { ++alive; }
    explicit counted(int n) : number(n) { ++alive; }
    counted(const counted& other) : number(other.number) { ++alive; }
    counted(counted&& other) noexcept : number(std::exchange(other.number, -1)) { ++alive; }
    counted& operator=(const counted&) = default;
    counted& operator=(counted&& other) noexcept {
        number = std::exchange(other.number, -1);
        return *this;
    }
    ~counted() { --alive; }
    int number = 0;
    static inline int alive = 0;
};

} // namespace cotun::test
