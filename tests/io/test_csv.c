/* CSV files as streams: layouts by their looks, times, missing values, bad lines, pipes. */
#include "io/csv.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/io/place.h"
#include "tests/io/recorder.h"

extern const struct io_source_class io_source_csv;

static char reterr[IO_ERR];

static void put(const char *name, const char *text)
{
    FILE *f = fopen(at(name), "wb");
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
}

static struct io_csv_conf conf_of(char **file)
{
    return (struct io_csv_conf){.common = {.scale = 1, .interval_ns = -1}, .files = {file, 1}};
}

static bool run(struct recorder *r, void *source)
{
    return recorder_run(r, &io_source_csv, source, 1000000000);
}

/* Plays `text` as a file; returns its stream. */
static struct recorded *play(const struct io_csv_conf *options, const char *text, struct recorder *r)
{
    void *source;
    char *file = at("t.csv");
    struct io_csv_conf c = options ? *options : conf_of(&file);
    c.files = (struct io_strings){&file, 1};
    c.common.scale = 1;
    put("t.csv", text);
    recorder_init(r, "in", 0);
    if (io_source_csv.open(&c, &r->host, &source, reterr))
        fail_msg("%s\n%s", reterr, text);
    assert_true(run(r, source));
    io_source_csv.close(source);
    assert_int_equal(r->n_streams, 1);
    assert_true(r->streams[0]->ended);
    return r->streams[0];
}

/* ---- layouts ---------------------------------------------------------------------------------------------- */

static void layouts(void **state)
{
    const struct {
        const char *text;
        unsigned rows, channels;
        bool timed;
        double x[6];
    } cases[] = {
        {"a,b\n1,2\n3,4\n", 2, 2, false, {1, 2, 3, 4}},
        {"1,2\n3,4", 2, 2, false, {1, 2, 3, 4}}, /* no header, no last newline */
        {"1;2\r\n3;4\r\n", 2, 2, false, {1, 2, 3, 4}},
        {"1\t2\n3\t4\n", 2, 2, false, {1, 2, 3, 4}},
        {"1,5;2\n3;4,25\n", 2, 2, false, {1.5, 2, 3, 4.25}}, /* decimal commas */
        {"x\n1\n-2.5e3\n+.5\n", 3, 1, false, {1, -2500, 0.5}},
        {"\xef\xbb\xbf\"a \"\"b\"\", c\", d \n 1 , \"2\"\n3, 4\n", 2, 2, false, {1, 2, 3, 4}},
        {"# made by\n\na,b\n# 5,6\n1,2\n\n3,4\n", 2, 2, false, {1, 2, 3, 4}},
        {"a,b,c\n1,,NaN\nNA,null,2\n", 2, 3, false, {1, NAN, NAN, NAN, NAN, 2}},
        {"name,v\nx,1\ny,2\n", 2, 1, false, {1, 2}}, /* a column of text is no channel */
        {"Date,v\n2020-01-01,1\n2020-01-02,2\n", 2, 1, true, {1, 2}},
        {"2020-01-01T00:00Z,1\n2020-01-01T00:01Z,2\n", 2, 1, true, {1, 2}},
        {"1600000000,1\n1600000001,2\n", 2, 1, true, {1, 2}}, /* epoch s by its looks */
        {"1600000000,1\n1500000000,2\n", 2, 2, false, {1600000000, 1, 1500000000, 2}},
        {"1600000000\n1600000001\n", 2, 1, false, {1600000000, 1600000001}},
        {"t,v\n0,1\n0.5,2\n", 2, 1, true, {1, 2}},
        {"a,b\n", 0, 2, false, {0}},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct recorder r;
        struct recorded *s = play(NULL, cases[k].text, &r);
        if (s->n != cases[k].rows || s->channels != cases[k].channels || s->irregular != cases[k].timed || r.n_said)
            fail_msg("%zu rows of %u, %s: %s", s->n, s->channels, s->irregular ? "timed" : "not timed", cases[k].text);
        for (size_t i = 0; i < s->n * s->channels; i++)
            if (!(s->x[i] == cases[k].x[i] || (isnan(s->x[i]) && isnan(cases[k].x[i]))))
                fail_msg("value %zu is %g: %s", i, s->x[i], cases[k].text);
        for (size_t i = 0; i < s->n; i++)
            assert_int_equal(s->seq[i], i);
        assert_true(s->n == 0 || s->type == IO_F64);
        recorder_done(&r);
    }
}

static void chosen(void **state)
{
    struct recorder r;
    struct io_csv_conf c = {.time = "when", .columns = {(char *[]){"b", "1"}, 2}};
    struct recorded *s = play(&c, "a,b,when\n1,2,2020-01-01\n3,4,2020-01-02\n", &r);
    assert_true(s->irregular && s->channels == 2 && s->n == 2);
    assert_true(s->x[0] == 2 && s->x[1] == 1 && s->x[2] == 4 && s->x[3] == 3);
    assert_true(s->t_ns[1] - s->t_ns[0] == 86400000000000);
    recorder_done(&r);
    c = (struct io_csv_conf){.time = "none", .header = 2};
    s = play(&c, "1600000000,1\n1600000001,2\n", &r);
    assert_true(!s->irregular && s->channels == 2);
    recorder_done(&r);
    c = (struct io_csv_conf){.header = 1, .delimiter = 2};
    s = play(&c, "1,1;2\n3;4\n", &r);
    assert_true(s->channels == 2 && s->n == 1 && s->x[1] == 4);
    recorder_done(&r);
    c = (struct io_csv_conf){.common.rate = 50}; /* times and a rate: a regular stream that knows its beginning */
    s = play(&c, "2020-01-01,1\n2020-01-02,2\n", &r);
    assert_true(!s->irregular && s->rate == 50 && s->t_ns[0] == 1577836800000000000);
    recorder_done(&r);
}

/* ---- times ------------------------------------------------------------------------------------------------ */

static void times(void **state)
{
    const struct {
        const char *text;
        enum io_csv_time how;
        int64_t ns;
    } good[] = {
        {"1970-01-01", IO_CSV_ISO, 0},
        {"1970-01", IO_CSV_ISO, 0},
        {"2000-02-29", IO_CSV_ISO, 951782400000000000},
        {"1969-12-31T23:59:59.999999999Z", IO_CSV_ISO, -1},
        {"2024-06-30 12:34", IO_CSV_ISO, 1719750840000000000},
        {"2024/06/30 12:34:56", IO_CSV_ISO, 1719750896000000000},
        {"2024-06-30T14:34:56,5+02:00", IO_CSV_ISO, 1719750896500000000},
        {"2024-06-30T07:04:56.123456789123-0530", IO_CSV_ISO, 1719750896123456789},
        {"2024-06-30T12Z", IO_CSV_ISO, INT64_MIN},
        {"1700000000.123456789", IO_CSV_S, 1700000000123456789},
        {"-0.5", IO_CSV_S, -500000000},
        {"1.7e9", IO_CSV_S, 1700000000000000000},
        {"1700000000123.5", IO_CSV_MS, 1700000000123500000},
        {"1700000000123456", IO_CSV_US, 1700000000123456000},
        {"1700000000123456789", IO_CSV_NS, 1700000000123456789},
        {"1998", IO_CSV_YEAR, 883612800000000000},
        {"20240630", IO_CSV_YMD, 1719705600000000000},
        {"2023-02-29", IO_CSV_ISO, INT64_MIN},
        {"2023-13-01", IO_CSV_ISO, INT64_MIN},
        {"2023-01-01T24:00", IO_CSV_ISO, INT64_MIN},
        {"2023-01-01x", IO_CSV_ISO, INT64_MIN},
        {"99999999999999999999", IO_CSV_NS, INT64_MIN},
        {"1e30", IO_CSV_S, INT64_MIN},
        {"", IO_CSV_S, INT64_MIN},
        {"12:30", IO_CSV_ISO, INT64_MIN},
    };
    for (size_t k = 0; k < sizeof good / sizeof *good; k++) {
        int64_t t = INT64_MIN;
        if (io_csv_time(good[k].text, good[k].how, &t) != (good[k].ns != INT64_MIN) || t != good[k].ns)
            fail_msg("%s: %lld", good[k].text, (long long)t);
    }
    struct recorder r;
    struct recorded *s = play(NULL, "time,v\n1700000000.1,1\n1700000000.2,2\n1700000000.25,3\n", &r);
    assert_true(s->t_ns[0] == 1700000000100000000 && s->t_ns[1] == 1700000000200000000);
    assert_true(s->t_ns[2] == 1700000000250000000);
    recorder_done(&r);
    s = play(NULL, "YEAR,v\n1700,1\n1701,2\n", &r);
    assert_true(s->irregular && s->channels == 1 && s->t_ns[1] - s->t_ns[0] == 365ll * 86400000000000);
    recorder_done(&r);
    s = play(NULL, "date,v\n19580329,1\n19580405,2\n", &r);
    assert_true(s->irregular && s->t_ns[1] - s->t_ns[0] == 7ll * 86400000000000);
    recorder_done(&r);
}

/* ---- errors ----------------------------------------------------------------------------------------------- */

/* The rows before it arrive; the message names file and line. */
static void bad_lines(void **state)
{
    const struct {
        const char *text;
        unsigned rows;
        const char *said;
    } cases[] = {
        {"a,b\n1,2\n3,4\n5,6\nx,8\n9,9\n", 3, "t.csv:5: 'x' is no number"},
        {"a,b\n1,2\n3,4\n\n5,6,7\n", 2, "t.csv:5: 3 fields, where the first line has 2"},
        {"a,b\n1,2\n3\n", 1, "t.csv:3: 1 field, where the first line has 2"},
        {"2020-01-01,1\n2020-01-02,2\n2020-01-03,3\n2020-02-31,4\n", 3, "t.csv:4: '2020-02-31' is no time"},
        {"1\n2\n3\n0x10\n", 3, "t.csv:4: '0x10' is no number"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct recorder r;
        struct recorded *s = play(NULL, cases[k].text, &r);
        if (s->n != cases[k].rows || !recorder_said(&r, cases[k].said) || !recorder_said(&r, "note error"))
            fail_msg("%zu rows, %s", s->n, r.n_said ? r.said[1] : "nothing said");
        recorder_done(&r);
    }
}

static void refused(void **state)
{
    const struct {
        struct io_csv_conf c;
        const char *text, *said;
    } cases[] = {
        {{.time = NULL}, "", "t.csv: no line of numbers"},
        {{.time = NULL}, "# nothing\n\n", "t.csv: no line of numbers"},
        {{.time = "when"}, "a,b\n1,2\n", "t.csv: no column 'when' for the time"},
        {{.time = "b"}, "a,b\n1,x\n", "t.csv: column 2: 'x' is no time"},
        {{.columns = {(char *[]){"c"}, 1}}, "a,b\n1,2\n", "t.csv: no column 'c'"},
        {{.columns = {(char *[]){"3"}, 1}}, "a,b\n1,2\n", "t.csv: no column '3'"},
        {{.time = NULL}, "a,b\nx,y\nz,w\n", "t.csv: no column of numbers"},
        {{.time = NULL}, "Date,b\n19-Sep-03,1\n", "t.csv: column 1: '19-Sep-03' is no time"},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        struct recorder r;
        void *source;
        char *file = at("t.csv");
        struct io_csv_conf c = cases[k].c;
        c.files = (struct io_strings){&file, 1};
        put("t.csv", cases[k].text);
        recorder_init(&r, "in", 0);
        assert_int_equal(io_source_csv.open(&c, &r.host, &source, reterr), -EBADMSG);
        if (!strstr(reterr, cases[k].said))
            fail_msg("%s", reterr);
        recorder_done(&r);
    }
    char *twins[] = {at("t.csv"), at("u.csv")};
    struct io_csv_conf same = {.files = {twins, 2}, .common = {.scale = 1, .stream = (char *)"{input}"}};
    struct recorder both;
    void *playing;
    put("t.csv", "1\n2\n3\n");
    put("u.csv", "4\n5\n6\n");
    recorder_init(&both, "in", 0);
    assert_int_equal(io_source_csv.open(&same, &both.host, &playing, reterr), 0);
    assert_true(run(&both, playing));
    assert_true(recorder_said(&both, "u.csv: left out (its length is not known): the same stream id as"));
    io_source_csv.close(playing);
    recorder_done(&both);
    char *missing = at("none.csv");
    struct io_csv_conf c = conf_of(&missing);
    struct recorder r;
    void *source;
    recorder_init(&r, "in", 0);
    assert_int_equal(io_source_csv.open(&c, &r.host, &source, reterr), -ENOENT);
    recorder_done(&r);
}

static void long_lines(void **state)
{
    enum { COLUMNS = 1000, ROWS = 300 };
    char *text = malloc(COLUMNS * ROWS * 8 + 100000), *to = text;
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < COLUMNS; k++)
            to += sprintf(to, "%d%c", i * 7 + k, k + 1 < COLUMNS ? ',' : '\n');
    struct recorder r;
    struct recorded *s = play(NULL, text, &r);
    assert_true(s->n == ROWS && s->channels == COLUMNS);
    for (int i = 0; i < ROWS * COLUMNS; i++)
        assert_true(s->x[i] == i / COLUMNS * 7 + i % COLUMNS);
    recorder_done(&r);
    memset(to, '1', 70000);
    to[70000] = '\0';
    s = play(NULL, text, &r);
    assert_true(s->n == ROWS && recorder_said(&r, "t.csv:301: the line is longer than 64 KiB"));
    recorder_done(&r);
    free(text);
}

/* A pipe shows its lines late and in pieces. */
static void pipes(void **state)
{
    char *file = at("fifo"), text[] = "t,v\n0,1\n1,2\n2,3\n3,4\n";
    assert_int_equal(mkfifo(file, 0600), 0);
    struct io_csv_conf c = conf_of(&file);
    struct recorder r;
    void *source;
    recorder_init(&r, "in", 0);
    assert_int_equal(io_source_csv.open(&c, &r.host, &source, reterr), 0);
    assert_false(run(&r, source));
    int out = open(file, O_WRONLY);
    for (size_t i = 0; text[i]; i++) {
        assert_int_equal(write(out, &text[i], 1), 1);
        assert_false(run(&r, source));
    }
    assert_true(r.n_streams == 1 && r.streams[0]->n == 4);
    assert_int_equal(write(out, "4,5", 3), 3);
    close(out);
    assert_true(run(&r, source));
    assert_true(r.streams[0]->n == 5 && r.streams[0]->x[4] == 5 && r.streams[0]->t_ns[4] == 4000000000);
    io_source_csv.close(source);
    recorder_done(&r);
}

static int make_dir(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int clean(void **state)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts), cmocka_unit_test(chosen),     cmocka_unit_test(times), cmocka_unit_test(bad_lines),
        cmocka_unit_test(refused), cmocka_unit_test(long_lines), cmocka_unit_test(pipes),
    };
    return cmocka_run_group_tests_name("csv", tests, make_dir, clean);
}
