// SPDX-License-Identifier: Apache-2.0
#include <cotun/net/unix.hpp>

#include "io/acceptor.hpp"
#include "io/stream_hub.hpp"
#include "io/stream_port.hpp"
#include "net/unix_connector.hpp"

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

unix_port* make_port(reactor_core& core, int descriptor, const std::string& name) {
    try {
        return new unix_port(core, descriptor, name);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

} // namespace
} // namespace detail

unix_stream::unix_stream(detail::unix_port* port) noexcept : stream_socket(port) {}

unix_peer unix_stream::peer() const noexcept { return detail::unix_peer_of(port().descriptor()); }

unix_stream unix_accept_operation::await_resume() {
    const int descriptor = take();
    detail::unix_port* port = detail::make_port(from_->core(), descriptor, from_->name());
    if (port == nullptr) {
        put_back(descriptor);
        throw std::bad_alloc();
    }
    return unix_stream(port);
}

unix_stream unix_connect_operation::await_resume() {
    const int descriptor = take();
    detail::unix_port* port = detail::make_port(of_->core(), descriptor, "Unix stream");
    if (port == nullptr) {
        ::close(descriptor);
        of_->core().streams().dismiss();
        throw std::bad_alloc();
    }
    return unix_stream(port);
}

unix_listener listen_unix(reactor& io, std::string_view name, const unix_listen_options& options) {
    return {io, SOCK_STREAM, name, options.backlog, options.mode, "listen_unix"};
}

unix_connect_operation connect_unix(reactor& io, std::string_view name) {
    return unix_connect_operation(new detail::unix_connector(io.core(), SOCK_STREAM, name));
}

} // namespace cotun
