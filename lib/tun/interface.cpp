// SPDX-License-Identifier: Apache-2.0
#include "tun/interface.hpp"

#include "io/fail.hpp"
#include "link/netlink.hpp"
#include "link/removal_watch.hpp"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <string_view>
#include <sys/ioctl.h>
#include <thread>
#include <unistd.h>

namespace cotun::detail {
namespace {

class attempt {
public:
    attempt(const device_options& options, bool tap, const char* call) : options_(options), tap_(tap), call_(call) {}

    open_interface make() const {
        check_name();
        check_mtu();
        open_interface made;
        open_clone_device(made);
        create(made);
        configure(made);
        return made;
    }

private:
    [[noreturn]] void refuse(int error, std::string_view why) const {
        fail(error, fmt::format("{}(\"{}\"): {}", call_, options_.name.view(), why));
    }

    void check_name() const {
        const std::string_view name = options_.name;
        if (name.size() >= IFNAMSIZ)
            refuse(ENAMETOOLONG, fmt::format("the name has {} bytes; 15 are the most", name.size()));
        if (name == "." || name == "..") refuse(EINVAL, "not a name that an interface can have");
        for (const char c : name)
            if (c == '/' || c == ':' || std::isspace(static_cast<unsigned char>(c)) || c == '\0')
                refuse(EINVAL, "a name has no '/', ':' and blanks");
        const std::size_t percent = name.find('%');
        if (percent != std::string_view::npos &&
            (name.compare(percent, 2, "%d") != 0 || name.find('%', percent + 1) != std::string_view::npos))
            refuse(EINVAL, "the only pattern is one \"%d\", for which the kernel puts a number");
    }

    void check_mtu() const {
        if (options_.mtu != 0 && (options_.mtu < 68 || options_.mtu > 65535))
            refuse(EINVAL, fmt::format("the MTU is {}; it must be 68 to 65535", options_.mtu));
        for (const wire::ip_prefix& address : options_.addresses)
            if (address.is_v6() && options_.mtu != 0 && options_.mtu < 1280)
                refuse(EINVAL, fmt::format("the MTU is {}, and IPv6 needs 1280 (RFC 8200, section 5)", options_.mtu));
    }

    void open_clone_device(open_interface& made) const {
        const std::string_view path = options_.clone_device;
        made.descriptor = ::open(options_.clone_device.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (made.descriptor >= 0) return;
        const int error = errno;
        switch (error) {
        case ENOENT:
        case ENXIO:
        case ENODEV:
            refuse(error,
                   fmt::format("there is no {}: `modprobe tun`; in a container, hand it in (--device /dev/net/tun)",
                               path));
        case EACCES:
        case EPERM:
            refuse(error,
                   fmt::format("no permission for {}: run as root, or see to its mode; in a container, hand it in "
                               "(--device /dev/net/tun)",
                               path));
        default: refuse(error, fmt::format("opening {}", path));
        }
    }

    void create(open_interface& made) const {
        ifreq request{};
        std::memcpy(request.ifr_name, options_.name.c_str(), options_.name.view().size());
        // Exclusive: an interface that is there already is never taken over.
        request.ifr_flags = static_cast<short>((tap_ ? IFF_TAP : IFF_TUN) | IFF_NO_PI | IFF_TUN_EXCL);
        if (ioctl(made.descriptor, TUNSETIFF, &request) == 0) {
            made.name = request.ifr_name;
            return;
        }
        const int error = errno;
        switch (error) {
        case EPERM:
            refuse(error, "making an interface needs CAP_NET_ADMIN in the network namespace: run as root, `setcap "
                          "cap_net_admin+ep` the program, or, in a container, --cap-add NET_ADMIN");
        case EBUSY: refuse(error, "the name is in use: choose another, or `ip link delete` what has it");
        case EEXIST: refuse(error, "the name is in use");
        case EINVAL: refuse(error, "the kernel does not take the name, or another kind of interface has it");
        case ENFILE: refuse(error, "no number is left for the pattern");
        default:
            refuse(error, fmt::format("{} refused TUNSETIFF: is it the TUN driver's clone device?",
                                      options_.clone_device.view()));
        }
    }

    // Addresses before up, so that nothing is sent without them.
    void configure(open_interface& made) const {
        link::netlink_socket netlink;
        const link::link_info found = netlink.get_link(made.name);
        made.index = found.index;
        made.mtu = found.mtu;
        made.watch = link::open_removal_watch(made.index);
        if (options_.mtu != 0 && options_.mtu != found.mtu) {
            netlink.set_mtu(made.index, options_.mtu);
            made.mtu = options_.mtu;
        }
        for (const wire::ip_prefix& address : options_.addresses) netlink.add_address(made.index, address);
        if (!options_.up) return;
        netlink.set_up(made.index);
        wait_for_delivery(netlink);
    }

    // Until then, what is written to the device for its own IPv6 addresses would be lost. It takes less than a
    // millisecond; a kernel that is so busy that it takes a second gets no more of our time.
    void wait_for_delivery(link::netlink_socket& netlink) const {
        constexpr std::chrono::microseconds pause{200}, longest{1'000'000};
        std::chrono::microseconds waited{0};
        for (const wire::ip_prefix& prefix : options_.addresses)
            for (; !netlink.is_delivered(prefix.address()) && waited < longest; waited += pause)
                std::this_thread::sleep_for(pause);
    }

    const device_options& options_;
    bool tap_;
    const char* call_;
};

void enter_namespace(std::string_view netns, const char* call) {
    const std::string path((netns.find('/') == std::string_view::npos ? "/run/netns/" : "") + std::string(netns));
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        fail(errno, fmt::format("{}: network namespace {}: make it with `ip netns add {}`, or give the path of one",
                                call, path, netns));
    const int result = setns(descriptor, CLONE_NEWNET);
    const int error = errno;
    ::close(descriptor);
    if (result < 0)
        fail(error,
             fmt::format("{}: entering network namespace {} (needs CAP_SYS_ADMIN, and a file of /proc/*/ns/net or "
                         "of `ip netns`)",
                         call, path));
}

} // namespace

open_interface& open_interface::operator=(open_interface&& other) noexcept {
    std::swap(descriptor, other.descriptor);
    std::swap(watch, other.watch);
    name = std::move(other.name);
    index = other.index;
    mtu = other.mtu;
    return *this;
}

open_interface::~open_interface() {
    if (descriptor >= 0) ::close(descriptor);
    if (watch >= 0) ::close(watch);
}

open_interface make_interface(const device_options& options, bool tap, const char* call) {
    const attempt opening(options, tap, call);
    if (options.netns.empty()) return opening.make();
    // A thread can be in another namespace than the rest of its process: one of its own leaves the caller where it is.
    open_interface made;
    std::exception_ptr failure;
    std::thread there([&] {
        try {
            enter_namespace(options.netns, call);
            made = opening.make();
        } catch (...) {
            failure = std::current_exception();
        }
    });
    there.join();
    if (failure) std::rethrow_exception(failure);
    return made;
}

} // namespace cotun::detail
