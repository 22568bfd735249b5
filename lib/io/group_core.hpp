// SPDX-License-Identifier: Apache-2.0
//
// A group's inside: its threads, and the count of what keeps it from being at its end.
//
// A thread makes its reactor, serves until it is stopped, destroys the tasks that are left, and goes on dropping what
// is still sent to it until the group is destroyed. So until then every reactor of the group can be sent messages to,
// from anywhere, and whoever awaits an answer has one.
//
// What counts: each message on its way, and each reactor that has tasks, and one until join(). When nothing counts any
// more, nothing can begin any more: the group closes, and all are stopped.
#pragma once

#include <cotun/io/reactor.hpp>
#include <cotun/io/reactor_group.hpp>

#include "io/reactor_core.hpp"
#include "ring/process.hpp"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace cotun::detail {

class group_core {
public:
    explicit group_core(const group_options& options);
    ~group_core();

    std::size_t size() const noexcept { return members_.size(); }
    reactor_core& core_of(std::size_t index) noexcept;
    /// Throws std::errc::invalid_argument if there is no such reactor.
    void check(std::size_t index) const;

    /// Throws std::errc::broken_pipe if the reactor or the group has ended, std::errc::invalid_argument if there is no
    /// such reactor. The message is destroyed then.
    void send(std::size_t to, std::unique_ptr<group_message> m);
    [[noreturn]] static void fail_ended(std::size_t index);

    void join();
    /// Whether this is a child of the process that made the group, where its threads are not.
    bool forked() const noexcept { return process_.forked(); }
    void request_stop() noexcept;
    void stop() noexcept;
    void stop(std::size_t index);

private:
    friend class group_message;
    struct member;
    enum class phase : unsigned char { starting, running, leaving };

    reactor& reactor_of(std::size_t index) noexcept;
    void start();
    void live(member& m) noexcept;
    void make_reactor(member& m);
    void serve(member& m) noexcept;
    void report(unsigned& count) noexcept;
    void failed(std::exception_ptr failure) noexcept;
    bool begin() noexcept { return (work_.fetch_add(1) & closed) == 0; }
    void end() noexcept;
    static void stop_member(member& m) noexcept;
    void stop_all() noexcept;
    void enter_phase(phase p) noexcept;
    template <class Condition>
    void await(Condition condition);
    void leave() noexcept;

    static constexpr std::uint64_t closed = std::uint64_t{1} << 63;

    const ring::process_mark process_;
    group_options options_;
    std::vector<std::unique_ptr<member>> members_;
    alignas(64) std::atomic<std::uint64_t> work_{1};
    alignas(64) std::atomic<bool> asked_{false}; // to stop
    std::atomic<bool> given_up_{false};          // by stop()
    std::atomic<bool> leaving_{false};
    std::atomic<bool> joined_{false};

    std::mutex mutex_;
    std::condition_variable changed_;
    phase phase_ = phase::starting;
    unsigned started_ = 0; // or failed to
    unsigned ended_ = 0;
    unsigned left_ = 0; // drop nothing any more
    unsigned reactors_ = 0;
    std::exception_ptr failure_; // the first
    bool failed_ = false;
};

} // namespace cotun::detail
