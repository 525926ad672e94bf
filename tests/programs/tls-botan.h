/* Botan 2: a key that both sides know, so that no certificate is needed. */
#include <botan/auto_rng.h>
#include <botan/credentials_manager.h>
#include <botan/tls_callbacks.h>
#include <botan/tls_client.h>
#include <botan/tls_policy.h>
#include <botan/tls_server.h>
#include <botan/tls_session_manager.h>
#include <memory>
#include <string>
#include <vector>

struct Callbacks : Botan::TLS::Callbacks {
    int fd;
    std::vector<uint8_t> received;

    explicit Callbacks(int fd) : fd(fd) {}
    void tls_emit_data(const uint8_t data[], size_t length) override {
        while (length > 0) {
            ssize_t done = write(fd, data, length);
            if (done <= 0) return;
            data += done, length -= (size_t)done;
        }
    }
    void tls_record_received(uint64_t, const uint8_t data[], size_t length) override {
        received.insert(received.end(), data, data + length);
    }
    void tls_alert(Botan::TLS::Alert) override {}
    bool tls_session_established(const Botan::TLS::Session &) override { return false; }
};

struct Credentials : Botan::Credentials_Manager {
    std::string psk_identity_hint(const std::string &, const std::string &) override { return "test"; }
    std::string psk_identity(const std::string &, const std::string &, const std::string &) override { return "test"; }
    Botan::SymmetricKey psk(const std::string &type, const std::string &context, const std::string &identity) override {
        if (context == "session-ticket") return Botan::Credentials_Manager::psk(type, context, identity);
        return Botan::SymmetricKey("00112233445566778899aabbccddeeff");
    }
};

struct Policy : Botan::TLS::Policy {
    std::vector<std::string> allowed_key_exchange_methods() const override { return {"ECDHE_PSK", "PSK"}; }
    std::vector<std::string> allowed_signature_methods() const override { return {"IMPLICIT"}; }
};

struct peer {
    enum side side;
    int fd;
    std::unique_ptr<Callbacks> callbacks;
    std::unique_ptr<Botan::TLS::Channel> channel;
};

static Botan::TLS::Session_Manager_Noop sessions;
static Credentials credentials;
static Policy policy;

static Botan::RandomNumberGenerator &random_numbers() {
    static Botan::AutoSeeded_RNG generator;
    return generator;
}

static void library_start(void) {}

static void peer_open(struct peer *peer) {
    peer->callbacks.reset(new Callbacks(peer->fd));
    if (peer->side == CLIENT) {
        peer->channel.reset(new Botan::TLS::Client(*peer->callbacks, sessions, credentials, policy, random_numbers()));
    } else {
        peer->channel.reset(new Botan::TLS::Server(*peer->callbacks, sessions, credentials, policy, random_numbers()));
    }
}

static bool pump(struct peer *peer) {
    uint8_t data[4096];
    ssize_t count = read(peer->fd, data, sizeof data);
    if (count > 0) peer->channel->received_data(data, (size_t)count);
    return count > 0;
}

static int peer_handshake(struct peer *peer) {
    while (!peer->channel->is_active())
        if (peer->channel->is_closed() || !pump(peer)) return 0;
    return 1;
}

static long peer_send(struct peer *peer, const void *data, size_t length) {
    peer->channel->send((const uint8_t *)data, length);
    return (long)length;
}

static long peer_receive(struct peer *peer, void *data, size_t room) {
    std::vector<uint8_t> &received = peer->callbacks->received;
    while (received.empty())
        if (!pump(peer)) return -1;
    size_t count = std::min(room, received.size());
    memcpy(data, received.data(), count);
    received.erase(received.begin(), received.begin() + (long)count);
    return (long)count;
}

static void peer_close(struct peer *peer) {
    peer->channel->close();
}
