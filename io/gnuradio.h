/* gnuradio.h: what gr-zeromq puts before a message's items where `pass_tags` is on: the number of the first item, and
 * the tags that lie on the items. Pure functions on caller's bytes. */
#ifndef IO_GNURADIO_H
#define IO_GNURADIO_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the header at the beginning of the message, and the number of its first item; -EBADMSG: it has none, or one
 * that is cut short. */
int io_gnuradio_header(const void *message, size_t bytes, uint64_t *ret_first, size_t *ret_bytes);

#endif
