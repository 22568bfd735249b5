// SPDX-License-Identifier: Apache-2.0
//
// The offloads of UDP sockets.
#include "doctor.hpp"
#include "features.hpp"

#include <cotun/io/unique_fd.hpp>

#include <cerrno>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

namespace cotun::command {
namespace {

// enum of linux/udp.h, which netinet/udp.h of older systems does not have.
constexpr int option_segment = 103; // UDP_SEGMENT
constexpr int option_gro = 104;     // UDP_GRO

void try_option(report& into, const feature& f, int socket, int option, int value) {
    if (::setsockopt(socket, IPPROTO_UDP, option, &value, sizeof value) == 0)
        into.works(f);
    else
        into.missing(f, describe_error(errno));
}

} // namespace

void examine_sockets(report& into) {
    const cotun::unique_fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const int error = errno;
    if (socket.get() < 0) {
        into.not_tried(features::udp_segment, "there is no UDP socket: " + describe_error(error));
        return into.not_tried(features::udp_gro, "there is no UDP socket: " + describe_error(error));
    }
    try_option(into, features::udp_segment, socket.get(), option_segment, 1200);
    try_option(into, features::udp_gro, socket.get(), option_gro, 1);
}

} // namespace cotun::command
