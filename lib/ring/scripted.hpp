// SPDX-License-Identifier: Apache-2.0
//
// The driver's second body: a kernel that a test plays. It needs no root, no io_uring and no descriptors, and its clock
// stands still until everything waits.
//
// Requests that were submitted stand in `in_flight`, in order. When the reactor waits and nothing has completed, `idle`
// is called: the test completes what it likes, in any order. If it does nothing, time goes on to the next deadline; if
// there is none either, the reactor would wait for ever: enter() throws std::logic_error.
//
// Like the kernel it refuses a multishot on an empty group with ENOBUFS, fills a group's buffers in order, and answers
// a cancelled request with ECANCELED.
#pragma once

#include "ring/driver.hpp"

#include <array>
#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <sys/uio.h>
#include <vector>

namespace cotun::ring {

class scripted final : public driver {
public:
    enum class kind : std::uint8_t {
        read_multishot,
        receive_multishot,
        receive,
        accept,
        connect,
        poll,
        write, // also the gathered
        send,
        send_message
    };

    struct request {
        token name;
        kind what;
        int descriptor;
        std::uint16_t group = 0;
        bool multishot = false;
        bool tries = false; // a send that never waits for room
        short events = 0;
        std::span<const std::byte> bytes{}; // of a write or send: the caller's memory, until it is completed
        std::vector<std::byte> address{};   // of send_message and connect
        std::vector<std::byte> control{};   // of send_message
        std::vector<iovec> pieces{};        // of send_message and write_gathered
        std::size_t name_size = 0;          // of receive_multishot
        std::size_t control_size = 0;       // of receive_multishot
    };

    explicit scripted(unsigned requests = 64, unsigned buffers = 4096) : requests_(requests), buffers_(buffers) {}

    // --- the test's side ------------------------------------------------------------------------------------------

    std::deque<request> in_flight;
    std::vector<token> cancelled; // all that were asked to end, in order
    std::function<void(scripted&)> idle;
    /// Called in every enter, once what was queued is in flight.
    std::function<void(scripted&)> submitted;
    /// Writes and sends complete by themselves, with success, in the enter that submits them.
    bool writes_complete = true;
    /// What reads without the ring answer: tried in order, EAGAIN when empty. Bytes, or a negative errno.
    struct immediate {
        int error = 0;
        std::vector<std::byte> bytes{};
        std::vector<std::byte> sender{};
        std::vector<std::byte> control{};
    };
    std::map<int, std::deque<immediate>> immediates;
    /// What writes without the ring answer, a negative errno or 0 for all of it, tried in order; all of it when empty.
    /// And what they have written.
    std::map<int, std::deque<int>> writes_at_once;
    std::map<int, std::vector<std::vector<std::byte>>> written_at_once;
    /// What sends without the ring answer: how many messages are taken at most, or a negative errno; tried in order.
    /// When empty, all are taken, unless the descriptor is among `no_room`: then EAGAIN.
    std::map<int, std::deque<int>> sends_at_once;
    std::set<int> no_room;
    /// Answers in their place, where it is set; from 1 on, or a negative errno.
    std::function<int(int descriptor, std::span<const mmsghdr>)> answer_send;
    /// And what they have taken.
    struct sent_message {
        std::vector<std::byte> bytes{};
        std::vector<std::byte> address{};
        std::vector<std::byte> control{};
    };
    std::map<int, std::vector<sent_message>> sent_at_once;
    std::map<int, ssize_t> unsent;
    std::map<int, int> pending_error;
    std::vector<int> shut_down;   // descriptors whose sending side was
    bool cancels_answered = true; // else cancelled requests wait for the test to complete them
    std::array<bool, features> supported{true, true, true, true};
    int refuse_groups = 0; // an errno: add_group() throws it

    request* find(kind what, int descriptor);
    request* find(token name);
    /// The bytes that a write or send would write.
    static std::size_t total(const request& r);
    /// Completes a request; it is over unless `more`.
    void complete(token name, std::int32_t result, bool more = false);
    /// Fills the next buffer of the multishot on `descriptor`. False, with ENOBUFS, if its group is empty, or if none
    /// is armed. `last`: the multishot ends with this completion. `control` is cut to the room that there is for it.
    bool deliver(int descriptor, std::span<const std::byte> bytes, bool last = false,
                 std::span<const std::byte> sender = {}, std::span<const std::byte> control = {});
    /// Ends the multishot or poll on `descriptor` with an error.
    bool end(int descriptor, int error);
    std::size_t buffers_in(std::uint16_t group) const { return groups_.at(group).size(); }
    void advance(clock::duration time) { now_ += time; }
    std::size_t enters() const noexcept { return statistics_.enters; }

    // --- the driver's ---------------------------------------------------------------------------------------------

    unsigned capacity() const noexcept override { return requests_; }
    unsigned buffer_capacity() const noexcept override { return buffers_; }
    bool supports(feature f) const noexcept override { return supported[static_cast<std::size_t>(f)]; }
    void lacks(feature f) noexcept override { supported[static_cast<std::size_t>(f)] = false; }
    file attach(int descriptor) override { return {descriptor, -1}; }
    void detach(file& f) noexcept override { f = file{}; }
    std::uint16_t add_group(unsigned entries) override;
    void provide(std::uint16_t group, std::span<const group_buffer>) noexcept override;
    void remove_group(std::uint16_t group) noexcept override;
    void read_multishot(token, file, std::uint16_t group) noexcept override;
    void receive_multishot(token, file, const msghdr&, std::uint16_t group) noexcept override;
    void receive(token, file, std::uint16_t group, bool multishot) noexcept override;
    void accept(token, file, bool multishot) noexcept override;
    void connect(token, file, const sockaddr*, socklen_t) noexcept override;
    void poll(token, file, short events, bool multishot) noexcept override;
    void write(token, file, std::span<const std::byte>) noexcept override;
    void write_gathered(token, file, std::span<const iovec>) noexcept override;
    void send(token, file, std::span<const std::byte>) noexcept override;
    void send_message(token, file, const msghdr&) noexcept override;
    void try_send(token, file, std::span<const std::byte>) noexcept override;
    void try_send_message(token, file, const msghdr&) noexcept override;
    void cancel(token) noexcept override;
    ssize_t read_now(file, std::span<std::byte>) noexcept override;
    ssize_t write_now(file, std::span<const iovec>) noexcept override;
    ssize_t receive_now(file, msghdr&) noexcept override;
    int send_now(file, std::span<mmsghdr> messages) noexcept override;
    ssize_t unsent_bytes(file) noexcept override;
    int take_error(file) noexcept override;
    int shutdown_send(file f) noexcept override {
        shut_down.push_back(f.descriptor);
        return 0;
    }
    std::size_t enter(bool wait, std::optional<clock::time_point> deadline, std::span<completion>) override;
    void wake() noexcept override { woken_->wake(); }
    std::shared_ptr<waker> share_waker() const noexcept override { return woken_; }
    bool send_wake(const std::shared_ptr<waker>& target) noexcept override;
    clock::time_point now() noexcept override { return now_; }
    driver_statistics statistics() const noexcept override { return statistics_; }

private:
    void queue(request r) { queued_.push_back(std::move(r)); }
    void submit();
    void erase(token name);

    unsigned requests_;
    unsigned buffers_;
    std::deque<request> queued_;
    std::deque<token> cancels_;
    std::deque<completion> completed_;
    std::map<std::uint16_t, std::deque<group_buffer>> groups_;
    std::map<std::uint16_t, unsigned> group_sizes_;
    std::uint16_t next_group_ = 0;
    struct flag final : waker {
        void wake() noexcept override { set.store(true); }
        std::atomic<bool> set{false};
    };
    std::shared_ptr<flag> woken_ = std::make_shared<flag>();
    std::vector<std::shared_ptr<waker>> to_wake_;
    clock::time_point now_ = clock::time_point{} + std::chrono::hours(1);
    driver_statistics statistics_;
};

} // namespace cotun::ring
