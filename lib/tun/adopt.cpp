// SPDX-License-Identifier: Apache-2.0
//
// Descriptors that are attached to an interface already.
#include "tun/interface.hpp"

#include "io/fail.hpp"
#include "link/netlink.hpp"
#include "link/netns_scope.hpp"
#include "tun/offload_agreement.hpp"
#include "tun/tun_driver.hpp"

#include <cerrno>
#include <fcntl.h>
#include <fmt/format.h>
#include <functional>

namespace cotun::detail {
namespace {

constexpr const char* adopting = "adopt_device";

[[noreturn]] void refuse(int error, std::string_view why) { fail(error, fmt::format("{}: {}", adopting, why)); }

attachment attached_to(int descriptor) {
    attachment found;
    switch (const int error = get_attachment(descriptor, found)) {
    case 0: return found;
    case EBADF: refuse(error, "the descriptor is not open");
    case EBADFD:
        refuse(error,
               "the descriptor is attached to no interface: TUNSETIFF comes first, or the interface was deleted");
    default: refuse(error, "not a descriptor of the TUN driver's (TUNGETIFF)");
    }
}

const char* name_of(device_kind kind) noexcept { return kind == device_kind::tap ? "TAP" : "TUN"; }

void check(const attachment& found, const adopt_options& options) {
    const auto unlike = [&](std::string_view what) {
        refuse(EINVAL, fmt::format("{} (flags {}): {}", found.name, flag_names(found.flags), what));
    };
    if (options.kind && *options.kind != found.kind())
        unlike(fmt::format("it is a {} device, and a {} device was asked for", name_of(found.kind()),
                           name_of(*options.kind)));
    if (found.has(IFF_VNET_HDR) && !options.offload.enabled)
        unlike(
            "it was opened with virtio-net headers (IFF_VNET_HDR), which is not what was asked for: ask for offload, "
            "or open it without");
    if (options.multi_queue && *options.multi_queue != found.has(IFF_MULTI_QUEUE))
        unlike(*options.multi_queue ? "it has one queue (no IFF_MULTI_QUEUE), and several were asked for"
                                    : "it can have several queues (IFF_MULTI_QUEUE), and one was asked for");
    if (options.mtu > 65535 || options.mtu_room > 65535) unlike("an MTU is 65535 at the most");
}

// `there`: the interface's, or none, where it is not known: then it is taken for the calling thread's.
void in_namespace_of(const unique_fd& there, std::string_view name, const char* call,
                     const std::function<void()>& body) {
    if (there && !link::is_current_namespace(there.get()))
        link::run_in_namespace(there.get(), fmt::format("the network namespace of {}", name), call, body);
    else
        body();
}

// Found by netlink: TUNGETIFF does not tell.
struct mismatch {
    const char* what;
};

// What netlink tells of it, asked in the interface's namespace.
void look_up(open_interface& made) {
    link::netlink_socket netlink;
    const link::link_info found = netlink.get_link(made.name);
    made.index = found.index;
    made.mtu = found.mtu;
    if (!found.tun || found.tun->packet_information == made.packet_information) return;
    throw mismatch{made.packet_information
                       ? "it was opened without packet information (IFF_NO_PI), and packet_information was asked for"
                       : "it was opened with packet information (no IFF_NO_PI): ask for packet_information, or open it "
                         "without"};
}

} // namespace

open_interface adopt_interface(unique_fd descriptor, const adopt_options& options) {
    open_interface made;
    made.descriptor = std::move(descriptor);
    const int file = made.descriptor.get();
    const attachment found = attached_to(file);
    check(found, options);
    made.name = found.name;
    made.flags = found.flags;
    made.packet_information = options.packet_information;
    made.virtio_header = found.has(IFF_VNET_HDR);
    made.bounded = has_bounded_send_buffer(file);
    if (made.virtio_header) made.agreed = agree_on_offloads(file, options.offload.read);
    const int status = fcntl(file, F_GETFL);
    if (status < 0 || fcntl(file, F_SETFL, status | O_NONBLOCK) < 0) refuse(errno, "setting O_NONBLOCK");
    if (fcntl(file, F_SETFD, FD_CLOEXEC) < 0) refuse(errno, "setting FD_CLOEXEC");
    const unique_fd there = namespace_of(file);
    try {
        in_namespace_of(there, made.name, adopting, [&] { look_up(made); });
    } catch (const mismatch& unlike) {
        refuse(EINVAL, fmt::format("{}: {}", made.name, unlike.what));
    } catch (const std::system_error& refused) {
        if (options.mtu == 0)
            refuse(refused.code().value(),
                   fmt::format("{} is in a network namespace that cannot be looked into: give adopt_options::mtu ({})",
                               made.name, refused.what()));
        made.mtu = options.mtu;
    }
    return made;
}

unique_fd open_another_queue(int descriptor, std::string_view clone_device) {
    constexpr const char* opening = "open_queue";
    attachment of;
    if (const int error = get_attachment(descriptor, of); error != 0)
        fail(error, fmt::format("{}: the interface is gone; was it deleted from outside?", opening));
    if (!of.has(IFF_MULTI_QUEUE))
        fail(EINVAL, fmt::format("{}: {} has one queue: open it with multi_queue", opening, of.name));
    const unique_fd there = namespace_of(descriptor);
    unique_fd queue;
    const auto open_it = [&] {
        queue = open_clone_device(clone_device, opening);
        std::string name = of.name;
        constexpr unsigned kept = IFF_TUN | IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE | IFF_VNET_HDR | IFF_NAPI;
        switch (const int error = attach(queue.get(), name, of.flags & kept)) {
        case 0: break;
        case E2BIG: fail(error, fmt::format("{}: {} has as many queues as the kernel allows (256)", opening, name));
        case EPERM:
            fail(error, fmt::format("{}: attaching to {} needs CAP_NET_ADMIN in its network namespace, or to be its "
                                    "owner",
                                    opening, name));
        default: fail(error, fmt::format("{}: attaching to {} (TUNSETIFF)", opening, name));
        }
    };
    in_namespace_of(there, of.name, opening, open_it);
    return queue;
}

} // namespace cotun::detail
