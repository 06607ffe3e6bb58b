/* test_log.c: lines of the log as they arrive on stderr: both formats, levels, repeats, names that try to forge lines,
 * and threads. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "daemon/log.h"

static int saved, reader;

static void begin(enum md_level level, enum md_log_format format)
{
    int ends[2];

    md_log_flush(true);
    assert_int_equal(pipe(ends), 0);
    saved = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    reader = ends[0];
    md_log_setup(level, format);
}

/* What was written since begin(). */
static char *end(void)
{
    char *text = calloc(1, 1 << 18);
    size_t n = 0;
    ssize_t got;

    dup2(saved, STDERR_FILENO);
    close(saved);
    md_log_setup(MD_INFO, MD_LOG_TEXT);
    while ((got = read(reader, text + n, (1 << 18) - 1 - n)) > 0)
        n += (size_t)got;
    close(reader);
    return text;
}

static void text_lines(void **state)
{
    char *text;

    begin(MD_INFO, MD_LOG_TEXT);
    md_log(MD_WARN, "ecg", "%d rows", 3);
    md_log(MD_DEBUG, "ecg", "not this one");
    md_log(MD_INFO, NULL, "up");
    text = end();
    assert_int_equal(strspn(text, "0123456789-T:.Z"), 24);
    assert_non_null(strstr(text, "Z warn  ecg: 3 rows\n"));
    assert_non_null(strstr(text, "Z info  up\n"));
    assert_null(strstr(text, "not this one"));
    free(text);
}

/* stderr is a pipe: auto is JSON. Anything in a name stays inside its string. */
static void json_lines(void **state)
{
    char *text, *line;
    json_t *json;

    begin(MD_INFO, MD_LOG_AUTO);
    md_log(MD_ERROR, "a\"b\\c\n\xff\xc3\xa9", "tab\there");
    text = end();
    line = strchr(text, '\n');
    assert_non_null(line);
    assert_string_equal(line, "\n");
    json = json_loads(text, 0, NULL);
    assert_non_null(json);
    assert_string_equal(json_string_value(json_object_get(json, "level")), "error");
    assert_string_equal(json_string_value(json_object_get(json, "subject")), "a\"b\\c\n?\xc3\xa9");
    assert_string_equal(json_string_value(json_object_get(json, "message")), "tab\there");
    json_decref(json);
    free(text);
}

static unsigned count(const char *text, const char *part)
{
    unsigned n = 0;

    while ((text = strstr(text, part)) != NULL) {
        n++;
        text++;
    }
    return n;
}

/* Nothing hangs, and how much was missed is said once somebody reads again. */
static void a_reader_that_stops(void **state)
{
    enum { LINES = 2000 };
    static char early[1 << 18];
    char *late, *told;
    unsigned missed;

    begin(MD_INFO, MD_LOG_TEXT);
    for (int k = 0; k < LINES; k++)
        md_log(MD_INFO, NULL, "line %d %0100d", k, 0);
    assert_true(read(reader, early, sizeof early - 1) > 1 << 14);
    md_log_flush(false);
    md_log(MD_INFO, NULL, "again");
    late = end();
    told = strstr(late, "nobody read the log: ");
    assert_non_null(told);
    assert_int_equal(sscanf(told, "nobody read the log: %u lines were not written\n", &missed), 1);
    assert_int_equal(count(early, "\n") + missed, LINES);
    assert_int_equal(count(late, "\n"), 2);
    assert_non_null(strstr(told, "Z info  again\n"));
    free(late);
}

/* A terminal that is stopped takes part of a line and would then hold its writer for good. */
static void a_terminal_that_stops(void **state)
{
    enum { LINES = 200 };
    int terminal = posix_openpt(O_RDWR | O_NOCTTY), end_of_it, kept = dup(STDERR_FILENO);

    assert_true(terminal >= 0 && grantpt(terminal) == 0 && unlockpt(terminal) == 0);
    end_of_it = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    assert_true(end_of_it >= 0);
    dup2(end_of_it, STDERR_FILENO);
    md_log_setup(MD_INFO, MD_LOG_AUTO);
    for (int k = 0; k < LINES; k++)
        md_log(MD_INFO, NULL, "line %d %0900d", k, 0);
    dup2(kept, STDERR_FILENO);
    md_log_setup(MD_INFO, MD_LOG_TEXT);
    md_log_flush(true);
    close(kept);
    close(end_of_it);
    close(terminal);
}

static void forged_lines_stay_one(void **state)
{
    char *text;

    begin(MD_INFO, MD_LOG_TEXT);
    md_log(MD_INFO, "x\n2026-01-01T00:00:00.000Z error", "y\nz\x1b[2J");
    text = end();
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_null(strchr(text, '\x1b'));
    free(text);
}

/* For systemd's journal: a priority and no time; JOURNAL_STREAM says whether stderr leads there. */
static void journal_lines(void **state)
{
    char *text, stream[64];
    struct stat st;

    begin(MD_DEBUG, MD_LOG_JOURNAL);
    md_log(MD_ERROR, "ecg", "%d rows", 3);
    md_log(MD_WARN, NULL, "w\n<0>forged");
    md_log(MD_INFO, NULL, "i");
    md_log(MD_DEBUG, NULL, "d");
    text = end();
    assert_string_equal(text, "<3>ecg: 3 rows\n<4>w <0>forged\n<6>i\n<7>d\n");
    free(text);

    begin(MD_INFO, MD_LOG_TEXT);
    assert_int_equal(fstat(STDERR_FILENO, &st), 0);
    for (int off = 0; off < 2; off++) {
        snprintf(stream, sizeof stream, "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino + off);
        setenv("JOURNAL_STREAM", stream, 1);
        md_log_setup(MD_INFO, MD_LOG_AUTO);
        md_log(MD_INFO, NULL, "line %d", off);
    }
    unsetenv("JOURNAL_STREAM");
    text = end();
    assert_true(strncmp(text, "<6>line 0\n{\"time\"", 17) == 0);
    free(text);
}

static void long_lines_are_cut(void **state)
{
    static char much[100000];
    char *text;
    json_t *json;

    memset(much, '"', sizeof much - 1);
    begin(MD_INFO, MD_LOG_JSON);
    md_log(MD_INFO, much, "%s", much);
    text = end();
    json = json_loads(text, 0, NULL);
    assert_non_null(json);
    assert_true(strlen(text) < 8192);
    json_decref(json);
    free(text);
}

static void repeats_are_said_once(void **state)
{
    char *text;

    begin(MD_INFO, MD_LOG_TEXT);
    for (int i = 0; i < 1000; i++)
        md_log(MD_WARN, "in", "malformed");
    md_log(MD_WARN, "other", "malformed");
    md_log_flush(true);
    md_log(MD_WARN, "in", "malformed");
    text = end();
    assert_non_null(strstr(text, "in: malformed\n"));
    assert_non_null(strstr(text, "in: malformed (999 more)\n"));
    assert_non_null(strstr(text, "other: malformed\n"));
    assert_null(strstr(text, "other: malformed ("));
    free(text);
}

/* Of ten thousand streams to which the same befalls, one line and how many they are. */
static void lines_about_streams_are_counted(void **state)
{
    char *text, id[16];
    unsigned lines = 0;

    begin(MD_INFO, MD_LOG_TEXT);
    for (int i = 0; i < 10000; i++) {
        const char *why = i == 5000 ? "truncation" : "rotation";
        snprintf(id, sizeof id, "s%d", i);
        md_log_stream(MD_WARN, id, "in", "cannot go on: channels: %d", i);
        md_log_stream(MD_DEBUG, id, "in", "nobody wants to know: %d", i);
        md_log_stream(MD_INFO, id, why, "gap: %s", why);
    }
    md_log_flush(true);
    md_log_stream(MD_WARN, "s7", "in", "cannot go on: channels: %d", 7);
    text = end();
    for (const char *p = text; (p = strchr(p, '\n')); p++)
        lines++;
    assert_non_null(strstr(text, "s0: cannot go on: channels: 0\n"));
    assert_non_null(strstr(text, "s0: cannot go on: channels: 0 (9999 more like it)\n"));
    assert_non_null(strstr(text, "s0: gap: rotation (9998 more like it)\n"));
    assert_non_null(strstr(text, "s5000: gap: truncation\n")); /* another thing is not one of many like it */
    assert_non_null(strstr(text, "s7: cannot go on: channels: 7\n"));
    assert_int_equal(lines, 6);
    free(text);
}

static void *shout(void *arg)
{
    for (int i = 0; i < 200; i++)
        md_log(MD_INFO, arg, "line %d of %s", i, (const char *)arg);
    return NULL;
}

/* Lines of several threads come whole, and all of them. */
static void threads_do_not_mix(void **state)
{
    static char names[4][8] = {"aaaa", "bbbb", "cccc", "dddd"};
    pthread_t threads[4];
    char *text, *line, *rest;
    unsigned n = 0;

    begin(MD_INFO, MD_LOG_TEXT);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, shout, names[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    text = end();
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest), n++) {
        char name[8];
        int i;

        assert_int_equal(sscanf(line + 31, "%7[a-d]: line %d of %7[a-d]", name, &i, name), 3);
    }
    assert_int_equal(n, 800);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_lines),
        cmocka_unit_test(json_lines),
        cmocka_unit_test(journal_lines),
        cmocka_unit_test(a_reader_that_stops),
        cmocka_unit_test(a_terminal_that_stops),
        cmocka_unit_test(forged_lines_stay_one),
        cmocka_unit_test(long_lines_are_cut),
        cmocka_unit_test(repeats_are_said_once),
        cmocka_unit_test(lines_about_streams_are_counted),
        cmocka_unit_test(threads_do_not_mix),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
