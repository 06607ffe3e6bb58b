/* config_yaml.c: a YAML text into a tree of nodes, through libfyaml's event interface: a tree of our own knows the
 * place of every key, keeps duplicates apart and bounds aliases (each is a copy that counts against MD_TREE_NODES).
 * Trap: libfyaml ends the stream without an error at bytes that are not UTF-8, so those are looked for first. */
#include "daemon/config_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <libfyaml.h>

struct anchor {
    char *name;
    const struct md_node *node;
};

struct reader {
    struct fy_parser *parser;
    struct fy_diag *diag;
    struct md_report *report;
    const char *name;
    bool with_places;
    bool failed; /* reading cannot go on; an error is reported */
    unsigned nodes;
    struct anchor *anchors;
    unsigned n_anchors;
};

static struct md_node *read_node(struct reader *rd, struct fy_event *event, struct md_where at, unsigned depth);

static struct md_where place(const struct reader *rd, int line, int col)
{
    return (struct md_where){rd->name, rd->with_places ? line : 0, rd->with_places ? col : 0};
}

/* libfyaml's mark of a quoted value or an alias stands behind the opening quote or asterisk. */
static struct md_where event_place(const struct reader *rd, struct fy_event *event, struct md_where otherwise)
{
    const struct fy_mark *mark = fy_event_start_mark(event);
    bool inside = event->type == FYET_ALIAS;

    if (event->type == FYET_SCALAR && event->scalar.value) {
        enum fy_scalar_style style = fy_token_scalar_style(event->scalar.value);

        inside = style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED;
    }
    return mark ? place(rd, mark->line + 1, mark->column + !inside) : otherwise;
}

static struct md_node *give_up(struct reader *rd, struct md_where where, const char *text)
{
    if (!rd->failed)
        md_report(rd->report, where, "%s", text);
    rd->failed = true;
    return NULL;
}

static struct md_node *starve(struct reader *rd)
{
    rd->failed = rd->report->starved = true;
    return NULL;
}

/* The next event; NULL when the text is not YAML from here on (reported). */
static struct fy_event *next_event(struct reader *rd)
{
    struct fy_event *event = rd->failed ? NULL : fy_parser_parse(rd->parser);
    struct fy_diag_error *error;
    void *iter = NULL;

    if (event || rd->failed)
        return event;
    error = fy_diag_errors_iterate(rd->diag, &iter);
    if (error)
        give_up(rd, place(rd, error->line, error->column), error->msg);
    else
        give_up(rd, place(rd, 1, 1), "not a YAML document");
    return NULL;
}

/* Stands in for a value about which something was said already. */
static struct md_node *wrong_scalar(struct reader *rd, struct md_where where)
{
    struct md_node *node = md_node_scalar("", 0, false, where);

    if (!node)
        return starve(rd);
    node->wrong = true;
    return node;
}

static const struct md_node *find_anchor(const struct reader *rd, const char *name)
{
    for (unsigned i = rd->n_anchors; i-- > 0;)
        if (!strcmp(rd->anchors[i].name, name))
            return rd->anchors[i].node;
    return NULL;
}

static void note_anchor(struct reader *rd, struct fy_token *token, const struct md_node *node)
{
    const char *name = token ? fy_token_get_text0(token) : NULL;
    struct anchor *grown;

    if (!name || !node)
        return;
    grown = realloc(rd->anchors, (rd->n_anchors + 1) * sizeof *grown);
    rd->anchors = grown ? grown : rd->anchors;
    if (!grown || !(grown[rd->n_anchors].name = strdup(name)))
        starve(rd);
    else
        grown[rd->n_anchors++].node = node;
}

static struct md_node *read_alias(struct reader *rd, struct fy_event *event, struct md_where where)
{
    const char *name = fy_token_get_text0(event->alias.anchor);
    const struct md_node *node = name ? find_anchor(rd, name) : NULL;
    struct md_node *copy;

    if (!node) {
        md_report(rd->report, where, "alias '*%s' has no anchor before it", name ? name : "");
        return wrong_scalar(rd, where);
    }
    copy = md_node_copy(node, &rd->nodes);
    return copy ? copy : give_up(rd, where, "the configuration is too large");
}

static bool is_null(const char *text, size_t len)
{
    return len == 0 || (len == 1 && *text == '~') || (len == 4 && !memcmp(text, "null", 4));
}

static struct md_node *read_scalar(struct reader *rd, struct fy_event *event, struct md_where where)
{
    struct fy_token *token = event->scalar.value;
    size_t len = 0;
    const char *text = token ? fy_token_get_text(token, &len) : "";
    bool plain = !token || fy_token_scalar_style(token) == FYSS_PLAIN;
    struct md_node *node;

    if (!text || md_utf8_bad(text, len) < len) {
        md_report(rd->report, where, "a value with a NUL character or an invalid escape");
        return wrong_scalar(rd, where);
    }
    node = md_expand(text, len, plain && is_null(text, len), where, rd->report);
    return node ? node : starve(rd);
}

static struct md_node *read_sequence(struct reader *rd, struct md_where where, unsigned depth)
{
    struct md_node *node = md_node_new(MD_SEQ, where);
    struct fy_event *event;

    while (node && (event = next_event(rd))) {
        bool end = event->type == FYET_SEQUENCE_END;
        struct md_where at = event_place(rd, event, where);
        struct md_node *item = end ? NULL : read_node(rd, event, at, depth + 1);

        fy_parser_event_free(rd->parser, event);
        if (!end && item && md_node_add(node, NULL, at, item) < 0)
            starve(rd);
        if (end || !item || rd->failed)
            break;
    }
    return node;
}

/* One key and its value; false at the map's end or when reading cannot go on. */
static bool read_pair(struct reader *rd, struct md_node *map, unsigned depth)
{
    struct fy_event *event = next_event(rd);
    struct md_where where;
    struct md_node *key, *value;
    struct md_pair *first;
    bool more = false;

    if (!event || event->type == FYET_MAPPING_END) {
        fy_parser_event_free(rd->parser, event);
        return false;
    }
    where = event_place(rd, event, map->where);
    key = read_node(rd, event, where, depth + 1);
    fy_parser_event_free(rd->parser, event);
    event = key ? next_event(rd) : NULL;
    value = event ? read_node(rd, event, event_place(rd, event, where), depth + 1) : NULL;
    fy_parser_event_free(rd->parser, event);
    if (!value)
        goto out;
    more = true;
    first = key->kind == MD_SCALAR ? md_node_find(map, key->text) : NULL;
    if (key->kind != MD_SCALAR)
        md_report(rd->report, where, "a key must be a name, not %s", md_node_kind_name(key));
    else if (first && first->where.line)
        md_report(rd->report, where, "duplicate key '%s' (first at %d:%d)", key->text, first->where.line,
                  first->where.col);
    else if (first)
        md_report(rd->report, where, "duplicate key '%s'", key->text);
    if (key->kind == MD_SCALAR && !first) {
        more = md_node_add(map, key->text, where, value) == 0;
        value = NULL;
        if (!more)
            starve(rd);
    }
out:
    md_node_free(key);
    md_node_free(value);
    return more;
}

/* A node from its first event, which stays the caller's. NULL: reading cannot go on. */
static struct md_node *read_node(struct reader *rd, struct fy_event *event, struct md_where at, unsigned depth)
{
    struct md_node *node = NULL;
    struct fy_token *anchor = NULL;

    if (depth > MD_TREE_DEPTH)
        return give_up(rd, at, "nested too deeply");
    if (++rd->nodes > MD_TREE_NODES)
        return give_up(rd, at, "the configuration is too large");
    switch (event->type) {
    case FYET_SCALAR:
        node = read_scalar(rd, event, at);
        anchor = event->scalar.anchor;
        break;
    case FYET_ALIAS:
        node = read_alias(rd, event, at);
        break;
    case FYET_SEQUENCE_START:
        node = read_sequence(rd, at, depth);
        anchor = event->sequence_start.anchor;
        break;
    case FYET_MAPPING_START:
        node = md_node_new(MD_MAP, at);
        while (node && read_pair(rd, node, depth))
            ;
        anchor = event->mapping_start.anchor;
        break;
    default:
        return give_up(rd, at, "not a YAML document");
    }
    if (!node && !rd->failed)
        starve(rd);
    if (rd->failed) {
        md_node_free(node);
        return NULL;
    }
    note_anchor(rd, anchor, node);
    return node;
}

/* stream start, [document start, node, document end], stream end */
static struct md_node *read_document(struct reader *rd)
{
    struct md_node *root = NULL;
    struct fy_event *event;
    bool end = false;

    while (!end && (event = next_event(rd))) {
        struct md_where at = event_place(rd, event, place(rd, 1, 1));

        if (event->type == FYET_STREAM_END)
            end = true;
        else if (event->type == FYET_DOCUMENT_START && root)
            give_up(rd, at, "a second document: one is allowed");
        else if (event->type != FYET_STREAM_START && event->type != FYET_DOCUMENT_START &&
                 event->type != FYET_DOCUMENT_END)
            root = read_node(rd, event, at, 0);
        fy_parser_event_free(rd->parser, event);
    }
    if (!rd->failed && !root)
        root = md_node_new(MD_MAP, place(rd, 1, 1)); /* an empty text: every section is left out */
    if (rd->failed) {
        md_node_free(root);
        root = NULL;
    }
    return root;
}

/* Line and column of a byte, for what libfyaml never sees. */
static struct md_where byte_place(const struct reader *rd, const char *text, size_t at)
{
    int line = 1, col = 1;

    for (size_t i = 0; i < at; i++) {
        line += text[i] == '\n';
        col = text[i] == '\n' ? 1 : col + (((unsigned char)text[i] & 0xC0) != 0x80);
    }
    return place(rd, line, col);
}

static int open_reader(struct reader *rd, const char *text, size_t len)
{
    struct fy_diag_cfg quiet;
    struct fy_parse_cfg cfg = {.flags = FYPCF_QUIET | FYPCF_COLLECT_DIAG | FYPCF_ALLOW_DUPLICATE_KEYS};

    fy_diag_cfg_default(&quiet);
    quiet.fp = NULL;
    rd->diag = cfg.diag = fy_diag_create(&quiet);
    if (!rd->diag)
        return -ENOMEM;
    fy_diag_set_collect_errors(rd->diag, true);
    rd->parser = fy_parser_create(&cfg);
    return rd->parser && fy_parser_set_string(rd->parser, text, len) == 0 ? 0 : -ENOMEM;
}

int md_tree_read(const char *name, const char *text, bool with_places, struct md_report *report, struct md_node **ret)
{
    struct reader rd = {.report = report, .name = name, .with_places = with_places};
    size_t len = strlen(text), bad = md_utf8_bad(text, len);
    struct md_node *root = NULL;

    if (bad < len)
        give_up(&rd, byte_place(&rd, text, bad), "not UTF-8");
    else if (len > MD_TREE_TEXT)
        give_up(&rd, place(&rd, 1, 1), "the configuration is too large");
    else if (open_reader(&rd, text, len) < 0)
        starve(&rd);
    else
        root = read_document(&rd);
    for (unsigned i = 0; i < rd.n_anchors; i++)
        free(rd.anchors[i].name);
    free(rd.anchors);
    fy_parser_destroy(rd.parser);
    fy_diag_destroy(rd.diag);
    *ret = root;
    return root ? 0 : -EINVAL;
}
