/* zmq_key.h: CURVE keys in files: Z85 text, a line's first word is a key, what follows it a comment; so is a
 * line that begins with # and is no key. Any thread. Errors name the file, and the line where one is at fault; all of
 * them are −EKEYREJECTED. */
#ifndef IO_ZMQ_KEY_H
#define IO_ZMQ_KEY_H

#include "io/source.h"

enum { IO_ZMQ_KEY = 41 }; /* 40 characters and the NUL */

/* The one key of a file. A secret one is refused where others than the file's owner may read or write it. */
int io_zmq_key_secret(const char *path, char ret[IO_ZMQ_KEY], char *reterr);
int io_zmq_key_public(const char *path, char ret[IO_ZMQ_KEY], char *reterr);

/* Whether a public key is one of the file's: 1 or 0. The whole file is read, and has to be right. */
int io_zmq_key_listed(const char *path, const char *key, char *reterr);

#endif
