// SPDX-License-Identifier: Apache-2.0

// A device opened, configured and closed as programs do it without a library, for tools/bench's `devices`:
//
//   devices_plain calls N    by open(2), ioctl(2) and close(2) alone: next to nothing but the kernel's own work
//   devices_plain ip N       by `ip`, a command a step, as in a shell script; `ip tuntap add` makes it, `del` ends it
//   devices_plain batch N    the same by two commands: one `ip -batch` for all that comes before the end
//
// A name is used again as soon as it is free. One line of JSON on stdout: the nanoseconds of each.

#include "devices.hpp"
#include "devices_life.hpp"

#include <functional>
#include <linux/ipv6.h>
#include <map>
#include <spawn.h>
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

void configure(const std::string& name) {
    const baseline::descriptor v4(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const baseline::descriptor v6(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (v4.get() < 0 || v6.get() < 0) baseline::fail("open a socket");
    ifreq request = request_for(name);
    request.ifr_mtu = devices::mtu;
    control(v4.get(), SIOCSIFMTU, &request, "set the MTU");
    request = request_for(name);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    ::inet_pton(AF_INET, devices::v4_of(0).c_str(), &address.sin_addr);
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
    ::inet_pton(AF_INET6, devices::v6_of(0).c_str(), &other.ifr6_addr);
    control(v6.get(), SIOCSIFADDR, &other, "set the IPv6 address");
    request = request_for(name);
    request.ifr_flags = IFF_UP | IFF_NOARP | IFF_POINTOPOINT | IFF_MULTICAST;
    control(v4.get(), SIOCSIFFLAGS, &request, "set it up");
}

void by_calls(phase& open, phase& close) {
    baseline::descriptor device;
    open.time([&] {
        device = create(devices::name_of(0));
        configure(devices::name_of(0));
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

} // namespace

int main(int argc, char** argv) {
    const std::map<std::string, std::function<void(phase&, phase&)>> ways{
        {"calls", by_calls}, {"ip", by_ip}, {"batch", by_batch}};
    try {
        if (argc != 3 || ways.count(argv[1]) == 0)
            throw std::invalid_argument("usage: devices_plain calls|ip|batch COUNT");
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
