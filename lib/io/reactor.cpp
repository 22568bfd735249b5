// SPDX-License-Identifier: Apache-2.0
#include <cotun/io/reactor.hpp>

#include "io/fail.hpp"
#include "io/reactor_core.hpp"
#include "ring/uring.hpp"

#include <cerrno>

namespace cotun {
namespace {

std::unique_ptr<detail::reactor_core> make_core(const reactor_options& options) {
    ring::uring_options ring;
    ring.requests = options.requests;
    ring.buffers = options.pool.small_count + options.pool.large_count;
    ring.coalesce = options.coalesce;
    ring.busy_poll = options.busy_poll;
    ring.registered_files = options.registered_files;
    ring.messages = options.messages;
    switch (options.ring) {
    case ring_mode::automatic: ring.mode = ring::task_mode::automatic; break;
    case ring_mode::deferred: ring.mode = ring::task_mode::deferred; break;
    case ring_mode::cooperative: ring.mode = ring::task_mode::cooperative; break;
    case ring_mode::plain: ring.mode = ring::task_mode::plain; break;
    }
    return std::make_unique<detail::reactor_core>(options, ring::make_uring(ring));
}

} // namespace

reactor::reactor(const reactor_options& options) : core_(make_core(options)) {}
reactor::reactor(std::unique_ptr<detail::reactor_core> core) noexcept : core_(std::move(core)) {}
reactor::~reactor() = default;

void reactor::run_main(task<> main) { core_->run(&main); }
void reactor::run() { core_->run(nullptr); }
void reactor::spawn(task<> body) { core_->spawn(std::move(body)); }
void reactor::post(detail::message& m) { core_->post(m); }
void reactor::stop() noexcept { core_->stop(); }
packet reactor::try_allocate(std::size_t size) { return core_->try_allocate(size); }
reactor_statistics reactor::statistics() const noexcept { return core_->statistics(); }

detail::scheduler& reactor::loop() noexcept { return *core_; }

void reactor::throw_stopped() {
    detail::fail(ECANCELED, "reactor: stop() was called before the task of run() had ended");
}

sleep_operation reactor::sleep_for(clock::duration time) noexcept {
    if (time <= clock::duration::zero()) return {*core_, clock::time_point::min()};
    const clock::time_point now = core_->driver().now();
    return {*core_, time < clock::time_point::max() - now ? now + time : clock::time_point::max()};
}
sleep_operation reactor::sleep_until(clock::time_point time) noexcept { return {*core_, time}; }

sleep_operation::~sleep_operation() { core_->disarm(*this); }

bool sleep_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    core_->check_thread("a timer");
    if (!start_waiting(who, *core_, context.stop)) return false;
    if (until_ <= core_->driver().now())
        core_->make_ready(*this);
    else
        core_->arm(*this, until_);
    return true;
}

void sleep_operation::on_time() { core_->make_ready(*this); }
void sleep_operation::give_up() noexcept { core_->disarm(*this); }

bool allocate_operation::await_ready() {
    got_ = core_->try_allocate(size_);
    return static_cast<bool>(got_);
}

bool allocate_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    if (!start_waiting(who, *core_, context.stop)) return false;
    core_->await_buffer(*this, core_->pool().class_for(size_));
    return true;
}

} // namespace cotun
