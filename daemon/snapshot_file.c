/* snapshot_file.c: snapshots on the disk. A generation counts once its rename is on the disk, so a crash at any moment
 * leaves the one before. Trap: a full disk shows at write, at fsync or at close, depending on the file system; each is
 * looked at, and none of them touches a generation that is there. */
#include "daemon/snapshot_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ssm/checksum.h"

static const char magic[8] = "mambadG\n";
enum { WINDOW = 4 << 20 /* bytes that go to the disk at a time */ };
enum { HEADER_BYTES = 128, RECORD_HEAD = 24, PREFIX = sizeof "snapshot-" - 1 };

enum { /* places in the header */
       AT_VERSION = 8,
       AT_CLEAN = 12,
       AT_RUN = 16,
       AT_GENERATION = 24,
       AT_TIME = 32,
       AT_BYTES = 40,
       AT_RECORDS = 48,
       AT_BODY = 56,     /* checksum of the records' checksums, in order */
       AT_CHECKSUM = 120 /* of what stands before it */
};

static void put64(uint8_t *header, size_t at, uint64_t v)
{
    memcpy(header + at, &v, sizeof v);
}

static uint64_t get64(const uint8_t *header, size_t at)
{
    uint64_t v;
    memcpy(&v, header + at, sizeof v);
    return v;
}

static int fail(char *reterr, const char *path, const char *what)
{
    int err = errno ? errno : EIO;
    snprintf(reterr, MD_SNAPSHOT_ERR, "%.380s: %s: %s", path, what, strerror(err));
    return -err;
}

/* ---- records ---------------------------------------------------------------------------------------------------- */

size_t md_record_bytes(uint32_t id_len, size_t bytes)
{
    return RECORD_HEAD + md_record_padded(id_len) + md_record_padded(bytes);
}

void *md_record_begin(void *to, enum md_record_kind kind, const char *id, uint32_t id_len, size_t bytes)
{
    uint8_t *r = to;
    uint32_t head[2] = {kind, id_len};
    memset(r, 0, RECORD_HEAD + md_record_padded(id_len));
    memcpy(r, head, sizeof head);
    put64(r, 8, bytes);
    memcpy(r + RECORD_HEAD, id, id_len);
    if (bytes % 8)
        memset(r + RECORD_HEAD + md_record_padded(id_len) + bytes / 8 * 8, 0, 8);
    return r + RECORD_HEAD + md_record_padded(id_len);
}

static uint64_t checksum_of(const uint8_t *record, size_t bytes)
{
    return ssm_checksum(get64(record, 0) ^ get64(record, 8), record + RECORD_HEAD, bytes - RECORD_HEAD);
}

static size_t bytes_of(const uint8_t *record)
{
    uint32_t head[2];
    memcpy(head, record, sizeof head);
    return md_record_bytes(head[1], get64(record, 8));
}

void md_record_write(void *to, enum md_record_kind kind, const char *id, uint32_t id_len, const void *data,
                     size_t bytes)
{
    void *payload = md_record_begin(to, kind, id, id_len, bytes);
    if (bytes)
        memcpy(payload, data, bytes);
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static int write_all(int fd, const void *bytes, size_t n, uint64_t at)
{
    for (size_t done = 0; done < n;) {
        ssize_t w = pwrite(fd, (const uint8_t *)bytes + done, n - done, (off_t)(at + done));
        if (w == 0)
            return -EIO; /* a file takes something, or says why not */
        if (w < 0 && errno != EINTR)
            return -errno;
        done += w > 0 ? (size_t)w : 0;
    }
    return 0;
}

int md_snapshot_begin(struct md_snapshot_writer *w, const char *dir, const struct md_snapshot_head *head, char *reterr)
{
    uint8_t blank[HEADER_BYTES] = {0};
    *w = (struct md_snapshot_writer){.fd = -1, .head = *head, .at = HEADER_BYTES};
    snprintf(w->dir, sizeof w->dir, "%s", dir);
    snprintf(w->path, sizeof w->path, "%s/snapshot-%012" PRIu64, dir, head->generation);
    snprintf(w->part, sizeof w->part, "%.4180s.part", w->path);
    w->fd = open(w->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (w->fd < 0)
        return fail(reterr, w->part, "cannot be made");
    int r = write_all(w->fd, blank, sizeof blank, 0);
    errno = -r;
    return r ? fail(reterr, w->part, "cannot be written") : 0;
}

static int send_range(int fd, uint64_t at, unsigned how)
{
    if (sync_file_range(fd, (off_t)at, WINDOW, how) == 0)
        return 0;
    return errno == ENOSYS || errno == EPERM ? 0 : -errno; /* what cannot be paced is not lost */
}

/* Sends what was written to the disk window by window, and lets no more than two wait for it: all at once, at the end,
 * would keep everybody else from the disk for seconds. */
static int send_windows(struct md_snapshot_writer *w)
{
    const unsigned done = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    int err = 0;
    for (; err == 0 && w->at - w->sent >= WINDOW; w->sent += WINDOW) {
        err = send_range(w->fd, w->sent, SYNC_FILE_RANGE_WRITE);
        if (err == 0 && w->sent >= WINDOW)
            err = send_range(w->fd, w->sent - WINDOW, done);
    }
    return err;
}

/* Checksums into n records, and what they make together with those before. */
static uint64_t sign(uint8_t *r, uint64_t n, uint64_t checksum)
{
    for (uint64_t i = 0; i < n; i++, r += bytes_of(r)) {
        uint64_t own = checksum_of(r, bytes_of(r));
        put64(r, 16, own);
        checksum = ssm_checksum_mix(checksum, own);
    }
    return checksum;
}

int md_snapshot_append(struct md_snapshot_writer *w, void *records, size_t bytes, uint64_t n, char *reterr)
{
    uint64_t checksum = sign(records, n, w->checksum);
    int err = write_all(w->fd, records, bytes, w->at);
    errno = -err;
    if (err)
        return fail(reterr, w->part, "cannot be written");
    w->at += bytes;
    w->n += n;
    w->checksum = checksum;
    err = send_windows(w);
    errno = -err;
    return err ? fail(reterr, w->part, "cannot be brought to the disk") : 0;
}

static void write_header(const struct md_snapshot_writer *w, uint8_t *h)
{
    uint32_t words[2] = {MD_SNAPSHOT_VERSION, w->head.clean};
    memset(h, 0, HEADER_BYTES);
    memcpy(h, magic, sizeof magic);
    memcpy(h + AT_VERSION, words, sizeof words);
    put64(h, AT_RUN, w->head.run);
    put64(h, AT_GENERATION, w->head.generation);
    put64(h, AT_TIME, (uint64_t)w->head.t_ns);
    put64(h, AT_BYTES, w->at);
    put64(h, AT_RECORDS, w->n);
    put64(h, AT_BODY, w->checksum);
    put64(h, AT_CHECKSUM, ssm_checksum(0, h, AT_CHECKSUM));
}

void *md_snapshot_image(const struct md_snapshot_head *head, const void *records, size_t bytes, uint64_t n,
                        size_t *ret_bytes)
{
    struct md_snapshot_writer w = {.head = *head, .at = HEADER_BYTES + bytes, .n = n};
    uint8_t *image = malloc(HEADER_BYTES + bytes);
    if (!image)
        return NULL;
    memcpy(image + HEADER_BYTES, records, bytes);
    w.checksum = sign(image + HEADER_BYTES, n, 0);
    write_header(&w, image);
    *ret_bytes = HEADER_BYTES + bytes;
    return image;
}

static int sync_dir(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = fd < 0 || fsync(fd) ? -errno : 0;
    if (fd >= 0)
        close(fd);
    return r;
}

static int is_snapshot(const struct dirent *e)
{
    return strncmp(e->d_name, "snapshot-", PREFIX) == 0 && strlen(e->d_name) == PREFIX + 12 &&
           strspn(e->d_name + PREFIX, "0123456789") == 12;
}

static int newest_first(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*b)->d_name, (*a)->d_name);
}

static void free_names(struct dirent **names, int n)
{
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

/* What cannot be removed stays; the next snapshot tries again. */
static void prune(const char *dir, unsigned keep)
{
    struct dirent **names;
    int n = scandir(dir, &names, is_snapshot, newest_first);
    if (n < 0)
        return;
    for (int i = (int)keep; i < n; i++) {
        char path[4400];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]->d_name);
        unlink(path);
    }
    free_names(names, n);
}

int md_snapshot_commit(struct md_snapshot_writer *w, unsigned keep, char *reterr)
{
    uint8_t header[HEADER_BYTES];
    int r;
    write_header(w, header);
    r = write_all(w->fd, header, sizeof header, 0);
    errno = -r;
    if (r)
        return fail(reterr, w->part, "cannot be written");
    if (fsync(w->fd))
        return fail(reterr, w->part, "cannot be brought to the disk");
    r = close(w->fd) ? -errno : 0;
    w->fd = -1;
    if (r)
        return fail(reterr, w->part, "cannot be closed");
    if (rename(w->part, w->path))
        return fail(reterr, w->path, "cannot be named");
    r = sync_dir(w->dir);
    errno = -r;
    if (r)
        return fail(reterr, w->dir, "cannot be brought to the disk");
    prune(w->dir, keep);
    return 0;
}

void md_snapshot_abandon(struct md_snapshot_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
    unlink(w->part);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

bool md_snapshot_next(const struct md_snapshot_file *f, size_t *at, struct md_record *ret)
{
    size_t from = *at ? *at : HEADER_BYTES;
    uint32_t head[2];
    if (from >= f->bytes)
        return false;
    memcpy(head, f->map + from, sizeof head);
    *ret = (struct md_record){
        .kind = head[0],
        .id = (const char *)f->map + from + RECORD_HEAD,
        .id_len = head[1],
        .data = f->map + from + RECORD_HEAD + md_record_padded(head[1]),
        .bytes = get64(f->map + from, 8),
    };
    *at = from + bytes_of(f->map + from);
    return true;
}

static const char *wrong_header(const struct md_snapshot_file *f)
{
    uint32_t version;
    if (f->bytes < HEADER_BYTES || memcmp(f->map, magic, sizeof magic))
        return "not a snapshot";
    if (get64(f->map, AT_CHECKSUM) != ssm_checksum(0, f->map, AT_CHECKSUM))
        return "its header is damaged (checksum)";
    memcpy(&version, f->map + AT_VERSION, sizeof version);
    if (version != MD_SNAPSHOT_VERSION)
        return "of another version than this program writes";
    if (get64(f->map, AT_BYTES) != f->bytes)
        return "not of the size that it says";
    return NULL;
}

/* Every record is checked before the first is used. */
static const char *wrong_body(const struct md_snapshot_file *f)
{
    uint64_t n = get64(f->map, AT_RECORDS), checksum = 0;
    size_t at = HEADER_BYTES;
    for (; n > 0; n--) {
        const uint8_t *r = f->map + at;
        uint32_t head[2];
        if (f->bytes - at < RECORD_HEAD)
            return "cut off";
        memcpy(head, r, sizeof head);
        if (head[0] == 0 || head[0] >= MD_RECORD_KINDS || get64(r, 8) > f->bytes || bytes_of(r) > f->bytes - at)
            return "its records are damaged";
        if (get64(r, 16) != checksum_of(r, bytes_of(r)))
            return "one of its records is damaged (checksum)";
        checksum = ssm_checksum_mix(checksum, get64(r, 16));
        at += bytes_of(r);
    }
    return at != f->bytes || checksum != get64(f->map, AT_BODY) ? "its records are not those that it says" : NULL;
}

static int map_file(const char *path, int flags, struct md_snapshot_file *f)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | flags), r = 0;
    struct stat st;
    if (fd < 0)
        return -errno;
    void *at = MAP_FAILED;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode))
        r = -EINVAL;
    else if (st.st_size > 0 && (at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        r = -errno;
    close(fd);
    if (r == 0 && st.st_size > 0) {
        f->map = at;
        f->bytes = (size_t)st.st_size;
    }
    return r;
}

static void quarantine(const struct md_snapshot_file *f, const char *why, void (*say)(void *, const char *), void *arg)
{
    char to[4300], line[MD_SNAPSHOT_ERR];
    snprintf(to, sizeof to, "%s.corrupt", f->path);
    bool moved = rename(f->path, to) == 0;
    snprintf(line, sizeof line, "%.380s: %s%s", f->path, why, moved ? ": set aside as *.corrupt" : "");
    say(arg, line);
}

static void read_head(struct md_snapshot_file *f)
{
    uint32_t clean;
    memcpy(&clean, f->map + AT_CLEAN, sizeof clean);
    f->head = (struct md_snapshot_head){get64(f->map, AT_RUN), get64(f->map, AT_GENERATION),
                                        (int64_t)get64(f->map, AT_TIME), clean == 1};
}

int md_snapshot_open(const char *dir, void (*quarantined)(void *arg, const char *line), void *arg,
                     struct md_snapshot_file *ret, char *reterr)
{
    struct dirent **names;
    int n = scandir(dir, &names, is_snapshot, newest_first), r = -ENOENT;
    if (n < 0)
        return errno == ENOENT ? -ENOENT : fail(reterr, dir, "cannot be read");
    for (int i = 0; i < n && r == -ENOENT; i++) {
        struct md_snapshot_file f = {0};
        snprintf(f.path, sizeof f.path, "%s/%s", dir, names[i]->d_name);
        r = map_file(f.path, O_NOFOLLOW, &f);
        errno = -r;
        const char *why = r ? NULL : wrong_header(&f);
        if (r) {
            r = fail(reterr, f.path, "cannot be read");
        } else if (why || (why = wrong_body(&f))) {
            quarantine(&f, why, quarantined, arg);
            md_snapshot_close(&f);
            r = -ENOENT;
        } else {
            read_head(&f);
            *ret = f;
        }
    }
    free_names(names, n);
    return r;
}

static int believe(struct md_snapshot_file *f, char *reterr)
{
    const char *why = wrong_header(f);
    if (why || (why = wrong_body(f))) {
        snprintf(reterr, MD_SNAPSHOT_ERR, "%.380s: %s", f->path, why);
        return -EBADMSG;
    }
    read_head(f);
    return 0;
}

int md_snapshot_load(const char *path, struct md_snapshot_file *ret, char *reterr)
{
    struct md_snapshot_file f = {0};
    snprintf(f.path, sizeof f.path, "%s", path);
    int r = map_file(path, 0, &f);
    errno = -r;
    if (r)
        return fail(reterr, path, "cannot be read");
    r = believe(&f, reterr);
    if (r)
        md_snapshot_close(&f);
    else
        *ret = f;
    return r;
}

int md_snapshot_read(const void *bytes, size_t n, struct md_snapshot_file *ret, char *reterr)
{
    struct md_snapshot_file f = {.path = "state", .map = bytes, .bytes = n};
    int r = believe(&f, reterr);
    if (r == 0)
        *ret = f;
    return r;
}

void md_snapshot_close(struct md_snapshot_file *f)
{
    if (f->map)
        munmap((void *)(uintptr_t)f->map, f->bytes);
    f->map = NULL;
    f->bytes = 0;
}
