// SPDX-License-Identifier: Apache-2.0
//
// Streams that pass descriptors, over the scripted driver: a pool without a buffer, a kernel that is short of memory or
// takes no more descriptors. The stream goes on where it can, and ends by name where it cannot.
#include <cotun/net/unix.hpp>

#include "../support/scripted_stream.hpp"
#include "io/passed_descriptors.hpp"
#include "scripted_unix.hpp"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <array>
#include <cerrno>
#include <poll.h>
#include <string>
#include <vector>

using namespace cotun;
using namespace cotun::test;

namespace {

struct stream_trouble : rig {
    stream_trouble() : rig(with_buffers(32)), ends(*this), descriptor(ends.socket.native_handle()) {
        kernel.writes_complete = false;
        settle();
    }
    ring::scripted::request* polling() { return kernel.find(kind::poll, descriptor); }
    void come(std::string_view text, bool with_descriptor) {
        std::vector<std::byte> control;
        if (with_descriptor) control = passing(new_descriptor());
        const auto bytes = std::as_bytes(std::span(text));
        kernel.immediates[descriptor].push_back({0, {bytes.begin(), bytes.end()}, {}, control});
    }
    void fail_next(int error) { kernel.immediates[descriptor].push_back({.error = error}); }
    void tell() {
        REQUIRE(polling() != nullptr);
        kernel.complete(polling()->name, POLLIN);
        settle();
    }
    void answer_send(int result) {
        ring::scripted::request* q = kernel.find(kind::send_message, descriptor);
        REQUIRE(q != nullptr);
        kernel.complete(q->name, result);
        settle();
    }

    stream_connection ends;
    int descriptor;
};

struct heard {
    outcome end;
    std::string text;
    std::size_t descriptors = 0;
};

task<> hear_one(unix_stream& s, heard& into) {
    try {
        const unix_message m = co_await s.receive_message();
        into.text = ::test::words_of(m.payload);
        into.descriptors = m.descriptors.size();
    } catch (const std::system_error& e) {
        into.end.failed(e);
    }
    into.end.ended = true;
}

task<> say(unix_stream& s, std::string text, outcome& end) {
    std::vector<unique_fd> files = one_file();
    try {
        co_await s.write(text, std::move(files));
    } catch (const std::system_error& e) {
        end.failed(e);
    }
    end.ended = true;
}

std::vector<packet> all_buffers(rig& r) {
    std::vector<packet> all;
    while (packet p = r.io.try_allocate(1)) all.push_back(std::move(p));
    return all;
}

} // namespace

TEST_CASE("stream trouble: without a buffer, what has come stays with the kernel, and comes when there is one",
          "[unix][descriptors]") {
    const auto files = ::test::open_files();
    {
        stream_trouble r;
        heard first;
        r.io.spawn(hear_one(r.ends.socket, first));
        r.settle();
        std::vector<packet> held = all_buffers(r);
        r.come("first", true);
        r.tell();
        CHECK_FALSE(first.end.ended);
        CHECK(r.kernel.immediates[r.descriptor].size() == 1);
        const std::size_t enters = r.kernel.enters();
        r.settle();
        CHECK(r.kernel.enters() - enters < 5); // it does not turn in circles
        SECTION("the wait is stopped by the end of the stream") {
            outcome closed;
            const auto close = [](unix_stream& s, outcome& end) -> task<> {
                co_await s.close();
                end.ended = true;
            };
            r.io.spawn(close(r.ends.socket, closed));
            r.settle();
            CHECK(closed.ended);
            CHECK(first.end.error == ECANCELED);
            detail::close_descriptors(r.kernel.immediates[r.descriptor].front().control);
        }
        SECTION("one comes back") {
            held.pop_back();
            r.settle();
            if (!first.end.ended) r.tell(); // the kernel tells of it again
            CHECK(first.text == "first");
            CHECK(first.descriptors == 1);
            CHECK(first.end.error == 0);
        }
        SECTION("another stream waits with it: each has its turn") {
            stream_connection other(r);
            r.settle();
            heard second;
            r.io.spawn(hear_one(other.socket, second));
            r.settle();
            const int its = other.socket.native_handle();
            const std::string_view text = "second";
            const auto bytes = std::as_bytes(std::span(text));
            r.kernel.immediates[its].push_back({0, {bytes.begin(), bytes.end()}, {}, {}});
            REQUIRE(r.kernel.find(kind::poll, its) != nullptr);
            r.kernel.complete(r.kernel.find(kind::poll, its)->name, POLLIN);
            r.settle();
            held.clear();
            for (int i = 0; i < 3; ++i) {
                r.settle();
                for (const int d : {r.descriptor, its})
                    if (ring::scripted::request* q = r.kernel.find(kind::poll, d);
                        q != nullptr && !r.kernel.immediates[d].empty())
                        r.kernel.complete(q->name, POLLIN);
            }
            r.settle();
            CHECK(first.text == "first");
            CHECK(second.text == "second");
        }
    }
    CHECK(::test::open_files() == files);
}

TEST_CASE("stream trouble: while one that has its message is not resumed yet, nobody polls for those behind it",
          "[unix][descriptors]") {
    stream_trouble r;
    std::array<heard, 2> both;
    for (heard& h : both) r.io.spawn(hear_one(r.ends.socket, h));
    r.settle();
    r.come("first", true);
    r.come("second", false);
    REQUIRE(r.polling() != nullptr);
    r.kernel.complete(r.polling()->name, POLLIN);
    r.kernel.idle = [](ring::scripted& k) { k.wake(); };
    for (int i = 0; i < 5; ++i) r.io.core().turn(); // as a destructor that waits turns it: nobody is resumed
    r.kernel.idle = nullptr;
    CHECK(r.polling() == nullptr); // it would end at once, over and over
    r.settle();
    CHECK(both[0].text == "first");
    CHECK(both[0].descriptors == 1);
    if (!both[1].end.ended) r.tell();
    CHECK(both[1].text == "second");
}

TEST_CASE("stream trouble: what recvmsg(2) refuses for the moment is tried again; what it refuses for good ends it",
          "[unix][descriptors]") {
    stream_trouble r;
    heard one;
    r.io.spawn(hear_one(r.ends.socket, one));
    r.settle();
    SECTION("for the moment") {
        const int error = GENERATE(EAGAIN, EINTR);
        r.fail_next(error);
        r.tell();
        CHECK_FALSE(one.end.ended);
        r.come("there", true);
        r.tell();
        CHECK(one.text == "there");
        CHECK(one.descriptors == 1);
    }
    SECTION("for good") {
        const int error = GENERATE(ENOMEM, ECONNRESET, ENOTCONN);
        r.fail_next(error);
        r.tell();
        CHECK(one.end.error == error);
        heard next;
        r.io.spawn(hear_one(r.ends.socket, next));
        r.settle();
        CHECK(next.end.error == error);
    }
}

TEST_CASE("stream trouble: a message whose descriptors the kernel does not take fails alone", "[unix][descriptors]") {
    const int error = GENERATE(ETOOMANYREFS, EBADF, EPERM, EACCES, EINVAL);
    CAPTURE(error);
    const auto files = ::test::open_files();
    {
        stream_trouble r;
        std::array<outcome, 2> ends;
        r.io.spawn(say(r.ends.socket, "refused", ends[0]));
        r.io.spawn(say(r.ends.socket, "taken", ends[1]));
        r.settle();
        r.answer_send(-error);
        CHECK(ends[0].error == error);
        CHECK_FALSE(ends[1].ended);
        r.answer_send(5);
        CHECK(ends[1].ended);
        CHECK(ends[1].error == 0);
        CHECK(r.kernel.in_flight.empty());
    }
    CHECK(::test::open_files() == files);
}

TEST_CASE("stream trouble: a kernel without memory, or a peer that has gone, ends the sending side",
          "[unix][descriptors]") {
    const int error = GENERATE(ENOMEM, ENOBUFS, EPIPE, ECONNRESET);
    CAPTURE(error);
    const auto files = ::test::open_files();
    {
        stream_trouble r;
        std::array<outcome, 3> ends;
        r.io.spawn(say(r.ends.socket, "first", ends[0]));
        r.io.spawn(say(r.ends.socket, "second", ends[1]));
        r.settle();
        r.answer_send(-error);
        CHECK(ends[0].error == error);
        CHECK(ends[1].error == error);
        r.io.spawn(say(r.ends.socket, "third", ends[2]));
        r.settle();
        CHECK(ends[2].error == error);
        CHECK(r.kernel.in_flight.empty());
    }
    CHECK(::test::open_files() == files);
}

TEST_CASE("stream trouble: a part of the bytes takes the descriptors along, and the rest goes without",
          "[unix][descriptors]") {
    stream_trouble r;
    outcome end;
    r.io.spawn(say(r.ends.socket, "in two parts", end));
    r.settle();
    CHECK_FALSE(r.kernel.find(kind::send_message, r.descriptor)->control.empty());
    r.answer_send(3);
    CHECK_FALSE(end.ended);
    ring::scripted::request* rest = r.kernel.find(kind::send, r.descriptor);
    REQUIRE(rest != nullptr);
    CHECK(rest->bytes.size() == 9);
    r.kernel.complete(rest->name, 9);
    r.settle();
    CHECK(end.ended);
    CHECK(end.error == 0);
}
