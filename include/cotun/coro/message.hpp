// SPDX-License-Identifier: Apache-2.0
//
// message: what one thread has done on the thread of another's loop. It is a node of that loop's list of what was
// posted, so that handing it over allocates nothing and cannot fail.
#pragma once

#include <cotun/coro/frame.hpp>

#include <concepts>
#include <memory>
#include <utility>

namespace cotun::detail {

class message {
public:
    message() noexcept = default;
    message(const message&) = delete;
    message& operator=(const message&) = delete;

    /// On the loop's thread, once; it sees to its own destruction. What it throws ends the reactor's run().
    virtual void run() = 0;
    /// In place of run(), when the loop runs nothing any more.
    virtual void drop() noexcept = 0;

    message* next = nullptr; // whoever has it uses this

protected:
    ~message() = default;
};

/// Made on one thread and freed on the other, as frames may be.
template <std::invocable Function>
class posted_function final : public message, public frame_allocated {
public:
    explicit posted_function(Function&& function) : function_(std::move(function)) {}
    void run() override {
        const std::unique_ptr<posted_function> self(this); // also when it throws
        function_();
    }
    void drop() noexcept override { delete this; }

private:
    Function function_;
};

} // namespace cotun::detail
