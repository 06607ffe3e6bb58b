/* generate_text.c: see generate.h. */
#include "io/utf8.h"
#include "tools/generate.h"

/* Of the character that begins with this byte; 1 where none does. */
static unsigned length_of(uint8_t first)
{
    return first < 0xc2 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 1;
}

static bool commands_terminal(uint32_t c)
{
    return (c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7f && c < 0xa0);
}

static void put_held(struct text_writer *w)
{
    uint32_t c;
    if (io_utf8_step((const char *)w->held, w->n, &c) == w->n && !commands_terminal(c))
        fwrite(w->held, 1, w->n, w->out);
    else
        fputs("\xef\xbf\xbd", w->out);
    w->n = 0;
}

void text_put(struct text_writer *w, uint8_t byte)
{
    if (!w->careful) {
        putc(byte, w->out);
        return;
    }
    if (w->n > 0 && (byte & 0xc0) != 0x80)
        put_held(w); /* a character that was not finished */
    w->held[w->n++] = byte;
    if (w->n >= length_of(w->held[0]))
        put_held(w);
    if (w->n == 0)
        fflush(w->out);
}

void text_end(struct text_writer *w)
{
    if (w->n > 0)
        put_held(w);
    fflush(w->out);
}
