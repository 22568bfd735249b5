// SPDX-License-Identifier: Apache-2.0
#include <cotun/net/unix.hpp>

#include "io/acceptor.hpp"
#include "io/connector.hpp"
#include "io/fail.hpp"
#include "io/stream_hub.hpp"
#include "io/stream_port.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <fmt/format.h>
#include <new>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace cotun {
namespace detail {
namespace {

struct unix_address {
    sockaddr_un bytes{};
    socklen_t size = 0;
    const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&bytes); }
    bool is_file() const noexcept { return bytes.sun_path[0] != '\0'; }
};

unix_address address_of(std::string_view name) {
    unix_address a;
    a.bytes.sun_family = AF_UNIX;
    if (name.empty() || name == "@" || name.find('\0') != name.npos)
        fail(EINVAL, "Unix socket: the name is empty, or has a zero byte in it: a path, or an abstract name like "
                     "\"@thing\"");
    if (name.size() >= sizeof a.bytes.sun_path)
        fail(ENAMETOOLONG, fmt::format("Unix socket: \"{}\" has {} bytes; {} are the most", name, name.size(),
                                       sizeof a.bytes.sun_path - 1));
    std::copy(name.begin(), name.end(), a.bytes.sun_path);
    const bool abstract = name.front() == '@';
    if (abstract) a.bytes.sun_path[0] = '\0';
    a.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size() + (abstract ? 0 : 1));
    return a;
}

class descriptor_guard {
public:
    explicit descriptor_guard(int d) noexcept : descriptor(d) {}
    descriptor_guard(const descriptor_guard&) = delete;
    descriptor_guard& operator=(const descriptor_guard&) = delete;
    ~descriptor_guard() {
        if (descriptor >= 0) ::close(descriptor);
    }
    int release() noexcept { return std::exchange(descriptor, -1); }
    int descriptor;
};

int make_socket() {
    const int descriptor = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0) fail(errno, "Unix socket: out of descriptors or memory (see `ulimit -n`)");
    return descriptor;
}

// Whether the file is a socket that nobody listens at: left by a program that was killed.
bool is_left_over(const unix_address& a) noexcept {
    struct stat s {};
    if (!a.is_file() || ::lstat(a.bytes.sun_path, &s) != 0 || !S_ISSOCK(s.st_mode)) return false;
    const descriptor_guard probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return probe.descriptor >= 0 && ::connect(probe.descriptor, a.get(), a.size) != 0 && errno == ECONNREFUSED;
}

void bind_socket(int descriptor, const unix_address& a, std::string_view name) {
    if (::bind(descriptor, a.get(), a.size) == 0) return;
    int error = errno;
    if (error == EADDRINUSE && is_left_over(a) && ::unlink(a.bytes.sun_path) == 0) {
        if (::bind(descriptor, a.get(), a.size) == 0) return;
        error = errno;
    }
    const char* why = error == EADDRINUSE ? "another program listens there, or the file is no socket"
                      : error == ENOENT   ? "there is no such directory"
                      : error == EACCES   ? "the directory may not be written to"
                                          : "bind was refused";
    fail(error, fmt::format("listen_unix: \"{}\": {}", name, why));
}

} // namespace

class unix_port final : public stream_port {
public:
    unix_port(reactor_core& core, int descriptor, std::string name) noexcept
        : stream_port(core, descriptor), name_(std::move(name)) {}
    std::string describe() const override { return name_; }

private:
    std::string name_;
};

namespace {

class unix_connector final : public connector {
public:
    unix_connector(reactor_core& core, std::string_view name)
        : connector(core, std::chrono::milliseconds(0)), address_(address_of(name)), name_(name) {}

private:
    target next(int& descriptor) override {
        if (std::exchange(tried_, true)) return {};
        descriptor = make_socket();
        return {address_.get(), address_.size};
    }
    std::string attempt_failed(int error) const override {
        const char* why = error == ENOENT         ? "there is no such file"
                          : error == ECONNREFUSED ? "nobody listens there"
                          : error == EACCES       ? "the file's permissions do not allow it"
                          : error == EPROTOTYPE   ? "it is a datagram or a seqpacket socket"
                                                  : "the kernel refused";
        return fmt::format("connecting to Unix socket \"{}\": {}", name_, why);
    }

    unix_address address_; // the kernel's until the attempt has ended
    std::string name_;
    bool tried_ = false;
};

unix_port* make_port(reactor_core& core, int descriptor, const std::string& name) {
    try {
        return new unix_port(core, descriptor, name);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

} // namespace
} // namespace detail

using detail::fail;

unix_stream::unix_stream(detail::unix_port* port) noexcept : stream_socket(port) {}

unix_peer unix_stream::peer() const noexcept {
    ucred who{};
    socklen_t size = sizeof who;
    if (getsockopt(port().descriptor(), SOL_SOCKET, SO_PEERCRED, &who, &size) != 0) return {};
    return {who.pid, who.uid, who.gid};
}

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

unix_listener::unix_listener(detail::acceptor* a, std::string file) noexcept : acceptor_(a), file_(std::move(file)) {
    acceptor_->hold();
}

unix_listener& unix_listener::operator=(unix_listener&& other) noexcept {
    if (this != &other) {
        reset();
        acceptor_ = std::exchange(other.acceptor_, nullptr);
        file_ = std::exchange(other.file_, {});
    }
    return *this;
}

// Before the socket is closed: afterwards the file may be another's. In a child it is the parent's.
void unix_listener::remove_file() noexcept {
    if (!file_.empty() && !acceptor_->forked()) ::unlink(file_.c_str());
    file_.clear();
}

void unix_listener::reset() noexcept {
    if (acceptor_ == nullptr) return;
    remove_file();
    acceptor_->close_now();
    std::exchange(acceptor_, nullptr)->drop();
}

unix_accept_operation unix_listener::accept() noexcept {
    assert(acceptor_ != nullptr && "the listener was moved from");
    return unix_accept_operation(*acceptor_);
}

task<> unix_listener::close() {
    remove_file();
    return detail::acceptor::close(detail::counted(*acceptor_));
}

accept_statistics unix_listener::statistics() const noexcept { return acceptor_->statistics(); }

unix_listener listen_unix(reactor& io, std::string_view name, const unix_listen_options& options) {
    const detail::unix_address address = detail::address_of(name);
    if (options.backlog < 1) fail(EINVAL, "listen_unix: backlog is 0; it must be 1 or more");
    detail::descriptor_guard made(detail::make_socket());
    detail::bind_socket(made.descriptor, address, name);
    std::string file = address.is_file() ? std::string(name) : std::string();
    try {
        if (options.mode != 0 && !file.empty() && ::chmod(file.c_str(), options.mode) != 0)
            fail(errno, fmt::format("listen_unix: the permissions of \"{}\"", name));
        if (::listen(made.descriptor, static_cast<int>(std::min(options.backlog, 1U << 30))) != 0)
            fail(errno, fmt::format("listen_unix: \"{}\": listen was refused", name));
        auto* acceptor = new detail::acceptor(io.core(), made.descriptor, fmt::format("Unix socket \"{}\"", name));
        made.release();
        return unix_listener(acceptor, std::move(file));
    } catch (...) {
        if (!file.empty()) ::unlink(file.c_str());
        throw;
    }
}

unix_connect_operation connect_unix(reactor& io, std::string_view name) {
    return unix_connect_operation(new detail::unix_connector(io.core(), name));
}

} // namespace cotun
