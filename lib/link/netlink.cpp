// SPDX-License-Identifier: Apache-2.0
#include "link/netlink.hpp"

#include "link/message.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <span>
#include <system_error>
#include <thread>
#include <utility>

namespace cotun::link {

namespace {

// The kernel never puts more than this into one read of a dump, and the one message about a link is far smaller.
constexpr std::size_t answer_size = 32 * 1024;

// A table that changes while it is read, or one that another reader holds, is read again so many times.
constexpr int dump_tries = 50;
constexpr auto dump_pause = std::chrono::milliseconds{2};

// The header of a request about a link; of its flags, only those in `changed` are set to what `flags` says.
ifinfomsg about(unsigned index, unsigned flags = 0, unsigned changed = 0) noexcept {
    ifinfomsg header{};
    header.ifi_index = static_cast<int>(index);
    header.ifi_flags = flags;
    header.ifi_change = changed;
    return header;
}

link_info read_link(byte_view payload) {
    const auto header = load<ifinfomsg>(payload);
    link_info link;
    link.index = static_cast<unsigned>(header.ifi_index);
    link.flags = header.ifi_flags;
    for_each_attribute(skip(payload, sizeof header), [&](int type, byte_view value) {
        switch (type) {
        case IFLA_IFNAME: link.name = text_of(value); break;
        case IFLA_MTU: link.mtu = load<std::uint32_t>(value); break;
        case IFLA_MIN_MTU: link.mtu_min = load<std::uint32_t>(value); break;
        case IFLA_MAX_MTU: link.mtu_max = load<std::uint32_t>(value); break;
        case IFLA_ADDRESS:
            if (value.size() == sizeof(wire::mac_address::bytes_type))
                link.mac = wire::mac_address{load<wire::mac_address::bytes_type>(value)};
            break;
        default: break;
        }
    });
    return link;
}

// The address of one RTM_NEWADDR message. IFA_LOCAL is the link's own, and IFA_ADDRESS then the peer's; where there is
// no IFA_LOCAL, IFA_ADDRESS is the link's own.
std::optional<wire::ip_prefix> read_address(byte_view payload) {
    const auto header = load<ifaddrmsg>(payload);
    const bool v6 = header.ifa_family == AF_INET6;
    using v4_bytes = wire::ipv4_address::bytes_type;
    using v6_bytes = wire::ipv6_address::bytes_type;
    const std::size_t size = v6 ? sizeof(v6_bytes) : sizeof(v4_bytes);
    byte_view local, other;
    for_each_attribute(skip(payload, sizeof header), [&](int type, byte_view value) {
        if (type == IFA_LOCAL && value.size() == size) local = value;
        if (type == IFA_ADDRESS && value.size() == size) other = value;
    });
    const byte_view own = local.empty() ? other : local;
    if (own.empty()) return std::nullopt;
    const auto address = v6 ? wire::ip_address{wire::ipv6_address{load<v6_bytes>(own)}}
                            : wire::ip_address{wire::ipv4_address{load<v4_bytes>(own)}};
    if (header.ifa_prefixlen > address.bits()) return std::nullopt;
    return wire::ip_prefix{address, header.ifa_prefixlen};
}

// The names that the kernel accepts: dev_valid_name() in net/core/dev.c.
bool is_link_name(std::string_view name) noexcept {
    constexpr std::string_view forbidden{"/: \t\n\v\f\r\0", 9};
    return !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
           name.find_first_of(forbidden) == std::string_view::npos;
}

const char* general_remedy(int error) noexcept {
    switch (error) {
    case EPERM:
        return "this needs CAP_NET_ADMIN in the user namespace that owns this network namespace: run as root, give the "
               "program the capability (setcap cap_net_admin+ep), or run it in 'unshare --user --map-root-user --net'";
    case ENODEV: return "there is no such link in this network namespace; it may have been deleted, renamed or moved";
    case EBUSY: return "somebody else is changing it; try again";
    case ENOMEM:
    case ENOBUFS: return "the kernel is short of memory for it; try again later";
    case EBADF: return "this socket was moved from";
    default: return "";
    }
}

// "cotun: cannot A: B; C", where the errno's own text is added by std::system_error.
[[noreturn]] void fail(std::string_view intent, int error, std::string_view kernel_says, std::string_view remedy) {
    std::string text = fmt::format("cotun: cannot {}", intent);
    if (!kernel_says.empty()) text += fmt::format(": {}", kernel_says);
    if (!remedy.empty()) text += fmt::format(" ({})", remedy);
    throw std::system_error(error, std::system_category(), text);
}

// For requests that are only acknowledged.
constexpr auto ignore_rows = [](unsigned, byte_view) {};

} // namespace

// How the kernel answered: 0 or its errno, and its extended error text if it gave one.
struct netlink_socket::outcome {
    int error = 0;
    std::string text;
    bool interrupted = false; // a dump during which the table changed

    // From NLMSG_ERROR, whose payload is struct nlmsgerr, the request (only its header where it was capped), and
    // attributes; and from NLMSG_DONE, whose payload is the error number and attributes.
    static outcome read(const nlmsghdr& header, byte_view payload) {
        outcome result;
        result.error = -load<std::int32_t>(payload);
        std::size_t before = sizeof(std::int32_t);
        if (header.nlmsg_type == NLMSG_ERROR) {
            const auto refused = load<nlmsgerr>(payload);
            before = (header.nlmsg_flags & NLM_F_CAPPED) != 0 ? sizeof refused
                                                              : sizeof(std::int32_t) + aligned(refused.msg.nlmsg_len);
        }
        if ((header.nlmsg_flags & NLM_F_ACK_TLVS) != 0)
            for_each_attribute(skip(payload, before), [&](int type, byte_view value) {
                if (type == NLMSGERR_ATTR_MSG) result.text = text_of(value);
            });
        return result;
    }
};

netlink_socket::netlink_socket() : fd_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)) {
    if (fd_ < 0)
        fail("open a netlink socket", errno, {},
             errno == EMFILE || errno == ENFILE ? "too many files are open: raise 'ulimit -n'"
                                                : "the kernel lacks NETLINK_ROUTE or a sandbox forbids AF_NETLINK");
    // Both only make answers better or shorter. NETLINK_GET_STRICT_CHK is left off: with it a dump can be narrowed to
    // one link, but the kernel (measured on 6.18) then does not tell when the table changed while it was read.
    const int on = 1;
    for (const int option : {NETLINK_EXT_ACK, NETLINK_CAP_ACK})
        (void)::setsockopt(fd_, SOL_NETLINK, option, &on, sizeof on);

    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    socklen_t size = sizeof address;
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(fd_, generic, size) < 0 || ::getsockname(fd_, generic, &size) < 0) {
        const int error = errno;
        ::close(std::exchange(fd_, -1));
        fail("bind a netlink socket", error, {}, general_remedy(error));
    }
    port_ = address.nl_pid;
}

netlink_socket::netlink_socket(netlink_socket&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), port_(other.port_), sequence_(other.sequence_) {}

netlink_socket& netlink_socket::operator=(netlink_socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(port_, other.port_);
    std::swap(sequence_, other.sequence_);
    return *this;
}

netlink_socket::~netlink_socket() {
    if (fd_ >= 0) ::close(fd_);
}

void netlink_socket::send(const request& req) {
    sockaddr_nl kernel{};
    kernel.nl_family = AF_NETLINK;
    const byte_view bytes = req.bytes();
    while (::sendto(fd_, bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&kernel), sizeof kernel) < 0)
        if (errno != EINTR) fail("send a netlink request", errno, {}, general_remedy(errno));
}

namespace {

// Reads one datagram of the kernel's into `buffer`; those of other senders are passed over, for anyone with
// CAP_NET_ADMIN can send to our port.
byte_view receive_from_kernel(int fd, std::span<std::byte> buffer) {
    for (;;) {
        sockaddr_nl sender{};
        iovec piece{buffer.data(), buffer.size()};
        msghdr message{};
        message.msg_name = &sender;
        message.msg_namelen = sizeof sender;
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        const ssize_t size = ::recvmsg(fd, &message, 0);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) fail("receive a netlink answer", errno, {}, general_remedy(errno));
        if (sender.nl_pid != 0) continue;
        if ((message.msg_flags & MSG_TRUNC) != 0)
            fail("receive a netlink answer", EMSGSIZE, {},
                 fmt::format("it is longer than {} bytes, which no kernel known sends", buffer.size()));
        return byte_view{buffer}.first(static_cast<std::size_t>(size));
    }
}

} // namespace

// Sends the request, gives each message of the answer to visit(type, payload), and returns when the answer has ended.
template <typename Visit>
netlink_socket::outcome netlink_socket::exchange(request& req, Visit visit) {
    req.number(++sequence_, port_);
    send(req);
    std::vector<std::byte> buffer(answer_size);
    bool interrupted = false;
    for (;;) {
        byte_view rest = receive_from_kernel(fd_, buffer);
        while (rest.size() >= sizeof(nlmsghdr)) {
            const auto header = load<nlmsghdr>(rest);
            if (header.nlmsg_len < sizeof header || header.nlmsg_len > rest.size())
                fail("read a netlink answer", EBADMSG, {}, "a message in it is longer than the answer");
            const byte_view payload = rest.subspan(sizeof header, header.nlmsg_len - sizeof header);
            rest = skip(rest, aligned(header.nlmsg_len));
            // What is left of an earlier request that ended in an exception is not for this one.
            if (header.nlmsg_seq != sequence_ || header.nlmsg_pid != port_) continue;
            interrupted = interrupted || (header.nlmsg_flags & NLM_F_DUMP_INTR) != 0;
            if (header.nlmsg_type == NLMSG_ERROR || header.nlmsg_type == NLMSG_DONE) {
                outcome result = outcome::read(header, payload);
                result.interrupted = interrupted;
                return result;
            }
            visit(header.nlmsg_type, payload);
        }
    }
}

// An exchange that answers with a whole table. `visit(type, payload)` is called for every row, and visit() before each
// try, when what was visited must be forgotten.
template <typename Visit>
netlink_socket::outcome netlink_socket::dump(request& req, Visit visit) {
    outcome result;
    for (int tried = 0; tried < dump_tries; ++tried) {
        if (tried != 0) std::this_thread::sleep_for(dump_pause);
        visit();
        result = exchange(req, visit);
        if (result.error != EBUSY && result.error != EINTR && !result.interrupted) return result;
    }
    if (result.error == 0) result = {EINTR, "the table changed each time that it was read", true};
    return result;
}

// The link's name for an error, if it still has one.
std::string netlink_socket::describe(unsigned index) {
    request req{RTM_GETLINK, NLM_F_ACK, about(index)};
    link_info link;
    const bool found = find_link(req, link).error == 0;
    return found ? fmt::format("link {}", link.name) : fmt::format("the link of index {}", index);
}

// The word LINK in `intent` stands for the link.
void netlink_socket::refuse(std::string_view intent, unsigned index, const outcome& why, std::string_view remedy) {
    constexpr std::string_view placeholder = "LINK";
    std::string text{intent};
    if (const std::size_t at = text.find(placeholder); at != std::string::npos)
        text.replace(at, placeholder.size(), describe(index));
    fail(text, why.error, why.text, remedy.empty() ? general_remedy(why.error) : remedy);
}

netlink_socket::outcome netlink_socket::find_link(request& req, link_info& found) {
    return exchange(req, [&](unsigned type, byte_view payload) {
        if (type == RTM_NEWLINK) found = read_link(payload);
    });
}

link_info netlink_socket::get_link(std::string_view name) {
    std::string shown{name.substr(0, 64)}; // it may come from anywhere
    std::replace_if(
        shown.begin(), shown.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
    const std::string intent = fmt::format("find link '{}'", shown);
    if (!is_link_name(name))
        fail(intent, EINVAL, {}, "a link's name has 1 to 15 bytes, without '/', ':' or blanks, like tun0");
    request req{RTM_GETLINK, NLM_F_ACK, ifinfomsg{}};
    const std::string terminated{name};
    req.attribute(IFLA_IFNAME, terminated.c_str(), terminated.size() + 1);
    link_info link;
    if (const outcome result = find_link(req, link); result.error != 0)
        fail(intent, result.error, result.text, general_remedy(result.error));
    return link;
}

link_info netlink_socket::get_link(unsigned index) {
    request req{RTM_GETLINK, NLM_F_ACK, about(index)};
    link_info link;
    if (const outcome result = find_link(req, link); result.error != 0)
        fail(fmt::format("find the link of index {}", index), result.error, result.text, general_remedy(result.error));
    return link;
}

void netlink_socket::change_link(request& req, unsigned index, std::string_view intent) {
    if (const outcome result = exchange(req, ignore_rows); result.error != 0) refuse(intent, index, result);
}

void netlink_socket::set_mtu(unsigned index, unsigned mtu) {
    request req{RTM_SETLINK, NLM_F_ACK, about(index)};
    req.attribute(IFLA_MTU, &mtu, sizeof mtu);
    const outcome result = exchange(req, ignore_rows);
    if (result.error == 0) return;
    std::string remedy;
    if (result.error == EINVAL || result.error == ERANGE) {
        request ask{RTM_GETLINK, NLM_F_ACK, about(index)};
        link_info link;
        (void)find_link(ask, link);
        if (link.mtu_max != 0)
            remedy = fmt::format("it can be {} to {} bytes", link.mtu_min, link.mtu_max);
        else if (link.mtu_min != 0)
            remedy = fmt::format("it must be {} bytes at least", link.mtu_min);
    }
    refuse(fmt::format("set the MTU of LINK to {}", mtu), index, result, remedy);
}

void netlink_socket::set_up(unsigned index) {
    request req{RTM_SETLINK, NLM_F_ACK, about(index, IFF_UP, IFF_UP)};
    change_link(req, index, "set LINK up");
}

bool netlink_socket::is_delivered(const wire::ip_address& address) {
    rtmsg header{};
    header.rtm_family = address.is_v6() ? AF_INET6 : AF_INET;
    header.rtm_dst_len = static_cast<std::uint8_t>(address.bits());
    request req{RTM_GETROUTE, NLM_F_ACK, header};
    const auto bytes = address.bytes();
    req.attribute(RTA_DST, bytes.data(), bytes.size());
    bool local = false;
    const outcome result = exchange(req, [&](unsigned type, byte_view payload) {
        local = local || (type == RTM_NEWROUTE && load<rtmsg>(payload).rtm_type == RTN_LOCAL);
    });
    return result.error == 0 && local; // an error: there is no route at all
}

void netlink_socket::set_down(unsigned index) {
    request req{RTM_SETLINK, NLM_F_ACK, about(index, 0, IFF_UP)};
    change_link(req, index, "set LINK down");
}

void netlink_socket::set_mac(unsigned index, const wire::mac_address& mac) {
    request req{RTM_SETLINK, NLM_F_ACK, about(index)};
    req.attribute(IFLA_ADDRESS, mac.bytes().data(), mac.bytes().size());
    const outcome result = exchange(req, ignore_rows);
    if (result.error == 0) return;
    const char* remedy = "";
    if (result.error == EADDRNOTAVAIL || result.error == EINVAL)
        remedy = "it must be unicast and not zero, like 02:00:5e:00:53:01";
    if (result.error == EOPNOTSUPP) remedy = "links of this kind, such as TUN devices, have no Ethernet address";
    if (result.error == EBUSY) remedy = "links of this kind must be down while their address changes";
    refuse(fmt::format("give LINK the MAC address {}", mac.to_string()), index, result, remedy);
}

void netlink_socket::add_address(unsigned index, const wire::ip_prefix& prefix) {
    const wire::ip_address& address = prefix.address();
    ifaddrmsg header{};
    header.ifa_family = static_cast<std::uint8_t>(prefix.is_v6() ? AF_INET6 : AF_INET);
    header.ifa_prefixlen = static_cast<std::uint8_t>(prefix.length());
    header.ifa_index = index;
    header.ifa_scope = prefix.is_v4() && address.is_loopback() ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
    header.ifa_flags = prefix.is_v6() ? IFA_F_NODAD : 0;
    request req{RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, header};
    const auto bytes = address.bytes();
    req.attribute(IFA_LOCAL, bytes.data(), bytes.size());
    req.attribute(IFA_ADDRESS, bytes.data(), bytes.size());
    const outcome result = exchange(req, ignore_rows);
    if (result.error == 0) return;
    const char* remedy = "";
    if (result.error == EEXIST) remedy = "it has this address already; leave it out, or delete it first";
    if (result.error == EADDRNOTAVAIL || result.error == EINVAL)
        remedy = "it must be the address of one host, like 10.9.0.1/24 or fd00::1/64, and not multicast";
    if (prefix.is_v6() && (result.error == EACCES || result.error == EOPNOTSUPP || result.error == EAFNOSUPPORT))
        remedy = "IPv6 is switched off here: see the sysctl net.ipv6.conf.*.disable_ipv6 and the kernel's command line";
    if (prefix.is_v6() && (result.error == ENOBUFS || result.error == EINVAL))
        remedy = "IPv6 needs a link with an MTU of 1280 at least, and an address that is not multicast or unspecified";
    refuse(fmt::format("give LINK the address {}", prefix.to_string()), index, result, remedy);
}

std::vector<wire::ip_prefix> netlink_socket::addresses(unsigned index) {
    (void)get_link(index); // a dump knows no ENODEV
    std::vector<wire::ip_prefix> all;
    for (const int family : {AF_INET, AF_INET6}) {
        ifaddrmsg header{};
        header.ifa_family = static_cast<std::uint8_t>(family);
        request req{RTM_GETADDR, NLM_F_DUMP, header};

        // The kernel sends the addresses of all links, and one without IPv6 sends IPv4's in place of them.
        struct collect {
            std::vector<wire::ip_prefix>& rows;
            std::size_t before;
            int family;
            unsigned index;
            void operator()() const { rows.resize(before); }
            void operator()(unsigned type, byte_view payload) const {
                const auto row = load<ifaddrmsg>(payload);
                if (type != RTM_NEWADDR || row.ifa_family != family || row.ifa_index != index) return;
                if (const auto address = read_address(payload)) rows.push_back(*address);
            }
        };
        const outcome result = dump(req, collect{all, all.size(), family, index});
        if (result.error != 0) refuse("list the addresses of LINK", index, result);
    }
    return all;
}

void netlink_socket::delete_link(unsigned index) {
    request req{RTM_DELLINK, NLM_F_ACK, about(index)};
    const outcome result = exchange(req, ignore_rows);
    if (result.error != 0)
        refuse("delete LINK", index, result,
               result.error == EOPNOTSUPP ? "links of this kind (lo, hardware) cannot be deleted" : "");
}

} // namespace cotun::link
