/* fuzz.h: what fuzz targets share. Each defines LLVMFuzzerTestOneInput(); linked with corpus.c it runs the kept inputs
 * as a test, with -Dfuzz=true (clang) it is a libFuzzer program. */
#ifndef TEST_FUZZ_H
#define TEST_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A file of these bytes in a folder of this process's own, in memory where the system has that. */
const char *fuzz_dir(void);
void fuzz_write(const char *name, const void *bytes, size_t n);

#endif
