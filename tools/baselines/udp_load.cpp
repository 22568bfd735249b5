// SPDX-License-Identifier: Apache-2.0

// The load of tools/bench's UDP workloads: datagrams of one size, sent evenly at a given rate or as fast as the
// sender's namespace takes them, and counted where they arrive. A receiver that sleeps in recv would be woken for each
// packet, in the forwarder's time; so the receiver here has a large buffer and looks in every millisecond. With
// --segments each send is that many datagrams, which the kernel cuts where it must (UDP_SEGMENT), and the receiver
// takes them whole, too (UDP_GRO). One line of JSON on stdout.

#include "devices.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>

#include <netinet/udp.h>

namespace {

using clock = std::chrono::steady_clock;

constexpr unsigned batch = 64;
constexpr unsigned most_bytes = 1472;

struct settings {
    std::string from; // namespaces
    std::string to;
    sockaddr_in destination{};
    unsigned bytes = 64;
    unsigned milliseconds = 1000;
    unsigned rate = 0;     // datagrams a second; 0: as fast as they go
    unsigned segments = 1; // datagrams of one send
};

settings parse_settings(int argc, char** argv) {
    settings result;
    result.destination.sin_family = AF_INET;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string key = argv[i];
        const std::string value = argv[i + 1];
        if (key == "--from")
            result.from = value;
        else if (key == "--to")
            result.to = value;
        else if (key == "--bytes")
            result.bytes = baseline::parse_number(value, 1, most_bytes, key);
        else if (key == "--milliseconds")
            result.milliseconds = baseline::parse_number(value, 1, 600'000, key);
        else if (key == "--rate")
            result.rate = baseline::parse_number(value, 0, 10'000'000, key);
        else if (key == "--segments")
            result.segments = baseline::parse_number(value, 1, 64, key);
        else if (key == "--port") {
            const unsigned port = baseline::parse_number(value, 1, 65535, key);
            result.destination.sin_port = htons(static_cast<std::uint16_t>(port));
        } else if (key == "--address") {
            if (::inet_pton(AF_INET, value.c_str(), &result.destination.sin_addr) != 1)
                throw std::invalid_argument("'" + value + "' is not an IPv4 address");
        } else
            throw std::invalid_argument("unknown option '" + key + "'");
    }
    if (argc % 2 == 0 || result.destination.sin_port == 0 || result.destination.sin_addr.s_addr == 0)
        throw std::invalid_argument(
            "usage: udp_load --from NETNS --to NETNS --address IPV4 --port N [--bytes N] [--milliseconds N] "
            "[--rate PER_SECOND] [--segments N]");
    if (result.bytes * result.segments > 65507) throw std::invalid_argument("--segments: more than one send may have");
    return result;
}

baseline::descriptor open_socket(const std::string& netns) {
    baseline::descriptor result;
    baseline::in_namespace(netns, [&] {
        result = baseline::descriptor(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        if (result.get() < 0) baseline::fail("open a UDP socket");
    });
    return result;
}

baseline::descriptor open_sender(const settings& wanted) {
    baseline::descriptor socket = open_socket(wanted.from);
    if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&wanted.destination), sizeof wanted.destination) < 0)
        baseline::fail("connect the sending socket");
    const int size = static_cast<int>(wanted.bytes);
    if (wanted.segments > 1 && ::setsockopt(socket.get(), SOL_UDP, UDP_SEGMENT, &size, sizeof size) < 0)
        baseline::fail("set UDP_SEGMENT");
    return socket;
}

baseline::descriptor open_receiver(const settings& wanted) {
    baseline::descriptor socket = open_socket(wanted.to);
    const int bytes = 16 << 20;
    if (::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) < 0)
        baseline::fail("enlarge the receive buffer");
    const int on = 1;
    if (wanted.segments > 1 && ::setsockopt(socket.get(), SOL_UDP, UDP_GRO, &on, sizeof on) < 0)
        baseline::fail("set UDP_GRO");
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&wanted.destination), sizeof wanted.destination) < 0)
        baseline::fail("bind the receiving socket");
    return socket;
}

/// The same buffers for every message: what is in them does not matter.
struct messages {
    std::vector<char> bytes;
    iovec span{};
    std::array<mmsghdr, batch> headers{};

    explicit messages(std::size_t size) : bytes(size) {
        span = {bytes.data(), size};
        for (auto& header : headers) {
            header.msg_hdr.msg_iov = &span;
            header.msg_hdr.msg_iovlen = 1;
        }
    }
};

/// Datagrams, by their bytes: a message may hold several.
std::uint64_t receive_all(int socket, messages& room, unsigned bytes) {
    std::uint64_t received = 0;
    for (;;) {
        const int count = ::recvmmsg(socket, room.headers.data(), batch, MSG_DONTWAIT, nullptr);
        if (count <= 0) return received;
        for (unsigned i = 0; i < static_cast<unsigned>(count); ++i) received += room.headers[i].msg_len / bytes;
    }
}

/// How many of the next batch are due: all of it without a rate. A sender that was held up catches up.
unsigned due(const settings& wanted, clock::duration passed, std::uint64_t sent) {
    if (wanted.rate == 0) return batch;
    const auto all = static_cast<std::uint64_t>(std::chrono::duration<double>(passed).count() * wanted.rate);
    return static_cast<unsigned>(std::min<std::uint64_t>(all - std::min(all, sent), batch));
}

/// Before the deadline a refused send only means that a queue is full, which the next try may find otherwise.
std::uint64_t send_for(int socket, const settings& wanted, clock::time_point begin) {
    const auto deadline = begin + std::chrono::milliseconds(wanted.milliseconds);
    messages load(wanted.bytes * wanted.segments);
    std::uint64_t sent = 0;
    for (auto now = clock::now(); now < deadline; now = clock::now()) {
        const unsigned next = (due(wanted, now - begin, sent) + wanted.segments - 1) / wanted.segments;
        if (next == 0) continue;
        const int count = ::sendmmsg(socket, load.headers.data(), next, 0);
        if (count > 0)
            sent += std::uint64_t{wanted.segments} * static_cast<unsigned>(count);
        else if (errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
            baseline::fail("send a datagram");
    }
    return sent;
}

void run(const settings& wanted) {
    const auto sender = open_sender(wanted);
    const auto receiver = open_receiver(wanted);
    std::atomic<bool> done = false;
    std::uint64_t received = 0;
    std::thread sink([&] {
        messages room(wanted.segments > 1 ? 65535 : most_bytes);
        while (!done) {
            received += receive_all(receiver.get(), room, wanted.bytes);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        received += receive_all(receiver.get(), room, wanted.bytes);
    });
    const auto begin = clock::now();
    std::uint64_t sent = 0;
    std::exception_ptr failure;
    try {
        sent = send_for(sender.get(), wanted, begin);
    } catch (...) {
        failure = std::current_exception();
    }
    const std::chrono::duration<double> seconds = clock::now() - begin;
    std::this_thread::sleep_for(std::chrono::milliseconds(100)); // what is still queued arrives
    done = true;
    sink.join();
    if (failure) std::rethrow_exception(failure);
    std::printf("{\"sent\": %llu, \"received\": %llu, \"seconds\": %.6f}\n", static_cast<unsigned long long>(sent),
                static_cast<unsigned long long>(received), seconds.count());
}

} // namespace

int main(int argc, char** argv) {
    try {
        run(parse_settings(argc, argv));
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "udp_load: %s\n", error.what());
        return 1;
    }
}
