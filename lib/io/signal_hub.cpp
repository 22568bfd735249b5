// SPDX-License-Identifier: Apache-2.0
#include "io/signal_hub.hpp"

#include "io/fail.hpp"
#include "io/reactor_core.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <poll.h>
#include <span>
#include <sys/signalfd.h>
#include <unistd.h>
#include <utility>

namespace cotun {
namespace {

// 64 signals, as the kernel counts them.
sigset_t to_sigset(std::uint64_t bits) noexcept {
    sigset_t set;
    sigemptyset(&set);
    for (int number = 1; number <= 64; ++number)
        if ((bits >> (number - 1) & 1) != 0) sigaddset(&set, number);
    return set;
}

std::uint64_t blocked_now() noexcept {
    sigset_t set;
    sigemptyset(&set);
    pthread_sigmask(SIG_SETMASK, nullptr, &set);
    std::uint64_t bits = 0;
    for (int number = 1; number <= 64; ++number)
        if (sigismember(&set, number) == 1) bits |= std::uint64_t{1} << (number - 1);
    return bits;
}

// How many reactors hold each signal blocked on this thread: the last one restores what was there before the first.
struct holders {
    std::array<std::uint16_t, 64> count;
    std::uint64_t ours; // those that were not blocked before
};
constinit thread_local holders held{};

const char* why_not(int number) noexcept {
    switch (number) {
    case SIGKILL:
    case SIGSTOP: return "the kernel lets no program catch it";
    case SIGSEGV:
    case SIGBUS:
    case SIGFPE:
    case SIGILL:
    case SIGTRAP:
    case SIGSYS: return "it tells of a fault of the program itself, and comes where that is; use sigaction(2)";
    default: return nullptr;
    }
}

} // namespace

std::uint64_t signal_set::bit_of(int number) {
    sigset_t set;
    sigemptyset(&set);
    if (number < 1 || number > 64 || sigaddset(&set, number) != 0) // 32 and 33 are the C library's own
        detail::fail(EINVAL, fmt::format("signal: {} is not a signal that a program may use", number));
    if (const char* const why = why_not(number))
        detail::fail(EINVAL, fmt::format("signal: {} ({}) cannot be waited for: {}", number, strsignal(number), why));
    return std::uint64_t{1} << (number - 1);
}

namespace detail {

signal_hub::~signal_hub() {
    if (descriptor_ < 0) return;
    // Those that are pending would have their effect as soon as they are unblocked, and mostly end the program.
    read_all();
    ::close(descriptor_);
    unblock();
}

void signal_hub::add(const signal_set& more) {
    if ((more.bits() & ~caught_) == 0) return;
    const std::uint64_t caught = caught_ | more.bits();
    const sigset_t set = to_sigset(caught);
    // A signal that came in between would find no reader, but would stay pending; the other way around it would have
    // its effect.
    block(more.bits() & ~caught_);
    const int descriptor = signalfd(descriptor_, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (descriptor < 0) {
        const int error = errno;
        if (descriptor_ < 0) unblock();
        fail(error, "signal: making a signalfd (out of descriptors? see `ulimit -n`)");
    }
    descriptor_ = descriptor;
    caught_ = caught;
    arm();
}

// --- the mask ------------------------------------------------------------------------------------------------------

void signal_hub::block(std::uint64_t bits) {
    const std::uint64_t before = blocked_now();
    const sigset_t set = to_sigset(bits);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    if (blocked_ == 0) thread_ = std::this_thread::get_id();
    if (thread_ != std::this_thread::get_id()) return; // nobody will restore this thread's
    for (int i = 0; i < most; ++i)
        if ((bits >> i & 1) != 0 && held.count[static_cast<std::size_t>(i)]++ == 0)
            held.ours |= ~before & std::uint64_t{1} << i;
    blocked_ |= bits;
}

void signal_hub::unblock() noexcept {
    if (blocked_ == 0 || thread_ != std::this_thread::get_id()) return;
    std::uint64_t free = 0;
    for (int i = 0; i < most; ++i)
        if ((blocked_ >> i & 1) != 0 && --held.count[static_cast<std::size_t>(i)] == 0) free |= std::uint64_t{1} << i;
    const sigset_t set = to_sigset(free & held.ours);
    held.ours &= ~free;
    blocked_ = 0;
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

// --- what comes ----------------------------------------------------------------------------------------------------

// There is room: the reserved quarter holds a place for it. If there is none all the same, the next wait tries again.
void signal_hub::arm() noexcept {
    if (descriptor_ < 0 || request_ != 0 || ending_) return;
    request_ = core_->begin(*this, 0, true);
    if (request_ != 0) core_->driver().poll(request_, {descriptor_, -1}, POLLIN, true);
}

void signal_hub::cancel() noexcept {
    if (!std::exchange(ending_, true) && request_ != 0) core_->driver().cancel(request_);
}

void signal_hub::on_completion(std::uint32_t, const ring::completion& done) {
    if (!done.more) request_ = 0;
    if (done.result <= 0) return;
    read_all();
    arm();
}

void signal_hub::read_all() noexcept {
    signalfd_siginfo info{};
    const auto bytes = std::as_writable_bytes(std::span(&info, 1));
    while (::read(descriptor_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()))
        came(static_cast<int>(info.ssi_signo));
}

void signal_hub::came(int number) noexcept {
    const auto index = static_cast<std::size_t>(number);
    waiter_list others;
    others.splice_back(waiters_);
    unsigned told = 0;
    while (!others.empty()) {
        auto& w = static_cast<signal_operation&>(others.pop_front());
        if (w.any_.contains(number)) {
            w.came_ = number;
            core_->make_ready(w);
            ++told;
        } else {
            waiters_.push_back(w);
        }
    }
    if (told == 0) kept_ |= std::uint64_t{1} << (number - 1);
    if (told != 0) taken_since_told_[index] = false;
    told_[index] += told;
}

int signal_hub::take(const signal_set& any) {
    read_all();
    arm();
    for (int number = 1; number <= most; ++number) {
        const std::uint64_t bit = std::uint64_t{1} << (number - 1);
        if ((any.bits() & kept_ & bit) == 0) continue;
        kept_ &= ~bit;
        taken_since_told_[static_cast<std::size_t>(number)] = false;
        ++told_[static_cast<std::size_t>(number)];
        return number;
    }
    return 0;
}

void signal_hub::taken(int number) noexcept {
    --told_[static_cast<std::size_t>(number)];
    taken_since_told_[static_cast<std::size_t>(number)] = true;
}

// All that were told go without: it is as if it came now.
void signal_hub::declined(int number) noexcept {
    const auto index = static_cast<std::size_t>(number);
    if (--told_[index] == 0 && !taken_since_told_[index]) came(number);
}

} // namespace detail

// --- the wait ------------------------------------------------------------------------------------------------------

signal_operation reactor::signal(const signal_set& any) {
    core().refuse_child("signal()");
    core().check_thread("signal()");
    core().signals().add(any);
    return {core(), any};
}

signal_operation::~signal_operation() {
    if (came_ == 0) return;
    unlink();
    core_->signals().declined(came_);
}

bool signal_operation::await_ready() {
    if (came_ == 0) came_ = core_->signals().take(any_);
    return came_ != 0;
}

bool signal_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    if (!start_waiting(who, *core_, context.stop)) return false;
    core_->signals().wait(*this);
    return true;
}

int signal_operation::await_resume() {
    throw_if_stopped();
    core_->signals().taken(came_);
    return std::exchange(came_, 0);
}

} // namespace cotun
