// SPDX-License-Identifier: Apache-2.0

// The devices of tools/bench's `devices` as a user of cotun would have them:
//
//   devices_cotun life N              opens, configures and closes N devices, one after another
//   devices_cotun together N          opens N devices, and closes them together
//   devices_cotun read N RATE MS CPU  opens N devices, reads all of them by one reactor while a thread on CPU sends
//                                     RATE datagrams a second to them in turn, for MS milliseconds
//
// In the namespace that it is started in. One line of JSON on stdout; times in nanoseconds, memory in bytes.

#include "devices.hpp"
#include "devices_life.hpp"
#include "devices_load.hpp"

#include <cotun/cotun.hpp>
#include <fstream>
#include <memory>

namespace {

using cotun::task;
using devices::clock;
using devices::load;
using devices::phase;
using devices::traffic;

cotun::device open_device(cotun::reactor& io, unsigned number) {
    const std::string name = devices::name_of(number);
    const std::string v4 = devices::v4_of(number) + "/24";
    const std::string v6 = devices::v6_of(number) + "/64";
    cotun::device_options options;
    options.name = name;
    options.addresses = {v4, v6};
    options.mtu = devices::mtu;
    options.offload = cotun::no_offload; // as devices_plain opens them
    return cotun::open_tun(io, options);
}

// Two requests a device, of the quarter that is kept for reading; eight buffers a device, and as many to spare.
cotun::reactor_options room_for(unsigned count) {
    cotun::reactor_options options;
    options.requests = std::clamp(10 * count, 1024U, 16384U);
    options.pool.small_count = std::clamp(9 * count, 1024U, 32768U);
    return options;
}

// --- memory --------------------------------------------------------------------------------------------------------

long long field_of(const char* file, const std::string& name) {
    std::ifstream lines(file);
    for (std::string line; std::getline(lines, line);)
        if (line.compare(0, name.size() + 1, name + ":") == 0) return std::stoll(line.substr(name.size() + 1)) * 1024;
    return 0;
}

/// Bytes of the process, and of the kernel as a whole: what else runs on the machine is in the latter, too.
struct memory {
    long long own = field_of("/proc/self/status", "RssAnon");
    long long kernel = field_of("/proc/meminfo", "Slab") + field_of("/proc/meminfo", "Percpu") +
                       field_of("/proc/meminfo", "KernelStack") + field_of("/proc/meminfo", "PageTables");
};

// --- life ----------------------------------------------------------------------------------------------------------

task<> live(cotun::reactor& io, unsigned count, phase& open, phase& close) {
    for (unsigned i = 0; i < count; ++i) {
        std::unique_ptr<cotun::device> device;
        open.time([&] { device = std::make_unique<cotun::device>(open_device(io, 0)); });
        co_await io.yield(); // the first read is with the kernel
        co_await io.yield();
        const clock::time_point begin = clock::now();
        co_await device->close();
        close.add(clock::now() - begin);
    }
}

void row_life(unsigned count) {
    cotun::reactor io;
    phase open, close;
    io.run(live(io, count, open, close));
    open.print("open", "{");
    close.print("close", ", ");
    std::printf("}\n");
}

// --- together ------------------------------------------------------------------------------------------------------

std::vector<cotun::device> open_all(cotun::reactor& io, unsigned count, phase& open) {
    std::vector<cotun::device> all;
    all.reserve(count);
    for (unsigned i = 0; i < count; ++i) open.time([&] { all.push_back(open_device(io, i)); });
    return all;
}

task<> close_together(cotun::reactor& io, std::vector<cotun::device>& all) {
    cotun::scope closing(io);
    for (cotun::device& device : all) closing.spawn(device.close());
    co_await closing.join();
}

task<> pass(cotun::reactor& io) {
    co_await io.yield();
    co_await io.yield();
}

void row_together(unsigned count) {
    cotun::reactor io(room_for(count));
    io.run(pass(io)); // the ring is there, and the reactor's own memory
    phase open, close;
    const memory before;
    std::vector<cotun::device> all = open_all(io, count, open);
    io.run(pass(io));
    const memory after;
    close.time([&] { io.run(close_together(io, all)); });
    open.print("open", "{");
    close.print("close_all", ", ");
    std::printf(", \"memory\": %lld, \"kernel_memory\": %lld}\n", after.own - before.own, after.kernel - before.kernel);
}

// --- read ----------------------------------------------------------------------------------------------------------

// As a program would that has a task a device: waits, takes, and lets the packet go.
task<> read_all(cotun::device& device, traffic& seen) {
    for (;;) {
        cotun::packet packet = co_await device.read_packet();
        if (packet.bytes()[0] == std::byte{0x45}) ++seen.read; // and not what the kernel sends of its own
    }
}

task<> measure(cotun::reactor& io, unsigned count, unsigned rate, unsigned milliseconds, unsigned cpu) {
    phase open;
    std::vector<cotun::device> all = open_all(io, count, open);
    traffic t;
    cotun::scope readers(io);
    for (cotun::device& device : all) readers.spawn(read_all(device, t));
    co_await io.sleep_for(std::chrono::milliseconds(300)); // the devices' own first packets are over
    const load sending(count, rate, cpu, t);
    co_await io.sleep_for(std::chrono::milliseconds(200));
    const cotun::reactor_statistics before = io.statistics();
    devices::interval measured(t);
    co_await io.sleep_for(std::chrono::milliseconds(milliseconds));
    measured.end();
    const cotun::reactor_statistics after = io.statistics();
    measured.print(after.enters - before.enters);
    readers.request_stop();
    co_await readers.join();
    co_await close_together(io, all);
}

void row_read(unsigned count, unsigned rate, unsigned milliseconds, unsigned cpu) {
    cotun::reactor io(room_for(count));
    io.run(measure(io, count, rate, milliseconds, cpu));
}

} // namespace

int main(int argc, char** argv) {
    const auto number = [&](int i) {
        return baseline::parse_number(argv[i], 0, 100'000'000, "argument " + std::to_string(i));
    };
    const std::string row = argc > 1 ? argv[1] : "";
    try {
        if (row == "life" && argc == 3)
            row_life(number(2));
        else if (row == "together" && argc == 3)
            row_together(number(2));
        else if (row == "read" && argc == 6)
            row_read(number(2), number(3), number(4), number(5));
        else
            throw std::invalid_argument("usage: devices_cotun life N | together N | read N RATE MILLISECONDS CPU");
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "devices_cotun: %s\n", error.what());
        return 1;
    }
}
