// SPDX-License-Identifier: Apache-2.0
#include <cotun/io/stream_operation.hpp>

#include "io/fail.hpp"
#include "io/stream_port.hpp"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>

namespace cotun {

end_of_stream::end_of_stream(const std::string& what) : std::system_error(ENODATA, std::generic_category(), what) {}

namespace detail {

// --- reads: while it waits, an operation keeps its port -----------------------------------------------------------

stream_reader& stream_read_waiter::reader() const noexcept { return from_->reader(); }

bool stream_read_waiter::await_ready() {
    from_->check_thread("a read");
    stream_reader& r = reader();
    if (r.is_closed()) {
        failure_ = ECANCELED;
        return true;
    }
    if (!r.is_free()) return false;
    r.mark();
    return feed(r);
}

bool stream_read_waiter::suspend(std::coroutine_handle<> who, const await_context& context) {
    if (!start_waiting(who, from_->core(), context.stop)) return false;
    holds_port_ = true;
    from_->hold();
    reader().wait(*this);
    return true;
}

void stream_read_waiter::end() noexcept {
    if (!std::exchange(holds_port_, false)) return;
    unlink();
    reader().settle(*this);
    from_->drop();
}

void stream_read_waiter::throw_if_over() const {
    throw_if_stopped();
    if (failure_ != 0) from_->throw_failure(failure_, "reading");
}

void stream_read_waiter::throw_end(std::size_t got, std::size_t wanted) const {
    if (const int error = reader().error()) from_->throw_failure(error, "reading");
    throw end_of_stream(wanted == 0
                            ? fmt::format("{}: reading: the peer ended the stream after {} bytes, before the delimiter",
                                          from_->describe(), got)
                            : fmt::format("{}: reading: the peer ended the stream after {} of {} bytes",
                                          from_->describe(), got, wanted));
}

} // namespace detail

bool stream_read_some_operation::feed(detail::stream_reader& from) {
    return from.has_bytes() || from.ended() || into_.empty();
}

std::size_t stream_read_some_operation::await_resume() {
    throw_if_over();
    const std::size_t size = reader().copy(into_);
    if (size == 0 && !into_.empty())
        if (const int error = reader().error()) from_->throw_failure(error, "reading");
    return size;
}

bool stream_receive_operation::feed(detail::stream_reader& from) {
    if (!from.has_bytes()) return from.ended();
    if (!from.can_take()) return false;
    got_ = from.take();
    return true;
}

packet stream_receive_operation::await_resume() {
    throw_if_over();
    if (!got_)
        if (const int error = reader().error()) from_->throw_failure(error, "reading");
    return std::move(got_);
}

void stream_receive_operation::give_up() noexcept {
    unlink();
    if (got_) reader().unread(got_.bytes());
    got_.reset();
}

bool stream_read_operation::feed(detail::stream_reader& from) {
    got_ += from.copy(into_.subspan(got_));
    return got_ == into_.size() || (from.ended() && !from.has_bytes());
}

void stream_read_operation::await_resume() {
    throw_if_over();
    if (got_ < into_.size()) throw_end(got_, into_.size());
    got_ = 0; // taken
}

void stream_read_operation::give_up() noexcept {
    unlink();
    if (got_ > 0) reader().unread(into_.first(std::exchange(got_, 0U)));
}

bool stream_read_until_operation::feed(detail::stream_reader& from) {
    while (!found_ && got_.size() < most_) {
        const std::span<const std::byte> all = from.front();
        if (all.empty()) break;
        const std::size_t before = got_.size();
        const std::size_t size = std::min(all.size(), most_ - before);
        got_.append(reinterpret_cast<const char*>(all.data()), size);
        const std::size_t overlap = std::min(before, delimiter_.size() - 1);
        const std::size_t place = got_.find(delimiter_, before - overlap);
        found_ = place != std::string::npos;
        if (found_) got_.resize(place + delimiter_.size());
        from.consume(got_.size() - before);
    }
    return found_ || got_.size() >= most_ || (from.ended() && !from.has_bytes());
}

std::string stream_read_until_operation::await_resume() {
    throw_if_over();
    if (!found_ && got_.size() >= most_)
        detail::fail(EMSGSIZE, fmt::format("{}: reading: no delimiter in the first {} bytes, which is the most that "
                                           "was asked for",
                                           from_->describe(), most_));
    if (!found_) throw_end(got_.size(), 0);
    return std::exchange(got_, {});
}

void stream_read_until_operation::give_up() noexcept {
    unlink();
    if (!got_.empty()) reader().unread(std::as_bytes(std::span(got_)));
    got_.clear();
}

// --- writes --------------------------------------------------------------------------------------------------------

namespace {

// A stream's queue goes from slot to slot of the pool: a packet that shares its buffer with others moves.
std::span<const std::byte> bytes_of_own(packet& p) {
    detail::packet_slot* const given = detail::packet_pool::look(p);
    given->pool->complete_checksum(*given);
    if (given->pool->is_view(*given)) {
        detail::packet_slot* const own = given->pool->unshare(given);
        static_cast<void>(detail::packet_pool::unwrap(std::move(p)));
        p = detail::packet_pool::lease(own);
    }
    return p.bytes();
}

} // namespace

stream_write_operation::stream_write_operation(detail::stream_port& to, packet&& p) noexcept
    : to_(&to), packet_(std::move(p)) {
    if (packet_) bytes_ = std::as_const(packet_).bytes();
}

bool stream_write_operation::await_ready() {
    to_->check_thread("a write");
    detail::stream_writer& writer = to_->writer();
    failure_ = writer.refusal();
    if (failure_ != 0 || bytes_.empty()) return true;
    if (packet_ && packet_.offload().is_superpacket()) { // the reader of its bytes could not tell
        failure_ = EINVAL;
        return true;
    }
    if (packet_) bytes_ = bytes_of_own(packet_);
    if (some_) {
        sent_ = writer.accept_some(*this);
        return sent_ > 0;
    }
    if (!writer.accept(*this)) return false;
    bytes_ = {};
    pieces_ = {};
    return true;
}

std::size_t stream_write_operation::resume_some() {
    if (sent_ > 0 || (bytes_.empty() && failure_ == 0)) return sent_;
    if (failure_ != 0) to_->throw_failure(failure_, "writing");
    detail::throw_stopped();
}

bool stream_write_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    coroutine = who;
    if (context.stop != nullptr) {
        if (context.stop->requested()) {
            stopped_ = true;
            return false;
        }
        context.stop->link(*this);
    }
    holds_port_ = true;
    to_->hold();
    to_->writer().wait(*this);
    return true;
}

void stream_write_operation::on_stop() noexcept {
    if (!is_ready()) to_->writer().interrupt(*this);
}

void stream_write_operation::advance(std::size_t count) noexcept {
    sent_ += count;
    while (count > 0) {
        const std::size_t size = std::min(count, bytes_.size());
        count -= size;
        bytes_ = bytes_.subspan(size);
        skip_empty();
    }
}

std::size_t stream_write_operation::left() const noexcept {
    std::size_t all = bytes_.size();
    for (const std::span<const std::byte> piece : pieces_) all += piece.size();
    return all;
}

void stream_write_operation::leave() noexcept {
    to_->writer().withdraw(*this);
    to_->drop();
}

void stream_write_operation::await_resume() {
    if (bytes_.empty() && failure_ == 0) return;
    if (failure_ != 0 && !(stopped_ && sent_ > 0)) {
        if (bytes_.empty() && sent_ > 0) return; // all of it went out before
        to_->throw_failure(failure_, "writing");
    }
    if (sent_ == 0) detail::throw_stopped();
    detail::fail(ECANCELED, fmt::format("{}: writing: stopped when a part had been sent ({} bytes; {} are left): "
                                        "nothing more can be written, close the stream",
                                        to_->describe(), sent_, left()));
}

stream_flush_operation::~stream_flush_operation() {
    if (!holds_port_) return;
    unlink();
    of_->drop();
}

bool stream_flush_operation::await_ready() noexcept {
    of_->check_thread("flush()");
    until_ = of_->writer().accepted();
    return of_->writer().sent(until_);
}

bool stream_flush_operation::suspend(std::coroutine_handle<> who, const detail::await_context& context) {
    if (!start_waiting(who, of_->core(), context.stop)) return false;
    holds_port_ = true;
    of_->hold();
    of_->writer().wait(*this);
    return true;
}

void stream_flush_operation::await_resume() {
    throw_if_stopped();
    if (const int error = of_->writer().failure()) of_->throw_failure(error, "writing");
}

} // namespace cotun
