// SPDX-License-Identifier: Apache-2.0
#include "ring/at_once.hpp"

#include <cerrno>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace cotun::ring {

ssize_t at_once::read_now(file f, std::span<std::byte> into) noexcept {
    const ssize_t result = ::read(f.descriptor, into.data(), into.size());
    return result < 0 ? -errno : result;
}

ssize_t at_once::write_now(file f, std::span<const iovec> pieces) noexcept {
    const ssize_t result = ::writev(f.descriptor, pieces.data(), static_cast<int>(pieces.size()));
    return result < 0 ? -errno : result;
}

ssize_t at_once::receive_now(file f, msghdr& message) noexcept {
    const ssize_t result = ::recvmsg(f.descriptor, &message, message.msg_flags | MSG_DONTWAIT);
    return result < 0 ? -errno : result;
}

int at_once::send_now(file f, std::span<mmsghdr> messages) noexcept {
    const int sent =
        ::sendmmsg(f.descriptor, messages.data(), static_cast<unsigned>(messages.size()), MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? -errno : sent;
}

ssize_t at_once::unsent_bytes(file f) noexcept {
    int bytes = 0;
    return ioctl(f.descriptor, SIOCOUTQ, &bytes) < 0 ? -errno : bytes;
}

int at_once::take_error(file f) noexcept {
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(f.descriptor, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? errno : error;
}

int at_once::shutdown_send(file f) noexcept { return ::shutdown(f.descriptor, SHUT_WR) < 0 ? -errno : 0; }

} // namespace cotun::ring
