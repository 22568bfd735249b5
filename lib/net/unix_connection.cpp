// SPDX-License-Identifier: Apache-2.0
//
// How connections of Unix sockets are listened for and made, whatever they carry.
#include <cotun/net/unix.hpp>

#include "io/acceptor.hpp"
#include "io/fail.hpp"
#include "net/unix_address.hpp"
#include "net/unix_connector.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <fmt/format.h>
#include <memory>
#include <utility>

namespace cotun::detail {

unix_connector::unix_connector(reactor_core& core, int type, std::string_view name, admission* places)
    : connector(core, std::chrono::milliseconds(0)),
      type_(type),
      places_(places),
      address_(unix_address_of(name)),
      name_(name) {}

connector::target unix_connector::next(int& descriptor) {
    if (std::exchange(tried_, true)) return {};
    descriptor = make_unix_socket(type_).release();
    return {address_.get(), address_.size};
}

std::string unix_connector::attempt_failed(int error) const {
    const char* why = error == ENOENT         ? "there is no such file"
                      : error == ECONNREFUSED ? "nobody listens there"
                      : error == EACCES       ? "the file's permissions do not allow it"
                      : error == EPROTOTYPE   ? "it is a socket of another kind (stream, datagram, seqpacket)"
                                              : "the kernel refused";
    return fmt::format("connecting to Unix socket \"{}\": {}", name_, why);
}

unix_peer unix_peer_of(int descriptor) noexcept {
    ucred who{};
    socklen_t size = sizeof who;
    if (getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0) return {};
    return {who.pid, who.uid, who.gid};
}

unix_listening::unix_listening(reactor& io, int type, std::string_view name, unsigned backlog, unsigned mode,
                               const char* who, admission* places) {
    if (backlog < 1) fail(EINVAL, fmt::format("{}: backlog is 0; it must be 1 or more", who));
    unique_fd made = make_unix_socket(type);
    auto file = std::make_shared<bound_file>(bind_unix(made.get(), name, mode, who));
    if (::listen(made.get(), static_cast<int>(std::min(backlog, 1U << 30))) != 0)
        fail(errno, fmt::format("{}: \"{}\": listen was refused", who, name));
    acceptor_ = new acceptor(io.core(), made.get(), fmt::format("Unix socket \"{}\"", name), places);
    (void)made.release(); // the acceptor's
    acceptor_->hold();
    acceptor_->owns(std::move(file));
}

unix_listening& unix_listening::operator=(unix_listening&& other) noexcept {
    if (this != &other) {
        reset();
        acceptor_ = std::exchange(other.acceptor_, nullptr);
    }
    return *this;
}

void unix_listening::reset() noexcept {
    if (acceptor_ == nullptr) return;
    acceptor_->close_now();
    std::exchange(acceptor_, nullptr)->drop();
}

acceptor& unix_listening::accepting() const noexcept {
    assert(acceptor_ != nullptr && "the listener was moved from");
    return *acceptor_;
}

task<> unix_listening::close() { return acceptor::close(counted(accepting())); }

accept_statistics unix_listening::statistics() const noexcept { return accepting().statistics(); }

} // namespace cotun::detail
