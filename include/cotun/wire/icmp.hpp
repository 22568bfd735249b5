// SPDX-License-Identifier: Apache-2.0
//
// ICMP (RFC 792) and ICMPv6 (RFC 4443): answering echo requests.
#pragma once

#include <cstddef>
#include <span>

namespace cotun::wire {

// Turns an echo request into its reply, in place, and returns true; or returns false and leaves every byte as it was.
//
// `packet` is one whole IPv4 or IPv6 packet as read from a TUN device: it starts with the IP header, and its size is
// the size that the header gives. Any bytes may be given, of any size; nothing outside of the span is read.
//
// The reply swaps the addresses, has the other type and a TTL or hop limit of 64, and keeps everything else:
// identifier, sequence number, data, IPv4 options, traffic class. Checksums are updated for what changed (RFC 1624) and
// never computed anew, so a request that was damaged on its way yields a reply that its sender will refuse, too. The
// ICMP checksum is not verified for the same reason; the IPv4 header's is, because addresses from a damaged header
// would send the reply to a stranger.
//
// Refused, with false: anything that is not an echo request with code 0; a size other than the header's, or too short;
// a bad IPv4 header checksum; fragments (assemble them first); a destination that is multicast, limited broadcast or
// unspecified (0.0.0.0/8, ::), or a source that is (RFC 1122 section 3.2.1.3), because each becomes the other; IPv6
// packets with any extension header before ICMPv6. A subnet's directed broadcast address cannot be told from a host's
// without the prefix: the caller must know those.
//
// noexcept, any thread that owns the bytes, no allocation.
[[nodiscard]] bool reply_to_echo(std::span<std::byte> packet) noexcept;

} // namespace cotun::wire
