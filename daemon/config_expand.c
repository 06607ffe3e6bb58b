/* config_expand.c: ${VAR} and ${VAR:-default} in the values of a configuration. The default stands in for an unset and
 * for an empty variable, as in the shell; `$${` is a literal `${`. Pure but for the environment. */
#include "daemon/config_tree.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Writes the value of the reference whose inside is in[0, len). */
static void put_variable(const char *in, size_t len, struct md_where where, struct md_report *report, FILE *out)
{
    char name[128];
    size_t n = 0;
    const char *value;

    while (n < len && n < sizeof name - 1 && (isalnum((unsigned char)in[n]) || in[n] == '_')) {
        name[n] = in[n];
        n++;
    }
    name[n] = 0;
    if (n == 0 || isdigit((unsigned char)name[0]) || (n < len && (len - n < 2 || in[n] != ':' || in[n + 1] != '-'))) {
        md_report(report, where, "'${%.*s}' is not ${NAME} or ${NAME:-default}", (int)len, in);
        return;
    }
    value = getenv(name);
    if (value && md_utf8_bad(value, strlen(value)) < strlen(value))
        md_report(report, where, "environment variable %s is not UTF-8", name);
    else if (value && (*value || n == len))
        fputs(value, out);
    else if (n < len)
        fwrite(in + n + 2, 1, len - n - 2, out);
    else
        md_report(report, where, "environment variable %s is not set (${%s:-default} gives one)", name, name);
}

struct md_node *md_expand(const char *text, size_t len, bool null, struct md_where where, struct md_report *report)
{
    const char *end = text + len, *at = text;
    struct md_node *node = NULL;
    unsigned errors = report->n;
    char *result = NULL;
    size_t size;
    FILE *out = open_memstream(&result, &size);

    if (!out)
        return NULL;
    while (at < end) {
        const char *close = NULL;

        if (end - at >= 3 && !memcmp(at, "$${", 3)) {
            fputs("${", out);
            at += 3;
            continue;
        }
        if (end - at >= 2 && !memcmp(at, "${", 2)) {
            close = memchr(at, '}', (size_t)(end - at));
            if (!close)
                md_report(report, where, "'${' without '}'");
        }
        if (close) {
            put_variable(at + 2, (size_t)(close - at - 2), where, report, out);
            at = close + 1;
        } else {
            fputc(*at++, out);
        }
    }
    if (fclose(out) == 0)
        node = md_node_scalar(result, size, null, where);
    free(result);
    if (node)
        node->wrong = report->n > errors;
    return node;
}
