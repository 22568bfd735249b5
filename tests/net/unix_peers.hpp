// SPDX-License-Identifier: Apache-2.0
//
// What the tests of Unix sockets share: a directory for their names, texts in packets, descriptors to pass.
#pragma once

#include <cotun/coro/result.hpp>
#include <cotun/io/unique_fd.hpp>
#include <cotun/net/unix_message.hpp>

#include "../io/reactors.hpp"
#include "../support/process.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <system_error>
#include <vector>

namespace test {

struct directory {
    directory() {
        std::string name = (std::filesystem::temp_directory_path() / "cotun-XXXXXX").string();
        if (mkdtemp(name.data()) == nullptr) throw std::system_error(errno, std::generic_category(), name);
        path = name;
    }
    ~directory() { std::filesystem::remove_all(path); }
    std::string file(const char* name) const { return path + "/" + name; }
    std::string path;
};

inline cotun::packet words(cotun::reactor& io, std::string_view text) {
    cotun::packet p = io.try_allocate(text.size());
    if (!text.empty()) std::memcpy(p.bytes().data(), text.data(), text.size());
    return p;
}

inline std::string words_of(const cotun::packet& p) {
    return {reinterpret_cast<const char*>(p.bytes().data()), p.size()};
}

// "PAYLOAD from SENDER", or "the end", or "error N".
template <class Socket>
cotun::task<std::string> hear(Socket& s) {
    std::string heard;
    try {
        cotun::unix_message m = co_await s.receive();
        heard = m ? words_of(m.payload) + " from " + m.sender : "the end";
    } catch (const std::system_error& e) {
        heard = "error " + std::to_string(e.code().value());
    }
    co_return heard;
}

template <class Socket>
cotun::task<int> flushed(Socket& s) {
    try {
        co_await s.flush();
    } catch (const std::system_error& e) {
        co_return e.code().value();
    }
    co_return 0;
}

template <class Socket>
cotun::task<int> say(cotun::reactor& io, Socket& s, std::string text) {
    try {
        cotun::packet p = words(io, text);
        co_await s.send(std::move(p));
    } catch (const std::system_error& e) {
        co_return e.code().value();
    }
    co_return co_await flushed(s);
}

// The error of a call that is made at once; 0: none.
template <class Call>
int error_of(Call call) {
    try {
        call();
    } catch (const std::system_error& e) {
        return e.code().value();
    }
    return 0;
}

// A plain socket of another program's.
struct plain_socket {
    plain_socket(int type, const std::string& bound, const std::string& peer)
        : fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0)) {
        if (!bound.empty()) call(::bind, bound);
        if (!peer.empty()) call(::connect, peer);
    }
    template <class Function>
    void call(Function f, const std::string& name) {
        sockaddr_un a{};
        a.sun_family = AF_UNIX;
        name.copy(a.sun_path, sizeof a.sun_path - 1);
        if (f(fd.get(), reinterpret_cast<const sockaddr*>(&a), static_cast<socklen_t>(sizeof a)) != 0)
            throw std::system_error(errno, std::generic_category(), name);
    }
    // -1: nothing is there.
    ssize_t read(std::string& into) {
        into.assign(4096, '\0');
        const ssize_t size = ::recv(fd.get(), into.data(), into.size(), MSG_DONTWAIT);
        into.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
        return size;
    }
    cotun::unique_fd fd;
};

inline cotun::task<int> ended(cotun::reactor& io, program& p) {
    for (int i = 0; i < 20'000 && p.running(); ++i) co_await io.sleep_for(std::chrono::milliseconds(1));
    co_return p.wait(std::chrono::nanoseconds(0));
}

} // namespace test
