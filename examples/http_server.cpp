// SPDX-License-Identifier: Apache-2.0
//
// Answers GET requests of HTTP/1.1 (RFC 9112) with a few pages; connections are kept for more requests.
//
//     http_server --local 127.0.0.1:8080 &
//     curl http://127.0.0.1:8080/
#include "program.hpp"

#include <chrono>

namespace {

constexpr const char* usage = "usage: http_server --local ADDR:PORT\n";
constexpr std::size_t longest_head = 8192;
constexpr std::chrono::seconds patience{30}; // with a client that sends no request

const std::map<std::string, std::string, std::less<>> pages{{"/", "It works.\n"}, {"/about", "Served by cotun.\n"}};

std::string response(const char* status, std::string_view body) {
    return std::string("HTTP/1.1 ") + status +
           "\r\nContent-Type: text/plain\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" +
           std::string(body);
}

std::string answer_to(std::string_view head) {
    const std::string_view line = head.substr(0, head.find("\r\n"));
    const std::size_t end = line.rfind(" HTTP/1.");
    if (!line.starts_with("GET /") || end == line.npos) return response("501 Not Implemented", "GET only.\n");
    const auto page = pages.find(line.substr(4, end - 4));
    return page == pages.end() ? response("404 Not Found", "No such page.\n") : response("200 OK", page->second);
}

cotun::task<> serve(cotun::tcp_stream client) {
    for (;;) {
        // Ends the connection when the client does, is silent for too long, or sends too much: by an exception.
        std::string head = co_await cotun::with_timeout(client.read_until("\r\n\r\n", longest_head), patience);
        std::string answer = answer_to(head);
        co_await client.write(answer);
        const bool plain_get = head.starts_with("GET ") && head.find("Content-Length") == head.npos;
        if (!plain_get || head.find("Connection: close") != head.npos || head.find(" HTTP/1.0") != head.npos) break;
    }
    client.shutdown_send();
    co_await client.close();
}

cotun::task<> serve_quietly(cotun::tcp_stream client) { co_await cotun::as_result(serve(std::move(client))); }

cotun::task<> accept_all(cotun::reactor& io, cotun::tcp_listener& listener) {
    cotun::scope clients(io);
    for (;;) {
        co_await clients.room();
        cotun::tcp_stream client = co_await listener.accept();
        clients.spawn(serve_quietly(std::move(client)));
    }
}

void serve_pages(int argc, char** argv) {
    const example::arguments args(argc, argv, usage);
    cotun::reactor io;
    example::stop_on_signals(io);
    cotun::tcp_listener listener = cotun::listen_tcp(io, {.local = cotun::endpoint::from_string(args.need("--local"))});
    io.run(accept_all(io, listener));
}

} // namespace

int main(int argc, char** argv) { return example::run(serve_pages, argc, argv); }
