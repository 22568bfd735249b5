// SPDX-License-Identifier: Apache-2.0
//
// A datagram socket of a soak: what its kernel does to it in both directions, and the tasks that work on it.
#pragma once

#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_any.hpp>
#include <cotun/net/udp.hpp>

#include "datagram_soak.hpp"
#include "io/fail.hpp"
#include "io/passed_descriptors.hpp"
#include "scripted_unix.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <netinet/in.h>
#include <poll.h>

namespace cotun::test {

struct udp_ends {
    explicit udp_ends(rig& r, read_mode mode) : socket(open(r, mode)) {}
    static udp_socket open(rig& r, read_mode mode) {
        udp_options o;
        o.peer = endpoint::from_string("127.0.0.1:9");
        o.packet_info = true;
        o.read = mode;
        o.socket.send_buffer = 1; // the kernel's least
        return open_udp(r.io, o);
    }
    udp_socket socket;
};

inline constexpr std::array send_refusals{EMSGSIZE, ECONNREFUSED, ENETUNREACH, EHOSTUNREACH, ENOBUFS,  ENOMEM,
                                          EPERM,    EACCES,       EINVAL,      ENETDOWN,     ETIMEDOUT};
inline constexpr std::array read_failures{ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EMSGSIZE, EPROTO, ENOMEM,
                                          ENOBUFS,      EINTR,        EAGAIN,      EPERM,    EIO};

// What is in common of the sockets: both directions, and who works on them.
class datagram_side {
public:
    explicit datagram_side(rig& r, dice& pick) : rig_(&r), pick_(&pick) {}
    datagram_side(const datagram_side&) = delete;
    datagram_side& operator=(const datagram_side&) = delete;
    virtual ~datagram_side() = default;

    virtual int descriptor() const = 0;
    virtual task<> send_once() = 0;
    virtual task<> receive_once() = 0;
    virtual task<> close() = 0;
    virtual write_statistics writes() const = 0;
    virtual read_statistics reads() const = 0;

    /// The kernel has what was submitted.
    virtual void submitted() = 0;
    /// There is room for some more.
    virtual void give_room(bool all) = 0;
    virtual void come(bool last) = 0;
    virtual void end_receiving(int error) = 0;

    sent_ledger ledger;
    unsigned came = 0; // datagrams that the kernel gave
    unsigned read = 0; // of them, those that were read
    bool well = true;  // the kernel refuses nothing any more
    bool gone = false; // it was given a final error
    bool closing = false;
    std::array<std::unique_ptr<scope>, 2> writers;
    std::array<std::unique_ptr<scope>, 2> readers;

protected:
    ring::scripted& kernel() { return rig_->kernel; }
    bool lucky(std::size_t one_in) { return (*pick_)(one_in) == 0; }
    rig* rig_;
    dice* pick_;
};

// Numbered, and every fifth with a descriptor on Unix sockets.
std::vector<std::byte> incoming(unsigned n) { return numbered(n, sizeof n + n % 900); }

template <class Ends>
class datagram_side_of : public datagram_side {
    static constexpr bool udp = std::is_same_v<Ends, udp_ends>;
    static constexpr bool records = std::is_same_v<Ends, connection>;

public:
    datagram_side_of(rig& r, dice& pick, read_mode mode) : datagram_side(r, pick), ends_(r, mode), mode_(mode) {
        descriptor_ = ends_.socket.native_handle();
        socklen_t size = sizeof believed_;
        getsockopt(descriptor_, SOL_SOCKET, SO_SNDBUF, &believed_, &size);
        capacity_ = static_cast<std::size_t>(believed_);
        if (lucky(3)) largest_segment_ = (*pick_)(2) * (*pick_)(1100);
    }
    // What the kernel has for it still is closed with it.
    ~datagram_side_of() override {
        readers = {};
        writers = {};
        { const auto closed = std::move(ends_.socket); }
        for (const ring::scripted::immediate& i : kernel().immediates[descriptor_])
            detail::close_descriptors(i.control);
        kernel().immediates.erase(descriptor_);
        kernel().sent_at_once.erase(descriptor_);
        kernel().unsent.erase(descriptor_);
        kernel().pending_error.erase(descriptor_);
    }

    // -1 once it is closed: another has the number then.
    int descriptor() const override { return ends_.socket.native_handle(); }
    write_statistics writes() const override { return ends_.socket.writes(); }
    read_statistics reads() const override { return ends_.socket.reads(); }
    task<> close() override {
        closing = true;
        return ends_.socket.close();
    }

    // --- those who send -------------------------------------------------------------------------------------------

    task<> send_once() override {
        switch ((*pick_)(10)) {
        case 0: co_await flush(); break;
        case 1:
        case 2: co_await send_batch(); break;
        default: co_await send_one(); break;
        }
    }

    task<> send_one() {
        packet p = co_await rig_->io.allocate(sent_ledger::largest);
        const unsigned n = ledger.next();
        sent_ledger::fill(p, n);
        const std::size_t way = (*pick_)(4);
        const std::chrono::milliseconds time((*pick_)(10));
        std::exception_ptr failure;
        try {
            if constexpr (udp) {
                if (way == 0) {
                    co_await ends_.socket.send_to(std::move(p), other_);
                } else if (way == 1) {
                    co_await ends_.socket.send(std::move(p), how_);
                } else if (way == 2) {
                    co_await with_timeout(ends_.socket.send(std::move(p)), time);
                } else {
                    co_await ends_.socket.send(std::move(p));
                }
            } else {
                std::vector<unique_fd> files;
                for (std::size_t i = (*pick_)(3); i > 0; --i) files.push_back(unique_fd::duplicate_of(STDERR_FILENO));
                if (way == 0) {
                    co_await ends_.socket.send(std::move(p), std::move(files));
                } else if (way == 1) {
                    co_await with_timeout(ends_.socket.send(std::move(p), std::move(files)), time);
                } else if (way == 2 && !records) {
                    if constexpr (!records) {
                        const std::string to = lucky(2) ? ends_.name : "@cotun-nobody";
                        co_await ends_.socket.send_to(std::move(p), to, std::move(files));
                    }
                } else {
                    co_await ends_.socket.send(std::move(p));
                }
            }
        } catch (...) {
            failure = std::current_exception();
        }
        if (!failure) {
            ledger.accepted(n);
        } else {
            ledger.not_accepted(n);
            std::rethrow_exception(failure);
        }
    }

    // One that is stopped may have been accepted in part: those in front.
    task<> send_batch() {
        packet_batch batch;
        std::vector<unsigned> numbers;
        for (std::size_t i = 1 + (*pick_)(6); i > 0; --i) {
            packet p = rig_->io.try_allocate(sent_ledger::largest);
            if (!p) break;
            numbers.push_back(ledger.next());
            sent_ledger::fill(p, numbers.back());
            batch.push_back(std::move(p));
        }
        co_await ends_.socket.send_packets(std::move(batch));
        for (const unsigned n : numbers) ledger.accepted(n);
    }

    // It waits for all that was accepted, and throws if and only if something has failed since the last one.
    task<> flush() {
        const unsigned until = ledger.known();
        int error = 0;
        try {
            co_await ends_.socket.flush();
        } catch (const std::system_error& e) {
            if (e.code() == std::errc::operation_canceled || gone || closing) throw;
            error = e.code().value();
        }
        if (closing || gone) co_return;
        if (!ledger.is_over_up_to(until)) FAIL("flush() has ended before what was accepted");
        const std::uint64_t failed = writes().failed();
        if ((error != 0) != (failed > flushed_))
            FAIL("flush() tells " << error << ", and " << failed << " have failed");
        flushed_ = failed;
    }

    // --- those who receive ----------------------------------------------------------------------------------------

    task<> receive_once() override {
        const std::chrono::milliseconds time((*pick_)(20));
        switch ((*pick_)(4)) {
        case 0: {
            auto got = co_await as_result(with_timeout(ends_.socket.receive(), time));
            if (got)
                arrived(*got);
            else if (got.error() != std::errc::timed_out)
                throw std::system_error(got.error());
            break;
        }
        case 1: {
            auto first = co_await when_any(ends_.socket.receive(), rig_->io.sleep_for(time));
            if (first.index() == 0) arrived(std::get<0>(first));
            break;
        }
        case 2: {
            const packet_batch all = co_await ends_.socket.receive_packets();
            for (const packet& p : all) arrived(p);
            break;
        }
        default: {
            const auto one = co_await ends_.socket.receive();
            arrived(one);
            break;
        }
        }
    }
    void arrived(const packet& p) {
        const unsigned n = number_of(p);
        if (n != read || p.size() != sizeof n + n % 900) FAIL("datagram " << n << " where " << read << " is due");
        ++read;
    }
    template <class Message>
    void arrived(const Message& m) {
        arrived(m.payload);
        if constexpr (!udp) {
            const std::size_t due = (read - 1) % 5 == 0 ? 1 : 0;
            if (m.descriptors.size() != due) FAIL("datagram " << read - 1 << " brought " << m.descriptors.size());
        }
    }

    // --- the kernel's side ----------------------------------------------------------------------------------------

    void come(bool last) override {
        if (gone || closing) return;
        std::vector<std::byte> control;
        if (!udp && came % 5 == 0) control = passing(new_descriptor());
        std::vector<std::byte> from;
        if (udp) {
            const sockaddr_in a{.sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {}, .sin_zero = {}};
            const auto bytes = std::as_bytes(std::span(&a, 1));
            from.assign(bytes.begin(), bytes.end());
        }
        if (mode_ == read_mode::poll) {
            kernel().immediates[descriptor_].push_back({0, incoming(came++), from, control});
            if (ring::scripted::request* q = poll_for(POLLIN)) kernel().complete(q->name, POLLIN, !last);
            return;
        }
        if (kernel().find(ring::scripted::kind::receive_multishot, descriptor_) != nullptr &&
            kernel().deliver(descriptor_, incoming(came), last, from, control))
            ++came;
        else
            detail::close_descriptors(control);
    }

    void end_receiving(int error) override {
        if (gone || closing) return;
        ring::scripted::request* q = mode_ == read_mode::poll
                                         ? poll_for(POLLIN)
                                         : kernel().find(ring::scripted::kind::receive_multishot, descriptor_);
        // EAGAIN is what a read answers that finds nothing: it cannot stand in front of something.
        if (mode_ == read_mode::poll && lucky(2) && error != EAGAIN && !detail::is_final(error)) {
            kernel().immediates[descriptor_].push_back({.error = error});
            if (q != nullptr) kernel().complete(q->name, POLLIN, true);
        } else if (q != nullptr) {
            kernel().complete(q->name, -error);
            gone = detail::is_final(error);
        }
    }

    void submitted() override {
        if (descriptor() < 0) return;
        if (ring::scripted::request* q = poll_for(POLLIN); q != nullptr && q->name != told_) {
            told_ = q->name; // one that begins tells of what is there
            if (!kernel().immediates[descriptor_].empty()) kernel().complete(q->name, POLLIN, true);
        }
        if constexpr (udp) {
            for (const ring::token name : sends(true)) try_to_send(name);
            tell_of_room();
        }
    }

    void give_room(bool all) override {
        if (descriptor() < 0) return;
        if constexpr (udp) {
            if (well) capacity_ = static_cast<std::size_t>(believed_);
            for (std::size_t i = all ? queue_.size() : 1 + (*pick_)(3); i > 0 && !queue_.empty(); --i) {
                in_use_ -= queue_.front();
                queue_.pop_front();
            }
            kernel().unsent[descriptor_] = static_cast<ssize_t>(in_use_);
            if (is_writable()) blocked_ = false;
            tell_of_room();
        } else {
            blocked_ = false;
        }
    }

    // UDP: the kernel's bound may have become another than the socket was opened with.
    void change_bound() { capacity_ = static_cast<std::size_t>(believed_) >> (*pick_)(3); }
    void refuse_later(int error) { kernel().pending_error[descriptor_] = error; }

    // Unix: how many are taken at once, or a negative errno.
    int answer(std::span<const mmsghdr> messages) {
        if (blocked_) return -EAGAIN;
        const auto bytes_of = [](const mmsghdr& m) {
            return std::span(static_cast<const std::byte*>(m.msg_hdr.msg_iov->iov_base), m.msg_hdr.msg_iov->iov_len);
        };
        const std::size_t luck = well ? 100 : (*pick_)(30);
        if (luck == 0) return -EINTR;
        if (luck < 4) {
            blocked_ = true;
            return -EAGAIN;
        }
        if (luck == 4) {
            static constexpr std::array unix_refusals{ECONNREFUSED, ENOENT,       EMSGSIZE, EPERM,    EACCES,
                                                      ENOBUFS,      ENOMEM,       EINVAL,   ENOTCONN, ECONNRESET,
                                                      EPROTOTYPE,   ETOOMANYREFS, EBADF};
            const int error = unix_refusals[(*pick_)(unix_refusals.size())];
            ledger.failed(bytes_of(messages.front()), error == EBADF ? EINVAL : error); // one of the message's own
            return -error;
        }
        if (luck == 5 && lucky(20)) { // the receiver has ended its side
            ledger.failed(bytes_of(messages.front()), records ? EPIPE : ECONNREFUSED);
            gone = gone || records;
            return -EPIPE;
        }
        const std::size_t most = std::min(messages.size(), well ? messages.size() : 1 + (*pick_)(6));
        for (const mmsghdr& m : messages.first(most)) ledger.taken(bytes_of(m));
        return static_cast<int>(most);
    }

private:
    ring::scripted::request* poll_for(short events) {
        for (ring::scripted::request& q : kernel().in_flight)
            if (q.what == ring::scripted::kind::poll && q.descriptor == descriptor_ && q.events == events) return &q;
        return nullptr;
    }
    std::vector<ring::token> sends(bool tries) {
        std::vector<ring::token> all;
        for (const ring::scripted::request& q : kernel().in_flight)
            if ((q.what == ring::scripted::kind::send || q.what == ring::scripted::kind::send_message) &&
                q.descriptor == descriptor_ && q.tries == tries)
                all.push_back(q.name);
        return all;
    }
    bool is_full() const { return in_use_ >= capacity_; }
    bool is_writable() const { return 2 * in_use_ < capacity_; }

    void try_to_send(ring::token name) {
        blocked_ = blocked_ || is_full();
        if (blocked_) return kernel().complete(name, -EAGAIN);
        finish(name);
    }
    static std::vector<std::span<const std::byte>> datagrams_of(const ring::scripted::request& q) {
        if (q.pieces.empty()) return {q.bytes};
        std::vector<std::span<const std::byte>> all;
        for (const iovec& p : q.pieces) all.emplace_back(static_cast<const std::byte*>(p.iov_base), p.iov_len);
        return all;
    }
    void finish(ring::token name) {
        const ring::scripted::request& q = *kernel().find(name);
        const auto all = datagrams_of(q);
        const bool several = all.size() > 1;
        if (several && all.front().size() > largest_segment_) // they go again, one by one
            return kernel().complete(name, largest_segment_ == 0 ? -EIO : -EINVAL);
        const int pending = std::exchange(kernel().pending_error[descriptor_], 0);
        int error = pending;
        if (error == 0 && !well && lucky(25)) error = send_refusals[(*pick_)(send_refusals.size())];
        if (error == 0 && !well && lucky(400)) error = ENODEV; // no such interface: that datagram's alone
        if (error == 0 && !well && lucky(3000)) error = EBADF; // the end
        if (several && (error == EINVAL || error == EMSGSIZE)) error = 0;
        if (error != 0) {
            gone = gone || (error != ENODEV && detail::is_final(error));
            for (const auto& one : all) ledger.failed(one, error == ENODEV ? ENETUNREACH : error);
            return kernel().complete(name, -error);
        }
        for (const auto& one : all) ledger.taken(one);
        const std::size_t bytes = ring::scripted::total(q);
        queue_.push_back(bytes + 512);
        in_use_ += queue_.back();
        kernel().unsent[descriptor_] = static_cast<ssize_t>(in_use_);
        kernel().complete(name, static_cast<std::int32_t>(bytes));
    }
    // Those that wait are woken in any order, and each tries again.
    void tell_of_room() {
        if (ring::scripted::request* q = poll_for(POLLOUT)) {
            const int error = kernel().pending_error[descriptor_];
            const int events = (is_writable() ? POLLOUT : 0) | (error != 0 ? POLLERR : 0);
            if (events != 0) kernel().complete(q->name, events);
        }
        if (!is_writable()) return;
        std::vector<ring::token> waiting = sends(false);
        for (std::size_t left = waiting.size(); left > 0 && !is_full(); --left) {
            std::swap(waiting[(*pick_)(left)], waiting[left - 1]);
            finish(waiting[left - 1]);
        }
    }

    Ends ends_;
    read_mode mode_;
    int descriptor_ = -1;
    const endpoint other_ = endpoint::from_string("127.0.0.2:9");
    datagram_options how_{.from = wire::ip_address::from_string("127.0.0.1"), .interface = 0, .ttl = 3, .tos = {}};
    std::uint64_t flushed_ = 0; // failures that a flush has told of
    ring::token told_ = 0;
    std::size_t largest_segment_ = 65535; // of several datagrams that are one send
    bool blocked_ = false;                // sends find no room until there is much
    int believed_ = 0;                    // the bound that the socket was opened with
    std::size_t capacity_ = 0;
    std::deque<std::size_t> queue_; // UDP: what is charged for datagrams that the link has not taken yet
    std::size_t in_use_ = 0;
};

} // namespace cotun::test
