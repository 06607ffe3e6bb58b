/* generate_socket.h: the generation service's socket: a file of this user's only, or TCP as any input's. */
#ifndef MD_GENERATE_SOCKET_H
#define MD_GENERATE_SOCKET_H

#include "daemon/generate.h"
#include "daemon/socket_file.h"
#include "io/zmq_endpoint.h"

struct md_generate_socket { /* zeroed: not open */
    struct io_zmq zmq;
    struct md_socket_file file; /* of ipc:// */
};

/* −EADDRINUSE and others; what is half open is closed by md_generate_socket_close() too. */
int md_generate_socket_open(struct md_generate_socket *s, const struct md_generate_conf *conf, struct md_door *door,
                            char *reterr);
void md_generate_socket_close(struct md_generate_socket *s, int64_t linger_ns);

#endif
