// SPDX-License-Identifier: Apache-2.0
//
// Descriptors that somebody else opened: by another call, another program, another user, in another namespace.
#include <cotun/tun/device.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include "nobody.hpp"
#include "traffic.hpp"

using namespace test;
using Catch::Matchers::ContainsSubstring;

namespace {

cotun::unique_fd opened_by_hand(const std::string& name, unsigned flags, int open_flags = O_RDWR) {
    cotun::unique_fd descriptor(open("/dev/net/tun", open_flags));
    ifreq request{};
    std::memcpy(request.ifr_name, name.data(), name.size());
    request.ifr_flags = static_cast<short>(flags);
    REQUIRE(ioctl(descriptor.get(), TUNSETIFF, &request) == 0);
    return descriptor;
}

cotun::task<std::uint64_t> next_number(cotun::device& dev) {
    for (;;) {
        cotun::packet pkt = co_await dev.read_packet();
        if (const auto number = number_of(pkt.bytes())) co_return *number;
    }
}

} // namespace

TEST_CASE("a descriptor that was opened by hand becomes a device", "[tun][adopt]") {
    tun_namespace here;
    const cotun::read_mode mode = each_read_mode();
    INFO(name_of(mode));
    cotun::reactor io;
    cotun::unique_fd descriptor = opened_by_hand("hand0", IFF_TUN | IFF_NO_PI); // blocking, and kept over exec
    const int number = descriptor.get();
    run("ip addr add 10.9.0.1/24 dev hand0 && ip link set hand0 mtu 1400 up");
    cotun::adopt_options options;
    options.read = mode;
    cotun::device dev = cotun::adopt_device(io, std::move(descriptor), options);
    CHECK(dev.name() == "hand0");
    CHECK(dev.mtu() == 1400);
    CHECK(dev.index() == if_nametoindex("hand0"));
    CHECK(dev.native_handle() == number);
    CHECK((fcntl(number, F_GETFL) & O_NONBLOCK) != 0);
    CHECK((fcntl(number, F_GETFD) & FD_CLOEXEC) != 0);
    const plain_socket sender;
    REQUIRE(sender.send(42, "10.9.0.2"));
    CHECK(run_bounded(io, next_number(dev)) == 42);
}

TEST_CASE("make_tun and make_tap give what adopt_device takes", "[tun][adopt]") {
    tun_namespace here;
    cotun::reactor io;
    cotun::device tun =
        cotun::adopt_device(io, cotun::make_tun({.name = "made0", .addresses = {"10.9.0.1/24"}, .mtu = 1300}));
    CHECK(tun.name() == "made0");
    CHECK(tun.mtu() == 1300);
    CHECK(tun.kind() == cotun::device_kind::tun);
    cotun::device tap = cotun::adopt_device(io, cotun::make_tap({.name = "made1"}));
    CHECK(tap.is_tap());
}

TEST_CASE("a descriptor that is not what was asked for is refused by name, and closed", "[tun][adopt]") {
    tun_namespace here;
    cotun::reactor io;
    const std::ptrdiff_t files = open_files();
    const auto refused = [&](cotun::unique_fd descriptor, const cotun::adopt_options& options,
                             const std::vector<std::string>& words) {
        const auto code =
            refusal([&] { const auto dev = cotun::adopt_device(io, std::move(descriptor), options); }, words);
        CHECK(open_files() == files);
        CHECK_FALSE(has_interface("hand0"));
        return code.value();
    };
    cotun::adopt_options wanted;
    SECTION("another kind") {
        wanted.kind = cotun::device_kind::tap;
        CHECK(refused(opened_by_hand("hand0", IFF_TUN | IFF_NO_PI), wanted, {"hand0", "TUN device", "TAP device"}) ==
              EINVAL);
    }
    SECTION("with virtio-net headers, and superpackets are not wanted") {
        wanted.offload = cotun::no_offload;
        CHECK(refused(opened_by_hand("hand0", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR), wanted, {"hand0", "IFF_VNET_HDR"}) ==
              EINVAL);
    }
    SECTION("with packet information that was not asked for") {
        CHECK(refused(opened_by_hand("hand0", IFF_TUN), wanted, {"hand0", "packet information"}) == EINVAL);
    }
    SECTION("without packet information that was asked for") {
        wanted.packet_information = true;
        CHECK(refused(opened_by_hand("hand0", IFF_TUN | IFF_NO_PI), wanted, {"hand0", "IFF_NO_PI"}) == EINVAL);
    }
    SECTION("one queue where several were asked for") {
        wanted.multi_queue = true;
        CHECK(refused(opened_by_hand("hand0", IFF_TUN | IFF_NO_PI), wanted, {"hand0", "IFF_MULTI_QUEUE"}) == EINVAL);
    }
    SECTION("several queues where one was asked for") {
        wanted.multi_queue = false;
        CHECK(refused(opened_by_hand("hand0", IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE), wanted,
                      {"hand0", "IFF_MULTI_QUEUE"}) == EINVAL);
    }
    SECTION("attached to nothing") {
        CHECK(refused(cotun::unique_fd(open("/dev/net/tun", O_RDWR)), wanted, {"TUNSETIFF"}) == EBADFD);
    }
    SECTION("not a device at all") {
        refused(cotun::unique_fd(open("/dev/null", O_RDWR)), wanted, {"TUN driver"});
        refused(cotun::unique_fd(socket(AF_UNIX, SOCK_DGRAM, 0)), wanted, {"TUN driver"});
    }
    SECTION("none") { CHECK(refused(cotun::unique_fd(), wanted, {"not open"}) == EBADF); }
    SECTION("of an interface that was deleted") {
        cotun::unique_fd gone = opened_by_hand("hand0", IFF_TUN | IFF_NO_PI);
        run("ip link delete hand0");
        CHECK(refused(std::move(gone), wanted, {"deleted"}) == EBADFD);
    }
}

TEST_CASE("a device in another namespace is adopted from outside of it", "[tun][adopt]") {
    need_tun();
    named_namespace there("adopted");
    cotun::reactor io;
    cotun::device dev = cotun::adopt_device(
        io, cotun::make_tun({.name = "far0", .addresses = {"10.9.0.1/24"}, .mtu = 1234, .netns = there.name()}));
    CHECK(dev.mtu() == 1234);
    CHECK_FALSE(has_interface("far0"));
    there.inside([] {
        const plain_socket sender;
        REQUIRE(sender.send(43, "10.9.0.2"));
    });
    CHECK(run_bounded(io, next_number(dev)) == 43);
}

namespace {

// The unprivileged half: takes a descriptor from the socket, without any right to make devices or to enter namespaces.
std::string adopt_as_nobody(int channel, unsigned mtu) {
    cotun::unique_fd received;
    char byte = 0;
    iovec into{&byte, 1};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &into;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    if (recvmsg(channel, &message, 0) != 1) return "nothing received";
    int descriptor = -1;
    std::memcpy(&descriptor, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof descriptor);
    received = cotun::unique_fd(descriptor);
    if (!become_nobody()) return "still root";
    cotun::reactor io;
    cotun::adopt_options options;
    options.mtu = mtu;
    cotun::device dev = cotun::adopt_device(io, std::move(received), options);
    if (write(channel, "r", 1) != 1) return "nobody listens";
    const std::uint64_t number = run_bounded(io, next_number(dev));
    return fmt::format("{} {} {}", dev.name(), dev.mtu(), number);
}

void pass_descriptor(int channel, const cotun::unique_fd& passed) {
    char byte = 'd';
    iovec from{&byte, 1};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &from;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int descriptor = passed.get();
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    REQUIRE(sendmsg(channel, &message, 0) == 1);
}

struct channel_pair {
    channel_pair() {
        std::array<int, 2> ends{};
        REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
        here = cotun::unique_fd(ends[0]);
        there = cotun::unique_fd(ends[1]);
    }
    cotun::unique_fd here, there;
};

} // namespace

TEST_CASE("a privileged helper opens, and a process of nobody's runs the device", "[tun][adopt]") {
    tun_namespace here;
    channel_pair ends;
    cotun::unique_fd made = cotun::make_tun({.name = "help0", .addresses = {"10.9.0.1/24"}, .mtu = 1400});
    pass_descriptor(ends.here.get(), made);
    const pid_t sender = fork(); // no thread: a child of several cannot make one under ThreadSanitizer
    if (sender == 0) {
        char ready = 0;
        if (read(ends.here.get(), &ready, 1) == 1) plain_socket().send(44, "10.9.0.2");
        _exit(0);
    }
    const std::string told = in_child([&] { return adopt_as_nobody(ends.there.get(), 0); });
    shutdown(ends.here.get(), SHUT_RDWR);
    waitpid(sender, nullptr, 0);
    CHECK(told == "help0 1400 44");
}

TEST_CASE("nobody adopts a device of a namespace that it cannot enter, when it says the MTU", "[tun][adopt]") {
    need_tun();
    named_namespace there("nobodys");
    const cotun::unique_fd made =
        cotun::make_tun({.name = "help0", .addresses = {"10.9.0.1/24"}, .mtu = 1400, .netns = there.name()});
    {
        channel_pair ends;
        pass_descriptor(ends.here.get(), made);
        const std::string told = in_child([&] { return adopt_as_nobody(ends.there.get(), 0); });
        CHECK_THAT(told, ContainsSubstring("threw: ") && ContainsSubstring("adopt_options::mtu"));
    }
    {
        channel_pair ends;
        pass_descriptor(ends.here.get(), made);
        std::thread sender([&] {
            there.enter();
            char ready = 0;
            if (read(ends.here.get(), &ready, 1) == 1) plain_socket().send(45, "10.9.0.2");
        });
        const std::string told = in_child([&] { return adopt_as_nobody(ends.there.get(), 1400); });
        shutdown(ends.here.get(), SHUT_RDWR);
        sender.join();
        CHECK(told == "help0 1400 45");
    }
}

namespace {

std::string open_as(uid_t user, const std::string& clone_device) {
    return in_child([&]() -> std::string {
        if (!become_user(user)) return "still root";
        cotun::reactor io;
        const cotun::device dev = cotun::open_tun(
            io, {.name = "owned", .existing = cotun::existing_interface::require, .clone_device = clone_device});
        return dev.name();
    });
}

} // namespace

TEST_CASE("the owner of a persistent device opens it without privileges", "[tun][adopt]") {
    tun_namespace here;
    const node_for_all node;
    const bool others = has_other_users();
    const unsigned owner = others ? 65534 : 0;
    {
        cotun::reactor io;
        const cotun::device dev =
            cotun::open_tun(io, {.name = "owned", .addresses = {"10.9.0.1/24"}, .persist = true, .owner = owner});
    }
    CHECK(open_as(owner, node.path()) == "owned");
    if (others) CHECK_THAT(open_as(65533, node.path()), ContainsSubstring("to be its owner"));
    run("ip link delete owned");
}
