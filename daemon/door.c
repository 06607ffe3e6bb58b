/* door.c: see door.h. */
#include "daemon/door.h"

#include <inttypes.h>

#include "daemon/clock.h"
#include "daemon/log.h"

static void refused(void *self, enum io_refusal why, const char *text)
{
    struct md_door *d = self;
    int64_t now = md_now_ns();

    md_bump(&d->refused[why], 1);
    if (d->said_ns[why] && now - d->said_ns[why] < 1000000000) {
        d->more[why]++;
        return;
    }
    if (d->more[why])
        md_log(MD_WARN, d->subject, "not let in: %s (%s; %" PRIu64 " more before)", text, io_refusal_name(why),
               d->more[why]);
    else
        md_log(MD_WARN, d->subject, "not let in: %s (%s)", text, io_refusal_name(why));
    d->said_ns[why] = now;
    d->more[why] = 0;
}

struct io_door md_door_open(struct md_door *d, const char *subject)
{
    d->subject = subject;
    return (struct io_door){d, refused};
}

json_t *md_door_json(struct md_door *d)
{
    json_t *o = json_object();

    for (unsigned r = 0; r < IO_REFUSALS; r++)
        json_object_set_new(o, io_refusal_name((enum io_refusal)r), json_integer((json_int_t)md_read(&d->refused[r])));
    return o;
}
