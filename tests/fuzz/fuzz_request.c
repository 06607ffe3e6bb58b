/* fuzz_request.c: headers of the generation service. What is accepted is within its ranges. */
#include <stdlib.h>
#include <string.h>

#include "daemon/generate_request.h"
#include "daemon/text.h"
#include "io/source.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct md_generate_request r;
    char reterr[IO_ERR] = "";
    int rc = md_generate_request_read(&r, data, size, reterr);

    if (rc && (!*reterr || strlen(reterr) >= sizeof reterr))
        abort(); /* refused without a reason */
    if (rc == 0 && (!r.id || r.n < 1 || !(r.how.temperature >= 0) || !(r.how.top_p > 0 && r.how.top_p <= 1) ||
                    !(r.how.min_p >= 0 && r.how.min_p <= 1) || !(r.how.repetition_penalty > 0) || r.how.top_k > 256 ||
                    (r.stop && strlen(r.stop) > MD_TEXT_STOP)))
        abort();
    md_generate_request_done(&r);
    return 0;
}
