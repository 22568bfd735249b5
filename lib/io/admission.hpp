// SPDX-License-Identifier: Apache-2.0
//
// admission: places for connections, of which a reactor has so many. An accepted connection is given out when it has
// one, and waits in its listener until then; one that is to be made is refused without. Streams have theirs
// (io/stream_hub.hpp), and connections that carry packets those of readers (io/reader_places.hpp).
#pragma once

#include <string>

namespace cotun::detail {

class acceptor;

class admission {
public:
    /// Takes a place. False: all are taken. Throws std::system_error where a place is more than a number.
    virtual bool admit() = 0;
    virtual void dismiss() noexcept = 0;
    /// Has `a` served when there is a place again.
    virtual void await_admission(acceptor& a) noexcept = 0;
    /// Why there is none, and the remedy.
    virtual std::string refusal() const = 0;

protected:
    ~admission() = default;
};

} // namespace cotun::detail
