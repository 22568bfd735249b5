// SPDX-License-Identifier: Apache-2.0
//
// Many steps of a kernel that accepts and connects, and refuses both with negative results of every kind, among tasks
// that come and go, are stopped and destroyed wherever they stand: every connection is taken once, and in order; no
// refusal ends accepting or makes it spin; no descriptor is left. The seed is printed; COTUN_SEED replays one.
#include <cotun/coro/scope.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/net/tcp.hpp>

#include "../support/process.hpp"
#include "../support/scripted_stream.hpp"
#include "../support/seed.hpp"
#include "../support/soak.hpp"

#include <catch2/catch_message.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>

using namespace cotun;
using namespace cotun::test;

namespace {

constexpr std::array refusals{EMFILE, ENFILE,     ENOMEM, ENOBUFS, ECONNABORTED, EPERM,
                              EPROTO, ECONNRESET, EINTR,  EAGAIN,  ENETDOWN,     EHOSTUNREACH};
constexpr std::array connect_refusals{ECONNREFUSED, ETIMEDOUT,     ENETUNREACH, EHOSTUNREACH, ECONNRESET,
                                      EACCES,       EADDRNOTAVAIL, EINTR,       EAGAIN,       ENOMEM};

class accept_soak {
public:
    explicit accept_soak(std::uint64_t seed) : pick_(seed), rig_(options()), listener_(listen(rig_)) {
        for (std::size_t i = 0; i < acceptors_.size(); ++i) start_acceptor(i);
    }

    void step() {
        switch (pick_(16)) {
        case 0:
        case 1:
        case 2:
        case 3: connection(); break;
        case 4: refuse(); break;
        case 5: start_acceptor(pick_(acceptors_.size())); break; // replaces one, wherever it stands
        case 6:
            if (const auto& s = acceptors_[pick_(acceptors_.size())]) s->request_stop();
            break;
        case 7: start_connector(pick_(connectors_.size())); break;
        case 8:
            if (const auto& s = connectors_[pick_(connectors_.size())]) s->request_stop();
            break;
        case 9:
        case 10: answer_connect(); break;
        case 11: rig_.turn(); break;
        case 12: close_some(); break;
        case 13: rig_.kernel.advance(std::chrono::milliseconds(pick_(1200))); [[fallthrough]];
        default: rig_.settle();
        }
    }

    void finish() {
        for (auto& c : connectors_) c.reset();
        for (std::size_t i = 0; i < acceptors_.size(); ++i) start_acceptor(i);
        const std::uint64_t before = taken_;
        for (int i = 0; i < 500 && (taken_ == before || taken_ < came_); ++i) {
            close_all();
            rig_.kernel.advance(std::chrono::milliseconds(100)); // the longest pause is a second
            rig_.settle();
            if (taken_ == before) connection();
        }
        CHECK(taken_ > before); // it does not stall
        // What was given to a task that was destroyed is the next one's: all that came was taken.
        CHECK(taken_ == came_);
        CHECK(listener_->statistics().accepted == came_);
        CHECK(listener_->statistics().exhausted + listener_->statistics().failed == refused_);
        for (auto& a : acceptors_) a.reset();
        close_all();
        listener_.reset();
        check_nothing_left(rig_, buffers);
    }

    std::uint64_t total() const { return taken_ + connected_; }

private:
    static constexpr unsigned buffers = 24;
    static rig_options options() {
        rig_options o = with_buffers(buffers);
        o.requests = 32; // 20 streams
        return o;
    }
    static std::unique_ptr<tcp_listener> listen(rig& r) {
        r.kernel.supported[static_cast<std::size_t>(ring::feature::accept_multishot)] = true;
        listen_options o;
        o.local = endpoint::from_string("127.0.0.1:0");
        return std::make_unique<tcp_listener>(listen_tcp(r.io, o));
    }

    ring::scripted::request* find(kind what) {
        for (ring::scripted::request& q : rig_.kernel.in_flight)
            if (q.what == what) return &q;
        return nullptr;
    }

    void connection() {
        const ring::scripted::request* q = find(kind::accept);
        if (q == nullptr) return;
        ++came_;
        rig_.kernel.complete(q->name, ::dup(STDERR_FILENO), pick_(8) != 0);
    }

    void refuse() {
        const ring::scripted::request* q = find(kind::accept);
        if (q == nullptr) return;
        ++refused_;
        rig_.kernel.complete(q->name, -refusals[pick_(refusals.size())]);
    }

    void answer_connect() {
        const ring::scripted::request* q = find(kind::connect);
        if (q == nullptr) return;
        rig_.kernel.complete(q->name, pick_(3) == 0 ? 0 : -connect_refusals[pick_(connect_refusals.size())]);
    }

    void close_some() {
        if (!streams_.empty()) streams_.erase(streams_.begin() + static_cast<std::ptrdiff_t>(pick_(streams_.size())));
    }
    void close_all() { streams_.clear(); }

    void start_acceptor(std::size_t index) {
        acceptors_[index] = std::make_unique<scope>(rig_.io);
        acceptors_[index]->spawn(accept(*this));
    }
    static task<> accept(accept_soak& of) {
        try {
            for (;;) {
                if (of.pick_(3) == 0) {
                    const std::chrono::milliseconds time(of.pick_(100));
                    auto got = co_await with_timeout(of.listener_->accept(), time);
                    of.take(std::move(got));
                } else {
                    auto got = co_await of.listener_->accept();
                    of.take(std::move(got));
                }
            }
        } catch (const std::system_error& e) {
            if (e.code() != std::errc::operation_canceled && e.code() != std::errc::timed_out)
                FAIL("accepting: " << e.what());
        }
    }
    void take(tcp_stream s) {
        ++taken_;
        streams_.push_back(std::move(s));
    }

    void start_connector(std::size_t index) {
        connectors_[index] = std::make_unique<scope>(rig_.io);
        connectors_[index]->spawn(connect(*this));
    }
    // Any failure will do, but it must end.
    static task<> connect(accept_soak& of) {
        const endpoint_list peers{endpoint::from_string("192.0.2.1:80"), endpoint::from_string("192.0.2.2:80")};
        connect_options options;
        options.attempt = std::chrono::milliseconds(of.pick_(2) * 50);
        try {
            tcp_stream s = co_await connect_tcp(of.rig_.io, peers, options);
            ++of.connected_;
            of.streams_.push_back(std::move(s));
        } catch (const std::system_error& e) {
            INFO(e.what());
            CHECK(e.code().value() != 0);
        }
    }

    dice pick_;
    rig rig_;
    std::vector<tcp_stream> streams_;
    std::unique_ptr<tcp_listener> listener_;
    std::array<std::unique_ptr<scope>, 3> acceptors_;
    std::array<std::unique_ptr<scope>, 4> connectors_;
    std::uint64_t came_ = 0;
    std::uint64_t taken_ = 0;
    std::uint64_t refused_ = 0;
    std::uint64_t connected_ = 0;
};

} // namespace

TEST_CASE("soak: every connection is taken once, and accepting goes on after every refusal", "[soak]") {
    run_soak<accept_soak>(100);
}
