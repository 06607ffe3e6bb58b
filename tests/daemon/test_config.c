/* test_config.c: what a configuration means, what is said about wrong ones, and that no text whatever breaks the
 * reader. argv[1]: the source tree's configs/. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/config.h"
#include "daemon/config_schema.h"
#include "tests/daemon/config_wrong.h"
#include "tests/seed.h"

static const char *configs;

/* Reads a text; what was said about it goes to *ret_said, which the caller frees. */
static int parse(const char *text, const char *const *sets, unsigned n_sets, bool complete, char **ret_said,
                 struct md_config **ret)
{
    size_t size;
    FILE *said = open_memstream(ret_said, &size);
    int rc = md_config_parse("t.yaml", text, sets, n_sets, complete, said, ret);

    fclose(said);
    return rc;
}

static struct md_config *parse_right(const char *text)
{
    struct md_config *config = NULL;
    char *said;

    if (parse(text, NULL, 0, false, &said, &config) != 0)
        fail_msg("%s\n%s", text, said);
    assert_string_equal(said, "");
    free(said);
    return config;
}

static char *print(const struct md_config *config)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    md_config_print(config, out);
    fclose(out);
    return text;
}

static unsigned count(const char *text, const char *part)
{
    unsigned n = 0;

    for (; (text = strstr(text, part)); text += strlen(part))
        n++;
    return n;
}

static char *read_config(const char *name)
{
    char path[4096], *text = calloc(1, 1 << 16);
    FILE *in;

    snprintf(path, sizeof path, "%s/%s", configs, name);
    in = fopen(path, "r");
    assert_non_null(in);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 16) - 1, in) > 0);
    fclose(in);
    return text;
}

/* ---- wrong ones ------------------------------------------------------------------------------------------------- */

static void wrong_ones_are_named(void **state)
{
    for (unsigned i = 0; i < config_wrong_n; i++) {
        const struct wrong *w = &config_wrong[i];
        struct md_config *config = NULL;
        char *said, expected[512];

        assert_int_equal(parse(w->text, NULL, 0, false, &said, &config), -EINVAL);
        assert_null(config);
        snprintf(expected, sizeof expected, "t.yaml:%s", w->says);
        if (strncmp(said, expected, strlen(expected)) || count(said, "error: ") != w->errors)
            fail_msg("case %u: %s\nexpected %u errors: %s\nsaid: %s", i, w->text, w->errors, expected, said);
        free(said);
    }
}

static void caret_points_at_the_place(void **state)
{
    struct md_config *config = NULL;
    char *said;

    assert_int_equal(parse("models:\n  é: {path: x, slots: 0} # ü\n", NULL, 0, false, &said, &config), -EINVAL);
    assert_string_equal(said, "t.yaml:2:23: error: models.é.slots: 0 is out of range (1 to 16777216)\n"
                              "  é: {path: x, slots: 0} # ü\n"
                              "                      ^\n");
    free(said);
}

/* Every error of a text is said, in the order of the places, the missing sections last. */
static void all_errors_in_order(void **state)
{
    static const char text[] = "log: {level: x}\nbatch: {max_delay: 1}\nmodels: {m: {pat: y, slots: 0}}\nfoo: 1\n";
    static const char *const expected[] = {"1:14: ",
                                           "2:20: ",
                                           "3:10: ",
                                           "3:14: ",
                                           "3:29: ",
                                           "4:1: ",
                                           " error: there are no inputs",
                                           " error: there are no outputs"};
    struct md_config *config = NULL;
    char *said, *at;

    assert_int_equal(parse(text, NULL, 0, true, &said, &config), -EINVAL);
    at = said;
    for (unsigned i = 0; i < sizeof expected / sizeof *expected; i++) {
        char line[64];

        snprintf(line, sizeof line, "t.yaml:%s", expected[i]);
        at = strstr(at, line);
        if (!at)
            fail_msg("no '%s' in its place in\n%s", line, said);
    }
    assert_int_equal(count(said, "error: "), 8);
    free(said);
}

/* A bomb of aliases is a small text: it ends by the limit on nodes. */
static void aliases_are_bounded(void **state)
{
    struct md_config *config = NULL;
    char *said, text[1024] = "a: &a [x,x,x,x,x,x,x,x,x,x]\n", line[64];

    for (char c = 'b'; c < 'j'; c++) {
        char p = (char)(c - 1);

        snprintf(line, sizeof line, "%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, p, p, p, p, p, p, p, p,
                 p, p);
        strcat(text, line);
    }
    assert_int_equal(parse(text, NULL, 0, false, &said, &config), -EINVAL);
    assert_non_null(strstr(said, "error: the configuration is too large"));
    free(said);
}

static void nesting_is_bounded(void **state)
{
    struct md_config *config = NULL;
    char *said, text[20001];

    memset(text, '[', 10000);
    memset(text + 10000, ']', 10000);
    text[20000] = 0;
    assert_int_equal(parse(text, NULL, 0, false, &said, &config), -EINVAL);
    free(said);
}

/* ---- right ones ------------------------------------------------------------------------------------------------- */

static void empty_has_the_defaults(void **state)
{
    struct md_config *c = parse_right("");
    struct md_policy p;

    assert_int_equal(c->n_models + c->n_inputs + c->n_outputs + c->n_rules, 0);
    assert_int_equal(c->max_delay_ns, 2000000);
    assert_int_equal(c->max_streams, 1024);
    assert_int_equal(c->shutdown_timeout_ns, 10000000000);
    assert_int_equal(c->log_level, MD_INFO);
    assert_int_equal(c->log_format, MD_LOG_AUTO);
    assert_null(c->state_dir);
    assert_null(c->control);
    md_config_policy(c, "any", &p);
    assert_int_equal(p.nan, MD_NAN_AUTO);
    assert_int_equal(p.gap_max_ns, -1);
    assert_int_equal(p.silence_ns, -1);
    assert_int_equal(p.idle_ns, -1);
    assert_int_equal(p.late, MD_LATE_DROP);
    for (unsigned f = 0; f < IO_FAMILIES; f++) {
        assert_int_equal(p.publish[f].on, f != IO_CHANNEL_ANOMALY && f != IO_SURPRISE);
        assert_int_equal(p.publish[f].every, 1);
    }
    md_config_free(&c);
    assert_null(c);
}

static void models_and_defaults(void **state)
{
    struct md_config *c =
        parse_right("models: {a: {path: x}, b: {path: y, weights: fp16, device: cuda:1, slots: 7, carry: true}}");

    assert_int_equal(c->n_models, 2);
    assert_true(c->models[0].weights_stored);
    assert_string_equal(c->models[0].device, "auto");
    assert_int_equal(c->models[0].state, SSM_F32);
    assert_true(c->models[0].deterministic);
    assert_int_equal(c->models[0].slots, 4096);
    assert_false(c->models[1].weights_stored);
    assert_int_equal(c->models[1].weights, SSM_F16);
    assert_int_equal(c->models[1].slots, 7);
    assert_false(c->models[0].carry);
    assert_true(c->models[1].carry);
    md_config_free(&c);
}

static int64_t delay(const char *text)
{
    char yaml[128];
    struct md_config *c;
    int64_t ns;

    snprintf(yaml, sizeof yaml, "streams: {\"*\": {silence: %s}}", text);
    c = parse_right(yaml);
    ns = c->rules[0].policy.silence_ns;
    md_config_free(&c);
    return ns;
}

static void durations(void **state)
{
    assert_int_equal(delay("1000000ns"), 1000000);
    assert_int_equal(delay("1500us"), 1500000);
    assert_int_equal(delay("250ms"), 250000000);
    assert_int_equal(delay("5s"), 5000000000);
    assert_int_equal(delay("2 min"), 120000000000);
    assert_int_equal(delay("1h"), 3600000000000);
    assert_int_equal(delay("7d"), 604800000000000);
    assert_int_equal(delay("0.1s"), 100000000);
    assert_int_equal(delay("1.000000001s"), 1000000001);
    assert_int_equal(delay("never"), -1);
}

static void variables(void **state)
{
    struct md_config *c;

    setenv("MAMBAD_TEST_DIR", "/d", 1);
    setenv("MAMBAD_TEST_EMPTY", "", 1);
    unsetenv("MAMBAD_TEST_UNSET");
    c = parse_right("models:\n"
                    "  a: {path: \"${MAMBAD_TEST_DIR}/m\"}\n"
                    "  b: {path: \"${MAMBAD_TEST_UNSET:-/e/f}x${MAMBAD_TEST_DIR}\"}\n"
                    "  c: {path: \"${MAMBAD_TEST_EMPTY:-g}${MAMBAD_TEST_EMPTY}\"}\n"
                    "  d: {path: \"$${MAMBAD_TEST_DIR} $x $\"}\n"
                    "  e: {path: x, slots: \"${MAMBAD_TEST_UNSET:-12}\"}\n");
    assert_string_equal(c->models[0].path, "/d/m");
    assert_string_equal(c->models[1].path, "/e/fx/d");
    assert_string_equal(c->models[2].path, "g");
    assert_string_equal(c->models[3].path, "${MAMBAD_TEST_DIR} $x $");
    assert_int_equal(c->models[4].slots, 12);
    md_config_free(&c);
}

static void anchors(void **state)
{
    struct md_config *c = parse_right("streams: {a: &x {nan: hold, gap: {max: 1s}}, b: *x}");
    struct md_policy p;

    md_config_policy(c, "b", &p);
    assert_int_equal(p.nan, MD_NAN_HOLD);
    assert_int_equal(p.gap_max_ns, 1000000000);
    md_config_free(&c);
}

/* The first match counts, key by key over "*", which is the default wherever it stands; publish goes by family. */
static void policies(void **state)
{
    struct md_config *c =
        parse_right("streams:\n"
                    "  \"*\": {nan: hold, silence: 1s, publish: {prediction: {every: 4}, anomaly: false}}\n"
                    "  \"a/[0-9]\": {nan: skip, silence: never, publish: {prediction: {horizon: 3}}}\n"
                    "  \"a/*\": {nan: reset, alarm: {p: 0.01}}\n"
                    "  idle: 3s\n");
    struct md_policy p;

    md_config_policy(c, "a/7", &p);
    assert_int_equal(p.nan, MD_NAN_SKIP);
    assert_int_equal(p.silence_ns, -1);
    assert_int_equal(p.idle_ns, 3000000000);
    assert_int_equal(p.publish[IO_PREDICTION].every, 1);
    assert_int_equal(p.publish[IO_PREDICTION].horizon, 3);
    assert_false(p.publish[IO_ANOMALY].on);
    assert_float_equal(p.alarm_p, 1e-4, 0);
    md_config_policy(c, "a/b/c", &p);
    assert_int_equal(p.nan, MD_NAN_RESET);
    assert_int_equal(p.silence_ns, 1000000000);
    assert_int_equal(p.publish[IO_PREDICTION].every, 4);
    assert_float_equal(p.alarm_p, 0.01, 0);
    md_config_policy(c, "b", &p);
    assert_int_equal(p.nan, MD_NAN_HOLD);
    md_config_free(&c);
}

static void zmq_defaults(void **state)
{
    const char *why;
    struct md_config *c;

    if (!io_source_find("zmq", &why))
        skip();
    c = parse_right(
        "models: {m: {path: x}}\n"
        "inputs:\n"
        "  a: {type: zmq, pattern: pull, bind: \"ipc://a\", rate: 50}\n"
        "  b: {type: zmq, pattern: sub, connect: [\"ipc://a\", \"ipc://b\"], interval: 1h, scale: 2}\n"
        "  c: {type: zmq, pattern: sub, connect: \"ipc://a\", when_full: drop_newest, queue: 9}\n"
        "outputs: {o: {type: zmq, bind: \"ipc://c\"}, p: {type: zmq, bind: \"ipc://d\", families: event}}\n");
    assert_int_equal(c->inputs[0].when_full, MD_BLOCK);
    assert_int_equal(c->inputs[1].when_full, MD_DROP_OLDEST);
    assert_int_equal(c->inputs[2].when_full, MD_DROP_NEWEST);
    assert_int_equal(c->inputs[2].queue, 9);
    assert_float_equal(((struct io_common *)c->inputs[0].conf)->rate, 50, 0);
    assert_int_equal(((struct io_common *)c->inputs[0].conf)->interval_ns, -1);
    assert_int_equal(((struct io_common *)c->inputs[1].conf)->interval_ns, 3600000000000);
    assert_float_equal(((struct io_common *)c->inputs[1].conf)->scale, 2, 0);
    assert_int_equal(c->outputs[0].families, (1 << IO_FAMILIES) - 1);
    assert_int_equal(c->outputs[1].families, 1 << IO_EVENT);
    md_config_free(&c);
}

/* ---- --set ------------------------------------------------------------------------------------------------------ */

static void sets_override(void **state)
{
    static const char *const sets[] = {"models.m.slots=9",          "models.n.path=${MAMBAD_TEST_UNSET:-/p}",
                                       "streams.\"a.b*\".nan=hold", "streams.\"a.b*\".gap={max: 2s}",
                                       "batch.max_delay=\"7ms\"",   "models.m.path=*weird: [x",
                                       "models.n.path=/q"};
    struct md_config *c = NULL;
    struct md_policy p;
    char *said;

    assert_int_equal(parse("models: {m: {path: x}}\nbatch:\n", sets, 7, false, &said, &c), 0);
    assert_int_equal(c->models[0].slots, 9);
    assert_string_equal(c->models[0].path, "*weird: [x");
    assert_string_equal(c->models[1].path, "/q");
    assert_int_equal(c->max_delay_ns, 7000000);
    md_config_policy(c, "a.bc", &p);
    assert_int_equal(p.nan, MD_NAN_HOLD);
    assert_int_equal(p.gap_max_ns, 2000000000);
    md_config_free(&c);
    free(said);
}

static void wrong_sets_are_named(void **state)
{
    static const struct {
        const char *set, *says;
    } wrong[] = {
        {"batch.max_dely=1ms",
         "--set batch.max_dely=1ms: error: batch: unknown key 'max_dely' (did you mean 'max_delay'?)\n"},
        {"batch.max_delay=1", "--set batch.max_delay=1: error: batch.max_delay: '1' is not a duration "},
        {"models.m.path.x=1", "--set models.m.path.x=1: error: 'path' is not a map\n"},
        {"models.m.slots={a: 1}",
         "--set models.m.slots={a: 1}: error: models.m.slots: must be an integer, not a map\n"},
        {"models.m.slots=[1", "--set models.m.slots=[1: error: flow sequence without a closing bracket\n"},
        {"models.m.slots=${MAMBAD_TEST_UNSET}",
         "--set models.m.slots=${MAMBAD_TEST_UNSET}: error: environment variable "},
        {"models.m.slots=", "--set models.m.slots=: error: models.m.slots: must be an integer, not nothing\n"},
        {"novalue", "--set novalue: error: not of the form key.path=value\n"},
        {"=1", "--set =1: error: not of the form key.path=value\n"},
        {"a..b=1", "--set a..b=1: error: not of the form key.path=value\n"},
        {"streams.\"x=1", "--set streams.\"x=1: error: not of the form key.path=value\n"},
        {"log.level=\xff", "--set log.level=\xff: error: not UTF-8\n"},
    };

    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct md_config *c = NULL;
        char *said;

        assert_int_equal(parse("models: {m: {path: x}}\n", &wrong[i].set, 1, false, &said, &c), -EINVAL);
        if (strncmp(said, wrong[i].says, strlen(wrong[i].says)))
            fail_msg("expected: %s\nsaid: %s", wrong[i].says, said);
        free(said);
    }
}

/* ---- printing --------------------------------------------------------------------------------------------------- */

static void check_reprint(const char *text)
{
    struct md_config *once = parse_right(text), *twice;
    char *first = print(once), *second;

    twice = parse_right(first);
    second = print(twice);
    assert_string_equal(first, second);
    md_config_free(&once);
    md_config_free(&twice);
    free(first);
    free(second);
}

static void printed_reads_back(void **state)
{
    check_reprint("");
    check_reprint("models: {\"a: b\": {path: \"x\\\"y\\\\z\\n$${A} ü \\x01\"}, \"null\": {path: \"~\"}}");
    check_reprint(
        "streams: {a: {silence: never, gap: {max: none}, publish: {prediction: {quantiles: [0.05, 0.1, 0.333333]}}},"
        " idle: 1500us, b: {}}");
    check_reprint(
        "batch: {max_delay: 1.5s}\nstate: {dir: x, keep: 9}\nserver: {control: \"ipc:///a b\"}\nlog: {level: debug}");
}

static void examples_read_and_reprint(void **state)
{
    static const char *const names[] = {"minimal.yaml", "full.yaml", "demo.yaml", "logs.yaml"};
    static const char *const types[] = {"zmq", "hdf5", "audio", "bytes"};
    const char *why;

    for (unsigned i = 0; i < 4; i++)
        if (!io_source_find(types[i], &why) || (i < 2 && !io_sink_find(types[i], &why)))
            skip();
    for (unsigned i = 0; i < 4; i++) {
        char *text = read_config(names[i]);

        check_reprint(text);
        free(text);
    }
}

static void check_named(const char *text, const struct io_option *options)
{
    char key[128];

    for (const struct io_option *o = options; o->name; o++) {
        snprintf(key, sizeof key, "%s:", o->name);
        if (!strstr(text, key))
            fail_msg("full.yaml has no %s", key);
    }
}

static void full_example_has_every_key(void **state)
{
    const struct io_option *const tables[] = {md_model_options, md_input_options,   md_output_options,
                                              md_batch_options, md_state_options,   md_server_options,
                                              md_log_options,   md_policy_options,  md_gap_options,
                                              md_alarm_options, md_publish_options, io_common_options};
    char *text = read_config("full.yaml"), type[64];

    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        check_named(text, tables[i]);
    for (unsigned i = 0; io_source_at(i); i++) {
        snprintf(type, sizeof type, "type: %s", io_source_at(i)->type);
        assert_non_null(strstr(text, type));
        check_named(text, io_source_at(i)->options);
    }
    for (unsigned i = 0; io_sink_at(i); i++)
        check_named(text, io_sink_at(i)->options);
    free(text);
}

/* ---- against models --------------------------------------------------------------------------------------------- */

static void check_against(const char *text, const struct ssm_model_info *info, const char *says)
{
    struct md_config *c = parse_right(text);
    char *said;
    size_t size;
    FILE *errors = open_memstream(&said, &size);
    int rc = md_config_check_models(c, &info, errors);

    fclose(errors);
    assert_int_equal(rc, says ? -EINVAL : 0);
    if (says && strncmp(said, says, strlen(says)))
        fail_msg("expected: %s\nsaid: %s", says, said);
    free(said);
    md_config_free(&c);
}

#define ONE "models: {m: {path: x}}\n"

static void judged_against_models(void **state)
{
    const struct ssm_model_info any = {.name = "m",
                                       .input = SSM_SAMPLES,
                                       .horizon = 8,
                                       .n_quantiles = 2,
                                       .quantiles = {0.1f, 0.9f},
                                       .embedding = 4,
                                       .mask = true};
    const struct ssm_model_info fixed = {.name = "m", .input = SSM_SAMPLES, .rate = 8000};
    const struct ssm_model_info bytes = {.name = "m", .input = SSM_TOKENS, .vocab = 256, .bytes = true};
    const struct ssm_model_info tokens = {.name = "m", .input = SSM_TOKENS, .vocab = 50280};
    const char *why;

    check_against(ONE "streams: {x: {nan: mask, publish: {prediction: {horizon: 8, quantiles: [0.1]}}}}", &any, NULL);
    check_against(ONE "streams: {x: {nan: mask}}", &fixed, "t.yaml:2:11: error: streams.x.nan: no model can mask");
    check_against(ONE "streams: {x: {publish: {prediction: {horizon: 1024}}}}", &any, NULL);
    check_against(ONE "streams: {x: {publish: {prediction: {horizon: 1025}}}}", &any,
                  "t.yaml:2:11: error: streams.x.publish.prediction.horizon: 1025 is out of range (1 to 1024)");
    check_against(ONE "streams: {x: {publish: {prediction: {quantiles: [0.1, 0.5]}}}}", &any,
                  "t.yaml:2:11: error: streams.x.publish.prediction.quantiles: the model has no 0.5 (valid: 0.1, 0.9)");
    check_against(ONE "streams: {x: {publish: {prediction: true}}}", &fixed,
                  "t.yaml:2:11: error: streams.x.publish.prediction: no model forecasts");
    check_against(ONE "streams: {x: {publish: {channel_anomaly: true}}}", &any,
                  "t.yaml:2:11: error: streams.x.publish.channel_anomaly: no model has that head");
    check_against(ONE "streams: {x: {publish: {surprise: true}}}", &any,
                  "t.yaml:2:11: error: streams.x.publish.surprise: no model has that head");
    check_against(ONE "streams: {x: {publish: {surprise: true, anomaly: {every: 2}, prediction: true}}}", &bytes, NULL);
    check_against(ONE "streams: {x: {publish: {prediction: {quantiles: [0.5]}}}}", &bytes,
                  "t.yaml:2:11: error: streams.x.publish.prediction.quantiles: no model has quantiles");
    check_against(ONE "streams: {x: {publish: {channel_anomaly: true}}}", &bytes,
                  "t.yaml:2:11: error: streams.x.publish.channel_anomaly: no model has that head");
    check_against(ONE "inputs: {i: {type: bytes, files: x, max_record: 1KiB}}", &bytes, NULL);
    check_against(ONE "inputs: {i: {type: bytes, files: x}}", &any,
                  "t.yaml:2:10: error: inputs.i: model 'm' reads samples, and this input gives bytes");
    if (!io_source_find("zmq", &why))
        return;
    check_against(ONE "inputs: {i: {type: zmq, pattern: pull, bind: \"ipc://x\", rate: 8000}}", &fixed, NULL);
    check_against(ONE "inputs: {i: {type: zmq, pattern: pull, bind: \"ipc://x\"}}", &bytes, NULL);
    check_against(ONE "inputs: {i: {type: zmq, pattern: pull, bind: \"ipc://x\", format: bytes}}", &bytes, NULL);
    check_against(ONE "inputs: {i: {type: zmq, pattern: pull, bind: \"ipc://x\", format: raw}}", &bytes,
                  "t.yaml:2:10: error: inputs.i: model 'm' reads bytes, and this input gives none");
    check_against(ONE "inputs: {i: {type: csv, files: x}}", &bytes,
                  "t.yaml:2:10: error: inputs.i: model 'm' reads bytes, and this input gives none");
    check_against(ONE "inputs: {i: {type: zmq, pattern: pull, bind: \"ipc://x\", scale: 2}}", &bytes,
                  "t.yaml:2:10: error: inputs.i.scale: model 'm' reads bytes, which are taken as they are");
    check_against(ONE "inputs: {i: {type: zmq, pattern: pull, bind: \"ipc://x\", delimiter: nul}}", &any,
                  "t.yaml:2:10: error: inputs.i.delimiter: model 'm' reads samples, which make no records");
    check_against(ONE "inputs: {i: {type: zmq, pattern: pull, bind: \"ipc://x\"}}", &tokens,
                  "t.yaml:2:10: error: inputs.i: model 'm' reads tokens: of language models only those of bytes (vocab "
                  "256) are served");
    check_against(ONE "inputs: {i: {type: zmq, pattern: pull, bind: \"ipc://x\", rate: 360}}", &fixed,
                  "t.yaml:2:10: error: inputs.i: rate 360, but model 'm' takes 8000: set resample: true");
}

/* ---- any text --------------------------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* Damages a text in one of several ways, in place; room for `cap` bytes. */
static void mutate(char *text, size_t cap, uint64_t *seed)
{
    static const char special[] = "{}[]:,\"'\\&*!|>%@`#-?~\t\n $0159.eEx\xff\xc3\x80";
    size_t len = strlen(text), at = len ? next_random(seed) % len : 0, n = 1 + next_random(seed) % 12;

    switch (next_random(seed) % 4) {
    case 0:
        if (len)
            text[at] = special[next_random(seed) % (sizeof special - 1)];
        break;
    case 1:
        if (at + n < len)
            memmove(text + at, text + at + n, len - at - n + 1);
        break;
    case 2:
        if (at + n < len && len + n < cap) {
            memmove(text + at + n, text + at, len - at + 1);
        }
        break;
    default:
        if (len + 1 < cap) {
            memmove(text + at + 1, text + at, len - at + 1);
            text[at] = special[next_random(seed) % (sizeof special - 1)];
        }
    }
}

static void no_text_breaks_the_reader(void **state)
{
    enum { ROUNDS = 1500, CAP = 1 << 16 };
    uint64_t seed = test_seed() * 2654435761u | 1;
    char *base = read_config("full.yaml"), *text = malloc(CAP);
    unsigned right = 0;

    assert_non_null(text);
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct md_config *c = NULL;
        unsigned n = 1 + next_random(&seed) % 6;
        char *said;
        int rc;

        strcpy(text, base);
        while (n-- > 0)
            mutate(text, CAP, &seed);
        rc = parse(text, NULL, 0, true, &said, &c);
        assert_true(rc == 0 || (rc == -EINVAL && strstr(said, "error: ")));
        free(said);
        if (rc != 0)
            continue;
        right++;
        md_config_free(&c);
        if (right % 4 == 0)
            check_reprint(text);
    }
    print_message("%u of %u were right\n", right, ROUNDS);
    free(base);
    free(text);
}

static void files(void **state)
{
    struct md_config *c = NULL;
    char path[] = "/tmp/mambad-test-config-XXXXXX", *said;
    size_t size;
    FILE *errors = open_memstream(&said, &size), *out;

    assert_int_equal(md_config_load("/nonexistent/x.yaml", NULL, 0, false, errors, &c), -ENOENT);
    assert_int_equal(md_config_load("/tmp", NULL, 0, false, errors, &c), -ENOENT);
    out = fdopen(mkstemp(path), "w");
    assert_non_null(out);
    fwrite("log: {}\0", 1, 8, out);
    fclose(out);
    assert_int_equal(md_config_load(path, NULL, 0, false, errors, &c), -EINVAL);
    assert_int_equal(truncate(path, 7), 0);
    assert_int_equal(md_config_load(path, NULL, 0, false, errors, &c), 0);
    md_config_free(&c);
    assert_int_equal(truncate(path, 2 << 20), 0);
    assert_int_equal(md_config_load(path, NULL, 0, false, errors, &c), -EINVAL);
    unlink(path);
    fclose(errors);
    assert_int_equal(count(said, "error: "), 4);
    free(said);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_ones_are_named),
        cmocka_unit_test(caret_points_at_the_place),
        cmocka_unit_test(all_errors_in_order),
        cmocka_unit_test(aliases_are_bounded),
        cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(empty_has_the_defaults),
        cmocka_unit_test(models_and_defaults),
        cmocka_unit_test(durations),
        cmocka_unit_test(variables),
        cmocka_unit_test(anchors),
        cmocka_unit_test(policies),
        cmocka_unit_test(zmq_defaults),
        cmocka_unit_test(sets_override),
        cmocka_unit_test(wrong_sets_are_named),
        cmocka_unit_test(printed_reads_back),
        cmocka_unit_test(examples_read_and_reprint),
        cmocka_unit_test(full_example_has_every_key),
        cmocka_unit_test(judged_against_models),
        cmocka_unit_test(no_text_breaks_the_reader),
        cmocka_unit_test(files),
    };

    configs = argc > 1 ? argv[1] : "configs";
    unsetenv("MAMBAD_TEST_UNSET");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
