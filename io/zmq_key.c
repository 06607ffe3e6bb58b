/* zmq_key.c: see zmq_key.h. A secret key is wiped from every buffer it passes through; so stdio has none here. Trap: #
 * is one of Z85's characters, so a key may begin with it. */
#include "io/zmq_key.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

struct keys {
    const char *path;
    FILE *file;
    unsigned line;
    char buffer[512]; /* a line, comment included */
};

static int reject(const struct keys *k, const char *text, char *reterr)
{
    if (k->line)
        snprintf(reterr, IO_ERR, "%s:%u: %s", k->path, k->line, text);
    else
        snprintf(reterr, IO_ERR, "%s: %s", k->path, text);
    return -EKEYREJECTED;
}

static int open_keys(struct keys *k, const char *path, bool secret, char *reterr)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO holds nobody up */
    struct stat st;

    *k = (struct keys){.path = path};
    if (fd < 0 || fstat(fd, &st) < 0) {
        reject(k, strerror(errno), reterr);
    } else if (!S_ISREG(st.st_mode)) {
        reject(k, "is not a file", reterr);
    } else if (secret && st.st_mode & 077) {
        reject(k, "holds a secret key and is open to others than its owner: its mode must be 0600 or less", reterr);
    } else {
        k->file = fdopen(fd, "r");
        if (k->file) {
            setvbuf(k->file, NULL, _IONBF, 0);
            return 0;
        }
        reject(k, strerror(errno), reterr);
    }
    if (fd >= 0)
        close(fd);
    return -EKEYREJECTED;
}

static void close_keys(struct keys *k)
{
    fclose(k->file);
    explicit_bzero(k->buffer, sizeof k->buffer);
}

/* 1: a key, 0: the end. */
static int next_key(struct keys *k, char ret[IO_ZMQ_KEY], char *reterr)
{
    uint8_t raw[32];

    while (k->line++, fgets(k->buffer, sizeof k->buffer, k->file)) {
        char *word = k->buffer + strspn(k->buffer, " \t");
        size_t len = strcspn(word, " \t\r\n");

        if (!strchr(k->buffer, '\n') && !feof(k->file))
            return reject(k, "the line is too long", reterr);
        word[len] = '\0';
        if (!len || (*word == '#' && len != IO_ZMQ_KEY - 1))
            continue;
        if (len != IO_ZMQ_KEY - 1 || !zmq_z85_decode(raw, word))
            return reject(k, "is not a key: 40 characters of Z85", reterr);
        explicit_bzero(raw, sizeof raw);
        memcpy(ret, word, IO_ZMQ_KEY);
        return 1;
    }
    k->line = 0;
    return ferror(k->file) ? reject(k, strerror(errno), reterr) : 0;
}

static int only_key(const char *path, bool secret, char ret[IO_ZMQ_KEY], char *reterr)
{
    struct keys k;
    char more[IO_ZMQ_KEY];
    int r = open_keys(&k, path, secret, reterr);

    if (r)
        return r;
    r = next_key(&k, ret, reterr);
    if (r == 0)
        r = reject(&k, "holds no key", reterr);
    else if (r > 0 && (r = next_key(&k, more, reterr)) > 0)
        r = reject(&k, "a second key: one is wanted here", reterr);
    explicit_bzero(more, sizeof more);
    close_keys(&k);
    return r;
}

int io_zmq_key_secret(const char *path, char ret[IO_ZMQ_KEY], char *reterr)
{
    return only_key(path, true, ret, reterr);
}

int io_zmq_key_public(const char *path, char ret[IO_ZMQ_KEY], char *reterr)
{
    return only_key(path, false, ret, reterr);
}

int io_zmq_key_listed(const char *path, const char *key, char *reterr)
{
    struct keys k;
    char one[IO_ZMQ_KEY];
    int r = open_keys(&k, path, false, reterr), listed = 0;

    if (r)
        return r;
    while ((r = next_key(&k, one, reterr)) > 0)
        listed |= strcmp(one, key) == 0;
    close_keys(&k);
    return r ? r : listed;
}
