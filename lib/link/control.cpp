// SPDX-License-Identifier: Apache-2.0
#include "link/control.hpp"

#include <cotun/coro/when_any.hpp>

#include "io/fail.hpp"
#include "io/reactor_core.hpp"
#include "link/netns_scope.hpp"
#include "link/parse.hpp"
#include "link/refusal.hpp"

#include <linux/rtnetlink.h>

#include <cerrno>
#include <chrono>
#include <optional>
#include <system_error>

namespace cotun::link {
namespace {

// A table that changes while it is read, or one that another reader holds, is read again so many times, with pauses.
constexpr int dump_tries = 50;
constexpr auto dump_pause = std::chrono::milliseconds{2};

// Datagrams, of 32 KiB at most, that are received before other tasks have a turn.
constexpr int turn = 16;

} // namespace

control::control(reactor& io, const link_control_options& options) : io_(&io), sending_(options.sending) {
    io.core().refuse_child("link_control");
    run_in_namespace(options.netns, "link_control", [&] { port_ = std::make_shared<netlink_port>(true); });
}

void control::close() noexcept {
    port_.reset();
    closing_.set();
}

void control::check_open() const {
    if (!port_) detail::fail(ECANCELED, "cotun: link_control: it was closed by this program");
}

// --- sending and receiving -----------------------------------------------------------------------------------------

task<> control::send(reference self, order& asked) {
    const bool aside =
        self->sending_ == link_sending::aside || (self->sending_ == link_sending::automatic && asked.is_slow());
    if (aside) {
        task<> sent = send_aside(self, asked);
        co_await std::move(sent);
        co_return;
    }
    if (const int error = self->port_->send(asked.message().bytes()); error != 0)
        link::refuse(asked.intent(), error, "the request cannot be sent", general_remedy(error));
}

// The thread has its own copy of all: it goes on when the task does not.
task<> control::send_aside(reference self, order& asked) {
    struct sending {
        std::shared_ptr<netlink_port> port;
        std::vector<std::byte> bytes;
        std::shared_ptr<const unique_fd> held;
        int error = 0;
        event sent{};
    };
    auto shared = std::make_shared<sending>();
    const byte_view bytes = asked.message().bytes();
    shared->port = self->port_;
    shared->bytes.assign(bytes.begin(), bytes.end());
    shared->held = asked.held();
    self->io_->core().run_blocking([shared] { shared->error = shared->port->send(shared->bytes); },
                                   [shared] { shared->sent.set(); }, detail::reactor_core::turn_in_line::first);
    co_await when_any(shared->sent.wait(), self->closing_.wait());
    self->check_open();
    if (shared->error != 0)
        link::refuse(asked.intent(), shared->error, "the request cannot be sent", general_remedy(shared->error));
}

// Receives what is there, a turn's worth at most. Whether there may be more.
bool control::receive_some() {
    for (int i = 0; i < turn; ++i) {
        const netlink_port::received got = port_->receive(buffer_);
        if (got.error == EAGAIN) return false;
        if (got.error == 0) {
            awaited_.take(got.bytes, port_->port());
            continue;
        }
        if (got.error != ENOBUFS) link::refuse("receive a netlink answer", got.error, {}, general_remedy(got.error));
        awaited_.end_all(ENOBUFS); // an answer was dropped, and nobody knows which
    }
    return true;
}

task<> control::exchange(reference self, order& asked, answer& a) {
    self->check_open();
    const std::shared_ptr<netlink_port> port = self->port_; // open while it is waited for
    const std::uint32_t sequence = ++self->sequence_;
    asked.message().number(sequence, port->port());
    self->awaited_.expect(a, sequence);
    task<> sent = send(self, asked);
    co_await std::move(sent);
    for (;;) {
        const bool more = self->receive_some();
        self->came_.set(); // for those whose answer came with ours
        self->came_.reset();
        if (a.end()) co_return;
        if (more) {
            co_await self->io_->yield();
        } else {
            co_await when_any(self->io_->readable(port->descriptor()), self->came_.wait(), self->closing_.wait());
        }
        self->check_open();
        if (a.end()) co_return;
    }
}

// --- orders --------------------------------------------------------------------------------------------------------

namespace {

class found_link final : public answer {
public:
    void row(unsigned type, byte_view payload) override {
        if (type != RTM_NEWLINK) return;
        if (const auto link = read_link(payload)) found = *link;
    }
    std::optional<link_info> found;
};

} // namespace

// Looks up what the link is called, for the words of the refusal. What becomes of that must not hide it.
task<> control::refuse(reference self, order& asked, outcome why) {
    found_link a;
    std::string range;
    try {
        if (asked.index() != 0) {
            order look = find_link(asked.index());
            task<> looked = exchange(self, look, a);
            co_await std::move(looked);
        }
    } catch (const std::system_error&) {}
    if (a.found && asked.wants_range(why.error)) range = describe_range(*a.found);
    asked.refuse(why, describe_link(a.found ? &*a.found : nullptr, asked.index()), range);
}

task<> control::perform(reference self, order asked) {
    acknowledgement none;
    task<> asking = ask(std::move(self), std::move(asked), none);
    co_await std::move(asking);
}

task<> control::ask(reference self, order asked, answer& a) {
    task<> exchanged = exchange(self, asked, a);
    co_await std::move(exchanged);
    if (a.end()->error == 0) co_return;
    task<> refused = refuse(self, asked, *a.end());
    co_await std::move(refused);
}

task<> control::list(reference self, order asked, answer& a) {
    mutex_guard guard = co_await self->dumping_.lock();
    outcome how;
    for (int tried = 0; tried < dump_tries; ++tried) {
        if (tried != 0) co_await self->io_->sleep_for(dump_pause);
        a.restart();
        task<> exchanged = exchange(self, asked, a);
        co_await std::move(exchanged);
        how = *a.end();
        if (!how.is_to_be_repeated()) break;
    }
    if (how.error == 0 && how.interrupted) how = {EINTR, "the table changed each time that it was read", true};
    if (how.error == 0) co_return;
    task<> refused = refuse(self, asked, how);
    co_await std::move(refused);
}

task<unsigned> control::index_of(reference self, link_reference link) {
    if (link.index() != 0) co_return link.index();
    found_link a;
    order look = find_link(link.name());
    task<> asking = ask(std::move(self), std::move(look), a);
    co_await std::move(asking);
    co_return a.found ? a.found->index : 0;
}

} // namespace cotun::link
