// SPDX-License-Identifier: Apache-2.0
//
// All of cotun. Each header can be included alone.
#pragma once

#include <cotun/coro/channel.hpp>
#include <cotun/coro/cross_channel.hpp>
#include <cotun/coro/event.hpp>
#include <cotun/coro/generator.hpp>
#include <cotun/coro/mutex.hpp>
#include <cotun/coro/result.hpp>
#include <cotun/coro/scope.hpp>
#include <cotun/coro/semaphore.hpp>
#include <cotun/coro/task.hpp>
#include <cotun/coro/timeout.hpp>
#include <cotun/coro/when_all.hpp>
#include <cotun/coro/when_any.hpp>
#include <cotun/coro/with_stop.hpp>
#include <cotun/io/error.hpp>
#include <cotun/io/interval.hpp>
#include <cotun/io/packet.hpp>
#include <cotun/io/packet_batch.hpp>
#include <cotun/io/reactor.hpp>
#include <cotun/io/reactor_group.hpp>
#include <cotun/io/readiness.hpp>
#include <cotun/io/signal.hpp>
#include <cotun/io/statistics.hpp>
#include <cotun/io/unique_fd.hpp>
#include <cotun/link/event.hpp>
#include <cotun/link/link_info.hpp>
#include <cotun/link/link_name.hpp>
#include <cotun/link/route.hpp>
#include <cotun/net/datagram.hpp>
#include <cotun/net/endpoint.hpp>
#include <cotun/net/resolve.hpp>
#include <cotun/net/socket_options.hpp>
#include <cotun/net/stream.hpp>
#include <cotun/net/tcp.hpp>
#include <cotun/net/udp.hpp>
#include <cotun/net/unix.hpp>
#include <cotun/net/unix_datagram.hpp>
#include <cotun/net/unix_message.hpp>
#include <cotun/net/unix_seqpacket.hpp>
#include <cotun/tun/device.hpp>
#include <cotun/version.hpp>
#include <cotun/wire/address.hpp>
#include <cotun/wire/checksum.hpp>
#include <cotun/wire/icmp.hpp>
