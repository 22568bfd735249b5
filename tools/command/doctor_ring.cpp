// SPDX-License-Identifier: Apache-2.0
//
// io_uring by trial: whether there is a ring, which of its ways the kernel takes, and each request that cotun makes.
#include "doctor.hpp"
#include "features.hpp"
#include "trial_ring.hpp"

#include "ring/entry.hpp"
#include "ring/removal.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <functional>
#include <liburing.h>
#include <poll.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace cotun::command {
namespace {

using namespace std::chrono_literals;

std::string limit_of_memory() {
    rlimit limit{};
    ::getrlimit(RLIMIT_MEMLOCK, &limit);
    return limit.rlim_cur == RLIM_INFINITY ? "unlimited" : fmt::format("{} KiB", limit.rlim_cur / 1024);
}

// Runs `attempt`, which reports what works; what it throws is what does not.
void try_out(report& into, const feature& f, const std::function<void()>& attempt) {
    try {
        attempt();
    } catch (const std::system_error& e) {
        into.missing(f, describe_error(e.code().value()));
    } catch (const std::exception& e) {
        into.missing(f, e.what());
    }
}

bool make_ring(report& into) {
    try {
        trial_ring ring;
        into.works(features::ring_set_up);
        return true;
    } catch (const std::system_error& e) {
        const int error = e.code().value();
        const ring::ring_refusal why = ring::refused_ring(error);
        into.missing(features::ring_set_up, fmt::format("{}: {}", describe_error(error), why.cause), why.remedy);
    }
    return false;
}

bool enter_ring(report& into) {
    try {
        trial_ring ring;
        std::array<ring::completion, 1> none{};
        ring.driver().enter(false, std::nullopt, none);
        into.works(features::ring_enter);
        return true;
    } catch (const std::system_error& e) {
        into.missing(features::ring_enter, e.what());
    }
    return false;
}

// What a reactor asks for by default. First of all that need memory: what a trial has used is given back late.
void try_memory(report& into) {
    try_out(into, features::memlock, [&] {
        const ring::uring_options wanted;
        trial_ring ring(wanted);
        const unsigned requests = ring.driver().capacity(), buffers = ring.driver().buffer_capacity();
        bool groups = true;
        try {
            ring.group();
        } catch (const std::system_error&) {
            groups = false;
        }
        const auto seen = fmt::format("{}: room for {} requests and {} buffers", limit_of_memory(), requests, buffers);
        // A few requests are always the driver's own; a ring that is made smaller has half as many, or fewer.
        const bool small = 2 * requests <= wanted.requests || buffers < wanted.buffers;
        if (!small && groups) return into.works(features::memlock, seen);
        into.missing(features::memlock,
                     seen + (small ? fmt::format(", instead of {} and {}", wanted.requests, wanted.buffers) : "") +
                         (groups ? "" : ", none for a ring of buffers"));
    });
}

void try_mode(report& into, const feature& f, ring::task_mode mode) {
    try_out(into, f, [&] {
        ring::uring_options options = trial_ring::small();
        options.mode = mode;
        trial_ring ring(options);
        std::array<ring::completion, 1> none{};
        ring.driver().enter(false, std::nullopt, none);
        into.works(f);
    });
}

// Kernels that do not know it refuse the entry, since its place had to be zero.
void try_min_wait(report& into) {
    io_uring plain{};
    if (const int made = io_uring_queue_init(4, &plain, 0); made < 0)
        return into.not_tried(features::min_wait, "a plain ring: " + describe_error(-made));
    ring::prepare_entries(plain);
    const bool told = ring::coalesces(plain);
    const int result = ring::enter_ring(plain, {.completions = 1, .at_least = 100us, .at_most = 1ms});
    io_uring_queue_exit(&plain);
    if (told && result == -ETIME)
        into.works(features::min_wait);
    else
        into.missing(features::min_wait, told ? describe_error(-result) : "the ring does not have it");
}

void try_registered_ring(report& into) {
    io_uring plain{};
    if (const int made = io_uring_queue_init(4, &plain, 0); made < 0)
        return into.not_tried(features::registered_ring, "a plain ring: " + describe_error(-made));
    const int result = io_uring_register_ring_fd(&plain);
    io_uring_queue_exit(&plain);
    if (result == 1)
        into.works(features::registered_ring);
    else
        into.missing(features::registered_ring, describe_error(-result));
}

void try_registered_files(report& into) {
    try_out(into, features::registered_files, [&] {
        if (!ring::removal_is_immediate())
            return into.missing(features::registered_files, "a removed one was held while others were in use");
        trial_ring ring;
        const descriptor_pair pipe = make_pipe();
        ring::file f = ring.driver().attach(pipe.first.get());
        const bool registered = f.registered >= 0;
        ring.driver().detach(f);
        if (registered)
            into.works(features::registered_files);
        else
            into.missing(features::registered_files, "the ring's table refused a descriptor");
    });
}

void try_buffer_ring(report& into) {
    try_out(into, features::buffer_ring, [&] {
        trial_ring ring;
        const std::uint16_t group = ring.group();
        ring.driver().remove_group(group);
        into.works(features::buffer_ring);
    });
}

// How a request that must succeed ended, in words; empty: well.
std::string failure(const std::optional<ring::completion>& done, bool multishot = false) {
    if (!done) return "no answer within a second";
    if (done->result < 0) return describe_error(-done->result);
    if (multishot && !done->more) return "it answers only once";
    return {};
}

void conclude(report& into, const feature& f, const std::string& failed) {
    if (failed.empty())
        into.works(f);
    else
        into.missing(f, failed);
}

void put_byte(int descriptor) {
    const char byte = 'x';
    if (::write(descriptor, &byte, 1) != 1) throw std::system_error(errno, std::generic_category(), "write");
}

void try_receive(report& into, const feature& f, bool multishot) {
    try_out(into, f, [&] {
        const descriptor_pair pair = make_pair(SOCK_STREAM);
        trial_ring ring;
        const std::uint16_t group = ring.group();
        put_byte(pair.second.get());
        ring.driver().receive(trial_ring::name, {pair.first.get()}, group, multishot);
        conclude(into, f, failure(ring.outcome(), multishot));
    });
}

void try_receive_message(report& into) {
    try_out(into, features::receive_multishot, [&] {
        const descriptor_pair pair = make_pair(SOCK_DGRAM);
        trial_ring ring;
        const std::uint16_t group = ring.group();
        put_byte(pair.second.get());
        const msghdr shape{};
        ring.driver().receive_multishot(trial_ring::name, {pair.first.get()}, shape, group);
        conclude(into, features::receive_multishot, failure(ring.outcome(), true));
    });
}

cotun::unique_fd stream_socket() {
    cotun::unique_fd made(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (made.get() < 0) throw std::system_error(errno, std::generic_category(), "socket");
    return made;
}

// Accepts and connects by the ring; `connected` tells how connecting ended.
std::string accept_and_connect(bool multishot, std::string& connected) {
    const cotun::unique_fd listener = stream_socket(), client = stream_socket();
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    socklen_t size = offsetof(sockaddr_un, sun_path); // a name of the kernel's choice
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(listener.get(), generic, size) != 0 || ::listen(listener.get(), 1) != 0)
        throw std::system_error(errno, std::generic_category(), "bind");
    size = sizeof address;
    if (::getsockname(listener.get(), generic, &size) != 0)
        throw std::system_error(errno, std::generic_category(), "getsockname");
    trial_ring ring;
    constexpr ring::token connecting = 2;
    ring.driver().connect(connecting, {client.get()}, generic, size);
    connected = failure(ring.outcome(connecting));
    if (!connected.empty() && ::connect(client.get(), generic, size) != 0)
        throw std::system_error(errno, std::generic_category(), "connect");
    ring.driver().accept(trial_ring::name, {listener.get()}, multishot);
    const auto done = ring.outcome();
    if (done && done->result >= 0) ::close(done->result);
    return failure(done, multishot);
}

void try_accept(report& into) {
    std::string connected;
    try_out(into, features::accept, [&] { conclude(into, features::accept, accept_and_connect(false, connected)); });
    try_out(into, features::accept_multishot,
            [&] { conclude(into, features::accept_multishot, accept_and_connect(true, connected)); });
    conclude(into, features::connect, connected);
}

void try_poll(report& into) {
    try_out(into, features::poll, [&] {
        const cotun::unique_fd event(::eventfd(1, EFD_CLOEXEC));
        trial_ring ring;
        ring.driver().poll(trial_ring::name, {event.get()}, POLLIN, true);
        conclude(into, features::poll, failure(ring.outcome(), true));
    });
}

void try_sending(report& into) {
    static constexpr std::array<std::byte, 1> byte{};
    try_out(into, features::write, [&] {
        const descriptor_pair pipe = make_pipe();
        trial_ring ring;
        ring.driver().write(trial_ring::name, {pipe.second.get()}, byte);
        conclude(into, features::write, failure(ring.outcome()));
    });
    try_out(into, features::send, [&] {
        const descriptor_pair pair = make_pair(SOCK_STREAM);
        trial_ring ring;
        ring.driver().send(trial_ring::name, {pair.first.get()}, byte);
        conclude(into, features::send, failure(ring.outcome()));
    });
    try_out(into, features::send_message, [&] {
        const descriptor_pair pair = make_pair(SOCK_DGRAM);
        trial_ring ring;
        iovec piece{const_cast<std::byte*>(byte.data()), byte.size()};
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        ring.driver().send_message(trial_ring::name, {pair.first.get()}, message);
        conclude(into, features::send_message, failure(ring.outcome()));
    });
}

void try_cancel(report& into) {
    try_out(into, features::cancel, [&] {
        const descriptor_pair pipe = make_pipe();
        trial_ring ring;
        ring.driver().poll(trial_ring::name, {pipe.first.get()}, POLLIN, false);
        std::array<ring::completion, 1> none{};
        ring.driver().enter(false, std::nullopt, none);
        ring.driver().cancel(trial_ring::name);
        const auto done = ring.outcome();
        conclude(into, features::cancel, done && done->result == -ECANCELED ? "" : "what was cancelled went on");
    });
}

// The sender hears only of a failure, and then no longer sends any.
void try_message(report& into) {
    try_out(into, features::message_ring, [&] {
        trial_ring from, to;
        std::array<ring::completion, 4> none{};
        to.driver().enter(false, std::nullopt, none);
        from.driver().enter(false, std::nullopt, none);
        if (!from.driver().send_wake(to.driver().share_waker()))
            return into.missing(features::message_ring, "the kernel does not know it");
        from.driver().enter(false, std::nullopt, none);
        from.driver().enter(false, std::nullopt, none);
        to.driver().enter(true, ring::clock::now() + 1s, none);
        if (!from.driver().supports(ring::feature::message_ring))
            into.missing(features::message_ring, "it was refused");
        else
            conclude(into, features::message_ring, to.driver().statistics().wakes == 1 ? "" : "it did not arrive");
    });
}

} // namespace

void examine_ring(report& into) {
    const bool made = make_ring(into);
    const bool entered = made && enter_ring(into);
    if (!entered) {
        const char* const because = made ? "no ring can be entered" : "there is no ring";
        if (!made) into.not_tried(features::ring_enter, because);
        for (const feature* f : {&features::deferred, &features::cooperative, &features::min_wait,
                                 &features::registered_ring, &features::registered_files, &features::buffer_ring})
            into.not_tried(*f, because);
        return into.note(features::memlock, limit_of_memory());
    }
    try_memory(into);
    try_mode(into, features::deferred, ring::task_mode::deferred);
    try_mode(into, features::cooperative, ring::task_mode::cooperative);
    try_min_wait(into);
    try_registered_ring(into);
    try_registered_files(into);
    try_buffer_ring(into);
}

void examine_requests(report& into) {
    if (!into.does(features::ring_enter) || !into.does(features::buffer_ring)) {
        const char* const because =
            into.does(features::ring_enter) ? "there are no buffers for them" : "there is no ring";
        for (const feature* f :
             {&features::receive_multishot, &features::receive, &features::stream_multishot, &features::accept,
              &features::accept_multishot, &features::connect, &features::poll, &features::write, &features::send,
              &features::send_message, &features::cancel, &features::message_ring})
            into.not_tried(*f, because);
        return;
    }
    try_receive_message(into);
    try_receive(into, features::receive, false);
    try_receive(into, features::stream_multishot, true);
    try_accept(into);
    try_poll(into);
    try_sending(into);
    try_cancel(into);
    try_message(into);
}

} // namespace cotun::command
