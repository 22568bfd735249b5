// SPDX-License-Identifier: Apache-2.0
//
// Threads for what the kernel cannot do asynchronously, and may hang: a bounded number, and a line for what is beyond.
//
// Nobody waits for them: a piece of work whose owner has gone is dropped if it stands in the line, and goes on for
// nothing if it has begun; then it ends when it ends, after the reactor even. So whatever it uses it must share.
//
// A thread lives in the network namespace of the thread that starts it. It ends when the line is empty.
#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>

namespace cotun::detail {

/// A thread that signals never interrupt: all are blocked there. Throws as std::thread.
std::thread start_quiet_thread(std::function<void()> body);

class helper_work {
public:
    helper_work() noexcept = default;
    helper_work(const helper_work&) = delete;
    helper_work& operator=(const helper_work&) = delete;
    virtual ~helper_work() = default;
    /// Called on a helper thread.
    virtual void work() noexcept = 0;
};

class helper_threads : public std::enable_shared_from_this<helper_threads> {
public:
    explicit helper_threads(unsigned most) noexcept : most_(most) {}

    /// Throws std::system_error if there is no thread, and none can be started.
    void start(std::shared_ptr<helper_work> work);
    /// Drops the work if it has not begun.
    void drop(const helper_work& work) noexcept;

    unsigned running() const noexcept;
    std::size_t in_line() const noexcept;

private:
    void serve() noexcept;
    std::shared_ptr<helper_work> next() noexcept;

    const unsigned most_;
    mutable std::mutex mutex_;
    unsigned running_ = 0;
    std::list<std::shared_ptr<helper_work>> line_;
};

} // namespace cotun::detail
