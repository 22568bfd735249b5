// SPDX-License-Identifier: Apache-2.0
//
// A connection of a Unix stream or seqpacket socket that is being made.
#pragma once

#include "io/connector.hpp"
#include "io/stream_hub.hpp"
#include "net/unix_address.hpp"

#include <string>
#include <string_view>

namespace cotun::detail {

class unix_connector final : public connector {
public:
    /// `places`: nullptr: of streams.
    unix_connector(reactor_core& core, int type, std::string_view name, admission* places = nullptr);

private:
    admission& places_of(reactor_core& core) override { return places_ != nullptr ? *places_ : core.streams(); }
    target next(int& descriptor) override;
    std::string attempt_failed(int error) const override;

    int type_;
    admission* places_;
    unix_address address_; // the kernel's until the attempt has ended
    std::string name_;
    bool tried_ = false;
};

} // namespace cotun::detail
