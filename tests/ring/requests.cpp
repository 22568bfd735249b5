// SPDX-License-Identifier: Apache-2.0
#include "ring/requests.hpp"

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <set>
#include <vector>

using namespace cotun::ring;

namespace {

struct recorder final : request_owner {
    void on_completion(std::uint32_t cookie, const completion& done) override {
        cookies.push_back(cookie);
        results.push_back(done.result);
        if (begin_again != nullptr) (void)begin_again->begin(*this, 99);
    }
    std::vector<std::uint32_t> cookies;
    std::vector<std::int32_t> results;
    request_table* begin_again = nullptr;
};

completion last(token request, std::int32_t result = 0) { return {request, result, 0, false, false}; }
completion further(token request, std::int32_t result = 0) { return {request, result, 0, false, true}; }

} // namespace

TEST_CASE("request_table: as many as its capacity, each with a token of its own") {
    request_table table(4);
    recorder owner;
    std::vector<token> tokens;
    for (std::uint32_t i = 0; i < 4; ++i) tokens.push_back(table.begin(owner, 10 + i));
    CHECK(std::set<token>(tokens.begin(), tokens.end()).size() == 4);
    CHECK(std::count(tokens.begin(), tokens.end(), token{0}) == 0);
    CHECK(table.begin(owner, 0) == 0);
    CHECK_FALSE(table.has_room());
    CHECK(table.in_flight() == 4);
    CHECK(table.deliver(last(tokens[2], 7)));
    CHECK(owner.cookies == std::vector<std::uint32_t>{12});
    CHECK(owner.results == std::vector<std::int32_t>{7});
    CHECK(table.has_room());
    CHECK(table.begin(owner, 20) != 0);
    CHECK(table.begin(owner, 0) == 0);
}

TEST_CASE("request_table: only the last completion retires; strays are told from requests") {
    request_table table(2);
    recorder owner;
    const token t = table.begin(owner, 1);
    CHECK(table.deliver(further(t)));
    CHECK(table.deliver(further(t)));
    CHECK(table.in_flight() == 1);
    CHECK(table.deliver(last(t)));
    CHECK(table.in_flight() == 0);
    CHECK_FALSE(table.deliver(last(t))); // retired
    const token same_slot = table.begin(owner, 2);
    CHECK(same_slot != t);
    CHECK_FALSE(table.deliver(last(t))); // another generation
    CHECK_FALSE(table.deliver(last(0)));
    CHECK_FALSE(table.deliver(last(3)));
    CHECK_FALSE(table.deliver(last(0xffffffffU)));
    CHECK_FALSE(table.deliver(last(~token{0})));
    CHECK_FALSE(table.deliver(last(same_slot + (token{1} << 32))));
    CHECK(owner.cookies.size() == 3);
    CHECK(table.deliver(last(same_slot)));
}

TEST_CASE("request_table: an owner may begin the next request while it is told of the last") {
    request_table table(1);
    recorder owner;
    owner.begin_again = &table;
    const token t = table.begin(owner, 1);
    CHECK(table.deliver(last(t)));
    CHECK(table.in_flight() == 1);
}

TEST_CASE("request_table: end_all tells each owner once") {
    request_table table(8);
    recorder owner;
    const token kept = table.begin(owner, 0);
    for (std::uint32_t i = 1; i < 6; ++i) (void)table.begin(owner, i);
    CHECK(table.deliver(further(kept)));
    table.end_all(125);
    CHECK(table.in_flight() == 0);
    CHECK(owner.cookies.size() == 7);
    CHECK(std::count(owner.results.begin(), owner.results.end(), -125) == 6);
    CHECK_FALSE(table.deliver(last(kept)));
}
