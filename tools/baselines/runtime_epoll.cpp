// SPDX-License-Identifier: Apache-2.0

// The echo rows of tools/bench's `runtime` as the loop that everybody writes first: epoll, level-triggered, recv(2) and
// send(2), one of each for an event. Nothing else is looked after: no limits, no short sends.

#include "runtime.hpp"

#include <arpa/inet.h>
#include <array>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

namespace {

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

int open_socket(int type) {
    const int fd = ::socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) fail("bind");
    if (type == SOCK_STREAM && ::listen(fd, 128) < 0) fail("listen");
    socklen_t length = sizeof address;
    ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
    runtime::announce(ntohs(address.sin_port));
    return fd;
}

void watch(int poll, int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) < 0) fail("watch a descriptor with epoll");
}

void accept_one(int poll, int listener) {
    const int peer = ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (peer < 0) return;
    const int one = 1;
    ::setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(poll, peer);
}

void echo_stream(int peer, std::array<char, runtime::buffer_bytes>& buffer) {
    const ssize_t length = ::recv(peer, buffer.data(), buffer.size(), 0);
    if (length > 0)
        ::send(peer, buffer.data(), static_cast<std::size_t>(length), MSG_NOSIGNAL);
    else if (length == 0 || errno != EAGAIN)
        ::close(peer);
}

void echo_datagram(int fd, std::array<char, runtime::buffer_bytes>& buffer) {
    sockaddr_storage from{};
    socklen_t size = sizeof from;
    auto* address = reinterpret_cast<sockaddr*>(&from);
    const ssize_t length = ::recvfrom(fd, buffer.data(), buffer.size(), 0, address, &size);
    if (length >= 0) ::sendto(fd, buffer.data(), static_cast<std::size_t>(length), 0, address, size);
}

void serve(int type) {
    const int poll = ::epoll_create1(EPOLL_CLOEXEC);
    const int listener = open_socket(type);
    watch(poll, listener);
    std::array<epoll_event, 128> events;
    std::array<char, runtime::buffer_bytes> buffer;
    for (;;) {
        const int ready = ::epoll_wait(poll, events.data(), static_cast<int>(events.size()), -1);
        for (int i = 0; i < ready; ++i) {
            const int fd = events[static_cast<std::size_t>(i)].data.fd;
            if (fd != listener)
                echo_stream(fd, buffer);
            else if (type == SOCK_STREAM)
                accept_one(poll, listener);
            else
                echo_datagram(fd, buffer);
        }
    }
}

void row_tcp(runtime::meter&) { serve(SOCK_STREAM); }
void row_udp(runtime::meter&) { serve(SOCK_DGRAM); }

} // namespace

int main(int argc, char** argv) { return runtime::run_row(argc, argv, {{"tcp", row_tcp}, {"udp", row_udp}}); }
