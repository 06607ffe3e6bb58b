/* tail_json.h: a received message as the line that the jsonl sink would have written for it. */
#ifndef TOOLS_TAIL_JSON_H
#define TOOLS_TAIL_JSON_H

#include "tools/tail_model.h"

int tail_json_line(FILE *out, const struct tail_message *msg); /* −EBADMSG: not one of mambad's */

#endif
