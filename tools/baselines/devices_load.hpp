// SPDX-License-Identifier: Apache-2.0

// The load of tools/bench's `devices read`, and what is counted of who reads it.
#pragma once

#include "devices.hpp"
#include "devices_life.hpp"

#include <array>
#include <atomic>
#include <ctime>
#include <thread>

namespace devices {

/// What the load has sent and the reader has read.
struct traffic {
    std::atomic<std::uint64_t> sent{0};
    std::uint64_t read = 0;
};

inline double cpu_seconds(clockid_t of) {
    timespec time{};
    ::clock_gettime(of, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

/// Sends datagrams to the neighbour of each device in turn, `rate` a second, from a thread on `cpu`.
class load {
public:
    load(unsigned count, unsigned rate, unsigned cpu, traffic& t) : rate_(rate), traffic_(t) {
        for (unsigned i = 0; i < count; ++i) {
            sockaddr_in& a = to_.emplace_back();
            a.sin_family = AF_INET;
            a.sin_port = htons(5201);
            std::string address = v4_of(i);
            address.back() = '2'; // its neighbour
            ::inet_pton(AF_INET, address.c_str(), &a.sin_addr);
        }
        thread_ = std::thread([this, cpu] { run(cpu); });
    }
    ~load() {
        over_ = true;
        thread_.join();
    }

private:
    static constexpr unsigned batch = 32;

    void run(unsigned cpu) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        ::sched_setaffinity(0, sizeof one, &one);
        const baseline::descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        std::array<char, 64> payload{};
        iovec span{payload.data(), payload.size()};
        std::array<mmsghdr, batch> messages{};
        const clock::time_point begin = clock::now();
        std::uint64_t sent = 0;
        while (!over_) {
            const double passed = std::chrono::duration<double>(clock::now() - begin).count();
            const auto due = static_cast<std::uint64_t>(passed * rate_);
            const auto next = static_cast<unsigned>(std::min<std::uint64_t>(due - std::min(due, sent), batch));
            for (unsigned i = 0; i < next; ++i) {
                msghdr& header = messages[i].msg_hdr;
                header.msg_name = &to_[(sent + i) % to_.size()];
                header.msg_namelen = sizeof(sockaddr_in);
                header.msg_iov = &span;
                header.msg_iovlen = 1;
            }
            const int done = next == 0 ? 0 : ::sendmmsg(socket.get(), messages.data(), next, 0);
            if (done > 0) traffic_.sent = sent += static_cast<unsigned>(done);
        }
    }

    double rate_;
    traffic& traffic_;
    std::vector<sockaddr_in> to_;
    std::atomic<bool> over_{false};
    std::thread thread_;
};

/// The part of the reader's work that is measured: its own thread's.
class interval {
public:
    explicit interval(const traffic& t) : traffic_(t), sent_(t.sent), read_(t.read) {}
    void end() {
        spent_ = cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - spent_;
        seconds_ = std::chrono::duration<double>(clock::now() - begin_).count();
        sent_ = traffic_.sent - sent_;
        read_ = traffic_.read - read_;
    }
    void print(std::uint64_t waits) const {
        std::printf("{\"sent\": %llu, \"read\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.9f, \"enters\": %llu}\n",
                    static_cast<unsigned long long>(sent_), static_cast<unsigned long long>(read_), seconds_, spent_,
                    static_cast<unsigned long long>(waits));
        std::fflush(stdout);
    }

private:
    const traffic& traffic_;
    std::uint64_t sent_;
    std::uint64_t read_;
    double seconds_ = 0;
    double spent_ = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
    clock::time_point begin_ = clock::now();
};

} // namespace devices
