// SPDX-License-Identifier: Apache-2.0

// The load of tools/bench's echo rows: requests of one size, of which a fixed number is in flight: one on each TCP
// connection, or so many datagrams from one UDP socket. Each answer is followed by the next request at once. After a
// warm-up it counts answers, their latencies, and the processor time that the server has used meanwhile. One line of
// JSON on stdout.

#include "runtime.hpp"

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

namespace {

using clock = std::chrono::steady_clock;
using message = std::array<char, runtime::message_bytes>;

constexpr std::chrono::milliseconds lost_after{200}; // a datagram that is not answered by then is sent again

struct settings {
    bool udp = false;
    unsigned port = 0;
    unsigned in_flight = 1;
    unsigned milliseconds = 1000;
    unsigned server = 0; // its process id
};

[[noreturn]] void fail(const std::string& what) { throw std::system_error(errno, std::generic_category(), what); }

unsigned parse_number(const char* text, const std::string& key) {
    unsigned value = 0;
    const char* end = text + std::strlen(text);
    const auto parsed = std::from_chars(text, end, value);
    if (parsed.ec != std::errc() || parsed.ptr != end) throw std::invalid_argument(key + ": not a number");
    return value;
}

settings parse_settings(int argc, char** argv) {
    settings result;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string key = argv[i];
        if (key == "--protocol")
            result.udp = std::string_view(argv[i + 1]) == "udp";
        else if (key == "--port")
            result.port = parse_number(argv[i + 1], key);
        else if (key == "--in-flight")
            result.in_flight = parse_number(argv[i + 1], key);
        else if (key == "--milliseconds")
            result.milliseconds = parse_number(argv[i + 1], key);
        else if (key == "--server")
            result.server = parse_number(argv[i + 1], key);
        else
            throw std::invalid_argument("unknown option '" + key + "'");
    }
    if (argc % 2 == 0 || result.port == 0 || result.server == 0 || result.in_flight == 0)
        throw std::invalid_argument(
            "usage: echo_load --protocol tcp|udp --port N --server PID [--in-flight N] [--milliseconds N]");
    return result;
}

/// Seconds, over all threads of the process, to the nanosecond.
double cpu_seconds(unsigned process) {
    double sum = 0;
    for (const auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/task")) {
        std::ifstream file(task.path() / "schedstat");
        double nanoseconds = 0;
        if (!(file >> nanoseconds)) throw std::runtime_error("the server's processor time is not to be read");
        sum += nanoseconds / 1e9;
    }
    return sum;
}

int open_socket(const settings& wanted) {
    const int fd = ::socket(AF_INET, (wanted.udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("open a socket");
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<std::uint16_t>(wanted.port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) < 0) fail("connect to the server");
    const int one = 1;
    if (!wanted.udp) ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/// What is counted once the warm-up is over.
class count {
public:
    explicit count(const settings& wanted) : server_(wanted.server), length_(wanted.milliseconds) {
        latencies_.reserve(1U << 20);
    }

    /// Notes an answer.
    void answered(clock::time_point sent, clock::time_point now) {
        if (counting_) latencies_.push_back(std::chrono::duration<float, std::micro>(now - sent).count());
    }
    void lost(unsigned number) { lost_ += number; }

    /// After each turn of the loop. False when the time is over.
    bool goes_on(clock::time_point now) {
        if (!counting_) {
            if (now - begin_ < length_ / 10) return true;
            counting_ = true;
            cpu_ = cpu_seconds(server_);
            begin_ = clock::now();
            return true;
        }
        if (now - begin_ < length_) return true;
        seconds_ = std::chrono::duration<double>(now - begin_).count();
        cpu_ = cpu_seconds(server_) - cpu_;
        return false;
    }

    void print() {
        if (latencies_.empty()) throw std::runtime_error("the server answered nothing");
        std::sort(latencies_.begin(), latencies_.end());
        const auto at = [&](double part) {
            return latencies_[static_cast<std::size_t>(part * static_cast<double>(latencies_.size() - 1))];
        };
        std::printf("{\"operations\": %zu, \"seconds\": %.6f, \"cpu_seconds\": %.6f, \"p50_us\": %.2f, "
                    "\"p99_us\": %.2f, \"lost\": %u}\n",
                    latencies_.size(), seconds_, cpu_, at(0.5), at(0.99), lost_);
    }

private:
    unsigned server_;
    std::chrono::milliseconds length_;
    clock::time_point begin_ = clock::now();
    bool counting_ = false;
    double cpu_ = 0;
    double seconds_ = 0;
    unsigned lost_ = 0;
    std::vector<float> latencies_;
};

struct connection {
    int fd = -1;
    std::size_t received = 0; // of the answer
    clock::time_point sent;
};

void request(connection& c) {
    const message bytes{};
    c.received = 0;
    c.sent = clock::now();
    if (::send(c.fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size()))
        fail("send a request");
}

void load_tcp(const settings& wanted, count& total) {
    const int poll = ::epoll_create1(EPOLL_CLOEXEC);
    std::vector<connection> connections(wanted.in_flight);
    for (connection& c : connections) {
        c.fd = open_socket(wanted);
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.ptr = &c;
        if (::epoll_ctl(poll, EPOLL_CTL_ADD, c.fd, &event) < 0) fail("watch a connection");
    }
    for (connection& c : connections) request(c);
    std::array<epoll_event, 128> events;
    message bytes;
    do {
        const int ready = ::epoll_wait(poll, events.data(), static_cast<int>(events.size()), 1000);
        if (ready < 0 && errno != EINTR) fail("wait for answers");
        if (ready == 0) throw std::runtime_error("no answer for a second");
        for (int i = 0; i < ready; ++i) {
            connection& c = *static_cast<connection*>(events[static_cast<std::size_t>(i)].data.ptr);
            const ssize_t length = ::recv(c.fd, bytes.data(), bytes.size() - c.received, MSG_DONTWAIT);
            if (length < 0 && errno == EAGAIN) continue;
            if (length <= 0) fail("receive an answer");
            c.received += static_cast<std::size_t>(length);
            if (c.received < bytes.size()) continue;
            total.answered(c.sent, clock::now());
            request(c);
        }
    } while (total.goes_on(clock::now()));
}

/// A datagram's first bytes are its number; what it is compared with is when that number was sent last.
void load_udp(const settings& wanted, count& total) {
    const int fd = open_socket(wanted);
    std::vector<clock::time_point> sent(wanted.in_flight);
    const auto send = [&](std::uint32_t number) {
        message bytes{};
        std::memcpy(bytes.data(), &number, sizeof number);
        sent[number] = clock::now();
        if (::send(fd, bytes.data(), bytes.size(), 0) < 0) fail("send a datagram");
    };
    const timeval patience{0, std::chrono::microseconds(lost_after).count()};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (std::uint32_t i = 0; i < wanted.in_flight; ++i) send(i);
    message bytes;
    clock::time_point now;
    do {
        const ssize_t length = ::recv(fd, bytes.data(), bytes.size(), 0);
        now = clock::now();
        if (length < 0 && errno != EAGAIN && errno != EINTR) fail("receive a datagram");
        if (length < 0) {
            total.lost(wanted.in_flight);
            for (std::uint32_t i = 0; i < wanted.in_flight; ++i) send(i);
            continue;
        }
        std::uint32_t number = 0;
        std::memcpy(&number, bytes.data(), sizeof number);
        if (number >= wanted.in_flight) throw std::runtime_error("an answer to what was not asked");
        total.answered(sent[number], now);
        send(number);
    } while (total.goes_on(now));
}

} // namespace

int main(int argc, char** argv) {
    try {
        const settings wanted = parse_settings(argc, argv);
        count total(wanted);
        if (wanted.udp)
            load_udp(wanted, total);
        else
            load_tcp(wanted, total);
        total.print();
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "echo_load: %s\n", error.what());
        return 1;
    }
}
