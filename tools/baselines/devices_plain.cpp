// SPDX-License-Identifier: Apache-2.0

// A device opened, configured and closed as programs do it without a library, for tools/bench's `devices`:
//
//   devices_plain calls N    by open(2), ioctl(2) and close(2) alone: next to nothing but the kernel's own work
//   devices_plain ip N       by `ip`, a command a step, as in a shell script; `ip tuntap add` makes it, `del` ends it
//   devices_plain batch N    the same by two commands: one `ip -batch` for all that comes before the end
//
//   devices_plain read N RATE MS CPU    opens N devices and reads all of them by one epoll loop, as devices_cotun does:
//                                       read(2) for each that is ready, and a pause after each round, as long as cotun
//                                       gathers packets for, so that a round of either finds as many
//
// A name is used again as soon as it is free. One line of JSON on stdout; times in nanoseconds.

#include "devices.hpp"
#include "devices_life.hpp"
#include "devices_load.hpp"

#include <functional>
#include <linux/ipv6.h>
#include <map>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>

namespace {

using devices::phase;

// --- by system calls -----------------------------------------------------------------------------------------------

void control(int descriptor, unsigned long what, void* argument, const char* step) {
    if (::ioctl(descriptor, what, argument) < 0) baseline::fail(step);
}

ifreq request_for(const std::string& name) {
    ifreq request{};
    std::memcpy(request.ifr_name, name.data(), name.size());
    return request;
}

baseline::descriptor create(const std::string& name) {
    baseline::descriptor device(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (device.get() < 0) baseline::fail("open /dev/net/tun");
    ifreq request = request_for(name);
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    control(device.get(), TUNSETIFF, &request, "make the device");
    return device;
}

void configure(const std::string& name, unsigned number) {
    const baseline::descriptor v4(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const baseline::descriptor v6(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (v4.get() < 0 || v6.get() < 0) baseline::fail("open a socket");
    ifreq request = request_for(name);
    request.ifr_mtu = devices::mtu;
    control(v4.get(), SIOCSIFMTU, &request, "set the MTU");
    request = request_for(name);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    ::inet_pton(AF_INET, devices::v4_of(number).c_str(), &address.sin_addr);
    std::memcpy(&request.ifr_addr, &address, sizeof address);
    control(v4.get(), SIOCSIFADDR, &request, "set the IPv4 address");
    address.sin_addr.s_addr = htonl(0xffffff00);
    std::memcpy(&request.ifr_netmask, &address, sizeof address);
    control(v4.get(), SIOCSIFNETMASK, &request, "set the netmask");
    request = request_for(name);
    control(v4.get(), SIOCGIFINDEX, &request, "find the index");
    in6_ifreq other{};
    other.ifr6_ifindex = request.ifr_ifindex;
    other.ifr6_prefixlen = 64;
    ::inet_pton(AF_INET6, devices::v6_of(number).c_str(), &other.ifr6_addr);
    control(v6.get(), SIOCSIFADDR, &other, "set the IPv6 address");
    request = request_for(name);
    request.ifr_flags = IFF_UP | IFF_NOARP | IFF_POINTOPOINT | IFF_MULTICAST;
    control(v4.get(), SIOCSIFFLAGS, &request, "set it up");
}

void by_calls(phase& open, phase& close) {
    baseline::descriptor device;
    open.time([&] {
        device = create(devices::name_of(0));
        configure(devices::name_of(0), 0);
    });
    close.time([&] { device = baseline::descriptor(); });
}

// --- by commands ---------------------------------------------------------------------------------------------------

void run(std::vector<std::string> words, int input = -1) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    if (input >= 0) ::posix_spawn_file_actions_adddup2(&actions, input, 0);
    pid_t child = 0;
    errno = ::posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (errno != 0) baseline::fail("start " + words[0]);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0)
        if (errno != EINTR) baseline::fail("wait for " + words[0]);
    if (status != 0) throw std::runtime_error("'" + words[0] + " " + words[1] + " ...' failed");
}

void run_batch(const std::string& lines) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0) baseline::fail("open a pipe");
    const baseline::descriptor reader(ends[0]);
    baseline::descriptor writer(ends[1]);
    if (::write(writer.get(), lines.data(), lines.size()) < 0) baseline::fail("write to a pipe");
    writer = baseline::descriptor();
    run({"ip", "-batch", "-"}, reader.get());
}

const std::string& name() {
    static const std::string of = devices::name_of(0);
    return of;
}

void by_ip(phase& open, phase& close) {
    open.time([] {
        run({"ip", "tuntap", "add", "dev", name(), "mode", "tun"});
        run({"ip", "addr", "add", devices::v4_of(0) + "/24", "dev", name()});
        run({"ip", "addr", "add", devices::v6_of(0) + "/64", "dev", name()});
        run({"ip", "link", "set", "dev", name(), "mtu", std::to_string(devices::mtu), "up"});
    });
    close.time([] { run({"ip", "tuntap", "del", "dev", name(), "mode", "tun"}); });
}

void by_batch(phase& open, phase& close) {
    open.time([] {
        run_batch("tuntap add dev " + name() + " mode tun\naddr add " + devices::v4_of(0) + "/24 dev " + name() +
                  "\naddr add " + devices::v6_of(0) + "/64 dev " + name() + "\nlink set dev " + name() + " mtu " +
                  std::to_string(devices::mtu) + " up\n");
    });
    close.time([] { run({"ip", "tuntap", "del", "dev", name(), "mode", "tun"}); });
}

// --- many, by epoll ------------------------------------------------------------------------------------------------

class reader {
public:
    explicit reader(unsigned count) : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
        if (epoll_.get() < 0) baseline::fail("make an epoll");
        ::prctl(PR_SET_TIMERSLACK, 1UL);
        for (unsigned i = 0; i < count; ++i) {
            const std::string name = devices::name_of(i);
            const baseline::descriptor& device = devices_.emplace_back(create(name));
            configure(name, i);
            epoll_event wanted{};
            wanted.events = EPOLLIN;
            wanted.data.fd = device.get();
            if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, device.get(), &wanted) < 0) baseline::fail("add to an epoll");
        }
    }

    void run(std::chrono::milliseconds time, devices::traffic& seen) {
        const devices::clock::time_point end = devices::clock::now() + time;
        while (devices::clock::now() < end) round(seen);
    }
    std::uint64_t rounds() const { return rounds_; }

private:
    void round(devices::traffic& seen) {
        const int ready = ::epoll_wait(epoll_.get(), events_.data(), static_cast<int>(events_.size()), 10);
        ++rounds_;
        for (int i = 0; i < ready; ++i) take(events_[static_cast<std::size_t>(i)].data.fd, seen);
        const timespec pause{0, 100'000};
        ::nanosleep(&pause, nullptr);
    }
    // All that one device has, but of a thousand few have more than one: a second read would find nothing.
    void take(int device, devices::traffic& seen) {
        const bool alone = devices_.size() == 1;
        do {
            const ssize_t size = ::read(device, buffer_.data(), buffer_.size());
            if (size <= 0) return;
            if (buffer_[0] == 0x45) ++seen.read;
        } while (alone);
    }

    baseline::descriptor epoll_;
    std::vector<baseline::descriptor> devices_;
    std::array<epoll_event, 256> events_{};
    std::array<unsigned char, 2048> buffer_{};
    std::uint64_t rounds_ = 0;
};

void read_all(unsigned count, unsigned rate, unsigned for_milliseconds, unsigned cpu) {
    using std::chrono::milliseconds;
    reader all(count);
    devices::traffic t;
    all.run(milliseconds(300), t); // the devices' own first packets are over
    const devices::load sending(count, rate, cpu, t);
    all.run(milliseconds(200), t);
    const std::uint64_t before = all.rounds();
    devices::interval measured(t);
    all.run(milliseconds(for_milliseconds), t);
    measured.end();
    measured.print(all.rounds() - before);
}

} // namespace

int main(int argc, char** argv) {
    const std::map<std::string, std::function<void(phase&, phase&)>> ways{
        {"calls", by_calls}, {"ip", by_ip}, {"batch", by_batch}};
    const auto number = [&](int i) { return baseline::parse_number(argv[i], 1, 100'000'000, argv[1]); };
    try {
        if (argc == 6 && std::string_view(argv[1]) == "read") {
            const unsigned cpu = baseline::parse_number(argv[5], 0, CPU_SETSIZE - 1, "CPU");
            read_all(number(2), number(3), number(4), cpu);
            return 0;
        }
        if (argc != 3 || ways.count(argv[1]) == 0)
            throw std::invalid_argument("usage: devices_plain calls|ip|batch COUNT | read N RATE MILLISECONDS CPU");
        const unsigned count = baseline::parse_number(argv[2], 1, devices::most, "COUNT");
        phase open, close;
        for (unsigned i = 0; i < count; ++i) ways.at(argv[1])(open, close);
        open.print("open", "{");
        close.print("close", ", ");
        std::printf("}\n");
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "devices_plain: %s\n", error.what());
        return 1;
    }
}
