// SPDX-License-Identifier: Apache-2.0
#include "link/removal_watch.hpp"

#include "../support/namespace.hpp"
#include "link/netlink.hpp"

#include <catch2/catch_test_macros.hpp>

#include <array>
#include <fcntl.h>
#include <poll.h>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

using namespace test;

namespace {

class watch {
public:
    explicit watch(const std::string& name)
        : descriptor_(cotun::link::open_removal_watch(cotun::link::netlink_socket().get_link(name).index)) {}
    watch(const watch&) = delete;
    watch& operator=(const watch&) = delete;
    ~watch() { close(descriptor_); }

    /// How many messages there are.
    int messages() const {
        pollfd waits{descriptor_, POLLIN, 0};
        poll(&waits, 1, 0); // the kernel has put them there before the command ended
        int count = 0;
        std::array<char, 16> start{};
        while (recv(descriptor_, start.data(), start.size(), MSG_DONTWAIT) >= 0) ++count;
        return count;
    }
    int flags() const { return fcntl(descriptor_, F_GETFL); }

private:
    int descriptor_;
};

} // namespace

TEST_CASE("a removal watch tells of its own link's end, and of nothing else", "[link][removal]") {
    own_namespace here;
    const outcome made = run("ip link add a0 type veth peer name b0 && ip link add c0 type veth peer name d0");
    if (!made.good()) SKIP("no veth pair can be made with ip(8) here: " << made.output);
    const watch a("a0");
    const watch c("c0");
    CHECK((a.flags() & O_NONBLOCK) != 0);
    output_of("ip link set a0 mtu 1400 up && ip address add 10.9.0.1/24 dev a0 && ip link set a0 down");
    output_of("ip link set c0 name e0");
    CHECK(a.messages() == 0);
    output_of("ip link delete e0");
    CHECK(a.messages() == 0);
    CHECK(c.messages() == 1);
    for (int i = 0; i < 20; ++i) output_of("ip link add x0 type veth peer name y0 && ip link delete x0");
    CHECK(a.messages() == 0);
    CHECK(c.messages() == 0);
    output_of("ip link delete a0");
    CHECK(a.messages() == 1);
}

TEST_CASE("a removal watch tells of a link that moves to another namespace", "[link][removal]") {
    own_namespace here;
    const outcome made = run("ip link add a0 type veth peer name b0");
    if (!made.good()) SKIP("no veth pair can be made with ip(8) here: " << made.output);
    const watch a("a0");
    output_of("unshare --net sleep 10 & ns=$!; for i in $(seq 100); do "
              "[ \"$(readlink /proc/$ns/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ] && break; sleep 0.05; done; "
              "ip link set a0 netns $ns; status=$?; kill $ns; exit $status");
    CHECK(a.messages() >= 1);
}
