// SPDX-License-Identifier: Apache-2.0
//
// Random tasks at a semaphore and at a channel, stopped and destroyed at random moments, held against a model. The seed
// is printed; COTUN_SEED replays one.
#include <cotun/coro/channel.hpp>
#include <cotun/coro/event.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/semaphore.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_any.hpp>

#include "../support/plain_loop.hpp"
#include "../support/sanitizers.hpp"
#include "../support/scale.hpp"
#include "../support/seed.hpp"

#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

using namespace cotun;
using namespace cotun::test;
using namespace std::chrono_literals;

namespace {

// Tasks that are stopped and destroyed one by one.
class crowd {
public:
    explicit crowd(plain_loop& loop) noexcept : loop_(&loop) {}
    void add(task<> body) {
        members_.push_back(std::make_unique<scope>(*loop_));
        members_.back()->spawn(std::move(body));
    }
    void disturb(dice& random) {
        std::erase_if(members_, [](const auto& m) { return m->size() == 0; });
        if (members_.empty()) return;
        const std::size_t who = random(members_.size());
        if (random(2) == 0)
            members_[who]->request_stop();
        else
            members_.erase(members_.begin() + static_cast<std::ptrdiff_t>(who));
    }
    std::size_t size() const noexcept { return members_.size(); }
    void clear() { members_.clear(); }

private:
    plain_loop* loop_;
    std::vector<std::unique_ptr<scope>> members_;
};

// --- semaphore -----------------------------------------------------------------------------------------------------

struct semaphore_model {
    static constexpr std::size_t units = 7;
    plain_loop loop;
    semaphore of{units, units};
    std::map<std::size_t, std::size_t> waiting; // ticket, wish
    std::size_t next_ticket = 0;
    std::size_t last_served = 0; // the latest ticket that was
    std::size_t held = 0;
    event end_of_turn;
};

struct ticket {
    ticket(semaphore_model& m, std::size_t wish) : of(m), number(++m.next_ticket) { m.waiting[number] = wish; }
    ticket(const ticket&) = delete;
    ticket& operator=(const ticket&) = delete;
    ~ticket() { of.waiting.erase(number); }
    semaphore_model& of;
    std::size_t number;
};

struct holding {
    holding(semaphore_model& m, std::size_t n) : of(m), units(n) { of.held += units; }
    holding(const holding&) = delete;
    holding& operator=(const holding&) = delete;
    ~holding() {
        of.held -= units;
        of.of.release(units);
    }
    semaphore_model& of;
    std::size_t units;
};

task<> use(semaphore_model& m, std::size_t wish, bool in_time) {
    std::optional<ticket> mine(std::in_place, m, wish);
    try {
        if (in_time)
            co_await with_timeout(m.of.acquire(wish), 1ms);
        else
            co_await m.of.acquire(wish);
    } catch (const std::system_error&) {
        co_return;
    }
    m.last_served = std::max(m.last_served, mine->number);
    mine.reset();
    const holding here(m, wish);
    co_await m.end_of_turn.wait();
}

void check(semaphore_model& m) {
    CHECK(m.of.available() + m.held == semaphore_model::units);
    if (m.waiting.empty()) return;
    const auto& [first, wish] = *m.waiting.begin();
    CHECK(wish > m.of.available()); // else it would have been served
    CHECK(first > m.last_served);   // nobody overtook it
}

} // namespace

TEST_CASE("semaphore: random tasks, stops and destructions", "[coro][random]") {
    const std::uint64_t first = seed();
    const std::uint64_t rounds = scaled(sanitized ? 20 : 100);
    for (std::uint64_t round = 0; round < rounds; ++round) {
        INFO("COTUN_SEED=" << first + round);
        dice random(first + round);
        semaphore_model m;
        crowd tasks(m.loop);
        for (int step = 0; step < 500; ++step) {
            switch (random(8)) {
            case 0:
            case 1:
            case 2: tasks.add(use(m, 1 + random(4), random(4) == 0)); break;
            case 3: tasks.disturb(random); break;
            case 4: m.loop.pass(); break;
            case 5:
                m.end_of_turn.set(); // those that hold something release it
                m.end_of_turn.reset();
                break;
            case 6: m.loop.advance(500us); break;
            default: m.loop.settle(); check(m);
            }
        }
        tasks.clear();
        CHECK(m.of.available() == semaphore_model::units);
        CHECK(m.held == 0);
    }
}

// --- channel -------------------------------------------------------------------------------------------------------

namespace {

// What is known of every value that was to be sent.
struct ledger {
    struct entry {
        std::size_t begun = 0;                           // when send() was called
        std::size_t sent = static_cast<std::size_t>(-1); // when it had returned
        bool received = false;
        bool gone = false; // destroyed
    };
    std::vector<entry> entries;
    std::size_t time = 0;
    std::size_t latest_begun = 0; // of those that were received
    std::size_t received = 0;
};

// A value: move-only, and says so when it is destroyed.
class token {
public:
    explicit token(ledger& l) : of_(&l), number_(l.entries.size()) { l.entries.push_back({.begun = ++l.time}); }
    token(token&& other) noexcept : of_(std::exchange(other.of_, nullptr)), number_(other.number_) {}
    token& operator=(token&&) = delete;
    ~token() {
        if (of_ != nullptr) of_->entries[number_].gone = true;
    }
    std::size_t number() const noexcept { return number_; }
    bool whole() const noexcept { return of_ != nullptr; }

private:
    ledger* of_;
    std::size_t number_;
};

struct channel_model {
    explicit channel_model(std::size_t capacity) : of(capacity) {}
    plain_loop loop;
    ledger book;
    event other;
    channel<token> of;
};

void sent(channel_model& m, std::size_t number) { m.book.entries[number].sent = ++m.book.time; }

// First in, first out: nothing that was received before it was begun after this one had been sent.
void received(channel_model& m, const token& t) {
    ledger::entry& e = m.book.entries[t.number()];
    CHECK(t.whole());
    CHECK_FALSE(e.received);
    CHECK(m.book.latest_begun < e.sent);
    e.received = true;
    ++m.book.received;
    m.book.latest_begun = std::max(m.book.latest_begun, e.begun);
}

// Receives, and notes it in the same moment: when_any hands values on a pass later.
class noted_receive : public detail::wrapping_operation<channel_receive_operation<token>> {
public:
    explicit noted_receive(channel_model& m) : wrapping_operation(m.of.receive()), model_(&m) {}
    template <class Promise>
    bool await_suspend(std::coroutine_handle<Promise> who) {
        return suspend(who, detail::context_of(who));
    }
    bool suspend(std::coroutine_handle<> who, const detail::await_context& context) {
        return inner_.suspend(who, context);
    }
    std::optional<token> await_resume() {
        std::optional<token> t = inner_.await_resume();
        if (t) received(*model_, *t);
        return t;
    }

private:
    channel_model* model_;
};

task<> send_some(channel_model& m, std::size_t count, bool in_time) {
    try {
        for (std::size_t i = 0; i < count; ++i) {
            token t(m.book);
            const std::size_t number = t.number();
            if (in_time)
                co_await with_timeout(m.of.send(std::move(t)), 1ms);
            else
                co_await m.of.send(std::move(t));
            sent(m, number);
        }
    } catch (const std::system_error& e) {
        CHECK((e.code() == std::errc::operation_canceled || e.code() == std::errc::timed_out ||
               e.code() == std::errc::broken_pipe));
    }
}

task<> receive_some(channel_model& m, std::size_t count, std::size_t way) {
    try {
        for (std::size_t i = 0; i < count; ++i) {
            if (way == 0) {
                const std::optional<token> t = co_await m.of.receive();
                if (!t) co_return;
                received(m, *t);
            } else if (way == 1) {
                const std::optional<token> t = co_await with_timeout(m.of.receive(), 1ms);
                if (!t) co_return;
                received(m, *t);
            } else {
                auto first = co_await when_any(noted_receive(m), m.other.wait());
                if (first.index() == 0 && !std::get<0>(first)) co_return;
            }
        }
    } catch (const std::system_error& e) {
        CHECK((e.code() == std::errc::operation_canceled || e.code() == std::errc::timed_out));
    }
}

void try_once(channel_model& m, bool to_send) {
    if (!to_send) {
        if (const std::optional<token> t = m.of.try_receive()) received(m, *t);
        return;
    }
    token t(m.book);
    const bool done = m.of.try_send(std::move(t));
    CHECK(t.whole() == !done);
    if (done) sent(m, t.number());
}

task<> drain(channel_model& m) {
    while (const std::optional<token> t = co_await m.of.receive()) received(m, *t);
}

// What was sent was received, and nothing else but what a sender was destroyed over, once it had been sent.
void settle_accounts(const channel_model& m) {
    for (const ledger::entry& e : m.book.entries) {
        CHECK(e.gone);
        if (e.sent != static_cast<std::size_t>(-1)) CHECK(e.received);
    }
}

} // namespace

TEST_CASE("channel: random tasks, stops and destructions", "[coro][random]") {
    const std::uint64_t first = seed();
    const std::uint64_t rounds = scaled(sanitized ? 20 : 100);
    std::size_t all = 0;
    for (std::uint64_t round = 0; round < rounds; ++round) {
        INFO("COTUN_SEED=" << first + round);
        dice random(first + round);
        channel_model m(random(4));
        CAPTURE(m.of.capacity());
        crowd tasks(m.loop);
        for (int step = 0; step < 500; ++step) {
            switch (random(10)) {
            case 0:
            case 1: tasks.add(send_some(m, 1 + random(5), random(4) == 0)); break;
            case 2:
            case 3: tasks.add(receive_some(m, 1 + random(5), random(3))); break;
            case 4: tasks.disturb(random); break;
            case 5: try_once(m, random(2) == 0); break;
            case 6: m.loop.pass(); break;
            case 7: m.loop.advance(500us); break;
            case 8:
                m.other.set(); // when_any lets go
                m.other.reset();
                break;
            default: m.loop.settle();
            }
            CHECK(m.of.size() <= std::max<std::size_t>(m.of.capacity(), 1));
        }
        if (random(2) == 0) m.of.close(); // with waiters on both sides
        if (random(2) == 0) m.loop.settle();
        tasks.clear();
        m.of.close();
        m.loop.run(drain(m));
        m.loop.settle();
        CHECK(m.of.size() == 0);
        settle_accounts(m);
        all += m.book.received;
    }
    CHECK(all > rounds * 50); // it does get on
}
