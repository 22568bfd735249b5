// SPDX-License-Identifier: Apache-2.0
#include <cotun/net/unix.hpp>

#include "io/acceptor.hpp"
#include "io/fail.hpp"
#include "io/passed_descriptors.hpp"
#include "io/stream_hub.hpp"
#include "io/stream_port.hpp"
#include "net/unix_connector.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <memory>
#include <new>
#include <sys/socket.h>
#include <unistd.h>

namespace cotun {
namespace detail {

class unix_port final : public stream_port {
public:
    unix_port(reactor_core& core, int descriptor, std::string name) noexcept
        : stream_port(core, descriptor), name_(std::move(name)) {}
    std::string describe() const override { return name_; }

private:
    std::string name_;
};

namespace {

unix_port* make_port(reactor_core& core, int descriptor, const std::string& name, unsigned descriptors) {
    try {
        auto arrived = descriptors > 0 ? std::make_unique<arrived_descriptors>(descriptors) : nullptr;
        auto* port = new unix_port(core, descriptor, name);
        port->reader().accept_descriptors(std::move(arrived));
        return port;
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

void check_bound(unsigned descriptors, const char* who) {
    if (descriptors > most_passed)
        fail(EINVAL,
             fmt::format("{}: descriptors is {}; it must be 0 to {} (SCM_MAX_FD)", who, descriptors, most_passed));
}

[[noreturn]] void throw_lost(const stream_port& port) {
    fail(EMSGSIZE, port.describe() + ": reading: descriptors were lost that came with it: more than the options' "
                                     "`descriptors` allow, more than this program may open (`ulimit -n`), or too many "
                                     "that nobody took");
}

} // namespace
} // namespace detail

// --- descriptors ---------------------------------------------------------------------------------------------------

unix_write_operation::unix_write_operation(detail::stream_port& to, std::span<const std::byte> bytes,
                                           std::unique_ptr<detail::descriptors_to_send> beside) noexcept
    : stream_write_operation(to, bytes, beside.get()), owned_(std::move(beside)) {}
unix_write_operation::unix_write_operation(unix_write_operation&&) noexcept = default;
unix_write_operation::~unix_write_operation() { end(); } // before the descriptors go

unix_write_operation unix_stream::write(std::span<const std::byte> bytes, std::vector<unique_fd> descriptors) {
    detail::check_passed(descriptors, "Unix stream");
    if (descriptors.empty()) return {port(), bytes, nullptr};
    if (bytes.empty()) detail::fail(EINVAL, "Unix stream: sending descriptors without a byte that they could go with");
    return {port(), bytes, std::make_unique<detail::descriptors_to_send>(std::move(descriptors))};
}

unix_write_operation unix_stream::write(std::string_view text, std::vector<unique_fd> descriptors) {
    return write(std::as_bytes(std::span(text)), std::move(descriptors));
}

std::vector<unique_fd> unix_stream::take_descriptors() {
    const detail::stream_reader& reader = port().reader();
    detail::arrived_descriptors* const arrived = reader.arrived();
    if (arrived == nullptr) return {};
    const std::uint64_t place = arrived->place(!reader.is_free());
    if (arrived->tell_loss(place)) detail::throw_lost(port());
    return arrived->take(place);
}

unix_descriptor_statistics unix_stream::descriptors() const noexcept {
    const detail::arrived_descriptors* const arrived = port().reader().arrived();
    if (arrived == nullptr) return {};
    return {arrived->received(), arrived->lost()};
}

unix_stream_receive_operation unix_stream::receive_message() noexcept { return unix_stream_receive_operation(port()); }

// What tells of a loss takes no bytes.
bool unix_stream_receive_operation::feed(detail::stream_reader& from) {
    const detail::arrived_descriptors* const arrived = from.arrived();
    if (arrived != nullptr && arrived->has_lost()) return true;
    if (!from.has_bytes()) return from.ended();
    if (!from.can_take()) return false;
    got_ = from.take();
    return true;
}

unix_message unix_stream_receive_operation::await_resume() {
    throw_if_over();
    detail::arrived_descriptors* const arrived = reader().arrived();
    if (!got_ && arrived != nullptr && arrived->tell_loss(arrived->place(false) + 1)) detail::throw_lost(*from_);
    if (!got_)
        if (const int error = reader().error()) from_->throw_failure(error, "reading");
    unix_message message;
    if (arrived != nullptr) message.descriptors = arrived->take(arrived->place(false));
    message.payload = std::move(got_);
    return message;
}

void unix_stream_receive_operation::give_up() noexcept {
    unlink();
    if (got_) reader().unread(got_.bytes());
    got_.reset();
}

// --- streams -------------------------------------------------------------------------------------------------------

unix_stream::unix_stream(detail::unix_port* port) noexcept : stream_socket(port) {}

unix_peer unix_stream::peer() const noexcept { return detail::unix_peer_of(port().descriptor()); }

unix_stream unix_accept_operation::await_resume() {
    const int descriptor = take();
    detail::unix_port* port = detail::make_port(from_->core(), descriptor, from_->name(), descriptors_);
    if (port == nullptr) {
        put_back(descriptor);
        throw std::bad_alloc();
    }
    return unix_stream(port);
}

unix_stream unix_connect_operation::await_resume() {
    const int descriptor = take();
    detail::unix_port* port = detail::make_port(of_->core(), descriptor, "Unix stream", descriptors_);
    if (port == nullptr) {
        ::close(descriptor);
        of_->core().streams().dismiss();
        throw std::bad_alloc();
    }
    return unix_stream(port);
}

unix_listener::unix_listener(reactor& io, std::string_view name, const unix_listen_options& options)
    : unix_listening(io, SOCK_STREAM, name, options.backlog, options.mode, "listen_unix"),
      descriptors_(options.descriptors) {}

unix_listener listen_unix(reactor& io, std::string_view name, const unix_listen_options& options) {
    detail::check_bound(options.descriptors, "listen_unix");
    return {io, name, options};
}

unix_connect_operation connect_unix(reactor& io, std::string_view name, const unix_connect_options& options) {
    detail::check_bound(options.descriptors, "connect_unix");
    return {new detail::unix_connector(io.core(), SOCK_STREAM, name), options.descriptors};
}

} // namespace cotun
