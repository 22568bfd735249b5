// SPDX-License-Identifier: Apache-2.0
//
// Answers GET requests of HTTP/1.1 (RFC 9112) with a few pages; connections are kept for more requests.
//     http_server 127.0.0.1:8080 & curl http://127.0.0.1:8080/
#include <cotun/cotun.hpp>

#include <csignal>
#include <cstdio>
#include <map>
#include <string>

using namespace std::chrono_literals;
const std::map<std::string, std::string, std::less<>> pages{{"/", "It works.\n"}, {"/about", "Served by cotun.\n"}};

std::string response(const std::string& status, const std::string& body) {
    const std::string size = std::to_string(body.size());
    return "HTTP/1.1 " + status + "\r\nContent-Type: text/plain\r\nContent-Length: " + size + "\r\n\r\n" + body;
}

std::string answer_to(std::string_view head) {
    const std::string_view line = head.substr(0, head.find("\r\n"));
    const std::size_t end = line.rfind(" HTTP/1.");
    if (!line.starts_with("GET /") || end == line.npos) return response("501 Not Implemented", "GET only.\n");
    const auto page = pages.find(line.substr(4, end - 4));
    return page == pages.end() ? response("404 Not Found", "No such page.\n") : response("200 OK", page->second);
}

cotun::task<> serve(cotun::tcp_stream client) {
    for (bool more = true; more;) {
        // Ends the connection when the client does, is silent for too long, or sends too much: by an exception.
        std::string head = co_await cotun::with_timeout(client.read_until("\r\n\r\n", 8192), 30s);
        std::string answer = answer_to(head);
        co_await client.write(answer);
        const auto has = [&head](const char* text) { return head.find(text) != head.npos; };
        more = head.starts_with("GET ") && !has("Content-Length") && !has("Connection: close") && !has(" HTTP/1.0");
    }
    co_await client.close();
}

cotun::task<> serve_quietly(cotun::tcp_stream client) { (void)co_await cotun::as_result(serve(std::move(client))); }

cotun::task<> serve_all(cotun::reactor& io, cotun::tcp_listener& listener) {
    for (cotun::scope clients(io);;) {
        co_await clients.room();
        cotun::tcp_stream client = co_await listener.accept();
        clients.spawn(serve_quietly(std::move(client)));
    }
}

int main(int argc, char** argv) try {
    cotun::reactor io;
    cotun::tcp_listener listener =
        cotun::listen_tcp(io, {.local = cotun::endpoint::from_string(argc == 2 ? argv[1] : "")});
    io.run(cotun::when_any(serve_all(io, listener), io.signal(SIGINT, SIGTERM)));
} catch (const std::exception& failure) {
    std::fprintf(stderr, "%s\nusage: http_server ADDR:PORT\n", failure.what());
    return 1;
}
