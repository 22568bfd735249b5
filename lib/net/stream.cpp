// SPDX-License-Identifier: Apache-2.0
#include <cotun/net/stream.hpp>

#include "io/fail.hpp"
#include "io/stream_port.hpp"

#include <cassert>
#include <cerrno>

namespace cotun {

stream_socket::stream_socket(detail::stream_port* port) noexcept : port_(port) { port_->hold(); }

stream_socket& stream_socket::operator=(stream_socket&& other) noexcept {
    if (this != &other) {
        reset();
        port_ = std::exchange(other.port_, nullptr);
    }
    return *this;
}

void stream_socket::reset() noexcept {
    if (port_ == nullptr) return;
    port_->close_now();
    std::exchange(port_, nullptr)->drop();
}

detail::stream_port& stream_socket::port() const noexcept {
    assert(port_ != nullptr && "the stream was moved from");
    return *port_;
}

stream_read_some_operation stream_socket::read_some(std::span<std::byte> into) noexcept { return {port(), into}; }
stream_read_operation stream_socket::read(std::span<std::byte> into) noexcept { return {port(), into}; }
stream_receive_operation stream_socket::receive() noexcept { return stream_receive_operation(port()); }

stream_read_until_operation stream_socket::read_until(std::string_view delimiter, std::size_t most) {
    if (delimiter.empty() || most < delimiter.size())
        detail::fail(EINVAL, port().describe() + ": read_until: the delimiter is empty, or longer than the most bytes");
    return {port(), delimiter, most};
}

stream_write_operation stream_socket::write(std::span<const std::byte> bytes) noexcept { return {port(), bytes}; }
stream_write_operation stream_socket::write(std::string_view text) noexcept {
    return {port(), std::as_bytes(std::span(text))};
}
stream_write_operation stream_socket::write(std::span<const std::span<const std::byte>> pieces) noexcept {
    return {port(), pieces};
}
stream_write_operation stream_socket::write(packet p) noexcept { return {port(), std::move(p)}; }
stream_write_some_operation stream_socket::write_some(std::span<const std::byte> bytes) noexcept {
    return {port(), bytes};
}
stream_flush_operation stream_socket::flush() noexcept { return stream_flush_operation(port()); }
void stream_socket::shutdown_send() { port().writer().shut_down(); }
task<> stream_socket::close() { return detail::stream_port::close(detail::counted(port())); }
int stream_socket::native_handle() const noexcept { return is_open() ? port_->descriptor() : -1; }
bool stream_socket::is_open() const noexcept { return port_ != nullptr && port_->is_open(); }

} // namespace cotun
