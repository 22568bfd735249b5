// SPDX-License-Identifier: Apache-2.0
//
// `cotun tun`: TUN and TAP interfaces made, deleted and shown. None of it needs io_uring.
#pragma once

namespace cotun::command {

/// The words after `cotun`. Return the exit status.
int tun(int argc, char** argv);

// tun_show.cpp; argv[0] is "show".
int tun_show(int argc, char** argv);

} // namespace cotun::command
