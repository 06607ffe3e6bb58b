/* zmq_endpoint.h: sockets and their addresses, the same for source and sink. */
#ifndef IO_ZMQ_ENDPOINT_H
#define IO_ZMQ_ENDPOINT_H

#include "io/zmq_guard.h"

/* Config keys that ZeroMQ inputs and outputs share. */
struct io_zmq_ends {
    struct io_strings bind, connect;
    bool insecure; /* tcp beyond loopback without encryption is wanted */
    /* CURVE; NULL: not encrypted. Files: this end's secret key; of who binds the keys that are let in, of who connects
     * the key of the other end. */
    char *curve_key, *curve_clients, *curve_server;
    int64_t hwm; /* messages per peer */
};

#define IO_ZMQ_ENDS_OPTIONS(conf, ends, hwm_default)                                                                   \
    {"bind", "address or list: tcp://127.0.0.1:5555, ipc:///path", IO_OPT_STRINGS, offsetof(conf, ends.bind),          \
     .sole = "address"},                                                                                               \
        {"connect", "address or list to connect to", IO_OPT_STRINGS, offsetof(conf, ends.connect)},                    \
        {"insecure", "allow TCP beyond loopback without encryption", IO_OPT_BOOL, offsetof(conf, ends.insecure),       \
         "false"},                                                                                                     \
        {"curve_key", "file of the secret key (mambactl keygen); CURVE encrypts", IO_OPT_STRING,                       \
         offsetof(conf, ends.curve_key)},                                                                              \
        {"curve_clients", "bind: file of the public keys that are let in, one a line", IO_OPT_STRING,                  \
         offsetof(conf, ends.curve_clients)},                                                                          \
        {"curve_server", "connect: file of the public key of the other end", IO_OPT_STRING,                            \
         offsetof(conf, ends.curve_server)},                                                                           \
    {                                                                                                                  \
        "hwm", "messages queued per peer", IO_OPT_INT, offsetof(conf, ends.hwm), hwm_default, .min = 1, .max = 1e7     \
    }

/* Addresses are tcp:// or ipc://; tcp beyond loopback (any name but localhost, any wildcard) needs CURVE or `insecure`.
 */
int io_zmq_ends_check(const struct io_zmq_ends *ends, const char **ret_key, char *reterr);
int io_zmq_ends_keys(const struct io_zmq_ends *ends, char *reterr); /* reads the key files: 0 or −EKEYREJECTED */

/* A context of its own and one socket: adapters share nothing, so that closing one never waits for another. */
struct io_zmq {
    void *context, *socket;
    struct io_zmq_guard *guard; /* NULL: no CURVE */
};

/* Before a context gets its first socket: libzmq ends the process where there are no descriptors for its threads.
 * −EMFILE, −ENFILE. */
int io_zmq_room(void);
int io_zmq_open(struct io_zmq *z, int type, char *reterr);
/* CURVE where it is asked for, then binds and connects. `ends` stay until close. −EKEYREJECTED: a key file. */
int io_zmq_attach(struct io_zmq *z, const struct io_zmq_ends *ends, const struct io_door *door, char *reterr);
void io_zmq_close(struct io_zmq *z, int64_t linger_ns); /* also after a failed open */

#endif
