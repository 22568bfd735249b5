// SPDX-License-Identifier: Apache-2.0
#include "cotun/io/packet.hpp"

#include <cotun/coro/cross_channel.hpp>
#include <cotun/io/packet_batch.hpp>

#include "../support/scripted_port.hpp"

#include <catch2/catch_test_macros.hpp>

#include <deque>

using namespace cotun;
using namespace cotun::test;

static_assert(detail::bound_to_thread<packet> && detail::bound_to_thread<packet_batch>);
static_assert(!detail::bound_to_thread<std::unique_ptr<int>>);

namespace {

task<> allocate(reactor& io, std::size_t size, int name, std::vector<int>& order, std::deque<packet>& into) {
    into.push_back(co_await io.allocate(size));
    order.push_back(name);
}

template <class F>
int error_of(F&& f) {
    try {
        f();
    } catch (const std::system_error& e) {
        return e.code().value();
    }
    return 0;
}

} // namespace

TEST_CASE("packet: headroom and tailroom") {
    rig r;
    packet p = r.make(7, 100);
    CHECK(p.size() == 100);
    CHECK(p.headroom() == 128);
    CHECK(p.tailroom() == 2048 - 128 - 100);
    CHECK(p.origin().empty());
    std::byte* const begin = p.bytes().data();

    const auto front = p.prepend(28);
    CHECK(front.size() == 28);
    CHECK(front.data() == begin - 28);
    CHECK(p.bytes().data() == begin - 28);
    CHECK(p.size() == 128);
    CHECK(p.headroom() == 100);

    const auto back = p.append(10);
    CHECK(back.size() == 10);
    CHECK(back.data() == begin + 100);
    CHECK(p.size() == 138);
    CHECK(p.tailroom() == 2048 - 128 - 110);

    p.remove_prefix(28);
    p.remove_suffix(10);
    CHECK(p.bytes().data() == begin);
    CHECK(p.size() == 100);
    CHECK(number_of(p) == 7);

    (void)p.prepend(128);
    CHECK(p.headroom() == 0);
    CHECK(error_of([&] { (void)p.prepend(1); }) == ENOBUFS);
    CHECK(error_of([&] { (void)p.prepend(~std::size_t{0}); }) == ENOBUFS);
    (void)p.append(p.tailroom());
    CHECK(p.tailroom() == 0);
    CHECK(p.size() == 2048);
    CHECK(error_of([&] { (void)p.append(1); }) == ENOBUFS);
    CHECK(error_of([&] { (void)p.append(~std::size_t{0}); }) == ENOBUFS);
    CHECK(error_of([&] { p.remove_prefix(2049); }) == EINVAL);
    CHECK(error_of([&] { p.remove_suffix(2049); }) == EINVAL);
    CHECK(p.size() == 2048); // a refusal changes nothing
    for (std::byte& b : p.bytes()) b = std::byte{1};
    p.remove_suffix(2048);
    CHECK(p.size() == 0);
    p.remove_prefix(0);
    CHECK(p.bytes().empty());
}

TEST_CASE("packet: assign copies, and restores the usual headroom") {
    rig r;
    packet p = r.make(1, 100);
    p.remove_prefix(50);
    p.assign(numbered(5, 60));
    CHECK(p.size() == 60);
    CHECK(p.headroom() == 128);
    CHECK(number_of(p) == 5);
    p.assign({});
    CHECK(p.size() == 0);
    p.assign(std::vector<std::byte>(2048 - 128));
    CHECK(p.tailroom() == 0);
    CHECK(error_of([&] { p.assign(std::vector<std::byte>(2048 - 127)); }) == ENOBUFS);
    p.assign(numbered(9, 40));
    p.assign(std::span<const std::byte>(p.bytes()).subspan(4, 20)); // a part of itself
    CHECK(p.size() == 20);
}

TEST_CASE("packet: handles move, and give their buffer back once") {
    rig r;
    const std::size_t all = r.free();
    packet a = r.make(1);
    packet b = std::move(a);
    CHECK_FALSE(a);
    CHECK(b);
    CHECK(r.free() == all - 1);
    packet& same = b;
    b = std::move(same);
    CHECK(b);
    b = r.make(2);
    CHECK(r.free() == all - 1);
    CHECK(number_of(b) == 2);
    b.reset();
    b.reset();
    CHECK(r.free() == all);
}

TEST_CASE("packet_batch: order, moves, removal") {
    rig r;
    const std::size_t all = r.free();
    packet_batch batch;
    CHECK(batch.empty());
    for (unsigned i = 0; i < packet_batch::capacity; ++i) batch.push_back(r.make(i));
    CHECK(batch.full());
    CHECK(number_of(batch.front()) == 0);
    CHECK(number_of(batch.back()) == 63);
    packet_batch other = std::move(batch);
    CHECK(batch.empty());
    CHECK(other.size() == 64);
    other.remove_if([](const packet& p) { return number_of(p) % 2 == 1; });
    REQUIRE(other.size() == 32);
    CHECK(r.free() == all - 32);
    for (unsigned i = 0; i < 32; ++i) CHECK(number_of(other[i]) == 2 * i);
    packet_batch& same = other;
    other = std::move(same);
    CHECK(other.size() == 32);
    batch.push_back(r.make(100));
    batch = std::move(other);
    CHECK(batch.size() == 32);
    CHECK(r.free() == all - 32);
    const packet taken = std::move(batch[5]);
    CHECK_FALSE(batch[5]);
    batch.remove_if([](const packet& p) { return !p; });
    CHECK(batch.size() == 31);
    batch.clear();
    CHECK(r.free() == all - 1);
}

TEST_CASE("pool: packets outlive their reactor") {
    packet kept;
    packet_batch more;
    {
        rig r;
        kept = r.make(11, 200);
        for (unsigned i = 0; i < 10; ++i) more.push_back(r.make(i));
        more.push_back(r.io.try_allocate(60000));
    }
    CHECK(number_of(kept) == 11);
    (void)kept.prepend(10);
    for (std::byte& b : more.back().bytes()) b = std::byte{2};
    more.clear();
    CHECK(kept.size() == 210);
    kept.reset(); // frees the slab: the sanitizer would tell
}

TEST_CASE("pool: two classes, and no buffer for what is larger") {
    rig r;
    const packet small = r.io.try_allocate(2048 - 128 - 64);
    const packet large = r.io.try_allocate(2048 - 128 - 64 + 1);
    CHECK(r.io.statistics().small_buffers_free == 1023);
    CHECK(r.io.statistics().large_buffers_free == 63);
    const packet largest = r.io.try_allocate(65535);
    CHECK(largest.size() == 65535);
    CHECK(error_of([&] { (void)r.io.try_allocate(66 * 1024); }) == EMSGSIZE);
    int error = 0;
    static constexpr auto too_large = [](reactor& io, int& e) -> task<> {
        try {
            const packet p = co_await io.allocate(1U << 20);
        } catch (const std::system_error& thrown) {
            e = thrown.code().value();
        }
    };
    r.io.spawn(too_large(r.io, error));
    r.settle();
    CHECK(error == EMSGSIZE);
    rig only_small(with_buffers(4));
    CHECK(error_of([&] { (void)only_small.io.try_allocate(3000); }) == EMSGSIZE);
}

TEST_CASE("pool: when it is empty, allocate waits, and is woken in order") {
    rig r(with_buffers(4));
    std::deque<packet> held;
    for (unsigned i = 0; i < 4; ++i) held.push_back(r.make(i));
    CHECK_FALSE(r.io.try_allocate(10));
    std::vector<int> order;
    std::deque<packet> got;
    for (int i = 0; i < 6; ++i) r.io.spawn(allocate(r.io, 10, i, order, got));
    r.settle();
    CHECK(order.empty());
    held.clear(); // four at once
    r.settle();
    CHECK(order == std::vector<int>{0, 1, 2, 3});
    got.pop_front();
    r.settle();
    got.pop_front();
    r.settle();
    CHECK(order == std::vector<int>{0, 1, 2, 3, 4, 5});
    for (const packet& p : got) CHECK(p.size() == 10);
    got.clear();
    CHECK(r.free() == 4);
}

TEST_CASE("pool: a waiter that is destroyed gives its turn, and its packet, to the next") {
    rig r(with_buffers(1));
    std::vector<int> order;
    std::deque<packet> got;
    packet held = r.make(1);
    std::vector<held_task> tasks;
    for (int i = 0; i < 4; ++i) tasks.push_back(hold(allocate(r.io, 10, i, order, got)));
    r.settle();
    tasks[0].destroy(); // before it was given one
    held.reset();       // 1 is given it
    tasks[1].destroy(); // before it could take it: 2 is next
    r.settle();
    CHECK(order == std::vector<int>{2});
    got.clear();
    r.settle();
    CHECK(order == std::vector<int>{2, 3});
    got.clear();
    CHECK(r.free() == 1);
}

TEST_CASE("pool: a reader that ran dry and a program that allocates both get their turn") {
    rig r(with_buffers(2));
    port p(r.io);
    std::vector<unsigned> numbers;
    outcome end;
    r.io.spawn(read_all(p, numbers, end));
    r.settle();
    std::vector<int> order;
    std::deque<packet> got;
    for (int i = 0; i < 3; ++i) r.io.spawn(allocate(r.io, 10, i, order, got));
    r.settle();
    for (unsigned i = 0; i < 20; ++i) {
        if (r.reading(p) != nullptr) (void)r.arrive(p, i);
        r.settle();
        if (i % 2 == 0) got.clear();
        r.settle();
    }
    CHECK(order == std::vector<int>{0, 1, 2});
    CHECK(numbers.size() >= 10);
}
