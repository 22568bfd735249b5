// SPDX-License-Identifier: Apache-2.0
//
// Devices that cannot be: each refusal has the right errno, names the thing and the remedy, and leaves nothing behind.
#include <cotun/tun/device.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <sys/mount.h>
#include <sys/stat.h>

#include <fmt/format.h>

#include "nobody.hpp"
#include "traffic.hpp"

using namespace test;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;

namespace {

std::vector<std::string> interfaces() {
    std::vector<std::string> names;
    const auto list = if_nameindex();
    for (const auto* entry = list; entry != nullptr && entry->if_index != 0; ++entry)
        names.emplace_back(entry->if_name);
    if_freenameindex(list);
    return names;
}

// Tries to open a device, and sees to it that nothing is left.
std::error_code refused(cotun::reactor& io, const cotun::device_options& options, const std::vector<std::string>& words,
                        bool tap = false) {
    const std::ptrdiff_t files = open_files();
    const std::vector<std::string> before = interfaces();
    const std::error_code code = refusal(
        [&] { const cotun::device dev = tap ? cotun::open_tap(io, options) : cotun::open_tun(io, options); }, words);
    CHECK(open_files() == files);
    CHECK(interfaces() == before);
    return code;
}

// What a child that has made itself `prepare` is told: the errno, and the text.
template <typename Prepare>
std::string told_in_child(const std::string& clone_device, Prepare prepare) {
    return in_child([&]() -> std::string {
        if (!prepare()) return fmt::format("not prepared: {}", std::strerror(errno));
        cotun::reactor io;
        try {
            const cotun::device dev = cotun::open_tun(io, {.name = "never0", .clone_device = clone_device});
        } catch (const std::system_error& e) {
            return fmt::format("{}: {}", e.code().value(), e.what());
        }
        return "it was not refused";
    });
}

} // namespace

TEST_CASE("no /dev/net/tun", "[tun][refused]") {
    own_namespace here;
    cotun::reactor io;
    const std::error_code code = refused(io, {.name = "a0", .clone_device = "/dev/net/there-is-none"},
                                         {"open_tun", "a0", "/dev/net/there-is-none", "modprobe tun", "container"});
    CHECK(code == std::errc::no_such_file_or_directory);
    if (access("/dev/net", F_OK) != 0) return;
    const std::string told = told_in_child("/dev/net/tun", [] {
        return unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
               mount("none", "/dev/net", "tmpfs", 0, nullptr) == 0;
    });
    if (told.find("not prepared") == 0) SKIP("no mount namespace: " << told);
    CHECK_THAT(told, StartsWith(std::to_string(ENOENT)) && ContainsSubstring("there is no /dev/net/tun") &&
                         ContainsSubstring("modprobe tun"));
}

TEST_CASE("something else as the clone device", "[tun][refused]") {
    own_namespace here;
    cotun::reactor io;
    const std::error_code code =
        refused(io, {.name = "a0", .clone_device = "/dev/null"}, {"open_tun", "/dev/null", "clone device"});
    CHECK(code == std::errc::inappropriate_io_control_operation);
    refused(io, {.name = "a0", .clone_device = "/"}, {"open_tun", "opening /"});
    refused(io, {.name = "a0", .clone_device = ""}, {"open_tun"});
}

TEST_CASE("no permission for /dev/net/tun", "[tun][refused]") {
    tun_namespace here;
    const own_node node(0600);
    const std::string told = told_in_child(node.path(), become_nobody);
    CHECK_THAT(told, StartsWith(std::to_string(EACCES)) && ContainsSubstring("no permission for " + node.path()) &&
                         ContainsSubstring("root") && ContainsSubstring("container"));
}

TEST_CASE("no CAP_NET_ADMIN", "[tun][refused]") {
    tun_namespace here;
    const node_for_all node;
    const std::string told = told_in_child(node.path(), become_nobody);
    CHECK_THAT(told, StartsWith(std::to_string(EPERM)) && ContainsSubstring("never0") &&
                         ContainsSubstring("CAP_NET_ADMIN") && ContainsSubstring("setcap") &&
                         ContainsSubstring("--cap-add"));
    CHECK_FALSE(has_interface("never0"));
}

TEST_CASE("names that cannot be", "[tun][refused]") {
    tun_namespace here;
    cotun::reactor io;
    CHECK(refused(io, {.name = "abcdefghijklmnop"}, {"abcdefghijklmnop", "16 bytes", "15"}) ==
          std::errc::filename_too_long);
    CHECK(refused(io, {.name = std::string(200, 'x')}, {"200 bytes"}, true) == std::errc::filename_too_long);
    for (const std::string name :
         {"a/b", "/", "a b", " a", "a\t", "a\n", "a:b", ".", "..", "%d%d", "a%s", "a%", "%", "%%d"}) {
        CAPTURE(name);
        CHECK(refused(io, {.name = name}, {"open_tun(\"" + name + "\")"}) == std::errc::invalid_argument);
    }
    CHECK(refused(io, {.name = std::string("a\0b", 3)}, {"open_tap"}, true) == std::errc::invalid_argument);
    CHECK_FALSE(has_interface("a"));
    // A pattern that grows too long with its number.
    const std::error_code code = refused(io, {.name = "abcdefghijklmn%d"}, {"abcdefghijklmn%d"});
    CHECK((code == std::errc::filename_too_long || code == std::errc::invalid_argument));
}

TEST_CASE("names in use", "[tun][refused]") {
    tun_namespace here;
    cotun::reactor io;
    const cotun::device ours = cotun::open_tun(io, {.name = "taken"});
    output_of("ip link add pair0 type veth peer name pair1");
    output_of("ip tuntap add dev kept mode tun");
    for (const std::string name : {"taken", "pair0", "kept", "lo"}) {
        CAPTURE(name);
        CHECK(refused(io, {.name = name}, {"open_tun(\"" + name + "\")", "in use"}) ==
              std::errc::device_or_resource_busy);
        CHECK(refused(io, {.name = name}, {"open_tap(\"" + name + "\")", "in use"}, true) ==
              std::errc::device_or_resource_busy);
    }
    CHECK(has_interface("taken"));
}

TEST_CASE("MTUs that cannot be", "[tun][refused]") {
    tun_namespace here;
    cotun::reactor io;
    for (const unsigned mtu : {1U, 67U, 65536U, 4'000'000'000U}) {
        CAPTURE(mtu);
        CHECK(refused(io, {.name = "a0", .mtu = mtu}, {"a0", std::to_string(mtu), "68 to 65535"}) ==
              std::errc::invalid_argument);
    }
    CHECK(refused(io, {.name = "a0", .addresses = {"10.9.0.1/24", "fd09::1/64"}, .mtu = 1279},
                  {"a0", "1279", "1280", "IPv6"}) == std::errc::invalid_argument);
    // A TAP device's MTU ends earlier: the kernel's bound, 65535 less the Ethernet header.
    const std::error_code code = refused(io, {.name = "a0", .mtu = 65535}, {"a0", "65535", "65521"}, true);
    CHECK(code == std::errc::invalid_argument);
}

TEST_CASE("addresses that are refused", "[tun][refused]") {
    tun_namespace here;
    cotun::reactor io;
    CHECK(refused(io, {.name = "a0", .addresses = {"10.9.0.1/24", "10.8.0.1/24", "10.9.0.1/24"}},
                  {"a0", "10.9.0.1/24"}) == std::errc::file_exists);
    CHECK(refused(io, {.name = "a0", .addresses = {"fd09::1/64", "fd09::1/64"}}, {"a0", "fd09::1/64"}, true) ==
          std::errc::file_exists);
    CHECK(refused(io, {.name = "a0", .addresses = {"ff02::1/64"}}, {"a0", "ff02::1/64"}));
    for (const char* text : {"", "10.9.0.1/33", "10.9.0/24", "10.9.0.1/", "fd00::1/129", "10.9.0.1/24 ", "x"}) {
        CAPTURE(text);
        CHECK(refusal([&] { [[maybe_unused]] const cotun::device_options o{.name = "a0", .addresses = {text}}; },
                      {text}) == std::errc::invalid_argument);
    }
    std::ofstream("/proc/sys/net/ipv6/conf/default/disable_ipv6") << "1" << std::flush;
    refused(io, {.name = "a0", .addresses = {"fd09::1/64"}}, {"a0", "fd09::1/64"});
}

TEST_CASE("namespaces that are not there", "[tun][refused][netns]") {
    tun_namespace here;
    cotun::reactor io;
    CHECK(refused(io, {.name = "a0", .netns = "cotun-there-is-none"},
                  {"open_tun", "/run/netns/cotun-there-is-none", "ip netns add"}) ==
          std::errc::no_such_file_or_directory);
    CHECK(refused(io, {.name = "a0", .netns = "/no/such/path"}, {"open_tun", "/no/such/path"}) ==
          std::errc::no_such_file_or_directory);
    CHECK(refused(io, {.name = "a0", .netns = "/dev/null"}, {"open_tun", "/dev/null", "ip netns"}) ==
          std::errc::invalid_argument);
    // Of another kind than a network namespace.
    CHECK(refused(io, {.name = "a0", .netns = "/proc/self/ns/uts"}, {"/proc/self/ns/uts"}) ==
          std::errc::invalid_argument);
    const named_namespace there("inner"); // a refusal in the other namespace
    CHECK(refused(io, {.name = "lo", .netns = there.name()}, {"open_tun(\"lo\")", "in use"}) ==
          std::errc::device_or_resource_busy);
}

TEST_CASE("a reactor without buffers for the device", "[tun][refused]") {
    tun_namespace here;
    SECTION("none of the size") {
        cotun::reactor io({.pool = {.small_count = 16, .large_count = 0}});
        CHECK(refused(io, {.name = "a0", .mtu = 9000}, {"large_count"}) == std::errc::message_size);
    }
    SECTION("too few") {
        cotun::reactor io({.pool = {.small_count = 2, .large_count = 0}});
        const cotun::device first = cotun::open_tun(io, {.name = "first"});
        refused(io, {.name = "a0"}, {"small_count"});
        refused(io, {.name = "a0"}, {"small_count"});
    }
    SECTION("too few requests") {
        cotun::reactor io({.requests = 32});
        std::vector<cotun::device> all;
        const std::error_code code = refusal(
            [&] {
                for (int i = 0; i < 100; ++i) all.push_back(cotun::open_tun(io, {.name = fmt::format("a{}", i)}));
            },
            {"requests"});
        CHECK(code == std::errc::no_buffer_space);
        CHECK(all.size() >= 2);
        CHECK(has_interface(fmt::format("a{}", all.size() - 1)));
        CHECK_FALSE(has_interface(fmt::format("a{}", all.size())));
    }
}
