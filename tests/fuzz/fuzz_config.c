/* fuzz_config.c: configuration files: parsed, checked, printed; what was printed must be read again as the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config.h"
#include "tests/fuzz/fuzz.h"

/* libfyaml forgets a page of a long quoted scalar in a file that is no YAML. A configuration is read once. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libfyaml";
}

static char *print(const struct md_config *c)
{
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);

    md_config_print(c, f);
    fclose(f);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static FILE *nowhere;
    struct md_config *c = NULL, *again = NULL;
    char *text = malloc(size + 1), *first, *second;

    if (!nowhere && !(nowhere = fopen("/dev/null", "w")))
        abort();
    memcpy(text, data, size);
    text[size] = '\0';
    if (md_config_parse("fuzz", text, NULL, 0, false, nowhere, &c) == 0) {
        first = print(c);
        if (md_config_parse("again", first, NULL, 0, false, stderr, &again))
            abort();
        second = print(again);
        if (strcmp(first, second) != 0)
            abort();
        free(first);
        free(second);
    }
    md_config_free(&c);
    md_config_free(&again);
    free(text);
    return 0;
}
