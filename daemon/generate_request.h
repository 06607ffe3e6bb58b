/* generate_request.h: the header of a request for a text. Pure. */
#ifndef MD_GENERATE_REQUEST_H
#define MD_GENERATE_REQUEST_H

#include <jansson.h>

#include "daemon/sampler.h"

struct md_generate_request {
    json_t *header;                    /* owns the strings */
    json_t *id;                        /* a string or an integer; NULL: it could not be read */
    const char *model, *stream, *stop; /* NULL: not given */
    struct md_sampling how;
    uint64_t n;
};

/* 0, or −EINVAL with a line for the client. Either way md_generate_request_done() is to be called. */
int md_generate_request_read(struct md_generate_request *ret, const void *header, size_t n, char *reterr);
/* Of a cancellation: the id alone. */
int md_generate_request_read_id(struct md_generate_request *ret, const void *header, size_t n, char *reterr);
void md_generate_request_done(struct md_generate_request *r);

#endif
