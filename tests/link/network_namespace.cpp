// SPDX-License-Identifier: Apache-2.0
//
// Namespaces as ip(8) sees them. Those that are made here have names like those of the other tests, and are swept with
// them.
#include "../support/privileges.hpp"
#include "../support/sanitizers.hpp"
#include "control_support.hpp"

#include <fcntl.h>
#include <fstream>
#include <sys/socket.h>

using namespace test;
using cotun::netns_reference;
using cotun::network_namespace;

namespace {

std::string unique(const std::string& tag) { return namespace_prefix + std::to_string(getpid()) + "-" + tag; }

template <typename Call>
std::string refused(int error, Call call) {
    try {
        call();
    } catch (const std::system_error& e) {
        INFO(e.what());
        CHECK(e.code() == std::error_code(error, std::generic_category()));
        return e.what();
    }
    FAIL_CHECK("it was not refused");
    return {};
}

} // namespace

TEST_CASE("a namespace is made and removed, and ip(8) sees it", "[link][namespace]") {
    own_namespace here;
    const named_namespace first("first"); // so that the folder is there, and old ones are swept
    const std::string name = unique("made");
    const network_namespace made = network_namespace::create(name);
    CHECK_THAT(output_of("ip netns list"), ContainsSubstring(name));
    CHECK_THAT(output_of("ip -n " + name + " -j link"), ContainsSubstring("\"lo\""));
    CHECK(made == network_namespace::open(name));
    CHECK(made == network_namespace::open("/run/netns/" + name));
    CHECK(made == network_namespace::open(made));
    CHECK(made == network_namespace::open(netns_reference::of_descriptor(made.native_handle())));
    CHECK_FALSE(made == network_namespace::current());
    CHECK(network_namespace::current().inode() == current_namespace().second);
    CHECK(network_namespace::open(netns_reference::of_process(getpid())).inode() != 0);
    const auto names = network_namespace::names();
    CHECK(std::count(names.begin(), names.end(), name) == 1);
    CHECK_THAT(refused(EEXIST, [&] { (void)network_namespace::create(name); }), ContainsSubstring("the name is taken"));

    network_namespace::remove(name);
    CHECK_THAT(output_of("ip netns list"), !ContainsSubstring(name));
    CHECK(access(("/run/netns/" + name).c_str(), F_OK) != 0);
    CHECK_THAT(refused(ENOENT, [&] { network_namespace::remove(name); }),
               ContainsSubstring("no namespace of that name"));
    CHECK_THAT(refused(ENOENT, [&] { (void)network_namespace::open(name); }),
               ContainsSubstring(name) && ContainsSubstring("ip netns add"));
    CHECK(made.run_in([] { return has_interface("lo"); })); // the handle keeps it

    // What ip(8) has made, too.
    const std::string theirs = unique("theirs");
    output_of("ip netns add " + theirs);
    network_namespace::remove(theirs);
    CHECK_THAT(output_of("ip netns list"), !ContainsSubstring(theirs));
}

TEST_CASE("a function runs in a namespace, and the caller stays where it is", "[link][namespace]") {
    own_namespace here;
    const auto home = current_namespace();
    const network_namespace lab = network_namespace::create_anonymous();
    const auto there = lab.run_in([] { return current_namespace(); });
    CHECK(there != home);
    CHECK(there.second == lab.inode());
    CHECK(current_namespace() == home);
    int calls = 0;
    lab.run_in([&] { ++calls; });
    CHECK(calls == 1);
    CHECK_THROWS_AS(lab.run_in([] { throw std::runtime_error("mine"); }), std::runtime_error);

    cotun::reactor io;
    cotun::link_control links(io, {.netns = lab});
    io.run(links.set_up("lo"));
    io.run(links.create_veth({.name = "a0", .peer_name = "b0"}));
    CHECK_FALSE(has_interface("a0"));
    CHECK(lab.run_in([] { return has_interface("a0"); }));
    io.run(links.move_to("b0", network_namespace::current()));
    CHECK(has_interface("b0"));
}

TEST_CASE("what is no namespace, or none any more, is named", "[link][namespace]") {
    own_namespace here;
    const named_namespace first("stale");
    const std::string stale = unique("file");
    std::ofstream("/run/netns/" + stale) << "";
    CHECK_THAT(refused(EINVAL, [&] { (void)network_namespace::open(stale); }),
               ContainsSubstring(stale) && ContainsSubstring("no namespace (any more)"));
    network_namespace::remove(stale);
    CHECK_THAT(refused(EINVAL, [&] { (void)network_namespace::open("/proc/self/ns/uts"); }),
               ContainsSubstring("not a network namespace"));
    CHECK_THAT(refused(EBADF, [&] { (void)network_namespace::open(netns_reference::of_descriptor(987654)); }),
               ContainsSubstring("987654"));
    CHECK_THAT(refused(ENOENT, [&] { (void)network_namespace::open(netns_reference::of_process(4194304)); }),
               ContainsSubstring("process"));
    for (const std::string& name : {std::string(), std::string("."), std::string(".."), std::string("a/b"),
                                    std::string(256, 'x'), std::string("a\0b", 3)}) {
        CHECK_THAT(refused(EINVAL, [&] { (void)network_namespace::create(name); }),
                   ContainsSubstring("1 to 255 bytes"));
        CHECK_THAT(refused(EINVAL, [&] { network_namespace::remove(name); }), ContainsSubstring("1 to 255 bytes"));
    }
    network_namespace one = network_namespace::create_anonymous();
    const network_namespace two = std::move(one);
    CHECK_THROWS_AS(one.inode(), std::system_error); // moved from
    CHECK(two.inode() != 0);
}

TEST_CASE("without privileges, namespaces are refused with the remedy", "[link][namespace]") {
    own_namespace here;
    const std::string said = in_child([]() -> std::string {
        if (!give_up_capabilities()) return "not prepared";
        std::string text;
        try {
            (void)network_namespace::create_anonymous();
        } catch (const std::system_error& e) {
            text += e.what();
        }
        try {
            network_namespace::current().run_in([] {});
        } catch (const std::system_error& e) {
            text += e.what();
        }
        return text;
    });
    CHECK_THAT(said, ContainsSubstring("CAP_SYS_ADMIN") && ContainsSubstring("unshare --user") &&
                         ContainsSubstring("entering the network namespace"));
}

TEST_CASE("links and namespaces are controlled without root in a user namespace", "[link][namespace]") {
    if (!run("unshare -Urn true").good()) SKIP("no user namespace can be made here");
    if (cotun::test::thread_sanitized) SKIP("ThreadSanitizer's thread is in the way of a user namespace");
    const std::string said = in_child([]() -> std::string {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return "cannot unshare";
        cotun::reactor io;
        cotun::link_control links(io);
        io.run(links.create_veth({.name = "a0", .peer_name = "b0"}));
        io.run(links.add_address("a0", "10.9.0.1/24"));
        io.run(links.set_up("a0"));
        const network_namespace lab = network_namespace::create_anonymous();
        io.run(links.move_to("b0", lab));
        cotun::link_control there(io, {.netns = lab});
        return io.run(there.get_link("b0")).name == "b0" && io.run(links.get_link("a0")).is_up() ? "works" : "odd";
    });
    CHECK(said == "works");
}
