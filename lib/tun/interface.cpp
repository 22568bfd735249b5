// SPDX-License-Identifier: Apache-2.0
#include "tun/interface.hpp"

#include "io/fail.hpp"
#include "link/netlink.hpp"
#include "link/netns_scope.hpp"
#include "tun/offload_agreement.hpp"
#include "tun/tun_driver.hpp"

#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <thread>
#include <unistd.h>

namespace cotun::detail {
namespace {

constexpr unsigned most_queue_length = 1'000'000;

class attempt {
public:
    attempt(const device_options& options, device_kind kind, const char* call)
        : options_(options), kind_(kind), subject_(fmt::format("{}(\"{}\")", call, options.name.view())) {}

    open_interface make() const {
        check_name();
        check_mtu();
        check_kind();
        open_interface made;
        made.descriptor = open_clone_device(options_.clone_device, subject_);
        create(made);
        configure(made);
        made.bounded = has_bounded_send_buffer(made.descriptor.get());
        return made;
    }

private:
    [[noreturn]] void refuse(int error, std::string_view why) const {
        fail(error, fmt::format("{}: {}", subject_, why));
    }
    bool takes_existing() const noexcept { return options_.existing != existing_interface::refuse; }

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
        if (takes_existing() && (name.empty() || percent != std::string_view::npos))
            refuse(EINVAL, "an interface that is there already is taken by its whole name: give it");
    }

    void check_mtu() const {
        if (options_.mtu != 0 && (options_.mtu < 68 || options_.mtu > 65535))
            refuse(EINVAL, fmt::format("the MTU is {}; it must be 68 to 65535", options_.mtu));
        if (options_.mtu_room > 65535)
            refuse(EINVAL, fmt::format("mtu_room is {}; 65535 is the most", options_.mtu_room));
        for (const wire::ip_prefix& address : options_.addresses)
            if (address.is_v6() && options_.mtu != 0 && options_.mtu < 1280)
                refuse(EINVAL, fmt::format("the MTU is {}, and IPv6 needs 1280 (RFC 8200, section 5)", options_.mtu));
        if (options_.txqueuelen > most_queue_length)
            refuse(EINVAL, fmt::format("txqueuelen is {}; it must be 1 to {}", options_.txqueuelen, most_queue_length));
        if (options_.gso_max_size > 65536)
            refuse(EINVAL, fmt::format("gso_max_size is {}; 65536 is the most", options_.gso_max_size));
        if (options_.send_buffer > INT32_MAX)
            refuse(EINVAL, fmt::format("send_buffer is {} bytes; {} are the most", options_.send_buffer, INT32_MAX));
    }

    void check_kind() const {
        if (kind_ == device_kind::tun && options_.mac)
            refuse(EINVAL, "a TUN device has no MAC address; open_tap() makes one that has");
        if (kind_ == device_kind::tun && options_.napi_fragments)
            refuse(EINVAL, "napi_fragments is for TAP devices (IFF_NAPI_FRAGS)");
        if (options_.napi_fragments && !options_.napi) refuse(EINVAL, "napi_fragments needs napi");
    }

    unsigned wanted_flags() const noexcept {
        unsigned flags = kind_ == device_kind::tap ? IFF_TAP : IFF_TUN;
        if (!options_.packet_information) flags |= IFF_NO_PI;
        if (options_.multi_queue) flags |= IFF_MULTI_QUEUE;
        if (options_.napi) flags |= IFF_NAPI;
        if (options_.napi_fragments) flags |= IFF_NAPI_FRAGS;
        if (!options_.carrier) flags |= IFF_NO_CARRIER;
        if (options_.offload.enabled) flags |= IFF_VNET_HDR;
        return flags;
    }

    // The driver takes no notice of flags that it does not know: they would be missing without a word.
    void check_features(int descriptor, unsigned& wanted) const {
        const unsigned known = driver_features(descriptor);
        if ((known & IFF_VNET_HDR) == 0) wanted &= ~unsigned{IFF_VNET_HDR};
        if (const unsigned lacking = wanted & ~(known | IFF_TUN | IFF_TAP); lacking != 0 && known != 0)
            refuse(EOPNOTSUPP, fmt::format("this kernel's TUN driver has no {} (TUNGETFEATURES): leave the option out, "
                                           "or take a newer kernel",
                                           flag_names(lacking)));
    }

    void create(open_interface& made) const {
        made.name = options_.name.view();
        unsigned wanted = wanted_flags();
        check_features(made.descriptor.get(), wanted);
        if (options_.existing == existing_interface::require) require_interface();
        const unsigned exclusive = takes_existing() ? 0 : IFF_TUN_EXCL;
        if (const int error = attach(made.descriptor.get(), made.name, wanted | exclusive); error != 0)
            refuse(error, explain_attach(error));
        check_attachment(made, wanted);
    }

    void require_interface() const {
        link::netlink_socket netlink;
        try {
            (void)netlink.get_link(options_.name.view());
        } catch (const std::system_error& refused) {
            if (refused.code().value() != ENODEV) throw;
            refuse(ENODEV, "there is no such interface: make it first (existing_interface::attach does)");
        }
    }

    // A further queue of an interface gets the flags that the first one had, whatever it asked for. Superpackets are a
    // wish: there the interface's own way is taken, unless they were ruled out.
    void check_attachment(open_interface& made, unsigned wanted) const {
        attachment found;
        if (const int error = get_attachment(made.descriptor.get(), found); error != 0) refuse(error, "TUNGETIFF");
        made.flags = found.flags;
        made.packet_information = options_.packet_information;
        made.virtio_header = found.has(IFF_VNET_HDR);
        if (!made.virtio_header) wanted &= ~unsigned{IFF_VNET_HDR};
        constexpr unsigned compared = IFF_TUN | IFF_TAP | IFF_MULTI_QUEUE | IFF_VNET_HDR;
        if (((found.flags ^ wanted) & compared) != 0)
            refuse(
                EINVAL,
                fmt::format("the interface has the flags {}, and what was asked for has {}: others have it open with "
                            "other options",
                            flag_names(found.flags & compared), flag_names(wanted & compared)));
    }

    void check_information(const link_info& found) const {
        if (!found.tun || found.tun->packet_information == options_.packet_information) return;
        refuse(EINVAL, fmt::format("the interface is open {} packet information (IFF_NO_PI), other than was asked for",
                                   found.tun->packet_information ? "with" : "without"));
    }

    std::string explain_attach(int error) const {
        switch (error) {
        case EPERM:
            if (takes_existing())
                return "attaching to an interface needs CAP_NET_ADMIN in its network namespace, or to be its owner or "
                       "of its group (device_options::owner, group): run as root, or see `ip -d tuntap show`";
            return "making an interface needs CAP_NET_ADMIN in the network namespace: run as root, `setcap "
                   "cap_net_admin+ep` the program, or, in a container, --cap-add NET_ADMIN";
        case EBUSY:
            if (takes_existing())
                return "another program, or this one, has the interface open: with multi_queue several may, each a "
                       "queue";
            return "the name is in use: choose another, take over what has it, if that is a device that persists "
                   "(device_options::existing), or `ip link delete` it";
        case EEXIST: return "the name is in use";
        case EINVAL:
            if (takes_existing())
                return "an interface of that name is there, and it is no TUN or TAP device as was asked for: another "
                       "kind, or with multi_queue where that was not asked for, or the other way round (`ip -d link "
                       "show`)";
            return "the kernel does not take the name, or another kind of interface has it";
        case ENFILE: return "no number is left for the pattern";
        case E2BIG: return "the interface has as many queues as the kernel allows (256)";
        default:
            return fmt::format("{} refused TUNSETIFF: is it the TUN driver's clone device?",
                               options_.clone_device.view());
        }
    }

    // Addresses before up, so that nothing is sent without them; persistence last, so that a failure leaves nothing.
    void configure(open_interface& made) const {
        set_by_ioctl(made);
        link::netlink_socket netlink;
        const link::link_info found = netlink.get_link(made.name);
        made.index = found.index;
        made.mtu = found.mtu;
        check_information(found);
        if (options_.mac && found.mac != *options_.mac) netlink.set_mac(made.index, *options_.mac);
        if (options_.mtu != 0 && options_.mtu != found.mtu) {
            netlink.set_mtu(made.index, options_.mtu);
            made.mtu = options_.mtu;
        }
        if (options_.txqueuelen != 0) netlink.set_txqueuelen(made.index, options_.txqueuelen);
        if (options_.gso_max_size != 0) netlink.set_gso_max_size(made.index, options_.gso_max_size);
        for (const wire::ip_prefix& address : options_.addresses) add_address(netlink, made.index, address);
        if (options_.up) {
            if ((found.flags & IFF_UP) == 0) netlink.set_up(made.index);
            wait_for_delivery(netlink);
        }
        if (options_.persist && *options_.persist != ((made.flags & IFF_PERSIST) != 0)) {
            set(made.descriptor.get(), TUNSETPERSIST, *options_.persist ? 1UL : 0UL, "persist (TUNSETPERSIST)");
            made.flags ^= IFF_PERSIST;
        }
    }

    void set_by_ioctl(open_interface& made) const {
        const int descriptor = made.descriptor.get();
        if (made.virtio_header) {
            made.agreed = agree_on_offloads(descriptor, options_.offload.read);
        } else if (takes_existing()) {
            clear_offloads(descriptor);
        }
        if (options_.owner) set(descriptor, TUNSETOWNER, *options_.owner, "owner (TUNSETOWNER)");
        if (options_.group) set(descriptor, TUNSETGROUP, *options_.group, "group (TUNSETGROUP)");
        if (options_.send_buffer == 0) return;
        const int bytes = static_cast<int>(options_.send_buffer);
        if (ioctl(descriptor, TUNSETSNDBUF, &bytes) != 0) refuse(errno, "send_buffer (TUNSETSNDBUF)");
    }

    void set(int descriptor, unsigned long request, unsigned long value, const char* what) const {
        if (ioctl(descriptor, request, value) == 0) return;
        refuse(errno,
               fmt::format("{}{}", what, errno == EINVAL ? ": no such user or group in this user namespace" : ""));
    }

    void add_address(link::netlink_socket& netlink, unsigned index, const wire::ip_prefix& address) const {
        try {
            netlink.add_address(index, address);
        } catch (const std::system_error& refused) {
            if (!takes_existing() || refused.code().value() != EEXIST) throw;
        }
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
    device_kind kind_;
    std::string subject_;
};

} // namespace

device_kind open_interface::kind() const noexcept {
    return (flags & IFF_TAP) != 0 ? device_kind::tap : device_kind::tun;
}

unique_fd open_clone_device(std::string_view path, std::string_view subject) {
    const std::string terminated(path);
    unique_fd opened(::open(terminated.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (opened) return opened;
    const int error = errno;
    switch (error) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
        fail(error,
             fmt::format("{}: there is no {}: `modprobe tun`; in a container, hand it in (--device /dev/net/tun)",
                         subject, path));
    case EACCES:
    case EPERM:
        fail(error, fmt::format("{}: no permission for {}: run as root, or see to its mode; in a container, hand it in "
                                "(--device /dev/net/tun)",
                                subject, path));
    default: fail(error, fmt::format("{}: opening {}", subject, path));
    }
}

open_interface make_interface(const device_options& options, device_kind kind, const char* call) {
    const attempt opening(options, kind, call);
    open_interface made;
    link::run_in_namespace(options.netns, call, [&] { made = opening.make(); });
    return made;
}

} // namespace cotun::detail
