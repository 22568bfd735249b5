// SPDX-License-Identifier: Apache-2.0
//
// first_await: how a task or generator waits to be started; and where a miscompilation of GCC's is caught.
//
// GCC 12 lays out a coroutine's frame wrongly if its body declares nothing at all and has a `co_await` in the condition
// of an if, a loop or a switch:
//
//     cotun::task<> count(cotun::channel<int>& from, int& n) {
//         while (co_await from.receive()) ++n;                              // hangs, or worse
//     }
//
// (What belongs to the condition becomes the first member of the frame, in front of the pointers that the handle
// points to.) Any declaration in the body puts it right, `while (auto value = co_await from.receive())` the shortest.
// The handle then names another promise than the one that is there; where the frame is right, the comparison is known
// to the compiler and nothing is left of it.
#pragma once

#include <coroutine>

namespace cotun::detail {

/// Ends the program with a message that says all this.
[[noreturn, gnu::cold]] void refuse_shifted_frame() noexcept;

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 15

/// `Base`: the promise type, or what the promise types share.
template <class Base>
class first_await {
public:
    explicit first_await(const Base& promise) noexcept : promise_(&promise) {}
    bool await_ready() const noexcept { return false; }
    template <class Promise>
    void await_suspend(std::coroutine_handle<Promise> self) const noexcept {
        const Base* named = &self.promise();
        if (named != promise_) [[unlikely]]
            refuse_shifted_frame();
    }
    void await_resume() const noexcept {}

private:
    const Base* promise_;
};

#else

template <class Base>
struct first_await : std::suspend_always {
    explicit first_await(const Base&) noexcept {}
};

#endif

} // namespace cotun::detail
