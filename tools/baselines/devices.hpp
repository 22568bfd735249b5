// SPDX-License-Identifier: Apache-2.0
#pragma once

// What every baseline forwarder shares: the command line, two TUN devices, a way to stop, and the closing line.
//
// The baselines are the programs that cotun's own forwarder is measured against, so each of them must be what a
// competent author would write by hand. Only the loop that moves packets differs between them; that is why all the
// rest lives here. No part of cotun is used.

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace baseline {

struct options {
    struct end {
        std::string name;
        std::string netns; ///< a name below /run/netns; empty means the namespace of this process
        std::vector<std::string> addresses;
    };
    end a;
    end b;
    unsigned mtu = 1500;  ///< bytes, 68 to 65535
    bool offload = false; ///< packets begin with a virtio-net header, and may be superpackets
};

constexpr std::size_t offload_header_size = 10; // virtio_net_hdr without num_buffers, TUN's own default

/// The most bytes that a device can hand out or take: TUN has no link header, and these devices are opened without
/// packet information, so that is the MTU; with offload, the longest IP packet and its virtio-net header.
inline std::size_t largest_packet(const options& options) {
    return options.offload ? offload_header_size + 65535 : options.mtu;
}

/// Packets moved, and packets that the other device refused (its link is down, say).
struct counters {
    std::uint64_t forwarded = 0;
    std::uint64_t refused = 0;
};

[[noreturn]] inline void fail(const std::string& what) {
    throw std::system_error(errno, std::generic_category(), what);
}

/// An owned file descriptor.
class descriptor {
public:
    explicit descriptor(int fd = -1) noexcept : fd_(fd) {}
    descriptor(descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    descriptor& operator=(descriptor&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~descriptor() {
        if (fd_ >= 0) ::close(fd_);
    }
    int get() const noexcept { return fd_; }
    int release() noexcept { return std::exchange(fd_, -1); }

private:
    int fd_;
};

inline std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> parts;
    while (!text.empty()) {
        const auto end = text.find(separator);
        parts.emplace_back(text.substr(0, end));
        text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    }
    return parts;
}

inline unsigned parse_number(const std::string& text, unsigned low, unsigned high, const std::string& what) {
    char* end = nullptr;
    const unsigned long value = std::strtoul(text.c_str(), &end, 10);
    if (text.empty() || text[0] < '0' || text[0] > '9' || *end != '\0' || value < low || value > high)
        throw std::invalid_argument(what + ": '" + text + "' is not a number from " + std::to_string(low) + " to " +
                                    std::to_string(high));
    return static_cast<unsigned>(value);
}

inline void set_name(options::end& end, const std::string& text) {
    const auto at = text.find('@');
    end.name = text.substr(0, at);
    if (at != std::string::npos) end.netns = text.substr(at + 1);
    if (end.name.empty() || end.name.size() >= IFNAMSIZ)
        throw std::invalid_argument("device name '" + end.name + "': 1 to 15 characters are needed");
}

inline options parse_options(int argc, char** argv) {
    options result;
    for (int i = 1; i < argc; i += 2) {
        const std::string key = argv[i];
        if (key == "--offload") {
            result.offload = true;
            --i;
            continue;
        }
        if (i + 1 == argc) throw std::invalid_argument("'" + key + "' needs a value");
        const std::string value = argv[i + 1];
        if (key == "--a")
            set_name(result.a, value);
        else if (key == "--b")
            set_name(result.b, value);
        else if (key == "--address-a")
            result.a.addresses = split(value, ',');
        else if (key == "--address-b")
            result.b.addresses = split(value, ',');
        else if (key == "--mtu")
            result.mtu = parse_number(value, 68, 65535, "--mtu");
        else
            throw std::invalid_argument("unknown option '" + key + "'");
    }
    if (result.a.name.empty() || result.b.name.empty()) throw std::invalid_argument("--a and --b are needed");
    return result;
}

inline void enter_namespace(const std::string& netns) {
    if (netns.empty()) return;
    const std::string path = "/run/netns/" + netns;
    const descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd.get() < 0) fail("open network namespace " + path);
    if (::setns(fd.get(), CLONE_NEWNET) < 0) fail("enter network namespace " + path);
}

/// Runs `work` in a short-lived thread inside the namespace, so that the caller's namespace never changes.
template <typename Work>
void in_namespace(const std::string& netns, Work work) {
    std::exception_ptr failure;
    std::thread([&] {
        try {
            enter_namespace(netns);
            work();
        } catch (...) {
            failure = std::current_exception();
        }
    }).join();
    if (failure) std::rethrow_exception(failure);
}

inline void set_interface_name(ifreq& request, const std::string& name) {
    std::memset(&request, 0, sizeof request);
    std::memcpy(request.ifr_name, name.c_str(), std::min<std::size_t>(name.size(), IFNAMSIZ - 1));
}

/// IPv4 by SIOCSIFADDR. The ioctl knows one address for each label, so a second address gets the label `name:1`.
inline void add_ipv4(int control, const std::string& label, in_addr address, unsigned prefix) {
    ifreq request;
    sockaddr_in value{};
    value.sin_family = AF_INET;
    value.sin_addr = address;
    set_interface_name(request, label);
    std::memcpy(&request.ifr_addr, &value, sizeof value);
    if (::ioctl(control, SIOCSIFADDR, &request) < 0) fail("set address of " + label);
    value.sin_addr.s_addr = htonl(prefix == 0 ? 0 : ~std::uint32_t{0} << (32 - prefix));
    set_interface_name(request, label);
    std::memcpy(&request.ifr_netmask, &value, sizeof value);
    if (::ioctl(control, SIOCSIFNETMASK, &request) < 0) fail("set netmask of " + label);
}

inline void add_ipv6(const std::string& name, const in6_addr& address, unsigned prefix) {
    struct { // in6_ifreq of linux/ipv6.h, which cannot be included beside netinet/in.h
        in6_addr address;
        std::uint32_t prefix;
        int index;
    } request{address, prefix, static_cast<int>(::if_nametoindex(name.c_str()))};
    const descriptor control(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (control.get() < 0 || ::ioctl(control.get(), SIOCSIFADDR, &request) < 0) fail("set IPv6 address of " + name);
}

inline void add_address(int control, const std::string& name, const std::string& cidr, unsigned ordinal) {
    const auto slash = cidr.find('/');
    const std::string host = cidr.substr(0, slash);
    const bool ipv6 = host.find(':') != std::string::npos;
    const unsigned widest = ipv6 ? 128 : 32;
    const unsigned prefix =
        slash == std::string::npos ? widest : parse_number(cidr.substr(slash + 1), 0, widest, "prefix of " + cidr);
    in6_addr address{};
    if (::inet_pton(ipv6 ? AF_INET6 : AF_INET, host.c_str(), &address) != 1)
        throw std::invalid_argument("'" + cidr + "' is not an address with a prefix length");
    if (ipv6) return add_ipv6(name, address, prefix);
    in_addr v4{};
    std::memcpy(&v4, &address, sizeof v4);
    add_ipv4(control, ordinal == 0 ? name : name + ":" + std::to_string(ordinal), v4, prefix);
}

inline void configure(const options::end& end, unsigned mtu) {
    const descriptor control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (control.get() < 0) fail("open a control socket");
    ifreq request;
    set_interface_name(request, end.name);
    request.ifr_mtu = static_cast<int>(mtu);
    if (::ioctl(control.get(), SIOCSIFMTU, &request) < 0) fail("set MTU of " + end.name);
    unsigned ordinal = 0;
    for (const auto& cidr : end.addresses) {
        add_address(control.get(), end.name, cidr, ordinal);
        if (cidr.find(':') == std::string::npos) ++ordinal;
    }
    set_interface_name(request, end.name);
    if (::ioctl(control.get(), SIOCGIFFLAGS, &request) < 0) fail("read flags of " + end.name);
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP | IFF_RUNNING);
    if (::ioctl(control.get(), SIOCSIFFLAGS, &request) < 0) fail("set " + end.name + " up");
}

/// All that this kernel takes: USO is there since 6.2, and its two halves go together.
inline void set_offload(int device, const std::string& name) {
    constexpr unsigned tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    constexpr unsigned udp = 0x60; // TUN_F_USO4 | TUN_F_USO6, absent from headers before 6.2
    if (::ioctl(device, TUNSETOFFLOAD, tcp | udp) == 0 || ::ioctl(device, TUNSETOFFLOAD, tcp) == 0) return;
    fail("set the offloads of " + name);
}

/// Opens a TUN device, non-blocking, with its addresses and MTU, and sets it up. /dev/net/tun remembers the namespace
/// that it was opened in, so opening it happens inside, too; the descriptor then works from everywhere.
inline descriptor open_device(const options::end& end, const options& options) {
    descriptor device;
    in_namespace(end.netns, [&] {
        descriptor fd(::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC));
        if (fd.get() < 0) fail("open /dev/net/tun");
        ifreq request;
        set_interface_name(request, end.name);
        request.ifr_flags = IFF_TUN | IFF_NO_PI;
        if (options.offload) request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_VNET_HDR);
        if (::ioctl(fd.get(), TUNSETIFF, &request) < 0) fail("create TUN device " + end.name);
        if (options.offload) set_offload(fd.get(), end.name);
        configure(end, options.mtu);
        device = std::move(fd);
    });
    return device;
}

/// Blocks SIGINT and SIGTERM for this thread and those it starts, and returns a descriptor that becomes readable when
/// one arrives: a stop request is then one more event of the loop, and cannot slip in between a check and a wait.
inline descriptor open_stop_signal() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    if (::sigprocmask(SIG_BLOCK, &set, nullptr) < 0) fail("block SIGINT and SIGTERM");
    descriptor fd(::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    if (fd.get() < 0) fail("open a signal descriptor");
    return fd;
}

/// A refused packet is dropped and counted, as a router would; anything else ends the program.
inline bool is_transient(int error) noexcept {
    return error == EAGAIN || error == EIO || error == EINVAL || error == ENOBUFS || error == ENOMEM;
}

/// The body of each baseline's main: options, run, one closing line; the reason on stderr when something fails.
template <typename Forward>
int run_baseline(int argc, char** argv, Forward forward) {
    constexpr auto usage =
        "usage: %s --a NAME[@NETNS] --address-a CIDR[,CIDR] --b NAME[@NETNS] --address-b CIDR[,CIDR] [--mtu N]\n"
        "       [--offload]\n"
        "Moves packets between two TUN devices, both ways, until SIGINT or SIGTERM; with --offload superpackets, "
        "too.\n";
    try {
        if (argc == 2 && std::strcmp(argv[1], "--help") == 0) {
            std::printf(usage, argv[0]);
            return 0;
        }
        const counters total = forward(parse_options(argc, argv));
        std::printf("forwarded %llu, refused %llu\n", static_cast<unsigned long long>(total.forwarded),
                    static_cast<unsigned long long>(total.refused));
        return 0;
    } catch (const std::invalid_argument& error) {
        std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
        std::fprintf(stderr, usage, argv[0]);
        return 2;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
        return 1;
    }
}

} // namespace baseline
