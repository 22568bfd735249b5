// SPDX-License-Identifier: Apache-2.0
//
// The names of all that `cotun doctor` looks at: the one place where they are written down, with what cotun does where
// a thing is lacking. The kernels named are where it came; whether it is there is found by trying.
#pragma once

#include "report.hpp"

namespace cotun::command::features {

// The clone device.
inline constexpr std::string_view node = "device node";
inline constexpr feature tun_node{
    node, "tun_node", "/dev/net/tun: character device 10:200",
    true, "",         "`modprobe tun`; in a container, hand it in (--device /dev/net/tun)"};
inline constexpr feature tun_open{
    node, "tun_open", "/dev/net/tun can be opened",
    true, "",         "run as root, or see to its mode; in a container, hand it in (--device /dev/net/tun)"};

// Who may make an interface.
inline constexpr std::string_view privileges = "privileges";
inline constexpr feature user{privileges, "user", "user"};
inline constexpr feature capability{privileges, "cap_net_admin", "CAP_NET_ADMIN, effective", false,
                                    "an interface that an administrator made, and gave to this user, if there is one"};
inline constexpr feature bounding{privileges, "cap_bounding", "CAP_NET_ADMIN, bounding set"};
inline constexpr feature no_new_privileges{privileges, "no_new_privs", "programs may gain privileges"};
inline constexpr feature binary{privileges, "binary", "file capabilities of the program"};
inline constexpr feature may_create{
    privileges,
    "may_create",
    "interfaces can be made in this network namespace",
    true,
    "",
    "run as root, `setcap cap_net_admin+ep` the program, `unshare --user --map-root-user --net`, or, in a container, "
    "--cap-add NET_ADMIN"};

// Where this is.
inline constexpr std::string_view surroundings = "namespaces";
inline constexpr feature container{surroundings, "container", "container"};
inline constexpr feature user_namespace{surroundings, "user_namespace", "user namespace"};
inline constexpr feature net_namespace{surroundings, "net_namespace", "network namespace"};
inline constexpr feature trial_place{surroundings, "trial_place", "where devices were tried"};

// Whether there is io_uring.
inline constexpr std::string_view io_uring = "io_uring";
inline constexpr feature ring_sysctl{
    io_uring, "io_uring_disabled", "kernel.io_uring_disabled", false, "", "`sysctl -w kernel.io_uring_disabled=0`"};
inline constexpr feature seccomp{io_uring, "seccomp", "seccomp"};
inline constexpr feature ring_set_up{io_uring, "ring", "a ring can be made", true};
inline constexpr feature ring_enter{
    io_uring, "ring_enter", "a ring can be enabled and entered",
    true,     "",           "allow io_uring_enter and io_uring_register in the seccomp profile"};
inline constexpr feature memlock{io_uring,
                                 "memlock",
                                 "lockable memory (RLIMIT_MEMLOCK)",
                                 false,
                                 "a smaller ring; polls where there is no memory for a ring of buffers",
                                 "raise `ulimit -l` (container engines: --ulimit memlock), or run with CAP_IPC_LOCK"};
inline constexpr feature deferred{
    io_uring,   "defer_taskrun", "SINGLE_ISSUER, DEFER_TASKRUN", false, "COOP_TASKRUN, or plain completions",
    "Linux 6.1"};
inline constexpr feature cooperative{io_uring, "coop_taskrun",      "COOP_TASKRUN, TASKRUN_FLAG",
                                     false,    "plain completions", "Linux 5.19"};
inline constexpr feature min_wait{
    io_uring,    "min_wait", "waits that gather (min_wait_usec)", false, "waits that end with the first completion",
    "Linux 6.12"};
inline constexpr feature registered_ring{io_uring, "registered_ring",          "the ring's own descriptor registered",
                                         false,    "a look-up for each entry", "Linux 5.18"};
inline constexpr feature registered_files{io_uring,
                                          "registered_files",
                                          "registered files that go at once when removed",
                                          false,
                                          "plain descriptors: a look-up for each operation",
                                          "Linux 6.13"};
inline constexpr feature buffer_ring{io_uring,
                                     "buffer_ring",
                                     "provided-buffer rings",
                                     false,
                                     "polls, then reads, of devices and datagrams; streams are refused",
                                     "Linux 5.19"};

// The requests, each tried as cotun makes it.
inline constexpr std::string_view requests = "io_uring requests";
inline constexpr std::string_view no_streams = "nothing: streams (TCP and Unix) are refused or fail";
inline constexpr feature read_multishot{
    requests,   "read_multishot", "READ_MULTISHOT on a device", false, "a poll, then reads until the device is empty",
    "Linux 6.7"};
inline constexpr feature receive_multishot{
    requests,   "recvmsg_multishot", "RECVMSG, multishot", false, "a poll, then recvmsg(2) until the socket is empty",
    "Linux 6.0"};
inline constexpr feature receive{requests, "recv", "RECV into a provided buffer", false, no_streams, "Linux 5.19"};
inline constexpr feature stream_multishot{requests, "recv_multishot",           "RECV, multishot",
                                          false,    "a receive for each piece", "Linux 6.0"};
inline constexpr feature accept{requests, "accept", "ACCEPT", false, no_streams, "Linux 5.19"};
inline constexpr feature accept_multishot{
    requests, "accept_multishot", "ACCEPT, multishot", false, "an accept for each connection", "Linux 5.19"};
inline constexpr feature connect{requests, "connect", "CONNECT", false, no_streams, "Linux 5.19"};
inline constexpr feature poll{requests, "poll", "POLL_ADD, multishot", true, "", "Linux 5.19"};
inline constexpr feature write{requests, "write", "WRITE", true, "", "Linux 5.19"};
inline constexpr feature send{requests, "send", "SEND", true, "", "Linux 5.19"};
inline constexpr feature send_message{requests, "sendmsg", "SENDMSG", true, "", "Linux 5.19"};
inline constexpr feature cancel{requests, "async_cancel", "ASYNC_CANCEL", true, "", "Linux 5.19"};
inline constexpr feature message_ring{
    requests, "msg_ring", "MSG_RING, from reactor to reactor", false, "a system call for each wake-up", "Linux 5.18"};

// The TUN driver.
inline constexpr std::string_view driver = "TUN driver";
inline constexpr feature tun_device{driver, "tun", "a TUN device (IFF_TUN, IFF_NO_PI)",
                                    true,   "",    "a kernel with CONFIG_TUN"};
inline constexpr feature tap_device{driver, "tap", "a TAP device (IFF_TAP)"};
inline constexpr feature exclusive{
    driver,          "tun_excl", "IFF_TUN_EXCL", false, "an interface of that name would be joined, not refused",
    "a newer kernel"};
inline constexpr feature vnet_header{
    driver, "vnet_hdr", "IFF_VNET_HDR", false, "packets no larger than the MTU, checksums complete", "a newer kernel"};
inline constexpr feature multi_queue{driver,     "multi_queue", "IFF_MULTI_QUEUE", false, "one queue, one reactor",
                                     "Linux 3.8"};
inline constexpr feature napi{driver,      "napi", "IFF_NAPI", false, "packets enter the network stack one by one",
                              "Linux 4.15"};
inline constexpr feature no_carrier{
    driver,     "no_carrier", "IFF_NO_CARRIER", false, "a device has a carrier from the start; TUNSETCARRIER takes it",
    "Linux 6.1"};
inline constexpr feature queue_length{driver, "txqueuelen", "txqueuelen of a new device"};
inline constexpr feature tunnel{driver, "tunnel", "a packet read from a device and one written, by cotun", true};

// TUNSETOFFLOAD.
inline constexpr std::string_view offloads = "offloads";
inline constexpr std::string_view segmented = "the kernel segments before the device";
inline constexpr feature csum{
    offloads, "csum", "checksums (TUN_F_CSUM)", false, "the kernel completes checksums", "a newer kernel"};
inline constexpr feature tso4{offloads, "tso4", "TCP over IPv4 (TUN_F_TSO4)", false, segmented, "a newer kernel"};
inline constexpr feature tso6{offloads, "tso6", "TCP over IPv6 (TUN_F_TSO6)", false, segmented, "a newer kernel"};
inline constexpr feature ecn{offloads, "tso_ecn", "TCP with ECN (TUN_F_TSO_ECN)", false, segmented, "a newer kernel"};
inline constexpr feature uso{offloads, "uso",     "UDP over IPv4 and IPv6 (TUN_F_USO4, TUN_F_USO6)",
                             false,    segmented, "Linux 6.2"};
inline constexpr feature udp_tunnel{offloads, "udp_tunnel_gso", "tunnels over UDP (TUN_F_UDP_TUNNEL_GSO)",
                                    false,    segmented,        "Linux 6.17"};
inline constexpr feature udp_tunnel_csum{
    offloads,  "udp_tunnel_gso_csum", "their outer checksum (TUN_F_UDP_TUNNEL_GSO_CSUM)", false,
    segmented, "Linux 6.17"};
inline constexpr feature udp_segment{
    offloads,    "udp_segment", "UDP_SEGMENT: a run of datagrams in one send", false, "a send for each datagram",
    "Linux 4.18"};
inline constexpr feature udp_gro{
    offloads,   "udp_gro", "UDP_GRO: a run of datagrams in one receive", false, "a receive for each datagram",
    "Linux 5.0"};

// The system's bounds.
inline constexpr std::string_view bounds = "limits";
inline constexpr feature open_files{bounds, "nofile", "open files (RLIMIT_NOFILE)"};
inline constexpr feature rmem_max{bounds, "rmem_max", "net.core.rmem_max, bytes"};
inline constexpr feature wmem_max{bounds, "wmem_max", "net.core.wmem_max, bytes"};
inline constexpr feature rmem_default{bounds, "rmem_default", "net.core.rmem_default, bytes"};
inline constexpr feature wmem_default{bounds, "wmem_default", "net.core.wmem_default, bytes"};
inline constexpr feature backlog{bounds, "netdev_max_backlog", "net.core.netdev_max_backlog, packets"};

} // namespace cotun::command::features
