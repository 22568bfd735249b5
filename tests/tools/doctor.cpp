// SPDX-License-Identifier: Apache-2.0
//
// `cotun doctor` where all is well, and where one thing is wrong: it must name that thing, say what to do about it, and
// have the exit status that goes with it; it must never say that something works which it has not seen working.
//
// What is wrong is made so for the program alone: by mounts in a namespace of its own, by filters, limits and missing
// capabilities that end with it. No test changes the system's own sysctls.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/xattr.h>

#include <grp.h>

#include <array>
#include <cstdint>

#include "../support/sanitizers.hpp"
#include "cotun_program.hpp"

using namespace test;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr long ring_set_up = 425, ring_enter = 426, ring_register = 427; // the same on every machine

/// What `doctor --json` said, read by another program's JSON parser: a line "name|state|seen|instead|remedy" a check.
class diagnosis {
public:
    explicit diagnosis(const told& t) : status(t.status), text(t.output), errors(t.errors) {
        const temporary_directory here;
        std::ofstream(here / "json") << t.output;
        std::ofstream(here / "read.py")
            << "import json, sys\n"
               "all = json.load(open(sys.argv[1]))\n"
               "print('tunnel_can_run|%s' % all['tunnel_can_run'])\n"
               "for c in all['checks']:\n"
               "    print('|'.join(c[k] for k in ('name', 'state', 'seen', 'instead', 'remedy')))\n";
        lines_ = "\n" + output_of("python3 " + (here / "read.py") + " " + (here / "json"));
    }
    std::string line(const std::string& name) const {
        const std::size_t at = lines_.find("\n" + name + "|");
        if (at == std::string::npos) return "no such check: " + name;
        return lines_.substr(at + 1, lines_.find('\n', at + 1) - at - 1);
    }
    std::string state(const std::string& name) const {
        const std::string all = line(name).substr(name.size() + 1);
        return all.substr(0, all.find('|'));
    }
    bool can_run() const { return line("tunnel_can_run") == "tunnel_can_run|True"; }
    std::size_t count(const std::string& state) const {
        std::size_t found = 0;
        for (std::size_t at = 0; (at = lines_.find("|" + state + "|", at)) != std::string::npos; ++at) ++found;
        return found;
    }

    const int status;
    const std::string text, errors;

private:
    std::string lines_;
};

template <typename Prepare>
diagnosis diagnose(Prepare prepare, const std::string& words = "") {
    return diagnosis(run_prepared(cotun_path() + " doctor --json " + words, prepare));
}

bool nothing() { return true; }

bool become_nobody() { return setgroups(0, nullptr) == 0 && setgid(65534) == 0 && setuid(65534) == 0; }

// Whether others than root may make user namespaces here, with capabilities in them.
bool user_namespaces() {
    return in_child([]() -> std::string {
               if (!become_nobody()) return "no";
               return run("unshare --user --map-root-user --net ip link set lo up").good() ? "yes" : "no";
           }) == "yes";
}

// Others than root, who is the only one in a user namespace such as `unshare -Ur` makes.
void need_other_users() {
    if (!has_other_users()) SKIP("there is no other user in this user namespace");
}

void need_ring() {
    if (diagnose(nothing).state("ring") != "works") SKIP("no io_uring here");
}

std::string links() { return output_of("ip -j link"); }

} // namespace

TEST_CASE("doctor: where a tunnel can run, it says so, and leaves nothing behind", "[tools]") {
    const tun_namespace here;
    need_ring();
    const std::string before = links();
    const diagnosis d = diagnose(nothing);
    CAPTURE(d.text);
    CHECK(d.status == 0);
    CHECK(d.can_run());
    CHECK(d.errors.empty());
    CHECK(d.count("fails") == 0);
    CHECK(d.count("not tried") == 0);
    for (const char* name :
         {"tun_node", "tun_open", "cap_net_admin", "may_create",  "ring", "ring_enter", "buffer_ring",  "recv",
          "accept",   "connect",  "poll",          "write",       "send", "sendmsg",    "async_cancel", "tun",
          "tap",      "tunnel",   "vnet_hdr",      "multi_queue", "csum", "tso4"}) {
        CAPTURE(d.line(name));
        CHECK(d.state(name) == "works");
    }
    CHECK(links() == before);
}

TEST_CASE("doctor: the text has the facts that the JSON has, and no colours where there is no terminal", "[tools]") {
    const tun_namespace here;
    const temporary_directory files;
    const std::string program = cotun_path() + " doctor";
    run(program + " >" + (files / "text"));
    run(program + " --json >" + (files / "json"));
    std::ofstream(files / "compare.py") << "import json, sys\n"
                                           "text = open(sys.argv[1]).read()\n"
                                           "all = json.load(open(sys.argv[2]))\n"
                                           "names = [c['name'] for c in all['checks']]\n"
                                           "assert len(names) == len(set(names)), names\n"
                                           "assert '\\033' not in text\n"
                                           "for c in all['checks']:\n"
                                           "    for key in ('group', 'title', 'seen', 'instead', 'remedy'):\n"
                                           "        assert c[key] in text, c\n"
                                           "print('the same')\n";
    const outcome compared = run("python3 " + (files / "compare.py") + " " + (files / "text") + " " + (files / "json"));
    CHECK(compared.output == "the same\n");
}

TEST_CASE("doctor: no device node", "[tools]") {
    const own_namespace here;
    const diagnosis d = diagnose([] { return private_mounts() && mount("tmpfs", "/dev/net", "tmpfs", 0, "") == 0; });
    CAPTURE(d.text);
    CHECK(d.status == 1);
    CHECK_FALSE(d.can_run());
    CHECK_THAT(d.line("tun_node"), ContainsSubstring("|fails|") && ContainsSubstring("ENOENT") &&
                                       ContainsSubstring("modprobe tun") && ContainsSubstring("--device /dev/net/tun"));
    for (const char* name : {"tun_open", "may_create", "tun", "vnet_hdr", "tso4", "tunnel", "read_multishot"}) {
        CAPTURE(d.line(name));
        CHECK(d.state(name) == "not tried");
        CHECK_THAT(d.line(name), ContainsSubstring("because"));
    }
}

TEST_CASE("doctor: something else in the place of the device node", "[tools]") {
    const tun_namespace here;
    const diagnosis null =
        diagnose([] { return private_mounts() && mount("/dev/null", "/dev/net/tun", nullptr, MS_BIND, nullptr) == 0; });
    CHECK(null.status == 1);
    CHECK_THAT(null.line("tun_node"), ContainsSubstring("|fails|character device 1:3") && ContainsSubstring("mknod"));
    const diagnosis file = diagnose(
        [] { return private_mounts() && mount("/etc/passwd", "/dev/net/tun", nullptr, MS_BIND, nullptr) == 0; });
    CHECK(file.status == 1);
    CHECK_THAT(file.line("tun_node"), ContainsSubstring("|fails|it is no character device"));
}

TEST_CASE("doctor: no permission for the device node", "[tools]") {
    const tun_namespace here;
    need_other_users();
    const diagnosis d =
        diagnose([] { return open_device_node() && chmod("/dev/net/tun", 0600) == 0 && become_nobody(); });
    CAPTURE(d.text);
    CHECK(d.status == 1);
    CHECK_THAT(d.line("tun_node"), ContainsSubstring("|works|mode 0600, user 0"));
    CHECK_THAT(d.line("tun_open"), ContainsSubstring("|fails|EACCES") && ContainsSubstring("run as root"));
}

TEST_CASE("doctor: root without CAP_NET_ADMIN", "[tools]") {
    const tun_namespace here;
    need_ring();
    const std::string before = links();
    const diagnosis d = diagnose([] { return without_capability(CAP_NET_ADMIN); });
    CAPTURE(d.text);
    CHECK(d.status == 1);
    CHECK_THAT(d.line("cap_net_admin"), ContainsSubstring("|lacks|") && ContainsSubstring("--cap-add NET_ADMIN"));
    CHECK_THAT(d.line("cap_bounding"), ContainsSubstring("it is not there"));
    CHECK_THAT(d.line("may_create"), ContainsSubstring("|fails|TUNSETIFF: EPERM") && ContainsSubstring("setcap") &&
                                         ContainsSubstring("--cap-add NET_ADMIN"));
    // What the driver can do is still to be known: in a user namespace. The tunnel there does not make one possible
    // here.
    if (d.state("trial_place") == "note")
        CHECK(d.state("tunnel") == "works");
    else
        CHECK(d.state("tunnel") == "not tried");
    CHECK(links() == before);
}

TEST_CASE("doctor: nobody, with a device node for everybody; and in a user namespace, where it works", "[tools]") {
    const tun_namespace here;
    need_other_users();
    need_ring();
    const diagnosis outside = diagnose([] { return open_device_node() && become_nobody(); });
    CAPTURE(outside.text);
    CHECK(outside.status == 1);
    CHECK(outside.state("tun_open") == "works");
    CHECK_THAT(outside.line("may_create"),
               ContainsSubstring("|fails|TUNSETIFF: EPERM") && ContainsSubstring("unshare --user"));
    if (!user_namespaces()) SKIP("nobody may make user namespaces here");
    if (cotun::test::thread_sanitized) SKIP("ThreadSanitizer's thread is in the way of a user namespace");
    CHECK(outside.state("tun") == "works");
    CHECK(outside.state("tso4") == "works");

    const diagnosis inside =
        diagnosis(run_prepared("unshare --user --map-root-user --net " + cotun_path() + " doctor --json",
                               [] { return open_device_node() && become_nobody(); }));
    CAPTURE(inside.text);
    CHECK(inside.status == 0);
    CHECK(inside.state("may_create") == "works");
    CHECK(inside.state("tunnel") == "works");

    // A user namespace alone: its capabilities say nothing about the network namespace, which is not its own.
    const diagnosis misplaced =
        diagnosis(run_prepared("unshare --user --map-root-user " + cotun_path() + " doctor --json",
                               [] { return open_device_node() && become_nobody(); }));
    CHECK(misplaced.status == 1);
    CHECK(misplaced.state("cap_net_admin") == "works");
    CHECK_THAT(misplaced.line("may_create"),
               ContainsSubstring("|fails|") && ContainsSubstring("in spite of") && ContainsSubstring("unshare --net"));
}

// As by `sysctl -w kernel.io_uring_disabled=2`, without doing it to the whole system: the file is a stand-in, and the
// refusal, EPERM, which the kernel would give, a filter's.
TEST_CASE("doctor: io_uring switched off", "[tools]") {
    const tun_namespace here;
    const char* const path = "/proc/sys/kernel/io_uring_disabled";
    if (access(path, F_OK) != 0) SKIP("this kernel has no such switch");
    const temporary_directory files;
    const diagnosis off = diagnose([&] {
        return private_mounts() && pretend_file(path, "2\n", files / "two") && refuse_calls({ring_set_up}, EPERM);
    });
    CAPTURE(off.text);
    CHECK(off.status == 1);
    CHECK_FALSE(off.can_run());
    CHECK_THAT(off.line("io_uring_disabled"), ContainsSubstring("|lacks|2: for nobody"));
    CHECK_THAT(off.line("ring"), ContainsSubstring("|fails|EPERM") &&
                                     ContainsSubstring("kernel.io_uring_disabled = 2") &&
                                     ContainsSubstring("sysctl -w kernel.io_uring_disabled=0"));
    CHECK(off.state("defer_taskrun") == "not tried");
    CHECK(off.state("recv") == "not tried");
    CHECK(off.state("tunnel") == "not tried");
    CHECK(off.state("tso4") == "works"); // it needs no ring

    const diagnosis kept = diagnose([&] {
        return private_mounts() && pretend_file(path, "1\n", files / "one") && refuse_calls({ring_set_up}, EPERM);
    });
    CHECK(kept.status == 1);
    CHECK_THAT(kept.line("ring"), ContainsSubstring("|fails|") && ContainsSubstring("kernel.io_uring_group"));
}

TEST_CASE("doctor: a seccomp filter that refuses io_uring, or hides it", "[tools]") {
    const tun_namespace here;
    for (const int error : {EPERM, ENOSYS}) {
        CAPTURE(error);
        const diagnosis d = diagnose([=] { return refuse_calls({ring_set_up, ring_enter, ring_register}, error); });
        CAPTURE(d.text);
        CHECK(d.status == 1);
        CHECK_FALSE(d.can_run());
        CHECK_THAT(d.line("seccomp"), ContainsSubstring("mode 2, filters: 1"));
        CHECK_THAT(d.line("ring"), ContainsSubstring(error == EPERM ? "|fails|EPERM" : "|fails|ENOSYS") &&
                                       ContainsSubstring("seccomp") && ContainsSubstring("allow io_uring_setup"));
        CHECK(d.state("tunnel") == "not tried");
    }
}

TEST_CASE("doctor: a filter that lets a ring be made, but not entered or registered with", "[tools]") {
    const tun_namespace here;
    need_ring();
    for (const long call : {ring_enter, ring_register}) {
        CAPTURE(call);
        const diagnosis d = diagnose([=] { return refuse_calls({call}, EPERM); });
        CAPTURE(d.text);
        CHECK(d.status == 1);
        CHECK(d.state("ring") == "works");
        CHECK_THAT(d.line("ring_enter"), ContainsSubstring("|fails|") && ContainsSubstring("seccomp profile"));
        CHECK(d.count("works") > 10); // devices are tried all the same
        CHECK(d.state("tun") == "works");
    }
}

// The kernel counts locked memory by user, over all of the user's processes: so each program runs as a user of its own,
// without CAP_IPC_LOCK, in a user namespace that gives it what it needs besides. Kernels from 6.14 on count a ring's
// memory; those from 5.12 on until then do not, and have nothing to tell.
TEST_CASE("doctor: 64 KiB of lockable memory, and none", "[tools]") {
    const tun_namespace here;
    need_other_users();
    need_ring();
    if (!user_namespaces()) SKIP("nobody may make user namespaces here");
    const auto limited = [](rlim_t bytes, uid_t user) {
        return diagnosis(run_prepared("unshare --user --map-root-user --net " + cotun_path() + " doctor --json", [=] {
            const rlimit limit{bytes, bytes};
            return open_device_node() && setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && setgroups(0, nullptr) == 0 &&
                   setgid(65534) == 0 && setuid(user) == 0;
        }));
    };
    const auto user = static_cast<uid_t>(1'000'000 + 2 * getpid());
    const diagnosis none = limited(0, user);
    CAPTURE(none.text);
    const bool counted = none.state("ring") != "works";
    const diagnosis tight = limited(64 * 1024, user + 1);
    CAPTURE(tight.text);
    CHECK_THAT(tight.line("memlock"), ContainsSubstring("64 KiB"));
    CHECK(tight.status == 0); // a smaller ring is enough, as the trial of a tunnel shows
    CHECK(tight.state("tunnel") == "works");
    if (!counted) return;
    CHECK(none.status == 1);
    CHECK_THAT(none.line("ring"), ContainsSubstring("|fails|ENOMEM") && ContainsSubstring("RLIMIT_MEMLOCK is 0 KiB") &&
                                      ContainsSubstring("ulimit -l"));
    CHECK_THAT(tight.line("memlock"), ContainsSubstring("|lacks|") && ContainsSubstring("instead of 1024 and 2048") &&
                                          ContainsSubstring("a smaller ring") && ContainsSubstring("ulimit -l") &&
                                          ContainsSubstring("CAP_IPC_LOCK"));
}

// As Docker with --cap-add NET_ADMIN and its default profile: no namespace can be made, so that the devices are tried
// in the one that is there.
TEST_CASE("doctor: where no namespace can be made, it tries in this one, and leaves nothing behind", "[tools]") {
    const tun_namespace here;
    need_ring();
    const std::string before = links();
    const diagnosis d = diagnose([] { return refuse_calls({__NR_unshare}, EPERM); });
    CAPTURE(d.text);
    CHECK(d.status == 0);
    CHECK_THAT(d.line("trial_place"), ContainsSubstring("in this network namespace"));
    CHECK(d.state("tun") == "works");
    CHECK(d.state("tunnel") == "works");
    CHECK_THAT(d.line("tunnel"), ContainsSubstring("no packet was passed"));
    if (d.state("read_multishot") == "works") CHECK_THAT(d.line("read_multishot"), ContainsSubstring("no packet"));
    CHECK(links() == before);

    const diagnosis powerless =
        diagnose([] { return without_capability(CAP_NET_ADMIN) && refuse_calls({__NR_unshare}, EPERM); });
    CHECK(powerless.status == 1);
    CHECK_THAT(powerless.line("trial_place"), ContainsSubstring("|not tried|because") && ContainsSubstring("EPERM"));
    CHECK(powerless.state("tun") == "not tried");
    CHECK(links() == before);
}

namespace {

// Gives a file what `setcap cap_net_admin+ep` gives it, or without the effective bit.
bool give_net_admin(const std::string& path, bool effective) {
    std::array<std::uint32_t, 5> value{0x02000000U | (effective ? 1U : 0U), 1U << CAP_NET_ADMIN, 0, 0,
                                       0}; // little-endian
    return setxattr(path.c_str(), "security.capability", value.data(), sizeof value, 0) == 0;
}

} // namespace

TEST_CASE("doctor: in a user namespace that has no other user it works, and without capabilities it explains",
          "[tools]") {
    const tun_namespace here;
    need_ring();
    const std::string words = "unshare --user --map-root-user --net " + cotun_path() + " doctor --json";
    if (!run("unshare --user --map-root-user --net true").good()) SKIP("no user namespace can be made here");
    const diagnosis inside = diagnosis(run_prepared(words, nothing));
    CAPTURE(inside.text);
    CHECK(inside.status == 0);
    CHECK(inside.state("may_create") == "works");
    CHECK(inside.state("tunnel") == "works");
    const diagnosis powerless = diagnosis(
        run_prepared("unshare --user --map-root-user --net setpriv --bounding-set=-net_admin --inh-caps=-net_admin " +
                         cotun_path() + " doctor --json",
                     nothing));
    CAPTURE(powerless.text);
    CHECK(powerless.status == 1);
    CHECK_THAT(powerless.line("cap_net_admin"), ContainsSubstring("|lacks|"));
    CHECK_THAT(powerless.line("may_create"), ContainsSubstring("|fails|TUNSETIFF: EPERM"));
}

TEST_CASE("doctor: the file capabilities of a program", "[tools]") {
    const tun_namespace here;
    need_other_users();
    need_ring();
    const temporary_directory files;
    const std::string path = files / "a program"; // a blank in its name, as may be
    std::filesystem::copy_file("/bin/true", path);
    const std::string words = "--binary " + quoted(path);
    const auto as_nobody = [] { return open_device_node() && become_nobody(); };

    const diagnosis without = diagnose(as_nobody, words);
    CAPTURE(without.text);
    CHECK(without.status == 1);
    CHECK_THAT(without.line("binary"),
               ContainsSubstring("it has none|") && ContainsSubstring("setcap cap_net_admin+ep"));

    if (!give_net_admin(path, false)) SKIP("no file capabilities on this file system");
    const diagnosis half = diagnose(as_nobody, words);
    CHECK(half.status == 1);
    CHECK_THAT(half.line("binary"), ContainsSubstring("|lacks|") && ContainsSubstring("not effective"));

    give_net_admin(path, true);
    const diagnosis with = diagnose(as_nobody, words);
    CAPTURE(with.text);
    CHECK(with.state("binary") == "works");
    CHECK_THAT(with.line("may_create"), ContainsSubstring("|works|not by this process, but by the program"));
    CHECK(with.status == 0);

    const diagnosis hindered =
        diagnose([&] { return as_nobody() && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0; }, words);
    CHECK(hindered.status == 1);
    CHECK_THAT(hindered.line("binary"), ContainsSubstring("|lacks|") && ContainsSubstring("no_new_privs"));

    const diagnosis unbounded = diagnose([] { return without_capability(CAP_NET_ADMIN); }, words);
    CHECK(unbounded.status == 1);
    CHECK_THAT(unbounded.line("binary"), ContainsSubstring("|lacks|") && ContainsSubstring("bounding set"));
}
